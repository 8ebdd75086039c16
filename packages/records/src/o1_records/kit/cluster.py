"""A batch stage on Ray: blocks of input, a pool of workers, what each of them has done, one place to commit.

```
FOLDER/blocks             all blocks, one after another; a worker reads its own from there
FOLDER/DIGEST/*.notes     what one attempt at the block of that digest noted so far: a line each, synced
FOLDER/DIGEST/done        the result of the block, whole or absent
FOLDER/stop               there once the user asked to stop
```
The driver alone holds the job (`o1_records.kit.job`) and commits results to it, in the order of the blocks.
Workers only write below FOLDER, each attempt into files of its own, so that neither a worker that dies nor
one that is taken for dead can lose or double anything: the next attempt reads what the earlier ones noted,
and asks only for what is missing. Needs Ray (`[ray]`) and a folder that all machines see at the same path.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import math
import os
import secrets
import shutil
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from o1_records.files import InputError, MissingExtraError, PlainErrors, atomic_write, quoted

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

ATTEMPTS = 8
"""How many workers may die over one block, before the block is taken for the cause."""

_SEEN_LATE = 30.0  # seconds that a network file system may take to show a file that another machine wrote
_LOOK = 0.2  # seconds between two looks for a wish to stop
_STORE = 512 * 1024**2  # bytes of a local Ray's object store: blocks travel through files
_PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"  # how long Ray waits for a head that comes back
_SOONER = 0.9  # the share of it that we wait
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where a stage runs on Ray, and how it is spread.

    Args:
        address: of a cluster, "auto" for the one that this machine belongs to; "": Ray is started on this
            machine, with a token of its own, and ended with the stage.
        workers: how many processes; by default as many as there is room for.
        cpus: cores of each worker.
        gpus: GPUs of each worker, or a share of one.
        block: rows that a worker takes at a time; by default as suits the stage.
        package: whose extra `[ray]` is asked for where Ray is missing.

    Raises InputError for numbers that no worker can have.
    """

    address: str = ""
    workers: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    block: int | None = None
    package: str = field(default="o1-records", compare=False)

    def __post_init__(self) -> None:
        """Refuse numbers that no worker can have."""
        for name, value, valid, wanted in (
            ("workers", self.workers, self.workers is None or self.workers >= 1, "1 or more"),
            ("cpus", self.cpus, 0 <= self.cpus < math.inf, "0 or more"),
            ("gpus", self.gpus, 0 <= self.gpus < math.inf, "0 or more"),
            ("block", self.block, self.block is None or self.block >= 1, "1 or more"),
        ):
            if not valid:
                raise InputError(f"{name} must be {wanted}, got {value}")
        if not self.cpus and not self.gpus:
            raise InputError("a worker needs cpus or gpus, got 0 of both")


def declare_cluster(command: ArgumentParser, *, block: bool = True) -> None:
    """Add `--ray` and how a stage is spread over the cluster; `block`: also how many rows a worker takes."""
    from o1_records.kit.command import at_least

    add = command.add_argument
    add(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="spread the work over a Ray cluster, auto for the one that this machine belongs to; without "
        "ADDRESS over the cores of this machine; every machine must see all files at the same paths",
    )
    add(
        "--ray-workers",
        type=at_least(1),
        help="with --ray: processes; by default as many as there is room for",
    )
    add("--ray-cpus", type=float, help=f"with --ray: cores of each worker; by default {Cluster.cpus:g}")
    add("--ray-gpus", type=float, help="with --ray: GPUs of each worker, or a share of one; by default none")
    if block:
        purpose = "with --ray: rows that a worker takes at a time; by default as suits the stage"
        add("--ray-block", type=at_least(1), metavar="ROWS", help=purpose)


def cluster_of(args: Namespace, package: str) -> Cluster | None:
    """Return what the options of `declare_cluster` describe; None without `--ray`.

    Raises InputError for an option without effect.
    """
    given = {name: getattr(args, f"ray_{name}", None) for name in ("workers", "cpus", "gpus", "block")}
    chosen = {name: value for name, value in given.items() if value is not None}
    if args.ray is None:
        if chosen:
            raise InputError(f"--ray-{next(iter(chosen))} has no effect without --ray; leave it out")
        return None
    return Cluster(address=args.ray, package=package, **chosen)


# --- in a worker --------------------------------------------------------------------------------------


