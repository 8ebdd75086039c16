"""`o1-vote stats`: what files of examples hold, as JSON."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace

from o1_records import Example, read_jsonl
from o1_records.kit.command import reads
from o1_vote.curation.stats import stats


def declare(command: ArgumentParser) -> None:
    """Add what is counted."""
    reads(command, "examples", nargs="+", once=True, help="JSONL of examples")


def run(args: Namespace) -> int:
    """Print one JSON object."""
    examples = (example for file in args.examples for example in read_jsonl(file, Example))
    print(json.dumps(stats(examples), indent=1, ensure_ascii=False))
    return 0
