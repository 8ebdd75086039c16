"""Elections and mining on a Ray cluster: what its workers read, and what each of them does with a block.

```
OUT.job/members/nominations.sqlite   the input, joined once
OUT.job/members/NAME.float32         the vectors of all documents, made by the whole cluster, row by row
OUT.job/ray                          blocks and results, see `o1_records.kit.cluster`
```
Workers open these for reading, and are told places of nominations only. BM25 keeps its index there, too.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray

from o1_records import InputError, quoted
from o1_records.files import sync_folder
from o1_records.kit.cluster import Cluster, Notes, Work, run_on
from o1_vote.election.nominate import Nomination, Nominations
from o1_vote.members.protocol import LazyMember, Retriever
from o1_vote.members.vector_cache import kept_in_temporary_files

Do = Callable[[Sequence[Nomination], Sequence[Retriever], Nominations], list[bytes]]
"""Makes the rows of a block of nominations, with the members and all nominations at hand."""

DOCUMENTS = 4096
"""Documents whose vectors a worker makes at a time."""

_PLACES = msgspec.json.Decoder(tuple[int, int])
_NAMES = msgspec.json.Decoder(list[str])


@runtime_checkable
class Embedding(Protocol):
    """A member that compares vectors of documents, and can read them from a file."""

    def document_vectors(self, doc_ids: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of documents [doc_ids, dim]."""

    def read_documents(self, path: Path) -> None:
        """Take the vectors of all documents from a file of float32, in the order of the corpus."""


class Spread:
    """Members that a cluster has prepared for `rows`.

    Args:
        cluster: where.
        members: who is asked; lazy ones, because each worker loads them.
        nominations: the input; a copy for the workers lies in the folder until the job is finished.
        folder: of the job, where `members` keep what they need.

    Raises InputError for a member that cannot be sent to the workers.
    """

    def __init__(
        self, cluster: Cluster, members: Iterable[object], nominations: Nominations, folder: Path
    ) -> None:
        self._cluster, self._nominations, self._folder = cluster, nominations, folder
        self._members: list[LazyMember] = []
        for member in members:
            if not isinstance(member, LazyMember):
                name = quoted(getattr(member, "name", member))
                raise InputError(f"member {name}: each worker of a cluster loads it; give a LazyMember")
            self._members.append(member)
        self._kept = folder / "members"
        self._copy = nominations.copied(self._kept / "nominations.sqlite")
        self._files = {member.name: self._kept / f"{_safe(member)}.float32" for member in self._members}
        self.loaded = [self._prepared(member) for member in self._members]
        """The members in this process."""

    def rows(self, do: Do, *, start: int, rows: int) -> Iterator[list[bytes]]:
        """Yield what `do` makes of the nominations from place `start` on, block by block, in their order.

        A block has so many `rows`, unless the cluster says otherwise.
        """
        size, total = self._cluster.block or rows, len(self._nominations)
        blocks = (
            msgspec.json.encode((place, min(size, total - place))) for place in range(start, total, size)
        )
        make = functools.partial(_rows, do, self._members, self._files, self._copy, self._kept)
        name = "-".join(map(_safe, self._members))
        for _, result in run_on(self._cluster, make, blocks, self._folder / "ray" / name[:100]):
            yield msgspec.msgpack.decode(result, type=list[bytes])

    def _prepared(self, member: LazyMember) -> Retriever:
        """Return the member, after everything that all workers read was made."""
        documents = self._nominations.documents
        loaded = member.load(documents, self._kept)
        if not isinstance(loaded, Embedding):
            return loaded
        path = self._files[member.name]
        if not path.exists():
            begun = path.with_suffix(".partial")
            names = list(documents)
            width = loaded.document_vectors(names[:1]).shape[1] * 4
            done = begun.stat().st_size // width if begun.exists() else 0
            remaining = iter(names[done:])
            parts = iter(lambda: list(islice(remaining, DOCUMENTS)), [])
            make = functools.partial(_vectors, member, self._copy, self._kept)
            with begun.open("ab") as file:
                file.truncate(done * width)
                place = self._folder / "ray" / f"{_safe(member)}.documents"
                for _, vectors in run_on(self._cluster, make, map(msgspec.json.encode, parts), place):
                    file.write(vectors)
                    file.flush()
            begun.rename(path)
            sync_folder(path.parent)
        loaded.read_documents(path)
        return loaded


def _safe(member: LazyMember) -> str:
    """Return the name of a member as a file may have it, and that of no other."""
    plain = "".join(sign if sign.isalnum() else "_" for sign in member.name)[:40]
    return f"{plain}-{hashlib.sha256(member.name.encode()).hexdigest()[:8]}"


def _rows(
    do: Do, members: Sequence[LazyMember], files: dict[str, Path], copy: Path, folder: Path, workers: int
) -> Work:
    nominations = Nominations.opened(copy)
    with kept_in_temporary_files():
        loaded = [member.load(nominations.documents, folder) for member in members]
    for member in loaded:
        if isinstance(member, Embedding):
            member.read_documents(files[member.name])

    def work(block: bytes, notes: Notes) -> bytes:
        place, count = _PLACES.decode(block)
        return msgspec.msgpack.encode(do(list(nominations.block(place, count)), loaded, nominations))

    return work


def _vectors(member: LazyMember, copy: Path, folder: Path, workers: int) -> Work:
    with kept_in_temporary_files():
        loaded = member.load(Nominations.opened(copy).documents, folder)
    assert isinstance(loaded, Embedding)

    def work(block: bytes, notes: Notes) -> bytes:
        vectors: NDArray[np.float32] = loaded.document_vectors(_NAMES.decode(block))
        return np.ascontiguousarray(vectors, dtype=np.float32).tobytes()

    return work
