"""The README's example runs."""

from pathlib import Path

from helpers.documents import examples


def test_the_example_in_the_readme_is_true():
    readme = Path(__file__).parents[2] / "packages" / "vote" / "README.md"
    assert examples(readme) > 3