class Notes:
    """What is known of one block: what earlier attempts noted, and what this one notes.

    Attributes:
        kept: the lines of earlier attempts, those that are whole.
        attempt: the number of this attempt, from 1.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.kept = read_notes(folder)
        self.attempt = 1 + sum(1 for _ in folder.glob("*.notes"))
        # a file of its own for each attempt: an earlier worker may be alive after all
        self._file = (folder / f"{uuid.uuid4().hex}.notes").open("xb")
        self._stop, self._looked, self._stopped = folder.parent / "stop", 0.0, False

    def keep(self, line: bytes) -> None:
        """Note a line, which has no line break in it; it outlives this process."""
        self._file.write(line + b"\n")
        self._file.flush()

    def sync(self) -> None:
        """Let what was noted outlive this machine, too."""
        os.fsync(self._file.fileno())

    @property
    def stopped(self) -> bool:
        """Whether the user asked to stop: finish what is in flight, and begin nothing more."""
        now = time.monotonic()
        if not self._stopped and now - self._looked >= _LOOK:
            self._looked, self._stopped = now, self._stop.exists()
        return self._stopped

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sync()
        self._file.close()


def read_notes(folder: Path) -> list[bytes]:
    """Return the lines that all attempts at a block noted; one that was cut off by a kill is left out."""
    lines: list[bytes] = []
    for path in sorted(folder.glob("*.notes")):
        *whole, _ = path.read_bytes().split(b"\n")
        lines += whole
    return lines


Work = Callable[[bytes, Notes], "bytes | None"]
"""Makes the result of a block; None where it was stopped before the end, and its notes are all there is."""
Make = Callable[[int], Work]
"""Makes the stage in a worker; told how many workers there are, among whom limits are shared."""


class WorkerError(InputError):
    """A worker raised InputError, or a subclass of it with the name `kind`."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class _Block(NamedTuple):
    """Where a block lies in FOLDER/blocks."""

    number: int
    digest: str
    offset: int
    length: int


