import doctest
from pathlib import Path

import o1_bench
from helpers.documents import examples

README = Path(__file__).parents[2] / "packages" / "bench" / "README.md"


def test_the_examples_of_the_readme_are_true():
    assert examples(README) > 3


def test_the_example_of_the_package_is_true():
    result = doctest.testmod(o1_bench)
    assert result.attempted > 1
    assert result.failed == 0


def test_every_public_name_is_in_the_readme():
    text = README.read_text(encoding="utf-8")
    assert [name for name in o1_bench.__all__ if f"`{name}`" not in text] == []
