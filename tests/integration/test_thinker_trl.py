"""`runs/thinker.sh` from end to end with TRL's trainers, on a tiny model (nox -s trl).

How well a random model thinks afterwards is not asked: that every stage does its work, and is measured, is.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.tiny import save_chat_model, save_model
from o1_model import Embedder
from o1_model.retriever.calibration import load_calibration
from o1_records import Document, Qrel, Query
from o1_records.beir import write_beir

pytestmark = pytest.mark.trl

SCRIPT = Path(__file__).parents[2] / "runs" / "thinker.sh"
WORDS = ["open", "zip", "file", "read", "write", "list", "sort", "keys", "close", "text", "bytes", "in"]
N = 20


def words_of(seed, count):
    return " ".join(np.random.default_rng(seed).choice(WORDS, count))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("thinker")
    save_chat_model(folder / "chat")
    embedder = Embedder.from_backbone(save_model(folder / "plain"), query_length=12, thought_length=12)
    embedder.save_pretrained(folder / "embedder")
    qrels = [Qrel(query_id=f"q{n:02}", doc_id=f"d{n:02}", relevance=1) for n in range(N)]
    write_beir(
        folder / "toy",
        documents=[Document(doc_id=f"d{n:02}", text=words_of(n, 6 + n % 6)) for n in range(N)],
        queries=[Query(query_id=f"q{n:02}", text=words_of(100 + n, 3)) for n in range(N)],
        qrels={"train": qrels, "dev": qrels},
    )
    return folder


@pytest.mark.parametrize("then", ["prefer", "reward"])
def test_a_thinker_is_sampled_elected_cloned_and_rewarded(folder, then):
    out = folder / then
    given = {"MODEL": folder / "chat", "EMBEDDER": folder / "embedder", "COLLECTION": folder / "toy"}
    environment = {
        **os.environ,
        **{name: str(path) for name, path in given.items()},
        **{"STYLE": "keywords", "SAMPLES": "4", "THEN": then, "OUT": str(out), "HF_HUB_OFFLINE": "1"},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = ["bash", str(SCRIPT), "--use-cpu", "--max-steps", "2", "--batch", "4"]
    subprocess.run(command, env=environment, check=True)
    report = json.loads((out / "round1" / "elected" / "report.json").read_text())
    assert report["queries"] == N
    assert report["elected"] + sum(report["lost_to"].values()) == N
    rows = [json.loads(line) for line in (out / "round1" / "elected" / "elected.jsonl").open()]
    assert len(rows) == report["elected"] > 0
    assert all(row["prompt"].endswith("<|assistant|>") for row in rows)
    assert json.loads((out / "adapter" / "history.json").read_text())
    before, after = load_calibration(out / "before.json"), load_calibration(out / "after.json")
    assert before.thinker_digest != after.thinker_digest
    assert (before.queries, after.queries) == (N, N)
    made = (out / "after.json").stat().st_mtime_ns
    subprocess.run(command, env=environment, check=True)  # nothing is done again
    assert (out / "after.json").stat().st_mtime_ns == made


def test_documents_are_cloned_in_the_place_of_thoughts(folder):
    def stage(name, *words):
        command = [sys.executable, str(SCRIPT.with_name("thinker.py")), name, "--model", str(folder / "chat")]
        subprocess.run([*command, *map(str, words)], env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=True)

    gold = folder / "gold"
    stage("gold", "--collection", folder / "toy", "--split", "train", "--style", "snippet", "--out", gold)
    report = json.loads((gold / "report.json").read_text())
    texts = {words_of(n, 6 + n % 6) for n in range(N)}
    short = {text for text in texts if len(text.encode()) < 48}  # a byte is a token
    assert 0 < len(short) < len(texts)
    assert report == {"queries": N, "documents": len(short), "too_long": len(texts) - len(short)}
    rows = [json.loads(line) for line in (gold / "elected.jsonl").open()]
    assert {row["completion"] for row in rows} == {f"{text}\n```" for text in short}
    assert all(row["prompt"].endswith("```python\n") for row in rows)
    stage("clone", gold, gold, "--use-cpu", "--max-steps", "1", "--batch", "4", "--out", folder / "cloned")
    assert (folder / "cloned" / "adapter_model.safetensors").exists()