class _Worker:
    """A process of the pool. It makes its stage at its first block, so that an error there is told as one."""

    def __init__(self, make: Make, workers: int, folder: Path, where: str) -> None:
        self._make, self._workers, self._folder = make, workers, folder
        if Path(where).is_dir():
            os.chdir(where)  # so that a relative path means here what it means to the driver
        self._work: Work | None = None

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Do one block; return its number, the error and its class, and whether its result is there."""
        block = _Block(**{name: row[name] for name in _Block._fields})
        done, error, kind = False, "", ""
        if not (self._folder / "stop").exists():
            try:
                done = self._do(block)
            except (InputError, MissingExtraError) as refused:
                error, kind = str(refused), type(refused).__name__
        return {"number": block.number, "error": error, "kind": kind, "done": done}

    def _do(self, block: _Block) -> bool:
        if (self._folder / block.digest / "done").exists():  # by a worker that died before it could say so
            return True
        content = self._read(block)
        with Notes(self._folder / block.digest) as notes:
            if notes.attempt > ATTEMPTS:
                raise InputError(
                    f"{ATTEMPTS} workers died over one block, which begins {quoted(content[:200].decode())}; "
                    "they may have run out of memory: give them fewer rows at a time, or find what is wrong "
                    "with these, and run the same command again"
                )
            self._work = self._work or self._make(self._workers)
            result = self._work(content, notes)
        if result is None:
            return False
        with atomic_write(self._folder / block.digest / "done") as file:
            file.write(result)
        return True

    def _read(self, block: _Block) -> bytes:
        path = self._folder / "blocks"
        try:
            with path.open("rb") as file:
                file.seek(block.offset)
                content = file.read(block.length)
        except OSError as error:
            content, why = b"", f" ({error.strerror})"
        else:
            why = ", or something else"
        if _digest(content) != block.digest:
            raise InputError(
                f"{path}: not there on {socket.gethostname()}{why}; with --ray every machine must see the "
                "output's folder at the same path: name an --out on a file system that all of them share"
            )
        return content


# --- the driver ---------------------------------------------------------------------------------------


def run_on(
    cluster: Cluster,
    make: Make,
    blocks: Iterable[bytes],
    folder: Path,
    *,
    stop: threading.Event | None = None,
) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the result of each block, in their order; what is done already is not done again.

    A result is removed, with the notes of its block, when the next one is asked for: commit it before. The
    folder goes when all of them were yielded.

    Args:
        cluster: where.
        make: makes the stage, once in each worker; it is sent there, as cloudpickle does.
        blocks: the input in pieces, all of them different. They are read once, before anything runs.
        folder: see above; it belongs to the job of the caller, who holds its lock.
        stop: once set, blocks in flight are finished as far as their stage goes, and no further ones begin.

    Raises WorkerError where a worker raises InputError, lacks an extra or does not see the folder, InputError
    where there is no such cluster or no room in it, MissingExtraError without Ray.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stop").unlink(missing_ok=True)
    laid = _lay_out(blocks, folder)
    for block in laid:  # attempts are counted anew: the user may have mended what killed the workers
        for notes in (folder / block.digest).glob("*.notes"):
            if not notes.stat().st_size:
                notes.unlink()
    done = {block.number for block in laid if (folder / block.digest / "done").exists()}
    waiting = [block for block in laid if block.number not in done]
    with contextlib.ExitStack() as during:
        receipts = iter(()) if not waiting else during.enter_context(_pool(cluster, make, waiting, folder))
        during.enter_context(_passed_on(stop, folder))
        for block in laid:
            while block.number not in done and (receipt := next(receipts, None)) is not None:
                if receipt["error"]:
                    raise WorkerError(receipt["error"], receipt["kind"])
                if receipt["done"]:
                    done.add(receipt["number"])
            if block.number not in done:  # stopped
                return
            yield block.number, _seen(folder / block.digest / "done")
            shutil.rmtree(folder / block.digest)
    shutil.rmtree(folder)


def leftovers(folder: Path) -> Iterator[tuple[Path, list[bytes]]]:
    """Yield the folder of each block that an earlier run began, and what was noted there."""
    for path in sorted(folder.glob("*/")):
        yield path, read_notes(path)


def _lay_out(blocks: Iterable[bytes], folder: Path) -> list[_Block]:
    """Write all blocks into one file; return where each of them lies."""
    laid: list[_Block] = []
    offset = 0
    with atomic_write(folder / "blocks") as file:
        for number, content in enumerate(blocks):
            file.write(content)
            laid.append(_Block(number, _digest(content), offset, len(content)))
            offset += len(content)
    return laid


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _seen(path: Path) -> bytes:
    """Return the content of a file that another machine has written; it may be seen late here."""
    until = time.monotonic() + _SEEN_LATE
    while True:
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            if time.monotonic() > until:
                raise InputError(
                    f"{path}: a worker wrote it, and it is not seen here; with --ray every machine must see "
                    "the output's folder at the same path"
                ) from error
            path.parent.exists()
            time.sleep(_LOOK)


def _passed_on(stop: threading.Event | None, folder: Path) -> AbstractContextManager[None]:
    """Tell the workers once the user asks to stop."""

    def watch(over: threading.Event) -> None:
        while stop is not None and not over.wait(_LOOK):
            if stop.is_set():
                (folder / "stop").touch()
                return

    return _beside(watch)


@contextlib.contextmanager
def _beside(watch: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run `watch` in a thread meanwhile; it ends when the event that it is given is set."""
    over = threading.Event()
    watcher = threading.Thread(target=watch, args=[over], daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@contextlib.contextmanager
def _pool(
    cluster: Cluster, make: Make, blocks: Sequence[_Block], folder: Path
) -> Iterator[Iterator[dict[str, Any]]]:
    """Run the blocks on a pool of workers of Ray Data; yields what comes back, as it comes."""
    with _connected(cluster) as ray:
        workers = min(_room(ray, cluster), len(blocks))
        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.execution_options.preserve_order = False
        with ray.data.DataContext.current(context), _hushed("ray.data"):
            rows = ray.data.from_items([block._asdict() for block in blocks], override_num_blocks=len(blocks))
            pool = rows.map(
                _Worker,
                fn_constructor_args=(make, workers, folder, str(Path.cwd())),
                num_cpus=cluster.cpus,
                num_gpus=cluster.gpus,
                # a worker that dies is started again, and its block dealt out again, for ever: `ATTEMPTS`
                compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
            )
            try:
                with contextlib.closing(_rows(pool)) as receipts:
                    yield receipts
            except ray.exceptions.RayError as error:
                said = str(error).strip().splitlines()[-1]
                raise InputError(
                    f"Ray: {said}; what was done is kept: correct that and run the same command again (every "
                    f"machine needs the {cluster.package} of this one)"
                ) from error


def _rows(dataset: Any) -> Generator[dict[str, Any], None, None]:
    yield from dataset.iter_rows()


@contextlib.contextmanager
def _connected(cluster: Cluster) -> Iterator[Any]:
    """Connect to the cluster, or start one here; yields the module `ray`."""
    before = dict(os.environ)
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if not cluster.address and "RAY_AUTH_MODE" not in os.environ:
        # nobody else may use it, and nothing is written to the home folder
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=_token())
    try:
        try:
            import ray
            import ray.data
        except ModuleNotFoundError as error:
            raise MissingExtraError(cluster.package, "ray", "Spreading work over a cluster") from error
        if ray.is_initialized():  # by the caller, in a notebook say
            with _head_watched(ray, cluster):
                yield ray
            return
        ray._raylet.Config.initialize("")  # where Ray was imported before, it read the environment then
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        local = {"include_dashboard": False, "object_store_memory": _STORE, "_node_ip_address": "127.0.0.1"}
        where = f"the Ray cluster at {cluster.address}" if cluster.address else "Ray on this machine"
        with PlainErrors(f"cannot reach {where}"):  # of a busy machine, where it takes more than 30 s
            try:
                ray.init(**({"address": cluster.address} if cluster.address else local), **quiet)
            except (ConnectionError, ray.exceptions.RayError, RuntimeError, ValueError) as error:
                raise InputError(f"cannot reach {where}: {error}") from error
        try:
            with _head_watched(ray, cluster):
                yield ray
        finally:
            ray.shutdown()
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]


