"""One process at a time on a job."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from o1_records import InputError


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the job of the lock file `path` for this process.

    The kernel frees a flock with its process, even on kill -9. Raises InputError, naming the
    owner, when another process holds it.
    """
    with open(path, "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read(300).decode(errors="replace") or "another process"
            raise InputError(
                f"{path.parent}: {owner} works on this job; wait for it, or stop it first"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        file.flush()
        yield


def owner(path: Path) -> str:
    """Who holds the lock file `path` now; "" when nobody does."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read(300).decode(errors="replace") or "another process"
    return ""
