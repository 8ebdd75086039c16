"""`o1-model train` under kill -9, full disks and damaged checkpoints.

Real processes. Each test prints its count (pytest -rP); O1_FAULTS=full kills more often.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from helpers.forked_commands import Commands
from helpers.tiny import save_model, word_tokenizer
from o1_model import Embedder
from o1_model.__main__ import main
from o1_model.training.saving import newest_checkpoint
from o1_records import Document, Example, Query, Source, Thought, write_jsonl

FULL = os.environ.get("O1_FAULTS") == "full"
STEPS = 10
WORDS = ["open", "a", "zip", "file", "sort", "keys", "read", "text", "the", "of", "in", "list"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A tiny plain model and examples."""
    folder = tmp_path_factory.mktemp("inputs")
    save_model(
        folder / "plain", tokenizer=word_tokenizer(WORDS),
        hidden_size=16, num_hidden_layers=1, intermediate_size=32, attention_dropout=0.1,
    )  # fmt: skip
    write_jsonl(folder / "examples.jsonl", [_example(number) for number in range(30)])
    return folder


def _example(number):
    words = random.Random(number)
    query = Query(query_id=f"q{number}", text=" ".join(words.choices(WORDS, k=3)))
    thought = Thought(
        query_id=query.query_id,
        thought_id="t",
        text=" ".join(words.choices(WORDS, k=5)),
        source=Source(model="m"),
    )
    document = Document(doc_id=f"d{number}", text=" ".join(words.choices(WORDS, k=8)))
    return Example(query=query, positives=(document,), thought=thought)


def _train(inputs, out):
    return [
        "train", "--model_name_or_path", str(inputs / "plain"),
        "--train_data", str(inputs / "examples.jsonl"),
        "--output_dir", str(out), "--max_steps", str(STEPS), "--per_device_train_batch_size", "4",
        "--save_steps", "1", "--save_total_limit", "2", "--logging_steps", "1", "--learning_rate", "1e-3",
        "--use_cpu", "--disable_tqdm", "true", "--report_to", "none",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(inputs, tmp_path_factory):
    """A training that nothing disturbed: its folder."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert main(_train(inputs, out)) == 0
    return out


def _assert_ends_as(out, undisturbed):
    assert _losses(out) == pytest.approx(_losses(undisturbed), rel=1e-5)
    assert len(_losses(out)) == STEPS
    first, second = (
        dict(Embedder.from_pretrained(f).backbone.named_parameters()) for f in (out, undisturbed)
    )
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-5, atol=1e-6, msg=name)


def _losses(out):
    history = json.loads((out / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())["log_history"]
    return [line["loss"] for line in history if "loss" in line]


@pytest.fixture(scope="module")
def commands():
    with contextlib.closing(Commands()) as started:
        yield started


def test_f22_a_killed_training_has_a_loadable_checkpoint_and_ends_as_if_uninterrupted(
    inputs, undisturbed, commands, tmp_path
):
    moments = random.Random(0)
    kills, left = 0, []
    for number in range(60 if FULL else 4):
        out = tmp_path / f"m{number}"
        for _ in range(2):
            before = _newest_step(out)
            pid = commands.start(_train(inputs, out))
            _wait_for_a_checkpoint(out, pid)
            time.sleep(moments.uniform(0, 0.5))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            if commands.code() == 0:
                break
            kills += 1
            # what was whole before is whole still, and it loads
            assert _newest_step(out) >= before
            if _newest_step(out):
                Embedder.from_pretrained(newest_checkpoint(out))
        left.append(_newest_step(out))
        assert commands.run(_train(inputs, out)) == 0
        _assert_ends_as(out, undisturbed)
    print(f"{kills} kills, the last left checkpoints of steps {left}; every loss and weight as uninterrupted")
    assert kills
    assert any(0 < step < STEPS for step in left)


def _newest_step(out):
    newest = newest_checkpoint(out)
    return 0 if newest is None else int(newest.rpartition("-")[2])


def _wait_for_a_checkpoint(out, pid):
    until = time.monotonic() + 60
    while not list(out.glob("checkpoint-*")) and time.monotonic() < until and Path(f"/proc/{pid}").exists():
        time.sleep(0.01)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_f6_a_full_disk_ends_the_training_and_the_next_one_goes_on(
    inputs, undisturbed, commands, tmp_path, share
):
    """The largest file is the optimizer's state: the limit strikes while a checkpoint is written."""
    largest = max(path.stat().st_size for path in (undisturbed / f"checkpoint-{STEPS}").iterdir())
    assert commands.run(_train(inputs, tmp_path / "out"), file_bytes=int(largest * share)) != 0
    assert _newest_step(tmp_path / "out") == 0
    assert commands.run(_train(inputs, tmp_path / "out")) == 0
    _assert_ends_as(tmp_path / "out", undisturbed)


def test_f22_half_a_state_file_is_no_checkpoint(inputs, undisturbed, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    state = out / f"checkpoint-{STEPS}" / "trainer_state.json"
    whole = state.read_bytes().rstrip()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        state.write_bytes(whole[:length])
        assert _newest_step(out) == STEPS - 1, length
    assert main(_train(inputs, out)) == 0
    _assert_ends_as(out, undisturbed)
