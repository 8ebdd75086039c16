"""Electing thoughts by BM25 and MiniLM: ours against one query at a time, as the paper's code is written.

Both measure how like each thought is to the positive. One at a time: BM25 over the thoughts of a query, and
sentence-transformers' `encode` for each thought and for the document of each. Ours embeds each text once; its
BM25 knows the whole corpus. "ours, corpus margin", the default of an election, does more: members search the
corpus for every thought. Where the processor has bfloat16, which is the default of a member there, both sides
do it in bfloat16, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import Arrays, Job, Side, Size, Work, main, minilm, passages, refuse_difference


def prepare(folder: Path, size: Size) -> None:
    """Write a corpus, queries that begin as their positives do, and thoughts made of other passages."""
    documents = passages(size["documents"], 80)
    thoughts = passages(size["queries"] * size["samples"], 40, seed=1)
    places = [number % size["documents"] for number in range(size["queries"])]
    inputs = {"documents": documents, "thoughts": thoughts, "positives": places}
    (folder / "inputs.json").write_text(json.dumps(inputs))


def inputs_of(folder: Path) -> tuple[list[str], list[str], list[int]]:
    read = json.loads((folder / "inputs.json").read_text())
    return read["documents"], read["thoughts"], read["positives"]


def ours(dtype: str = "float32", *, margin: bool = False) -> Callable[[Path, Size], Work]:
    def start(folder: Path, size: Size) -> Work:
        from o1_records import Document, Qrel, Query, Source, Thought
        from o1_vote import BM25Member, Loading, SentenceTransformerMember, elect
        from o1_vote.tally import Counting

        texts, thoughts, places = inputs_of(folder)
        documents = [Document(doc_id=f"d{n:06}", text=text) for n, text in enumerate(texts)]
        queries = [
            Query(query_id=f"q{n:06}", text=f"{' '.join(texts[place].split()[:8])} {n}")
            for n, place in enumerate(places)
        ]
        qrels = [
            Qrel(query_id=query.query_id, doc_id=f"d{place:06}", relevance=1)
            for query, place in zip(queries, places, strict=True)
        ]
        own = [
            Thought(
                query_id=queries[n // size["samples"]].query_id,
                thought_id=f"t{n % size['samples']}",
                text=text,
                source=Source(model="passages"),
            )
            for n, text in enumerate(thoughts)
        ]
        loading = Loading(devices=("cpu",), dtype=dtype)
        way: dict[str, Any] = {"rule": Counting("majority", abstain=False), "measure": "thought"}

        def elected(asked: list[Query], written: list[Thought]) -> Any:
            dense = SentenceTransformerMember(minilm(), documents, name="dense", loading=loading)
            members = [BM25Member(documents), dense]
            how = {} if margin else way
            return elect(asked, written, qrels=qrels, documents=documents, members=members, **how)

        def work() -> Arrays:
            election = elected(queries, own)
            cast = {
                (ballot.query_id, ballot.thought_id): ballot.score
                for ballot in election.ballots
                if ballot.retriever == "dense"
            }
            scores = [cast[each.query_id, each.thought_id] for each in own]
            return {"dense": np.array(scores), "elected": np.array(len(election.examples))}

        elected(queries[:1], own[: size["samples"]])  # imports libraries, as the peer has
        return work

    return start


def one_at_a_time(dtype: str = "float32") -> Callable[[Path, Size], Work]:
    def start(folder: Path, size: Size) -> Work:
        import bm25s
        from sentence_transformers import SentenceTransformer

        texts, thoughts, places = inputs_of(folder)

        def softmax(scores: np.ndarray) -> np.ndarray:
            powers = np.exp(scores - scores.max())
            return powers / powers.sum()

        def work() -> Arrays:
            model = SentenceTransformer(minilm(), device="cpu", model_kwargs={"dtype": dtype})
            found, elected = [], 0
            for number, place in enumerate(places):
                own = thoughts[number * size["samples"] :][: size["samples"]]
                index = bm25s.BM25()
                index.index(bm25s.tokenize(own, show_progress=False), show_progress=False)
                tokens = bm25s.tokenize([texts[place]], return_ids=False, show_progress=False)[0]
                lexical = np.asarray(index.get_scores(tokens))
                pairs = [[model.encode([text]) for text in (thought, texts[place])] for thought in own]
                dense = np.array([float(model.similarity(*pair)) for pair in pairs])
                elected += int(np.argmax(softmax(lexical) + softmax(dense))) >= 0
                found += dense.tolist()
            return {"dense": np.array(found), "elected": np.array(elected)}

        return work

    return start


def agree(found: dict[str, Arrays], size: Size) -> dict[str, str]:
    """The cosines of MiniLM are the same; BM25 is another one, over another corpus, by design."""
    theirs = found["one at a time"]["dense"]
    told = {"one at a time": refuse_difference("cosines", found["ours"]["dense"], theirs, 1e-4)}
    if "ours, corpus margin" in found:
        elected = int(found["ours, corpus margin"]["elected"])
        told["ours, corpus margin"] = f"another measure; {elected} of {size['queries']} queries"
    return told


def agree_in_bfloat16(found: dict[str, Arrays], _size: Size) -> dict[str, str]:
    own, theirs = (found[side]["dense"] for side in ("ours", "one at a time"))
    return {"one at a time": refuse_difference("cosines", own, theirs, 0.02)}


NEEDS = ["sentence-transformers", "bm25s", "torch"]
OURS = ["o1-vote", *NEEDS]
ABOUT: dict[str, Any] = {
    "file": __file__,
    "what": "{queries} queries x {samples} thoughts, {documents} documents, BM25 and MiniLM",
    "unit": "queries",
    "items": lambda size: size["queries"],
    "prepare": prepare,
    "full": {"queries": 48, "samples": 3, "documents": 300},
    "smoke": {"queries": 3, "samples": 2, "documents": 20},
    "goal": 10,
}
JOB = Job(
    name="elect",
    sides={
        "ours": Side(ours(), OURS, "float32"),
        "ours, corpus margin": Side(ours(margin=True), OURS, "float32"),
        "one at a time": Side(one_at_a_time(), NEEDS, "float32"),
    },
    agree=agree,
    **ABOUT,
)
HALF = Job(
    name="elect, bfloat16",
    sides={
        "ours": Side(ours("bfloat16"), OURS, "bfloat16"),
        "one at a time": Side(one_at_a_time("bfloat16"), NEEDS, "bfloat16"),
    },
    agree=agree_in_bfloat16,
    needs="avx512_bf16",
    **ABOUT,
)
JOBS = (JOB, HALF)

if __name__ == "__main__":
    main(*JOBS)
