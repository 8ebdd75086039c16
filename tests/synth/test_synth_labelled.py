"""What the checks find of labelled sentences, and what they leave alone (benchmarks/synth_checks.py)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from o1_synth import Checks
from o1_synth.remix.write import CHOSEN

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "synth_checks.py"
spec = importlib.util.spec_from_file_location("synth_checks", BENCHMARK)
synth_checks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(synth_checks)


@pytest.mark.parametrize("check", synth_checks.CHECKS)
def test_a_check_is_made_unless_told_otherwise_only_if_it_finds_nine_in_ten_and_nine_in_ten_are_wrong(check):
    labelled = synth_checks.sentences(check)
    wrong = sum(it["wrong"] for it in labelled)
    assert len(labelled) >= 200 and 0.4 <= wrong / len(labelled) <= 0.6
    # where there are some, those count for which no rule was changed
    found = synth_checks.measured(check, [it for it in labelled if it.get("new")] or labelled)
    good = min(found["recall"], found["precision"]) >= 0.9
    assert (check in {*Checks.names, *CHOSEN}) == good, found


def test_no_sentence_stands_twice_under_a_check():
    for check in synth_checks.CHECKS:
        texts = [(it.get("query"), it.get("passage"), it["text"]) for it in synth_checks.sentences(check)]
        assert len(texts) == len(set(texts)), check


def test_the_figures_of_the_readme_are_the_measured_ones():
    readme = (Path(__file__).parents[2] / "packages" / "synth" / "README.md").read_text()
    for check in synth_checks.CHECKS:
        labelled = synth_checks.sentences(check)
        new = [it for it in labelled if it.get("new")]
        cells = [cell for part in (labelled, new) for cell in cells_of(check, part)]
        row = f"| `{check}` | {' | '.join(cells)} |"
        assert row in readme, row


def cells_of(check, labelled):
    """What the README says of a check on some sentences."""
    if not labelled:
        return ["", "", ""]
    found = synth_checks.measured(check, labelled)
    return [f"{found['wrong']} + {found['honest']}", f"{found['recall']:.2f}", f"{found['precision']:.2f}"]
