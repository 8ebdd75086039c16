"""The README's example runs."""

import doctest
from pathlib import Path


def test_the_example_in_the_readme_is_true():
    readme = Path(__file__).parents[2] / "packages" / "index" / "README.md"
    result = doctest.testfile(str(readme), module_relative=False)
    assert result.attempted > 0
    assert result.failed == 0
