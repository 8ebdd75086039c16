"""One process a device, each encoding every n-th shard."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from o1_model.stream import Encoded, Item
from o1_records import InputError

# what encodes the items of a shard; made once in each process, on its device
MakeEncode = Callable[[str], Callable[[list[Any]], Encoded]]
_encode: Callable[[list[Any]], Encoded]


def encode_on(devices: Sequence[str], make: MakeEncode, chunks: Iterator[list[Item]]) -> Iterator[Encoded]:
    """Encode chunks in one process a device and yield them in their order.

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
            f"a process of {', '.join(devices)} died (its own message is above, if it had one; perhaps "
            "memory ran out); what is finished is kept: run the same command again"
        ) from error
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


def checked_devices(names: str) -> list[str]:
    """Split `cuda:0,cuda:1` into its devices. Raises InputError for one that is not here."""
    found = [name.strip() for name in names.split(",")]
    for name in found:
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise InputError(f"{name!r} is no device; say cpu, cuda, cuda:1 or cuda:0,cuda:1") from error
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise InputError(f"{name!r}: PyTorch sees {torch.cuda.device_count()} GPUs")
    return found


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
