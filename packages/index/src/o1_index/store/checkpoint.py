"""Checkpoints of a long build: the engine so far, and the number of shards in it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from o1_index.engine import read_engine, write_engine
from o1_index.store.blocks import CheckedFile, File, digest_file
from o1_index.store.manifest import Settings, origin
from o1_records import InputError, Record, atomic_write
from o1_records.kit.job import ChangedJobError, refuse_changed
from o1_records.types import Count

STATE = "state.json"
_log = logging.getLogger("o1_index")


class BuildState(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a checkpoint holds, and of which build."""

    settings: Settings
    made_from: str
    shards: Count
    engine: File


class Checkpoints:
    """The checkpoint of one build, in a folder of its own; a new one replaces it.

    One is written when writing it should take less than `share` of the time since the last one, and no more
    often than every `least` seconds.
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

    def load(self) -> tuple[Any, int, float] | None:
        """Return the engine so far, its number of shards and the radius of its layout.

        None where there is no usable checkpoint.

        A damaged checkpoint is not usable; a warning in the log says so.

        Raises ChangedJobError for the checkpoint of a build from other vectors or with other settings.
        """
        path = self.folder / STATE
        try:
            state = msgspec.json.decode(path.read_bytes(), type=BuildState)
            refuse_changed(
                self.folder.parent,
                origin(state.made_from, state.settings),
                origin(self.made_from, self.settings),
            )
            file = CheckedFile(self.folder, state.engine)
            file.check()
            return read_engine(file.path), state.shards, state.settings.radius
        except FileNotFoundError:
            return None
        except ChangedJobError:
            raise
        except (msgspec.MsgspecError, UnicodeError, InputError) as error:
            _log.warning("%s: the checkpoint is damaged, so the build starts again: %s", path, error)
            return None

    def offer(self, engine: Callable[[], Any], shards: int, radius: float) -> None:
        """Write a checkpoint if it is time for one."""
        if time.monotonic() - self._last < self._interval:
            return
        began = time.monotonic()
        # the state names the engine's file, so that the two can never belong to different checkpoints
        path = self.folder / f"engine-{shards}.faiss"
        with atomic_write(path) as file:
            write_engine(engine(), file)
        state = BuildState(
            settings=msgspec.structs.replace(self.settings, radius=radius),
            made_from=self.made_from,
            shards=shards,
            engine=digest_file(path),
        )
        with atomic_write(self.folder / STATE) as file:
            file.write(msgspec.json.encode(state))
        for other in self.folder.glob("engine-*.faiss"):
            if other != path:
                other.unlink()
        self._last = time.monotonic()
        self._interval = max(self._interval, (self._last - began) / self._share)
