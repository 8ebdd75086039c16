"""Searching vectors: o1-index against raw FAISS on one index, and against hnswlib and usearch at one recall.

A graph's `ef` is the least of a ladder at which it finds .95 of the exact ten; the curve is beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from harness import Arrays, Disagreement, Job, Side, Size, Work, main

K, RECALL = 10, 0.95
LADDER = (16, 24, 32, 48, 64, 96, 128, 192, 256)
NEIGHBOURS, CONSTRUCTION = 32, 40  # of a graph: M and efConstruction


def prepare(folder: Path, size: Size) -> None:
    """Write vectors that vary in 24 directions and a little in all others, queries, and the exact hits."""
    random = np.random.default_rng(0)
    mixing = random.normal(size=(24, size["dim"])).astype(np.float32)
    for name, count in (("documents", size["rows"]), ("queries", size["queries"])):
        vectors = random.normal(size=(count, 24)).astype(np.float32) @ mixing
        vectors += random.normal(size=vectors.shape).astype(np.float32)
        np.save(folder / f"{name}.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    documents, queries = vectors_of(folder)
    exact = [
        np.argsort(-(part @ documents.T), axis=1, kind="stable")[:, :K]
        for part in np.array_split(queries, 16)
    ]
    np.save(folder / "exact.npy", np.concatenate(exact))
    if size["factory"] != "HNSW":
        from o1_index import build

        names = [f"{row:07}" for row in range(size["rows"])]
        index = build(documents, names, factory=size["factory"], parameters=size["parameters"])
        index.save(folder / "index")


def vectors_of(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    return np.load(folder / "documents.npy"), np.load(folder / "queries.npy")


def in_batches(search: Callable[[np.ndarray, int], np.ndarray], folder: Path, size: Size) -> Work:
    """Search all queries; `search` gets vectors and the number of the first one, returns rows [any, K]."""
    _, queries = vectors_of(folder)
    starts = range(0, len(queries), size["batch"])

    def work() -> Arrays:
        return {"rows": np.concatenate([search(queries[at : at + size["batch"]], at) for at in starts])}

    work()
    return work


def ours(folder: Path, size: Size) -> Work:
    from o1_index import open_index

    index = open_index(folder / "index")
    names = [f"q{number}" for number in range(size["queries"])]

    def search(vectors: np.ndarray, first: int) -> np.ndarray:
        return index.search(vectors, names[first : first + len(vectors)], k=K).rows

    return in_batches(search, folder, size)


def raw_faiss(folder: Path, size: Size) -> Work:
    from o1_index import open_index

    engine = open_index(folder / "index").engine
    return in_batches(lambda vectors, _: engine.search(vectors, K)[1], folder, size)


def same_rows(found: dict[str, Arrays], _size: Size) -> dict[str, str]:
    own, theirs = (found[side]["rows"] for side in ("ours", "raw faiss"))
    if not np.array_equal(own, theirs):
        raise Disagreement(f"{int((own != theirs).any(axis=1).sum())} of {len(own)} queries have other hits")
    return {"raw faiss": f"the hits of all {len(own):,} queries"}


# --- graphs ---------------------------------------------------------------------------------------------


def at_recall(search: Callable[[np.ndarray, int], np.ndarray], folder: Path, size: Size) -> Work:
    """Search with the least `ef` that reaches the recall; `search` gets vectors and an `ef`."""
    _, queries = vectors_of(folder)
    exact = np.load(folder / "exact.npy")
    curve = []
    for ef in LADDER:
        began = time.perf_counter()
        rows = search(queries, ef)
        curve.append((ef, recall(rows, exact), len(queries) / (time.perf_counter() - began)))
        if curve[-1][1] >= RECALL:
            break
    ef = curve[-1][0]
    return lambda: {"rows": search(queries, ef), "exact": exact, "curve": np.array(curve)}


def recall(rows: np.ndarray, exact: np.ndarray) -> float:
    return float(
        np.mean([len({*own} & {*best}) / K for own, best in zip(rows.tolist(), exact.tolist(), strict=True)])
    )


def our_graph(folder: Path, size: Size) -> Work:
    from o1_index import build

    documents, queries = vectors_of(folder)
    names, asked = ([f"{row:07}" for row in range(len(each))] for each in (documents, queries))
    # the parameter is given, so that building measures nothing; the engine is asked as users ask it
    index = build(documents, names, factory=f"HNSW{NEIGHBOURS},Flat", parameters=f"efSearch={LADDER[0]}")

    def search(vectors: np.ndarray, ef: int) -> np.ndarray:
        index.set_parameters(f"efSearch={ef}")
        return index.search(vectors, asked, k=K).rows

    return at_recall(search, folder, size)


def hnswlib(folder: Path, size: Size) -> Work:
    import hnswlib as peer

    documents, _ = vectors_of(folder)
    index = peer.Index(space="ip", dim=size["dim"])
    index.init_index(max_elements=len(documents), ef_construction=CONSTRUCTION, M=NEIGHBOURS)
    index.set_num_threads(size["threads"])
    index.add_items(documents, np.arange(len(documents)))

    def search(vectors: np.ndarray, ef: int) -> np.ndarray:
        index.set_ef(ef)
        return index.knn_query(vectors, k=K)[0].astype(np.int64)

    return at_recall(search, folder, size)


def usearch(folder: Path, size: Size) -> Work:
    from usearch.index import Index

    documents, _ = vectors_of(folder)
    index = Index(
        ndim=size["dim"], metric="ip", dtype="f32", connectivity=NEIGHBOURS, expansion_add=CONSTRUCTION
    )
    index.add(np.arange(len(documents)), documents, threads=size["threads"])

    def search(vectors: np.ndarray, ef: int) -> np.ndarray:
        index.expansion_search = ef
        return index.search(vectors, K, threads=size["threads"]).keys.astype(np.int64)

    return at_recall(search, folder, size)


def raw_graph(folder: Path, size: Size) -> Work:
    import faiss

    documents, _ = vectors_of(folder)
    engine = faiss.index_factory(size["dim"], f"HNSW{NEIGHBOURS},Flat", faiss.METRIC_INNER_PRODUCT)
    engine.hnsw.efConstruction = CONSTRUCTION
    engine.add(documents)

    def search(vectors: np.ndarray, ef: int) -> np.ndarray:
        engine.hnsw.efSearch = ef
        return engine.search(vectors, K)[1]

    return at_recall(search, folder, size)


def same_recall(found: dict[str, Arrays], size: Size) -> dict[str, str]:
    told = {}
    for side, own in found.items():
        reached = recall(own["rows"], own["exact"])
        if reached < RECALL:
            raise Disagreement(f"{side}: recall@{K} is {reached:.3f}, below {RECALL}")
        curve = "; ".join(f"ef {ef:.0f}: {share:.3f} at {rate:,.0f}/s" for ef, share, rate in own["curve"])
        told[side] = f"recall@{K} {reached:.3f} ({curve})"
    return told


def exact_or_listed(name: str, what: str, **size: object) -> Job:
    smoke = {**size, "rows": 2000, "queries": 32, "batch": min(int(str(size["batch"])), 8)}
    if "IVF" in str(size["factory"]):
        smoke["factory"] = "IVF8,Flat"
    return Job(
        name=name,
        file=__file__,
        what=what,
        unit="queries",
        items=lambda size: size["queries"],
        sides={
            "ours": Side(ours, ["o1-index", "faiss-cpu"], "float32"),
            "raw faiss": Side(raw_faiss, ["faiss-cpu"], "float32"),
        },
        prepare=prepare,
        agree=same_rows,
        full=size,
        smoke=smoke,
        goal=1 / 1.05,
        repeats=4,
    )


LISTED = {"dim": 256, "rows": 60_000}
FLAT = exact_or_listed(
    "search, Flat", "{rows:,} x {dim}, 10 best, batches of {batch}",
    **LISTED, queries=512, batch=64, factory="Flat", parameters="",
)  # fmt: skip
SINGLE = exact_or_listed(
    "search, Flat, one at a time", "{rows:,} x {dim}, 10 best, batches of {batch}",
    **LISTED, queries=100, batch=1, factory="Flat", parameters="",
)  # fmt: skip
LISTS = exact_or_listed(
    "search, IVF, one at a time", "{rows:,} x {dim}, {factory} {parameters}, 10 best, batches of {batch}",
    **LISTED, queries=4000, batch=1, factory="IVF256,Flat", parameters="nprobe=8",
)  # fmt: skip
GRAPH = Job(
    name="search, HNSW at recall .95",
    file=__file__,
    what=f"{{rows:,}} x {{dim}}, {K} best, M {NEIGHBOURS}, efConstruction {CONSTRUCTION}, one batch",
    unit="queries",
    items=lambda size: size["queries"],
    sides={
        "ours": Side(our_graph, ["o1-index", "faiss-cpu"], "float32"),
        "raw faiss": Side(raw_graph, ["faiss-cpu"], "float32"),
        "usearch": Side(usearch, ["usearch"], "float32"),
        "hnswlib": Side(hnswlib, ["hnswlib"], "float32"),
    },
    prepare=prepare,
    agree=same_recall,
    full={"dim": 128, "rows": 20_000, "queries": 8000, "factory": "HNSW", "threads": 2},
    smoke={"dim": 32, "rows": 2000, "queries": 100, "factory": "HNSW", "threads": 1},
    repeats=4,
)
JOBS = (FLAT, SINGLE, LISTS, GRAPH)

if __name__ == "__main__":
    main(*JOBS)
