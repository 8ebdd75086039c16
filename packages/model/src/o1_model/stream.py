"""Embed a corpus or queries of any size into vector shards; what an earlier run finished is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from tqdm import tqdm

from o1_model.aggregate import Vectors
from o1_records import Document, InputError, Query, quoted
from o1_records.vectors import VectorWriter

Item = TypeVar("Item", Document, Query)


def embed_stream(
    writer: VectorWriter,
    items: Iterable[Item],
    encode: Callable[[Sequence[Item]], Vectors],
    *,
    shard_rows: int = 4096,
) -> None:
    """Encode items shard by shard; rows that the writer holds already are not encoded again.

    Raises InputError when those rows belong to other ids: the input has changed since.
    """
    start = 0
    with tqdm(unit="row", desc="embed") as progress:
        for chunk in batched(items, shard_rows):
            ids = [item.key[0] for item in chunk]
            stop = start + len(ids)
            known = writer.ids[start:stop]
            if not known:
                writer.write([str(name) for name in ids], encode(chunk))
            elif known != ids:
                raise InputError(
                    f"{writer.folder}: an unfinished run holds {quoted(known[:2])}… where the input "
                    f"now has {quoted(ids[:2])}…; remove {writer.folder}.partial"
                )
            start = stop
            progress.update(len(ids))
    if start < len(writer.ids):
        raise InputError(
            f"{writer.folder}: an unfinished run holds {len(writer.ids)} rows, the input now has {start}; "
            f"remove {writer.folder}.partial"
        )


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items, the last one shorter."""
    source = iter(items)
    while chunk := list(islice(source, size)):
        yield chunk
