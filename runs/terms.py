"""What does each term of the objective buy? Dev queries of the standard library, three seeds.

    python runs/terms.py --prepare                  the collection and the elected thoughts (two minutes)
    python runs/terms.py [--variant V ..] [--seed S ..]   train and measure what is missing, one after another
    python runs/terms.py --table                    mean and spread of what is there

Each (variant, seed) has a folder of its own under `results/terms/` with a `result.json`; a training that
was cut short goes on. On two cores, start two processes with OMP_NUM_THREADS=1, each with some of the
variants or seeds. It needs the quickstart's environment.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import quickstart

from o1_bench import build_stdlib, score
from o1_bench.collection import Collection
from o1_bench.controls import Texts, empty_thoughts, filler_thoughts, shuffled_thoughts, thought_texts
from o1_bench.datasets.stdlib import load_stdlib
from o1_bench.score import means
from o1_model import Embedder, Thinking, aggregate
from o1_model.thinking.aggregate import Vectors, stacked
from o1_model.training.saving import newest_checkpoint
from o1_records import InputError, Query, Thought, atomic_write, read_jsonl, run_command

ROOT = Path(__file__).resolve().parents[1] / "results" / "terms"
DATA = ROOT / "data"

# the quickstart's, but for the steps and the seed
TRAINING: dict[str, Any] = {
    "per_device_train_batch_size": 32,
    "learning_rate": 2e-4,
    "lr_scheduler_type": "cosine",
}
THINKING = Thinking(samples=3, max_tokens=16, temperature=0.7, top_p=0.9, seed=0)

# each adds one term to v_t + v_q; a quarter and a third of the steps are filled in
VARIANTS: dict[str, dict[str, Any]] = {
    "v_t alone": {"query_weight": 0.0},
    "v_t + v_q": {},
    "+ distil": {"distil_weight": 10.0},
    "+ own thoughts": {"own_thoughts": 0.5, "own_thoughts_every": 5, "own_thoughts_from": "{quarter}"},
    "+ false-negative mask": {"false_negative_margin": 0.1},
    "+ Redapter": {"redapter_from": "{third}"},
    "+ distil, own thoughts, mask": {
        "distil_weight": 10.0,
        "own_thoughts": 0.5,
        "own_thoughts_every": 5,
        "own_thoughts_from": "{quarter}",
        "false_negative_margin": 0.1,
    },
}
RUNS = (
    "v_q", "own thought", "mean of 3", "mean of 3 + v_q", "empty", "shuffled", "filler", "filler + v_q",
    "oracle",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiment; returns the exit code."""
    return run_command(_main, argv)


def _main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--prepare", action="store_true", help="only make the data")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--variant", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--queries", type=int, default=300, help="dev queries")
    parser.add_argument("--every", type=int, default=4, help="keep every so many of the unjudged documents")
    args = parser.parse_args(argv)
    if args.table:
        return table()
    prepare()
    if not args.prepare:
        for seed in args.seed:
            for variant in args.variant:
                run(variant, seed, steps=args.steps, queries=args.queries, every=args.every)
        return table()
    return 0


def prepare() -> None:
    """The collection and the training examples, as the quickstart makes them."""
    build_stdlib(DATA / "collection")
    quickstart.stage(DATA, "thoughts.jsonl", lambda: quickstart.write_thoughts(DATA))
    quickstart.stage(DATA, "examples.jsonl", lambda: quickstart.vote(DATA))


def run(variant: str, seed: int, *, steps: int, queries: int, every: int) -> None:
    """Train one variant with one seed and write its result, unless it is there."""
    folder = ROOT / f"{_slug(variant)}-{seed}"
    asked = {"variant": variant, "seed": seed, "steps": steps, "queries": queries, "every": every}
    path = folder / "result.json"
    if path.exists():
        known = json.loads(path.read_bytes())["asked"]
        if known != asked:
            raise InputError(
                f"{path} is of {known}, this run asks for {asked}; remove {ROOT} or use its values"
            )
        return
    start = time.perf_counter()
    train(variant, seed, steps, folder / "model")
    trained = time.perf_counter() - start
    figures = measure(Embedder.from_pretrained(folder / "model", device="cpu"), queries, every)
    result = {
        "asked": asked,
        "figures": figures,
        "train_seconds": round(trained, 1),
        "log": _log(folder / "model"),
    }
    with atomic_write(path) as file:
        file.write(json.dumps(result, indent=1).encode())
    shutil.rmtree(folder / "model")
    print(f"{variant}, seed {seed}: {figures}, {time.perf_counter() - start:.0f} s", file=sys.stderr)


