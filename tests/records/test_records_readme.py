"""What the package's own documents say is true."""

import doctest
import subprocess
import sys
from pathlib import Path

import o1_records
from helpers.documents import examples

README = Path(__file__).parents[2] / "packages" / "records" / "README.md"


def test_the_examples_in_the_documents_run():
    assert doctest.testmod(o1_records).attempted > 0
    assert doctest.testmod(o1_records).failed == 0
    assert examples(README) > 3


def test_the_import_is_light():
    code = "import sys, o1_records; print([m for m in ('numpy', 'bm25s', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
