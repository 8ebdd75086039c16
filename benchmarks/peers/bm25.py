"""BM25, indexing and searching: `o1_records.bm25` against bm25s, with the same words, and against Lucene.

Lucene runs in Pyserini, with its own English stemmer and stop words and lengths rounded to a byte, so its ten
best documents are compared and not its scores. O1_LUCENE_PYTHON names the Python of an environment with
pyserini, pyjnius and numpy, beside a Java that this Pyserini takes.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from harness import Arrays, Disagreement, Job, Side, Size, Work, main, passages, refuse_difference

K1, B, DEPTH = 0.9, 0.4, 100
PASSAGES = "passages.txt"


def prepare(folder: Path, size: Size) -> None:
    """Write passages, a line each, of words with Zipf's frequencies after those of real English."""
    real = passages(2000, 60)
    words, counts = np.unique(" ".join(real).split(), return_counts=True)
    random = np.random.default_rng(0)
    lengths = np.clip(56 * random.lognormal(0, 0.42, size["documents"]), 3, 400).astype(int)
    drawn = random.choice(words, lengths.sum(), p=counts / counts.sum())
    ends = np.cumsum(lengths)
    with open(folder / PASSAGES, "w", encoding="utf-8") as file:
        for start, end in zip(ends - lengths, ends, strict=True):
            file.write(" ".join(drawn[start:end]) + "\n")


def read(folder: Path) -> list[str]:
    with open(folder / PASSAGES, encoding="utf-8") as file:
        return file.read().splitlines()