def train(variant: str, seed: int, steps: int, folder: Path) -> None:
    """Teach MiniLM with the terms of a variant."""
    import transformers

    from o1_model.training.arguments import DataArguments, ModelArguments, TrainingArguments
    from o1_model.training.objective import Objective
    from o1_model.training.train import train as train_model

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    at = {"{quarter}": steps // 4, "{third}": steps // 3}
    terms = {name: at.get(str(value), value) for name, value in VARIANTS[variant].items()}
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        warmup_steps=steps // 10,
        seed=seed,
        use_cpu=True,
        save_steps=10,
        save_total_limit=1,
        logging_steps=5,
        report_to=[],
        disable_tqdm=True,
        **TRAINING,
    )
    train_model(
        ModelArguments(model_name_or_path=str(quickstart.fetch_weights()), **quickstart.MODEL),
        DataArguments(train_data=str(DATA / "examples.jsonl"), negatives=0),
        arguments,
        objective=Objective(**quickstart.OBJECTIVE, **terms),
    )


def _log(folder: Path) -> list[dict[str, float]]:
    """What the training reported, as far as its last checkpoint knows."""
    newest = newest_checkpoint(folder)
    if newest is None:
        return []
    history: list[dict[str, float]] = json.loads((Path(newest) / "trainer_state.json").read_bytes())[
        "log_history"
    ]
    return history


def measure(model: Embedder, queries: int, every: int) -> dict[str, float]:
    """NDCG@10 on dev of every way to ask, and the mean cosine of v_q and v_t."""
    collection = load_stdlib(DATA / "collection", "dev")
    asked = list(collection.queries)[:queries]
    names = [query.query_id for query in asked]
    doc_ids, documents = _documents(model, collection, every)
    v_q, traces = model.decode(asked, THINKING)
    v_t = stacked(traces)
    own = thought_texts(model.thoughts(asked, traces, THINKING))
    own = {name: own.get(name, []) for name in names}

    def given(texts: Texts, *, with_query: bool = False) -> Vectors:
        return model.encode_query(asked, thoughts=[texts[name] for name in names], with_query=with_query)

    vectors = {
        "v_q": v_q,
        "own thought": np.stack([stack[0] for stack in v_t]),
        "mean of 3": aggregate(v_q, v_t),
        "mean of 3 + v_q": aggregate(v_q, v_t, with_query=True),
        "empty": given(empty_thoughts(own)),
        "shuffled": given(shuffled_thoughts(own)),
        "filler": given(filler_thoughts(own)),
        "filler + v_q": given(filler_thoughts(own), with_query=True),
        "oracle": given(_oracle(names)),
    }
    figures = {name: _ndcg(collection, asked, rows, doc_ids, documents) for name, rows in vectors.items()}
    cosine = np.mean([stack @ own_q for own_q, stack in zip(v_q, v_t, strict=True)])
    return {**figures, "cos(v_q, v_t)": round(float(cosine), 4)}


def _documents(model: Embedder, collection: Collection, every: int) -> tuple[list[str], Vectors]:
    """All judged documents and every so many of the rest, embedded."""
    judged = {qrel.doc_id for qrel in collection.qrels}
    everything = list(collection.documents)
    kept = [d for number, d in enumerate(everything) if d.doc_id in judged or number % every == 0]
    return [document.doc_id for document in kept], model.encode_document(kept)


def _oracle(names: Sequence[str]) -> Texts:
    written = thought_texts(read_jsonl(DATA / "collection" / "thoughts.jsonl", Thought))
    words = quickstart.THOUGHT_WORDS
    return {name: [" ".join(text.split()[:words]) for text in written.get(name, [])] for name in names}


def _ndcg(
    collection: Collection, asked: Sequence[Query], rows: Vectors, doc_ids: Sequence[str], documents: Vectors
) -> float:
    chosen = {query.query_id for query in asked}
    hits: dict[str, Mapping[str, float]] = {}
    for query, scores in zip(asked, rows @ documents.T, strict=True):
        best = np.argsort(-scores, kind="stable")[:100]
        hits[query.query_id] = {doc_ids[place]: float(scores[place]) for place in best}
    qrels = [qrel for qrel in collection.qrels if qrel.query_id in chosen]
    return round(means(score(qrels, hits))["nDCG@10"], 4)


def table() -> int:
    """Print mean ± standard deviation over the seeds of every variant."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(ROOT.glob("*/result.json")):
        result = json.loads(path.read_bytes())
        found.setdefault(result["asked"]["variant"], []).append(result)
    columns = (*RUNS, "cos(v_q, v_t)")
    print("| terms | seeds | " + " | ".join(columns) + " | training, s |")
    print("|---" * (len(columns) + 3) + "|")
    for variant in VARIANTS:
        results = found.get(variant, [])
        if results:
            cells = [_spread([result["figures"][column] for result in results]) for column in columns]
            seconds = statistics.mean(result["train_seconds"] for result in results)
            print(f"| {variant} | {len(results)} | {' | '.join(cells)} | {seconds:.0f} |")
    return 0


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def _slug(name: str) -> str:
    return name.replace("+", "plus").replace(",", "").replace(" ", "-").lower()


if __name__ == "__main__":
    sys.exit(main())
