"""`runs/retriever.sh` from end to end on tiny models: both trainings, each calibrated and confirmed;
a collection without a style is learnt from without thoughts."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np

from helpers.tiny import save_chat_model, save_model
from o1_model.retriever.confirm import Confirmation
from o1_records import Document, Example, Qrel, Query, read_jsonl
from o1_records.beir import write_beir

SCRIPT = Path(__file__).parents[2] / "runs" / "retriever.sh"
WORDS = ["open", "zip", "file", "read", "write", "list", "sort", "keys", "close", "text", "bytes", "in"]
N = 16


def words_of(seed, count):
    return " ".join(np.random.default_rng(seed).choice(WORDS, count))


def test_an_embedder_is_trained_with_and_without_thoughts_and_measured(tmp_path):
    save_chat_model(tmp_path / "chat")
    save_model(tmp_path / "plain")
    places = [(split, f"{split}{n:02}", f"d{n:02}") for split in ("train", "dev", "test") for n in range(N)]
    documents = [Document(doc_id=f"d{n:02}", text=words_of(n, 6 + n % 6)) for n in range(N)]
    queries = {query_id: words_of(100 + number, 5) for number, (_, query_id, _) in enumerate(places)}
    queries["train00"] = queries["test00"]  # it must not be learnt from
    write_beir(
        tmp_path / "toy",
        documents=documents,
        queries=[Query(query_id=query_id, text=text) for query_id, text in queries.items()],
        qrels={
            split: [
                Qrel(query_id=query_id, doc_id=doc_id, relevance=1)
                for its, query_id, doc_id in places
                if its == split
            ]
            for split in ("train", "dev", "test")
        },
    )
    out = tmp_path / "out"
    environment = {
        **os.environ,
        **{"LLM": str(tmp_path / "chat"), "EMBEDDER": str(tmp_path / "plain"), "OUT": str(out), "SEEDS": "0"},
        **{"SAMPLES": "2", "FLAGS": "--use_cpu --max_steps 2", "HF_HUB_OFFLINE": "1"},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    shutil.copytree(tmp_path / "toy", tmp_path / "more")
    collections = [f"{tmp_path / 'toy'}:keywords:{tmp_path / 'toy'}:comment", str(tmp_path / "more")]
    command = ["bash", str(SCRIPT), *collections]
    subprocess.run(command, env=environment, check=True)
    learnt = {example.query.query_id for example in read_jsonl(out / "toy" / "mined.jsonl", Example)}
    assert learnt
    assert "train00" not in learnt
    without = list(read_jsonl(out / "more" / "mined.jsonl", Example))
    assert {example.query.query_id for example in without} == learnt
    assert all(example.thought is None and example.negatives for example in without)
    assert not list(out.glob("*/more.*"))  # it is not measured
    assert (out / "toy" / "documents.jsonl").is_file()
    for kind in ("thoughts-0", "plain-0"):
        found = msgspec.json.decode((out / kind / "toy.test.json").read_bytes(), type=Confirmation)
        assert {row.name for row in found.rows} >= {"no thought"}
        assert set(found.query_ids) == {f"test{n:02}" for n in range(N)}
    again = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert (again.stdout, again.stderr) == ("", "")  # all of it is there
    other = subprocess.run([*command, "others:keywords"], env=environment, check=False, capture_output=True)
    assert (other.returncode, b"other settings" in other.stderr) == (4, True)
