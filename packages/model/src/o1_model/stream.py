"""Embed a corpus or queries of any size into vector shards; what an earlier run finished is kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import NamedTuple, TypeVar

from tqdm import tqdm

from o1_model.aggregate import Vectors
from o1_records import Document, InputError, Query, quoted
from o1_records.vectors import VectorWriter

Item = TypeVar("Item", Document, Query)


class Encoded(NamedTuple):
    """Vectors of one shard [rows, dim], and how many tokens were read for them."""

    vectors: Vectors
    tokens: int = 0


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
    write_shards(
        writer, items, lambda chunks: (Encoded(encode(chunk)) for chunk in chunks), shard_rows=shard_rows
    )


def write_shards(
    writer: VectorWriter,
    items: Iterable[Item],
    encode_all: Callable[[Iterator[list[Item]]], Iterator[Encoded]],
    *,
    shard_rows: int,
    total: int | None = None,
) -> None:
    """As `embed_stream`, where `encode_all` takes the shards' items one by one and yields in that order.

    It may take some ahead: memory holds what it took and has not yielded. `total` is the number of items,
    for the progress bar.
    """
    rest = _not_held(writer, items)
    taken: deque[list[str]] = deque()

    def chunks() -> Iterator[list[Item]]:
        for chunk in batched(rest, shard_rows):
            taken.append([str(item.key[0]) for item in chunk])
            yield chunk

    tokens = 0
    with (
        tqdm(total=total, initial=len(writer.ids), unit="row", desc="embed") as progress,
        closing(_generator(encode_all(chunks()))) as shards,
    ):
        for shard in shards:
            ids = taken.popleft()
            writer.write(ids, shard.vectors)
            tokens += shard.tokens
            if tokens:
                progress.set_postfix_str(f"{tokens / progress.format_dict['elapsed']:,.0f} tokens/s", False)
            progress.update(len(ids))


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items, the last one shorter."""
    source = iter(items)
    while chunk := list(islice(source, size)):
        yield chunk


def _not_held(writer: VectorWriter, items: Iterable[Item]) -> Iterator[Item]:
    """The items after those that the writer holds."""
    rest = iter(items)
    for number, held in enumerate(writer.ids):
        item = next(rest, None)
        if item is None:
            raise InputError(
                f"{writer.folder}: an unfinished run holds {len(writer.ids)} rows, the input now has "
                f"{number}; remove {writer.folder}.partial"
            )
        if item.key[0] != held:
            raise InputError(
                f"{writer.folder}: an unfinished run holds {quoted(held)} as row {number} where the "
                f"input now has {quoted(item.key[0])}; remove {writer.folder}.partial"
            )
    return rest


def _generator(shards: Iterator[Encoded]) -> Generator[Encoded, None, None]:
    """The same with a `close`, which ends what runs behind it as soon as writing fails."""
    yield from shards
