"""CoSQA: web queries that look for Python functions (arXiv 2105.13239), in CoCLR's retrieval split.

```
folder/code_idx_map.txt                      JSON: code -> its number; 6,267 functions
folder/cosqa-retrieval-{dev,test}-500.json   JSON: idx, doc (the query), code, retrieval_idx, ...
```
The files are in `data/search/` of github.com/Jun-jie-Huang/CoCLR (commit 14ebcac). A document's id
is its number in the map. The corpus has each function once; the copy on the hub (CoIR) repeats
a function for every query and judges one copy, so figures on the two are not comparable.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from o1_bench.collection import Collection
from o1_bench.protocol import PLAIN, Protocol
from o1_records import Document, InputError, Qrel, Query, quoted

URL = "https://github.com/Jun-jie-Huang/CoCLR/tree/14ebcacf9e9bc3e7109102632bc63047876f27d2/data/search"
CODES = "code_idx_map.txt"

_MAX_BYTES = 2**28


class _Pair(msgspec.Struct):
    idx: str
    doc: str
    code: str
    retrieval_idx: int


def load_cosqa(
    folder: str | Path, split: str = "test", *, revision: str = "", protocol: Protocol = PLAIN
) -> Collection:
    """Load the test or dev split. Raises InputError for files that are missing, wrong or inconsistent."""
    folder = Path(folder)
    if split not in ("test", "dev"):
        raise InputError(f"{quoted(split)}: CoSQA's retrieval splits are dev and test")
    codes: dict[str, int] = _decode(folder / CODES, dict[str, int])
    if len(set(codes.values())) != len(codes):
        raise InputError(f"{folder / CODES}: {len(codes)} codes share {len(set(codes.values()))} numbers")
    path = folder / f"cosqa-retrieval-{split}-500.json"
    pairs: list[_Pair] = _decode(path, list[_Pair])
    for number, pair in enumerate(pairs, 1):
        if codes.get(pair.code) != pair.retrieval_idx:
            raise InputError(
                f"{path}: entry {number}: retrieval_idx {pair.retrieval_idx} is not the number of its code "
                f"in {CODES} ({codes.get(pair.code)}); are the files of the same edition?"
            )
    return Collection(
        name=f"cosqa/{split}",
        documents=[Document(doc_id=str(number), text=code) for code, number in codes.items()],
        queries=tuple(Query(query_id=pair.idx, text=pair.doc) for pair in pairs),
        qrels=tuple(Qrel(query_id=pair.idx, doc_id=str(pair.retrieval_idx), relevance=1) for pair in pairs),
        revision=revision,
        protocol=protocol,
    )


def _decode(path: Path, kind: Any) -> Any:
    if not path.is_file():
        raise InputError(f"{path.parent}: {path.name} is missing; get it from {URL}")
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(f"{path}: larger than {_MAX_BYTES} bytes; this is not a file of CoSQA")
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InputError(f"{path}: {error}; get it from {URL}") from error
