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
    found = synth_checks.measured(check, labelled)
    good = min(found["recall"], found["precision"]) >= 0.9
    assert (check in {*Checks.names, *CHOSEN}) == good, found


def test_no_sentence_stands_twice_under_a_check():
    for check in synth_checks.CHECKS:
        texts = [(it.get("query"), it.get("passage"), it["text"]) for it in synth_checks.sentences(check)]
        assert len(texts) == len(set(texts)), check


def test_the_figures_of_the_readme_are_the_measured_ones():
    readme = (Path(__file__).parents[2] / "packages" / "synth" / "README.md").read_text()
    for check in synth_checks.CHECKS:
        found = synth_checks.measured(check, synth_checks.sentences(check))
        counts = f"{found['wrong']} + {found['honest']}"
        row = f"| `{check}` | {counts} | {found['recall']:.2f} | {found['precision']:.2f} |"
        assert row in readme, row
