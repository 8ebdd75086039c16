"""Two processes that torchrun, Slurm, Ray Train, accelerate or MPI began train as one process does."""

import json
import os
import secrets
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


ELASTIC = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "o1_model", "train"]
ACCELERATE = ["-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1"]
ACCELERATE += ["--mixed_precision", "no", "--dynamo_backend", "no"]
LAUNCHERS = {
    "torchrun": [sys.executable, *ELASTIC],
    "slurm": ["bash", RUNS / "train.slurm"],
    "ray": [sys.executable, RUNS / "train_ray.py", "2"],
    "accelerate": [sys.executable, *ACCELERATE, "--multi_gpu", "-m", "o1_model", "train"],
    "mpi": [sys.executable, *ACCELERATE, "--cpu", "--mpirun_hostfile", "hosts", "-m", "o1_model", "train"],
}


def surroundings(launcher, folder):
    """What a launcher finds in the environment, beside what all do."""
    if launcher == "slurm":
        return on_slurm(folder / "slurm")
    if launcher == "ray":  # a token of its own, as nothing belongs into the home folder; and a busy machine
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        return {**token, "RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600"}
    if launcher == "mpi":
        (folder / "hosts").write_text("127.0.0.1\n")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "PATH": path}
    return {}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_train_as_one(launcher, config, alone, tmp_path):
    train = [config, "--output_dir", tmp_path / "out", "--per_device_train_batch_size", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment |= surroundings(launcher, tmp_path)
    command = [str(word) for word in (*LAUNCHERS[launcher], *train)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    trained = weights(tmp_path / "out")
    assert trained.keys() == alone.keys()
    assert max(float((trained[name] - alone[name]).abs().max()) for name in alone) < 1e-5
    settings = json.loads((tmp_path / "out" / "o1_training.json").read_bytes())
    assert settings["batch_of_all_processes"] == 4
