"""The quickstart's own rules: stages resume, settings are not mixed, weights are checked."""

import json
import sys
from pathlib import Path

import pytest

from o1_records import InputError

sys.path.insert(0, str(Path(__file__).parents[2] / "runs"))
import quickstart


def test_a_stage_runs_until_its_outcome_is_there(tmp_path, capsys):
    runs = []

    def fail():
        runs.append("failed")
        raise InputError("the disk is full")

    with pytest.raises(InputError):
        quickstart.stage(tmp_path, "outcome", fail)
    quickstart.stage(tmp_path, "outcome", lambda: runs.append("done") or (tmp_path / "outcome").touch())
    quickstart.stage(tmp_path, "outcome", fail)
    assert runs == ["failed", "done"]
    assert "there already" in capsys.readouterr().err


def test_files_of_other_settings_are_not_mixed(tmp_path):
    quickstart._refuse_other_settings(tmp_path, {"collection": "one"})
    quickstart._refuse_other_settings(tmp_path, {"collection": "one"})
    with pytest.raises(InputError, match="made with other settings"):
        quickstart._refuse_other_settings(tmp_path, {"collection": "two"})
    assert json.loads((tmp_path / "settings.json").read_text())["collection"] == "one"


def test_weights_with_another_digest_are_refused(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"not the model")
    quickstart.fetch_weights.cache_clear()
    monkeypatch.setattr(quickstart, "_hub_folder", lambda: tmp_path)
    with pytest.raises(InputError, match="has sha256"):
        quickstart.fetch_weights()
    quickstart.fetch_weights.cache_clear()


def test_asking_before_the_run_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match="nox -s quickstart"):
        quickstart.ask(tmp_path, "open a zip file")


def test_a_server_without_a_model_is_a_usage_error():
    with pytest.raises(SystemExit) as caught:
        quickstart.main(["--base-url", "http://127.0.0.1:1/v1"])
    assert caught.value.code == 2
