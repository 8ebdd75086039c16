"""Vectors of a corpus or of queries of any size: shard by shard, resumable, on one device or several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import torch
from tqdm import tqdm

from o1_model.encoding.encode import Vectors
from o1_records import Document, InputError, Query, quoted
from o1_records.kit.job import ChangedJobError
from o1_records.vectors import VectorWriter

Item = TypeVar("Item", Document, Query)


class Encoded(NamedTuple):
    """Vectors of one shard [rows, dim], the tokens read for them, and how many texts were cut, by kind."""

    vectors: Vectors
    tokens: int = 0
    cut: Mapping[str, int] = {}


# encodes the items of a shard; made once in each process, on its device
MakeEncode = Callable[[str], Callable[[list[Any]], Encoded]]


def embed_stream(
    writer: VectorWriter,
    items: Iterable[Item],
    encode: Callable[[Sequence[Item]], Vectors],
    *,
    shard_rows: int = 4096,
    progress: bool = False,
) -> None:
    """Encode items shard by shard, except the rows that the writer already holds.

    `progress` shows a bar on stderr. Raises ChangedJobError when those rows have other ids than the items.
    """

    def encode_all(chunks: Iterator[list[Item]]) -> Iterator[Encoded]:
        return (Encoded(encode(chunk)) for chunk in chunks)

    write_shards(writer, items, encode_all, shard_rows=shard_rows, progress=progress)


def write_shards(
    writer: VectorWriter,
    items: Iterable[Item],
    encode_all: Callable[[Iterator[list[Item]]], Iterator[Encoded]],
    *,
    shard_rows: int,
    total: int | None = None,
    progress: bool = False,
) -> Counter[str]:
    """Do what `embed_stream` does with an `encode_all` that takes the items of shards and yields in order.

    It may take some ahead: memory holds what it has taken and not yet yielded. `total` is the number of
    items, for the progress bar. Returns how many texts were cut, by kind.
    """
    rest = _not_held(writer, items)
    taken: deque[list[str]] = deque()

    def chunks() -> Iterator[list[Item]]:
        for chunk in batched(rest, shard_rows):
            taken.append([str(item.key[0]) for item in chunk])
            yield chunk

    def closeable(shards: Iterator[Encoded]) -> Generator[Encoded, None, None]:
        yield from shards

    tokens, cut = 0, Counter[str]()
    bar = tqdm(total=total, initial=len(writer.ids), unit="row", desc="embed", disable=not progress)
    # closed as soon as writing fails, which ends the processes behind it
    with bar, closing(closeable(encode_all(chunks()))) as shards:
        for shard in shards:
            ids = taken.popleft()
            writer.write(ids, shard.vectors)
            tokens += shard.tokens
            cut.update(shard.cut)
            if tokens and progress:
                bar.set_postfix_str(f"{tokens / bar.format_dict['elapsed']:,.0f} tokens/s", False)
            bar.update(len(ids))
    return cut


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items, the last one shorter."""
    source = iter(items)
    while chunk := list(islice(source, size)):
        yield chunk


def _not_held(writer: VectorWriter, items: Iterable[Item]) -> Iterator[Item]:
    """Return the items after those that the writer holds."""
    rest = iter(items)
    for number, held in enumerate(writer.ids):
        item = next(rest, None)
        if item is None or item.key[0] != held:
            now = f"ends after {number} rows" if item is None else f"has {quoted(item.key[0])} there"
            raise ChangedJobError(
                f"{writer.folder}: the earlier work holds {len(writer.ids)} rows, with {quoted(held)} as row "
                f"{number}; the input now {now}; choose another name, or give --new-job to move the earlier "
                "work aside"
            )
    return rest


# --- one process a device -----------------------------------------------------------------------------

_encode: Callable[[list[Any]], Encoded]  # of this process, on its device


def encode_on(devices: Sequence[str], make: MakeEncode, chunks: Iterator[list[Item]]) -> Iterator[Encoded]:
    """Encode chunks in one process a device and yield the results in their order.

    `make(device)` is called in each process, so it must be picklable: a function of a module, or a
    partial of one. At most two chunks a device are taken ahead. Raises InputError when a process dies.
    """
    spawn = multiprocessing.get_context("spawn")
    share = max(1, (os.cpu_count() or 1) // len(devices))
    pools = [
        ProcessPoolExecutor(1, spawn, initializer=_start, initargs=(make, device, share))
        for device in devices
    ]
    waiting: deque[Future[Encoded]] = deque()
    try:
        for number, chunk in enumerate(chunks):
            waiting.append(pools[number % len(pools)].submit(_run, chunk))
            if len(waiting) == 2 * len(pools):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise InputError(
            f"a process on {', '.join(devices)} died (its own message, if any, is above; it may have run out "
            "of memory); finished shards are kept: run the same command again"
        ) from error
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


def checked_devices(names: Sequence[str]) -> list[str]:
    """Return the devices. Raises InputError for one that does not exist here."""
    for name in names:
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise InputError(f"unknown device {name!r}; give cpu, cuda, cuda:1 or cuda:0,cuda:1") from error
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise InputError(f"{name!r}: PyTorch sees {torch.cuda.device_count()} GPUs")
    return list(names)


def _start(make: MakeEncode, device: str, threads: int) -> None:
    global _encode
    # the first process answers Ctrl-C; if it is killed, these must not stay
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if device == "cpu":
        torch.set_num_threads(threads)
    _encode = make(device)


def _run(chunk: list[Any]) -> Encoded:
    return _encode(chunk)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