@functools.cache
def _token() -> str:
    """Return the token of every Ray that this process starts: Ray itself reads it once, and keeps it."""
    return secrets.token_hex(32)


def _head_watched(ray: Any, cluster: Cluster) -> AbstractContextManager[None]:
    """End this process with code 4 and one line on stderr where the head does not come back.

    Ray itself would wait for it, and then end this process with code 1 and without a word.
    """
    address: str = getattr(ray.get_runtime_context(), "gcs_address", "")
    if not address:  # of a Ray client, which is told of it
        return contextlib.nullcontext()
    host, _, port = address.rpartition(":")
    patience = _SOONER * float(os.environ.get(_PATIENCE, 60))

    def watch(over: threading.Event) -> None:
        answered, told = time.monotonic(), False
        while not over.wait(min(1.0, patience / 10)):
            away = time.monotonic() - answered
            if _answers(host.strip("[]"), int(port)):
                answered, told = time.monotonic(), False
            elif told and away > patience:
                os._exit(4)  # as Ray does: whatever asks the head hangs, and so would an orderly end
            elif not told and away > min(10.0, patience / 2):
                told = True
                where = f"the cluster given as {cluster.address}" if cluster.address else "this machine"
                sys.stderr.write(
                    f"error: Ray's head at {address} ({where}) is gone, and this command ends if it does not "
                    f"come back within {patience:g} s; what was done is kept: run the same command again"
                    f"{', once that cluster is up again' if cluster.address else ''}\n"
                )
                sys.stderr.flush()

    return _beside(watch)


def _answers(host: str, port: int) -> bool:
    """Return whether something listens at an address."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def _room(ray: Any, cluster: Cluster) -> int:
    """Return how many workers are started. Raises InputError where there is no room for one."""
    held = ray.cluster_resources()
    places = [
        int(held.get(name, 0) / each) for name, each in (("CPU", cluster.cpus), ("GPU", cluster.gpus)) if each
    ]
    room = min(places)
    if cluster.workers is not None and (room >= cluster.workers or (cluster.address and room)):
        return cluster.workers  # a cluster may grow
    if not room or cluster.workers is not None:
        there = f"{held.get('CPU', 0):g} cores and {held.get('GPU', 0):g} GPUs"
        raise InputError(
            f"Ray has {there}, and {cluster.workers or 1} workers with {cluster.cpus:g} cores and "
            f"{cluster.gpus:g} GPUs each do not fit; ask for less (--ray-workers, --ray-cpus, --ray-gpus)"
        )
    return room


@contextlib.contextmanager
def _hushed(name: str) -> Iterator[None]:
    """Let another library's logger speak of errors only, for a while."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
