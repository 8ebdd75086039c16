"""`o1-synth export`: the thoughts that a job has so far, while it runs or later."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from o1_records.kit.command import EVERYTHING, reads, writes
from o1_records.kit.job import job_folder
from o1_synth.job.scheduler import FAILURES
from o1_synth.job.watch import export


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options: which job, and where to."""
    reads(
        command,
        "job",
        inside=EVERYTHING,
        beside=[FAILURES],
        paths=_output_and_folder,
        type=Path,
        help="the --out of o1-synth think",
    )
    writes(command, "--out", required=True, help="JSONL of Thought records (.gz, .zst)")


def run(args: argparse.Namespace) -> int:
    """Write them, ordered by query_id and sample; the job is not disturbed."""
    count, total = export(args.job, args.out)
    print(f"{args.out}: {count} of {total} thoughts", file=sys.stderr)
    return 0


def _output_and_folder(job: Path) -> list[Path]:
    return [job.with_suffix(""), job] if job.suffix == ".job" else [job, job_folder(job)]
