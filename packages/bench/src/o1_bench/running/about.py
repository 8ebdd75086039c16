"""What made a run, measured where it is made: fingerprints, costs, and the texts that a model reads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from types import CodeType, FunctionType, MethodType
from typing import Any

import msgspec

from o1_bench.collection import Collection
from o1_bench.results.result import Sent
from o1_records import Document, Query

Sample = Callable[[Sequence[Query], Sequence[Document]], tuple[list[str], list[str]]]
"""Returns the texts that a model really reads for queries and documents: its own tokens, prompts included."""

_SAMPLED = 2
_PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True, kw_only=True)
class About:
    """What a retriever says of itself, as an attribute `about`; `evaluate` writes it into the result.

    Attributes:
        fingerprint: everything that changes its hits: digests and settings, values that JSON can hold. Where
            it is empty, the code of the callable and what it is bound to are looked at (`identity`).
        prompts: what goes before queries and documents.
        device: where it runs.
        index_bytes: the size of its index.
        index_seconds: the time for embedding the documents and building the index.
        sample: see `Sample`; without one, results say what the callable was given.
    """

    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    prompts: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    index_bytes: int | None = None
    index_seconds: float | None = None
    sample: Sample | None = None


def about(retrieve: Any) -> About:
    """Return what a retriever says of itself; nothing where it has no attribute `about`."""
    said = getattr(retrieve, "about", None)
    return said if isinstance(said, About) else About()


def sent(collection: Collection, sample: Sample | None) -> Sent:
    """Return what the first queries and documents of a collection look like to a model."""
    queries = collection.queries[:_SAMPLED]
    documents = list(islice(collection.documents, _SAMPLED))
    if sample is not None:
        asked, read = sample(queries, documents)
        return Sent(queries=tuple(asked), documents=tuple(read), how="as the model reads them")
    lines = [f"{query.instruction}\n{query.text}" if query.instruction else query.text for query in queries]
    return Sent(queries=tuple(lines), how="as the callable is given them: instruction and text")


def identity(work: Any) -> dict[str, Any]:
    """Return what tells a callable from another one of the same name.

    That is its name, the sha256 of its code, the plain values that it closes over, and of the objects that it
    is bound to or closes over what they say themselves: `about`, `fingerprint` or `digest`.
    """
    if isinstance(work, partial):
        bound = {str(place): _value(value) for place, value in enumerate(work.args)}
        return identity(work.func) | {"arguments": bound | {k: _value(v) for k, v in work.keywords.items()}}
    if isinstance(work, MethodType):
        return identity(work.__func__) | {"of": _value(work.__self__)}
    if isinstance(work, FunctionType):
        named = zip(work.__code__.co_freevars, work.__closure__ or (), strict=True)
        closed = {name: _value(_content(cell)) for name, cell in named}
        closed |= {f"default {place}": _value(value) for place, value in enumerate(work.__defaults__ or ())}
        code = hashlib.sha256()
        _add_code(code, work.__code__)
        found = {"callable": f"{work.__module__}.{work.__qualname__}", "code (sha256)": code.hexdigest()}
        return found | ({"values": closed} if closed else {})
    return {"callable": _type_name(work), "of": _value(work)}


def _value(value: Any) -> Any:
    """Return a value that JSON can hold and that differs where the value does, as far as one can see."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, list | tuple):
        return [_value(each) for each in value]
    said = getattr(value, "about", None)
    for known in (said.fingerprint if isinstance(said, About) else None, getattr(value, "fingerprint", None)):
        if isinstance(known, Mapping) and known:
            return {"type": _type_name(value), **known}
    digest = getattr(value, "digest", None)
    if isinstance(digest, str):
        return {"type": _type_name(value), "digest": digest}
    if isinstance(value, FunctionType | MethodType | partial):
        return identity(value)
    if isinstance(value, Mapping):
        return {str(key): _value(each) for key, each in value.items()}
    if isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value)
    return _type_name(value)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _add_code(digest: Any, code: CodeType) -> None:
    digest.update(code.co_code)
    digest.update(repr((code.co_names, code.co_varnames)).encode())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):  # its repr has an address
            _add_code(digest, constant)
        else:
            digest.update(repr(constant).encode())


def _type_name(value: Any) -> str:
    kind = value if isinstance(value, type) else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"
