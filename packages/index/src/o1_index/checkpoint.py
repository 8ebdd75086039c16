"""Checkpoints of a long build: the engine so far, and how many shards are in it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from o1_index.blocks import CheckedFile, File, digest_file
from o1_index.engine import read_engine, write_engine
from o1_index.settings import Settings
from o1_records import InputError, Record, atomic_write
from o1_records.types import Count

STATE = "state.json"


class BuildState(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a checkpoint holds, and of which build."""

    settings: Settings
    made_from: str
    shards: Count
    engine: File


class Checkpoints:
    """The checkpoint of one build; a new one replaces it.

    One is written when writing would cost less than `share` of the time since the last one, so that
    checkpoints never dominate.
    """

    def __init__(
        self, folder: Path, settings: Settings, made_from: str, *, share: float = 0.05, least: float = 20.0
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.made_from = made_from
        self._share = share
        self._interval = least
        self._last = time.monotonic()

    def load(self) -> tuple[Any, int] | None:
        """The engine so far and its number of shards; None where there is no usable checkpoint.

        A damaged checkpoint, and one of another build, is none: the build starts again.
        """
        try:
            state = msgspec.json.decode((self.folder / STATE).read_bytes(), type=BuildState)
            file = CheckedFile(self.folder, state.engine)
            if (state.settings, state.made_from) != (self.settings, self.made_from):
                return None
            file.check()
        except (FileNotFoundError, InputError, msgspec.MsgspecError, UnicodeError):
            return None
        return read_engine(file.path), state.shards

    def offer(self, engine: Callable[[], Any], shards: int) -> None:
        """Write a checkpoint when it is time."""
        if time.monotonic() - self._last >= self._interval:
            began = time.monotonic()
            self._save(engine(), shards)
            self._last = time.monotonic()
            self._interval = max(self._interval, (self._last - began) / self._share)

    def remove(self) -> None:
        """Delete them; the index is saved."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _save(self, engine: Any, shards: int) -> None:
        # the state names the engine's file, so that the two can never be of different checkpoints
        path = self.folder / f"engine-{shards}.faiss"
        with atomic_write(path) as file:
            write_engine(engine, file)
        state = BuildState(
            settings=self.settings, made_from=self.made_from, shards=shards, engine=digest_file(path)
        )
        with atomic_write(self.folder / STATE) as file:
            file.write(msgspec.json.encode(state))
        for other in self.folder.glob("engine-*.faiss"):
            if other != path:
                other.unlink()
