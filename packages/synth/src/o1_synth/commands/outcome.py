"""How a job ended, as its command says it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from o1_synth.generate import Summary


def told(summary: Summary, did: str, out: Path, typed: Sequence[str]) -> int:
    """Say on stderr what was done, and what not and how to go on; 0 done, 3 partly done."""
    said = f"{did} in {out}"
    if summary.interrupted:
        said = f"interrupted: {summary.thoughts} answers about {summary.queries} inputs so far, in {out}.job"
    if summary.exhausted:
        said += f"; {summary.exhausted} samples exhausted"
    if summary.failed:
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary.failures.items())
        listed = "" if summary.interrupted else f", listed in {summary.failures_path}"
        said += f"; {summary.failed} failed ({reasons}){listed}; to ask for them again:\n"
        said += f"  o1-synth {shlex.join(typed)}"
    print(said, file=sys.stderr)
    return 3 if summary.failed else 0
