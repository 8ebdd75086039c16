"""Threads and forks: many readers or one writer at a time, and FAISS in a process that forks.

FAISS searches with the threads of OpenMP. A fork copies their bookkeeping but not the threads, so a child
would wait for them for ever (facebookresearch/faiss#5206; OMP_NUM_THREADS=1 does not help). Before a fork the
threads of the parent are put away, which OpenMP allows at any time; both processes start new ones.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import weakref
from collections.abc import Iterator

from o1_records import InputError

_PAUSE_SOFT = 1  # omp_pause_soft: threads end, settings stay


class ManyReadersOneWriter:
    """A lock: any number of readers, or one writer. A waiting writer goes before new readers.

    Not re-entrant. No fork happens while anybody holds it, so that a child finds it free.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._readers = 0
        self._waiting = 0
        self._writing = False
        _locks.add(self)

    def reading(self) -> _Reading:
        """Keep writers out."""
        return _Reading(self)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Keep everybody else out."""
        with self._changed:
            self._waiting += 1
            try:
                while self._writing or self._readers:
                    self._changed.wait()
            finally:
                self._waiting -= 1
            self._writing = True
        try:
            yield
        finally:
            with self._changed:
                self._writing = False
                self._changed.notify_all()

    def hold(self) -> None:
        """Wait until nobody holds the lock, and keep it so until `let_go`: around a fork."""
        self._changed.acquire()
        while self._writing or self._readers:
            self._changed.wait()

    def let_go(self) -> None:
        """Undo `hold`, in the parent and in the child."""
        self._changed.release()


class _Reading:
    """One reader. A class, because every search pays for it and a generator takes four times as long."""

    __slots__ = ("_lock",)

    def __init__(self, lock: ManyReadersOneWriter) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        lock = self._lock
        with lock._changed:
            while lock._writing or lock._waiting:
                lock._changed.wait()
            lock._readers += 1

    def __exit__(self, *_: object) -> None:
        lock = self._lock
        with lock._changed:
            lock._readers -= 1
            if not lock._readers:
                lock._changed.notify_all()


_locks: weakref.WeakSet[ManyReadersOneWriter] = weakref.WeakSet()
_held: list[ManyReadersOneWriter] = []
_forking = threading.Lock()
_guarded = False
_paused = False
_broken = False


def guard_forks() -> None:
    """Make forks safe from now on: called when FAISS is loaded."""
    global _guarded
    if not _guarded and hasattr(os, "register_at_fork"):
        _guarded = True
        os.register_at_fork(before=_before, after_in_parent=_let_go, after_in_child=_in_child)


def refuse_broken_fork() -> None:
    """Raise InputError in a child process in which FAISS would hang."""
    if _broken:
        raise InputError(
            "this process was forked after FAISS had been used, and this build of FAISS cannot be used after "
            "a fork; start processes with the method 'spawn' or 'forkserver', or open the index in the child"
        )


def _before() -> None:
    global _paused
    _forking.acquire()
    for lock in sorted(_locks, key=id):
        lock.hold()
        _held.append(lock)
    _paused = _pause_openmp()


def _let_go() -> None:
    while _held:
        _held.pop().let_go()
    _forking.release()


def _in_child() -> None:
    global _broken
    _broken = _broken or not _paused
    _let_go()


def _pause_openmp() -> bool:
    """End the threads of the OpenMP that FAISS uses; return whether that was possible."""
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None) or ""
        if "swigfaiss" in name and not path.endswith(".py"):
            # looked up through FAISS's own library: others in this process may bring another OpenMP along
            pause = getattr(ctypes.CDLL(path), "omp_pause_resource_all", None)
            return pause is not None and pause(_PAUSE_SOFT) == 0
    return True  # FAISS was never loaded
