"""How well the checks of o1-synth know what is wrong: recall and precision on labelled sentences.

    python benchmarks/synth_checks.py [--missed]

The sentences lie in tests/synth/labelled, one file a check, about half of them wrong. They are written by
hand, said by Qwen2.5-Coder-0.5B-Instruct (a part of the refusals), or made of hand-written thoughts,
passages and queries by the ways in which models fail (echo, scaffold, leak, language). Rules were changed
while looking at them, except for those marked `new`, for which no rule was changed.
Lines of JSON: `recall` is the share of the wrong ones that are found, `precision` that of the found ones
that are wrong, each with a 95 % Wilson interval.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import Any

from o1_synth import Prompt
from o1_synth.checks import is_echo, is_other_script, is_scaffold, leaks
from o1_synth.refusal import is_refusal
from o1_synth.remix.write import is_dependent

LABELLED = Path(__file__).parents[1] / "tests" / "synth" / "labelled"

Labelled = dict[str, Any]


def _scaffold(it: Labelled) -> bool:
    prompt = Prompt()  # the one that the sentences repeat
    return is_scaffold(
        [*prompt.template.frame(), prompt.task], prompt.template.labels, it["text"], it["query"]
    )


CHECKS: dict[str, Callable[[Labelled], bool]] = {
    "refusal": lambda it: is_refusal(it["text"]),
    "echo": lambda it: is_echo(it["query"], it["text"]),
    "scaffold": _scaffold,
    "leak": lambda it: leaks(it["passage"], it["text"], it["query"]),
    "language": lambda it: is_other_script(it["query"], it["text"]),
    "dependent": lambda it: is_dependent(it["text"]),
}


def sentences(check: str) -> list[Labelled]:
    """The labelled sentences of a check."""
    with open(LABELLED / f"{check}.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def measured(check: str, labelled: list[Labelled]) -> dict[str, Any]:
    """Counts, recall and precision of a check on labelled sentences."""
    found = [it for it in labelled if CHECKS[check](it)]
    right = sum(it["wrong"] for it in found)
    wrong = sum(it["wrong"] for it in labelled)
    return {
        "check": check,
        "wrong": wrong,
        "honest": len(labelled) - wrong,
        "recall": round(right / wrong, 3),
        "recall_95": interval(right, wrong),
        "precision": round(right / len(found), 3),
        "precision_95": interval(right, len(found)),
    }


def interval(part: int, whole: int, z: float = 1.96) -> list[float]:
    """Wilson's interval of a share."""
    share, more = part / whole, z * z / whole
    middle, half = share + more / 2, z * sqrt(share * (1 - share) / whole + more / (4 * whole))
    return [round((middle - half) / (1 + more), 3), round((middle + half) / (1 + more), 3)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--missed", action="store_true", help="print what was judged wrongly, too")
    args = parser.parse_args()
    for check in CHECKS:
        labelled = sentences(check)
        print(json.dumps(measured(check, labelled)))
        if new := [it for it in labelled if it.get("new")]:
            print(json.dumps({**measured(check, new), "only": "new"}))
        if args.missed:
            for it in labelled:
                if CHECKS[check](it) != it["wrong"]:
                    print(json.dumps({"missed" if it["wrong"] else "taken for wrong": it["text"]}))


if __name__ == "__main__":
    main()
