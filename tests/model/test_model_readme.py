"""The examples in the README run."""

import doctest
from pathlib import Path

README = Path(__file__).parents[2] / "packages" / "model" / "README.md"


def test_the_examples_in_the_readme_run():
    done = doctest.testfile(str(README), module_relative=False)
    assert done.attempted > 3
    assert done.failed == 0
