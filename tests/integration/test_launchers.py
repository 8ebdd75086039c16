"""Two processes that torchrun or Slurm began train as one process does.

`accelerate launch` starts several processes on a CPU through MPI only, which is not here.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from helpers.tiny import save_model, word_tokenizer
from o1_records import Document, Example, Query, Source, Thought, write_jsonl

pytestmark = pytest.mark.ray

RUNS = Path(__file__).parents[2] / "runs"
WORDS = ["open", "a", "zip", "file", "sort", "keys", "read", "write", "bytes", "close", "the", "list"]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A file of settings, all but the batch of a process and the output."""
    folder = tmp_path_factory.mktemp("training")
    save_model(folder / "plain", tokenizer=word_tokenizer(WORDS), num_hidden_layers=1)
    texts = [" ".join(WORDS[n:][:4]) for n in range(8)]
    write_jsonl(
        folder / "examples.jsonl",
        [
            Example(
                query=Query(query_id=f"q{n}", text=text),
                positives=(Document(doc_id=f"d{n}", text=f"{text} file"),),
                negatives=(Document(doc_id=f"n{n}", text=texts[n - 1]),),
                thought=Thought(query_id=f"q{n}", thought_id="t", text=text, source=Source(model="m")),
            )
            for n, text in enumerate(texts)
        ],
    )
    (folder / "config.yaml").write_text(
        f"model_name_or_path: {folder / 'plain'}\ntrain_data: {folder / 'examples.jsonl'}\n"
        "max_steps: 2\nlearning_rate: 0.01\nlr_scheduler_type: constant\nnegatives: 1\nuse_cpu: true\n"
        "report_to: none\nsave_strategy: 'no'\n"
    )
    return folder / "config.yaml"


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def alone(config):
    """The weights after a training of one process."""
    from o1_model.__main__ import main

    out = config.parent / "alone"
    settings = [str(config), "--output_dir", str(out), "--per_device_train_batch_size", "4"]
    assert main(["train", *settings]) == 0
    return weights(out)


def on_slurm(folder):
    """What a node finds that is all of a job: `srun` runs here, on two processors."""
    folder.mkdir()
    for name, does in (("srun", 'shift; exec "$@"'), ("scontrol", "echo 127.0.0.1")):
        (folder / name).write_text(f"#!/usr/bin/env bash\n{does}\n")
        (folder / name).chmod(0o755)
    job = {"SLURM_JOB_NODELIST": "node1", "SLURM_NNODES": "1", "SLURM_JOB_ID": "7", "GPUS": "2"}
    path = f"{folder}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**job, "PORT": str(free_port()), "PATH": path}


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@pytest.mark.parametrize("launcher", ["torchrun", "slurm"])
def test_two_processes_train_as_one(launcher, config, alone, tmp_path):
    train = [str(config), "--output_dir", str(tmp_path / "out"), "--per_device_train_batch_size", "2"]
    elastic = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "o1_model"]
    command = {
        "torchrun": [sys.executable, *elastic, "train", *train],
        "slurm": ["bash", str(RUNS / "train.slurm"), *train],
    }[launcher]
    more = on_slurm(tmp_path / "slurm") if launcher == "slurm" else {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **more}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    trained = weights(tmp_path / "out")
    assert trained.keys() == alone.keys()
    assert max(float((trained[name] - alone[name]).abs().max()) for name in alone) < 1e-5
