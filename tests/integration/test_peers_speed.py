"""Every file of benchmarks/peers/ runs, on tiny inputs, and the results of the sides agree.

Peers that are not installed here are skipped, by name; `nox -s peers_speed` has them all.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "peers"


@pytest.mark.extra
def test_every_job_runs_and_its_sides_agree(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FOLDER / "all.py"), "--smoke", "--out", str(tmp_path / "peers")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads((tmp_path / "peers.json").read_text())
    by_job = {}
    for row in report["rows"]:
        by_job.setdefault(row["job"], []).append(row)
    table = (tmp_path / "peers.md").read_text()
    compared = 0
    for name, rows in by_job.items():
        ran = [row for row in rows if "skipped" not in row]
        assert len(ran) > 1 or len(ran) < len(rows)
        assert all(row["agreement"] for row in ran[1:]), rows
        assert all(row["versions"] for row in ran)
        assert (f"**{name}**" in table) == (len(ran) > 1)
        compared += len(ran) > 1
    assert compared > 4
    assert (tmp_path / "peers.svg").read_text().startswith("<svg ")


def test_every_job_file_is_listed():
    sys.path.insert(0, str(FOLDER))
    try:
        import all as every
    finally:
        sys.path.remove(str(FOLDER))
    names = {path.stem for path in FOLDER.glob("*.py")} - {"all", "harness"}
    assert names == set(every.FILES)


def test_results_that_differ_are_an_error(tmp_path):
    job = tmp_path / "job.py"
    job.write_text(
        "import numpy as np\n"
        "from harness import Job, Side, main, refuse_difference\n"
        "def side(value):\n"
        "    return Side(lambda folder, size: lambda: {'x': np.array([value])}, ['numpy'])\n"
        "def agree(found, size):\n"
        "    return {'theirs': refuse_difference('x', found['ours']['x'], found['theirs']['x'], .01)}\n"
        "main(Job(name='two', file=__file__, what='w', unit='things', items=lambda size: 1,\n"
        "         sides={'ours': side(1.0), 'theirs': side(2.0)}, prepare=lambda folder, size: None,\n"
        "         agree=agree, full={}, smoke={}))\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{FOLDER}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run([sys.executable, str(job)], capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "x: values differ by 1, more than 0.01" in done.stderr
    assert not done.stdout
