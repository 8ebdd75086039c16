"""`o1-bench verify`: recompute the metrics of results from their files."""

from __future__ import annotations

import argparse

from o1_bench.commands import _shared
from o1_bench.results.verify import verify_results


def declare(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    _shared.results(command, "results", nargs="+", metavar="RESULT", help="results, or folders of them")


def run(args: argparse.Namespace) -> int:
    """Verify every result, damaged ones too; the exit code is 4 unless all are the same."""
    differing = verify_results(_shared.found(args.results))
    for path, lines in differing.items():
        print(f"{path}: " + ("differs" if lines else "every metric came out the same"))
        for line in lines:
            print(f"  {line}")
    return 4 if any(differing.values()) else 0
