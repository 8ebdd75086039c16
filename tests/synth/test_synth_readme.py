"""The README's example is true, and importing the package is cheap."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from helpers.documents import examples

README = Path(__file__).parents[2] / "packages" / "synth" / "README.md"


def test_the_readme_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert examples(README) > 3


def test_importing_loads_no_http_client_and_no_progress_bar():
    code = "import o1_synth, sys; print([m for m in ('aiohttp', 'tqdm') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