def queries(texts: list[str], size: Size) -> list[str]:
    chosen = texts[:: max(1, len(texts) // size["queries"])][: size["queries"]]
    # short words may all be stop words, and bm25s cannot take a query without a term
    words = ([word for word in text.split() if len(word) > 4 and word.isalpha()] for text in chosen)
    return [" ".join(own[:6]) for own in words]


def our_index(texts: list[str]):
    from o1_records import Document
    from o1_records.bm25 import BM25

    return BM25((Document(doc_id=f"{row:08}", text=text) for row, text in enumerate(texts)), k1=K1, b=B)


def our_indexing(folder: Path, size: Size) -> Work:
    texts = read(folder)

    def work() -> Arrays:
        index = our_index(texts)
        return {"scores": np.stack([index.scores(text) for text in queries(texts, size)[:5]])}

    return work


def our_searching(folder: Path, size: Size) -> Work:
    from o1_records import Hit, Query

    texts = read(folder)
    index = our_index(texts)
    asked = [Query(query_id=f"{n:05}", text=text) for n, text in enumerate(queries(texts, size))]

    def laid_out(hits: list[Hit]) -> Arrays:
        by_query: dict[str, list[Hit]] = {query.query_id: [] for query in asked}
        for hit in hits:
            by_query[hit.query_id].append(hit)
        return {
            "scores": _table([hit.score for hit in own] for own in by_query.values()),
            "best": _best([int(hit.doc_id) for hit in own] for own in by_query.values()),
        }

    def work() -> Callable[[], Arrays]:
        return partial(laid_out, list(index.search(asked, DEPTH)))

    return work


def _table(rows) -> np.ndarray:
    return np.array([[*row, *[0.0] * (DEPTH - len(row))] for row in rows], dtype=np.float32)


def _best(rows) -> np.ndarray:
    """Rows of the ten best documents of each query; -1 where there are fewer."""
    return np.array([[*row[:10], *[-1] * (10 - len(row))] for row in rows])


def their_tokens(texts: list[str]):
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")
    return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)


def their_index(texts: list[str], backend: str):
    import bm25s

    index = bm25s.BM25(k1=K1, b=B, method="lucene", backend=backend)
    index.index(their_tokens(texts), show_progress=False)
    return index


def their_indexing(folder: Path, size: Size) -> Work:
    texts = read(folder)

    def work() -> Arrays:
        index = their_index(texts, "numpy")
        some = their_tokens(queries(texts, size)[:5])
        words = {number: word for word, number in some.vocab.items()}
        scores = [index.get_scores([words[number] for number in ids]) for ids in some.ids]
        return {"scores": np.stack(scores)}

    return work


def their_searching(backend: str) -> Callable[[Path, Size], Work]:
    def start(folder: Path, size: Size) -> Work:
        texts = read(folder)
        index = their_index(texts, backend)
        asked = queries(texts, size)
        k = min(DEPTH, len(texts))

        def searched(some: list[str]) -> Callable[[], Arrays]:
            _, scores = index.retrieve(their_tokens(some), k=k, show_progress=False)
            return lambda: {"scores": _table(scores.tolist())}

        searched(asked[:2])  # compiles, with numba
        return lambda: searched(asked)

    return start


def index_with_lucene(folder: Path, texts: list[str]) -> Path:
    """Index passages with one thread, in a new folder that is returned."""
    from pyserini.pyclass import autoclass

    collection = folder / "for-lucene"
    if not collection.exists():
        collection.mkdir()
        with open(collection / "passages.jsonl", "w", encoding="utf-8") as file:
            for row, text in enumerate(texts):
                file.write(json.dumps({"id": str(row), "contents": text}) + "\n")
    index = Path(tempfile.mkdtemp(dir=folder))
    settings = {
        "-collection": "JsonCollection",
        "-generator": "DefaultLuceneDocumentGenerator",
        "-threads": "1",
        "-input": str(collection),
        "-index": str(index),
    }
    autoclass("io.anserini.index.IndexCollection").main([word for pair in settings.items() for word in pair])
    return index


def lucene_searcher(index: Path):
    from pyserini.pyclass import autoclass

    searcher = autoclass("io.anserini.search.SimpleSearcher")(str(index))
    searcher.set_bm25(K1, B)
    return searcher


def lucene_indexing(folder: Path, size: Size) -> Work:
    texts = read(folder)
    index_with_lucene(folder, texts)  # Java compiles what it runs often
    return lambda: {
        "documents": np.array(lucene_searcher(index_with_lucene(folder, texts)).get_total_num_docs())
    }


def lucene_searching(folder: Path, size: Size) -> Work:
    texts = read(folder)
    searcher = lucene_searcher(index_with_lucene(folder, texts))
    asked = queries(texts, size)

    def work() -> Arrays:
        return {"best": _best([int(hit.docid) for hit in searcher.search(text, DEPTH)] for text in asked)}

    work()
    return work


def agree(found: dict[str, Arrays], size: Size) -> dict[str, str]:
    own = found["ours"]["scores"]
    if not own.any():
        raise Disagreement("no document has a score above 0")
    told = {}
    for side, theirs in found.items():
        if side == "ours":
            continue
        if "scores" in theirs:
            told[side] = refuse_difference(f"{side}: scores", own, theirs["scores"], 1e-3)
        elif "documents" in theirs:
            if theirs["documents"] != size["documents"]:
                raise Disagreement(f"{side} has {theirs['documents']} of {size['documents']} documents")
            told[side] = "as many documents"
        else:
            told[side] = same_best(side, found["ours"]["best"], theirs["best"])
    return told


def same_best(side: str, own: np.ndarray, theirs: np.ndarray) -> str:
    """Compare the ten best of each query; Disagreement below 80 %, which another stemmer explains."""
    shared = sum(len(set(a[a >= 0]) & set(b[b >= 0])) for a, b in zip(own, theirs, strict=True))
    share = shared / (own >= 0).sum()
    if share < 0.8:
        raise Disagreement(f"{side} has {share:.0%} of the ten best")
    return f"{share:.0%} of the ten best"


NEEDS = ["bm25s", "PyStemmer"]
LUCENE = ["pyserini", "pyjnius"]
SIZES = {"full": {"documents": 40_000, "queries": 200}, "smoke": {"documents": 300, "queries": 10}}

INDEXING = Job(
    name="bm25, indexing",
    file=__file__,
    what="{documents:,} passages of some 60 words",
    unit="passages",
    items=lambda size: size["documents"],
    sides={
        "ours": Side(our_indexing, ["o1-records", *NEEDS], "float32"),
        "bm25s": Side(their_indexing, NEEDS, "float32"),
        "Pyserini (Lucene)": Side(lucene_indexing, LUCENE, "float32", "O1_LUCENE_PYTHON"),
    },
    prepare=prepare,
    agree=agree,
    goal=1 / 1.1,
    **SIZES,
)
SEARCHING = Job(
    name="bm25, searching",
    file=__file__,
    what="{queries} queries of 6 words, 100 best of {documents:,} passages",
    unit="queries",
    items=lambda size: size["queries"],
    sides={
        "ours": Side(our_searching, ["o1-records", *NEEDS], "float32"),
        "bm25s": Side(their_searching("numpy"), NEEDS, "float32"),
        "bm25s with numba": Side(their_searching("numba"), [*NEEDS, "numba"], "float32"),
        "Pyserini (Lucene)": Side(lucene_searching, LUCENE, "float32", "O1_LUCENE_PYTHON"),
    },
    prepare=prepare,
    agree=agree,
    goal=1 / 1.1,
    **SIZES,
)

JOBS = (INDEXING, SEARCHING)

if __name__ == "__main__":
    main(*JOBS)
