"""The same global batch gives the same gradient on 1, 2 and 4 processes (gloo)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from o1_model import Embedder
from o1_model.training.mining import NEGATIVES_FILE

JOBS = [
    *(f"{n}:{case}" for n in (1, 2) for case in ("direct", "cached", "lora", "accumulated")),
    *("4:cached", "4:lora", "2:resumed", "2:fsdp-adamw-resumed", "1:moved", "4:moved", "4:fsdp-adamw-moved"),
    *("1:partial", "2:partial", "4:partial"),
    *("1:mixture", "2:mixture", "1:mined", "2:mined", "1:latent", "2:latent", "2:fsdp-latent"),
    *("2:fsdp", "2:fsdp-adamw", "2:fsdp-lora", "2:fsdp-direct", "2:nan"),
]


@pytest.fixture(scope="module")
def trainings(plain_models, tmp_path_factory):
    """Folders of the jobs' results."""
    script = Path(__file__).with_name("train_together.py")
    out = tmp_path_factory.mktemp("together")
    command = [sys.executable, str(script), str(plain_models["llama"]), str(out), *JOBS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def tensors(folder, kind, rank=0):
    return load_file(folder / f"{kind}-{rank}.safetensors")


def relative_error(first, second):
    assert first.keys() == second.keys()
    difference = torch.cat([(first[name] - second[name]).flatten() for name in first])
    size = torch.cat([first[name].flatten() for name in first]).norm()
    assert size > 0
    return float(difference.norm() / size)


def terms(folder):
    lines = json.loads((folder / "log-0.json").read_text())
    timed = ("tokens_per_s", "memory_mb", "epoch", "step", "real_tokens")
    return [
        {name: value for name, value in line.items() if name not in timed} for line in lines if "loss" in line
    ]


@pytest.mark.parametrize("case", ["direct", "cached", "lora", "accumulated", "partial", "mixture", "mined"])
def test_gradient_weights_and_terms_are_equal_on_any_number_of_processes(trainings, case):
    alone = trainings / f"1:{case}"
    for processes in [n for n in (2, 4) if (trainings / f"{n}:{case}").exists()]:
        together = trainings / f"{processes}:{case}"
        assert relative_error(tensors(alone, "gradients"), tensors(together, "gradients")) <= 1e-6
        assert relative_error(tensors(alone, "weights"), tensors(together, "weights")) <= 1e-6
        for first, second in zip(terms(alone), terms(together), strict=True):
            assert second == pytest.approx(first, rel=1e-4, abs=2e-5)
        for rank in range(1, processes):
            assert relative_error(tensors(together, "weights"), tensors(together, "weights", rank)) == 0


@pytest.mark.parametrize("case", ["latent", "fsdp-latent"])
def test_latent_steps_train_on_two_processes_as_on_one(trainings, case):
    alone, together = trainings / "1:latent", trainings / f"2:{case}"
    for kind in ("gradients", "weights"):
        assert relative_error(tensors(alone, kind), tensors(together, kind)) <= 1e-5
    for first, second in zip(terms(alone), terms(together), strict=True):
        assert second == pytest.approx(first, rel=1e-4, abs=2e-5)


def test_all_processes_mine_the_negatives_of_one(trainings):
    alone = load_file(trainings / "1:mined" / "mined-0" / NEGATIVES_FILE)["rows"]
    assert alone.shape == (32, 5) and (alone >= 0).any(dim=1).sum() > 8
    for rank in range(2):
        together = load_file(trainings / "2:mined" / f"mined-{rank}" / NEGATIVES_FILE)["rows"]
        assert torch.equal(alone, together)
    # the second step took them
    plain, mined = terms(trainings / "1:cached"), terms(trainings / "1:mined")
    assert mined[0] == pytest.approx(plain[0]) and mined[1] != pytest.approx(plain[1], rel=1e-3)


def test_two_passes_train_as_one_does(trainings):
    for processes in (1, 2):
        direct, cached = (trainings / f"{processes}:{case}" for case in ("direct", "cached"))
        assert relative_error(tensors(direct, "gradients"), tensors(cached, "gradients")) <= 1e-5


def test_the_terms_add_up_to_the_logged_loss(trainings):
    for line in terms(trainings / "4:cached"):
        assert line["loss"] == pytest.approx(0.8 * line["embed"] + 0.2 * line["think"], rel=1e-3)


@pytest.mark.parametrize(("sharded", "whole"), [("fsdp", "cached"), ("fsdp-lora", "lora")])
def test_fsdp_gives_the_gradient_of_one_process(trainings, sharded, whole):
    alone, together = trainings / f"1:{whole}", trainings / f"2:{sharded}"
    assert relative_error(tensors(alone, "gradients"), tensors(together, "gradients")) <= 1e-5
    assert relative_error(tensors(alone, "weights"), tensors(together, "weights")) <= 1e-5


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ("2:resumed", "2:cached"),
        ("2:fsdp-adamw-resumed", "2:fsdp-adamw"),
    ],
)
def test_a_training_in_two_runs_ends_as_in_one(trainings, parts, whole):
    first, second = (tensors(trainings / job, "weights") for job in (whole, parts))
    # a checkpoint holds the very numbers; FSDP adds up in another order
    assert relative_error(first, second) <= 1e-7
    last, again = (terms(trainings / job)[-1] for job in (whole, parts))
    assert again == pytest.approx(last, rel=1e-5)


@pytest.mark.parametrize(
    ("moved", "whole"),
    [("1:moved", "2:cached"), ("4:moved", "2:cached"), ("4:fsdp-adamw-moved", "2:fsdp-adamw")],
)
def test_a_training_goes_on_on_another_number_of_processes(trainings, moved, whole):
    first, second = (tensors(trainings / job, "weights") for job in (whole, moved))
    assert relative_error(first, second) <= 1e-6
    last, again = (terms(trainings / job)[-1] for job in (whole, moved))
    assert again == pytest.approx(last, rel=1e-4, abs=2e-5)


def test_fsdp_in_one_pass_is_refused(trainings):
    assert "add --grad_cache" in (trainings / "2:fsdp-direct" / "refused.txt").read_text()


def test_checkpoints_of_several_processes_load(trainings):
    expected = Embedder.from_pretrained(trainings / "1:cached" / "model").encode_query("open zip")
    for job in ("2:cached", "4:cached", "2:fsdp"):
        model = Embedder.from_pretrained(trainings / job / "model")
        assert abs(model.encode_query("open zip") - expected).max() < 1e-5
    adapted = [Embedder.from_pretrained(trainings / job / "model") for job in ("1:lora", "2:fsdp-lora")]
    first, second = (model.encode_query("open zip") for model in adapted)
    assert abs(first - second).max() < 1e-5
    assert abs(first - expected).max() > 1e-3


def test_a_loss_that_is_no_number_stops_all_processes_and_names_the_queries(trainings):
    folder = trainings / "2:nan"
    assert "the loss is nan at step 0" in (folder / "refused.txt").read_text()
    stopped = json.loads((folder / "run" / "stopped_at.json").read_text())
    assert len(set(stopped["query_ids"])) == 8
    assert stopped["step"] == 0
