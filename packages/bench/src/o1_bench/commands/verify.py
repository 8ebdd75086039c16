"""`o1-bench verify`: recompute the metrics of results from their files."""

from __future__ import annotations

import argparse
from pathlib import Path

from o1_bench.inputs import result_files
from o1_bench.verify import verify_result
from o1_records import InputError


def declare(command: argparse.ArgumentParser) -> None:
    """The results to verify."""
    command.add_argument("results", type=Path, nargs="+", metavar="RESULT", help="or folders of them")


def run(args: argparse.Namespace) -> int:
    """Verify every result, damaged ones too; exit code 4 unless all came out the same."""
    wrong = 0
    for path in (path for folder in args.results for path in result_files(folder)):
        try:
            differing = verify_result(path)
        except (InputError, OSError) as error:
            differing = [str(error)]
        wrong += bool(differing)
        print(f"{path}: " + ("differs" if differing else "every metric came out the same"))
        for line in differing:
            print(f"  {line}")
    return 4 if wrong else 0
