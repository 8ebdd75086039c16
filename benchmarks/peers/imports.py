"""How long an import takes in a fresh interpreter: our packages beside sentence-transformers and mteb."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from harness import Arrays, Job, Side, Size, Work, main


def importing(module: str) -> Callable[[Path, Size], Work]:
    def start(_folder: Path, _size: Size) -> Work:
        def work() -> Arrays:
            done = subprocess.run(
                [sys.executable, "-c", f"import {module} as it; print(it.__version__)"],
                check=True,
                capture_output=True,
                text=True,
            )
            return {"version": np.array([done.stdout.strip()])}

        work()  # the first one reads the files from disk
        return work

    return start


OURS = ("model", "records", "synth", "vote", "index", "bench")

JOB = Job(
    name="imports",
    file=__file__,
    what="import in a fresh interpreter, its start included",
    unit="imports",
    items=lambda _size: 1,
    sides={
        **{f"o1_{name}": Side(importing(f"o1_{name}"), [f"o1-{name}"]) for name in OURS},
        "sentence_transformers": Side(importing("sentence_transformers"), ["sentence-transformers"]),
        "mteb": Side(importing("mteb"), ["mteb"]),
    },
    prepare=lambda _folder, _size: None,
    agree=lambda found, _size: {name: f"is {own['version'][0]}" for name, own in found.items()},
    full={},
    smoke={},
    repeats=2,
    smoke_sides=("o1_model", "o1_records"),  # the others take seconds
)

JOBS = (JOB,)

if __name__ == "__main__":
    main(*JOBS)
