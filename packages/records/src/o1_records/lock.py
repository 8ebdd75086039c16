"""One process at a time on a folder."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import IO

from o1_records.files import InputError


def lock(path: Path) -> IO[str]:
    """Hold the lock file `path` for this process until the file is closed.

    The kernel frees it with its process, even on kill -9. Raises InputError, naming the owner, when
    another process holds it.
    """
    file = open(path, "a+", encoding="utf-8")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        owner = file.read(300) or "another process"
        file.close()
        raise InputError(f"{path.parent}: {owner} is writing there; wait for it, or stop it first") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file
