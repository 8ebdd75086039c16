"""The examples in the README run, on the weights that the extra `weights` installs."""

from pathlib import Path

import pytest

from helpers.documents import examples

pytestmark = pytest.mark.extra
README = Path(__file__).parents[2] / "packages" / "model" / "README.md"


def test_the_examples_in_the_readme_run():
    assert examples(README) > 20
