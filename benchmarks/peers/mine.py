"""Hard negatives: `o1_vote.mine` against sentence-transformers' `mine_hard_negatives` with FAISS.

Both embed with one static model (wordllama's table of vectors, mean of the tokens), so that searching and
deciding are what is measured, and reading is not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from harness import Arrays, Disagreement, Job, Side, Size, Work, main, passages

COUNT, LAST, RELATIVE = 15, 100, 0.95
SHARED = 0.999
"""The least share of negatives in common: where a score is at the limit, the last bit decides."""


def prepare(folder: Path, size: Size) -> None:
    """Write the model, distinct passages, and as queries the first words of some of them."""
    import wordllama
    from safetensors.numpy import load_file
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
    from tokenizers import Tokenizer

    home = Path(wordllama.__file__).parent
    (weights,) = load_file(home / "weights" / "l2_supercat_256.safetensors").values()
    tokenizer = Tokenizer.from_file(str(home / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    table = StaticEmbedding(tokenizer, embedding_weights=weights.astype(np.float32))
    SentenceTransformer(modules=[table, Normalize()], device="cpu").save(str(folder / "model"))
    texts = list(dict.fromkeys(passages(size["documents"], 50)))
    step = len(texts) // size["queries"]
    # a number makes equal beginnings different queries
    chosen = enumerate(texts[::step][: size["queries"]])
    asked = [(f"{' '.join(text.split()[:10])} {n}", n * step) for n, text in chosen]
    (folder / "texts.json").write_text(json.dumps({"texts": texts, "asked": asked}))


def table(found: dict[str, list[str]], folder: Path) -> Arrays:
    """Return places of the negatives of each query [queries, COUNT], -1 after the last."""
    texts, asked = inputs(folder)
    place = {text: number for number, text in enumerate(texts)}
    rows = np.full((len(asked), COUNT), -1)
    for number, (query, _) in enumerate(asked):
        own = [place[text] for text in found.get(query, ())]
        rows[number, : len(own)] = own
    return {"negatives": rows}


def inputs(folder: Path) -> tuple[list[str], list[tuple[str, int]]]:
    read = json.loads((folder / "texts.json").read_text())
    return read["texts"], [(text, place) for text, place in read["asked"]]


def ours(folder: Path, _size: Size) -> Work:
    from o1_records import Document, Example, Query
    from o1_vote import Loading, Mining, SentenceTransformerMember, mine
    from o1_vote.election.nominate import Nomination

    texts, asked = inputs(folder)
    documents = {f"{n:08}": Document(doc_id=f"{n:08}", text=text) for n, text in enumerate(texts)}
    nominations = [
        Nomination(Query(query_id=f"q{n}", text=text), (), (documents[f"{place:08}"],))
        for n, (text, place) in enumerate(asked)
    ]
    mining = Mining(count=COUNT, last=LAST, relative=RELATIVE, near=1)

    def mined_for(asked: list[Nomination], among: dict[str, Document]) -> list[Any]:
        loading = Loading(devices=("cpu",), dtype="float32")
        member = SentenceTransformerMember(folder / "model", among, name="static", loading=loading)
        return list(mine(asked, [member], among, mining))

    few = [nominations[0].positives[0], *list(documents.values())[:9]]
    mined_for(nominations[:1], {document.doc_id: document for document in few})  # imports libraries

    def work() -> Arrays:
        mined = mined_for(nominations, documents)
        examples = [each for each in mined if isinstance(each, Example)]
        return table({each.query.text: [d.text for d in each.negatives] for each in examples}, folder)

    return work


def theirs(folder: Path, _size: Size) -> Work:
    from datasets import Dataset, disable_progress_bars
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    disable_progress_bars()
    texts, asked = inputs(folder)
    pairs = {"anchor": [text for text, _ in asked], "positive": [texts[place] for _, place in asked]}

    def work() -> Arrays:
        model = SentenceTransformer(str(folder / "model"), device="cpu")
        mined = mine_hard_negatives(
            Dataset.from_dict(pairs),
            model,
            corpus=texts,
            relative_margin=1 - RELATIVE,
            num_negatives=COUNT,
            range_max=LAST,
            use_faiss=True,
            output_format="triplet",
            batch_size=256,
            verbose=False,
        )
        found: dict[str, list[str]] = {}
        for anchor, negative in zip(mined["anchor"], mined["negative"], strict=True):
            found.setdefault(anchor, []).append(negative)
        return table(found, folder)

    return work


def agree(found: dict[str, Arrays], _size: Size) -> dict[str, str]:
    own, peer = (found[side]["negatives"] for side in ("ours", "sentence-transformers"))
    pairs = zip(own.tolist(), peer.tolist(), strict=True)
    most = max(1, (own >= 0).sum(), (peer >= 0).sum())
    shared = sum(len({*one} & {*other} - {-1}) for one, other in pairs) / most
    if shared < SHARED:
        raise Disagreement(f"{shared:.4f} of the negatives are the same, less than {SHARED}")
    return {"sentence-transformers": f"{shared:.4%} of {(own >= 0).sum():,} negatives"}


JOB = Job(
    name="mine",
    file=__file__,
    what=f"{{queries:,}} queries x {{documents:,}} documents, {COUNT} of the best {LAST}, static vectors",
    unit="queries",
    items=lambda size: size["queries"],
    sides={
        "ours": Side(ours, ["o1-vote", "sentence-transformers", "wordllama"], "float32"),
        "sentence-transformers": Side(
            theirs, ["sentence-transformers", "faiss-cpu", "datasets", "wordllama"], "float32"
        ),
    },
    prepare=prepare,
    agree=agree,
    full={"queries": 1000, "documents": 30_000},
    smoke={"queries": 20, "documents": 600},
    goal=2,
)

JOBS = (JOB,)

if __name__ == "__main__":
    main(*JOBS)
