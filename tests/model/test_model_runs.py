"""The papers' scripts: their commands parse, and a tiny model trains with their settings."""

import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from o1_model.__main__ import main
from o1_model.training.arguments import parse
from o1_records import Document, Example, Query, Source, Thought, write_jsonl

RUNS = Path(__file__).parents[2] / "runs"
SCRIPTS = {"paper_o1.sh": "o1", "paper_reasonembed.sh": "instruct"}

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.fixture
def commands(tmp_path):
    """Run a script with programs that only write down how they were called; returns the calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    calls = tmp_path / "calls"
    for name in ("torchrun", "o1-model", "o1-index", "o1-bench"):
        (folder / name).write_text(
            f'#!/bin/sh\nprintf "%s\\0" {name} "$@" >> {calls}\nprintf "\\n" >> {calls}\n'
        )
        (folder / name).chmod(0o755)

    def call(script, *flags, **environment):
        environment = {
            "PATH": f"{folder}:/usr/bin:/bin",
            "EXAMPLES": "e.jsonl",
            "OUT": str(tmp_path / "out"),
            **environment,
        }
        subprocess.run(["bash", RUNS / script, *flags], env=environment, cwd=tmp_path, check=True)
        return [line.split("\0")[:-1] for line in calls.read_text().splitlines()]

    return call


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_bash(script):
    subprocess.run(["bash", "-n", RUNS / script], check=True)


@pytest.mark.parametrize("gpus", [1, 4, 8])
@pytest.mark.parametrize("script", SCRIPTS)
def test_the_batch_is_the_papers_on_any_number_of_gpus(commands, script, gpus):
    ((program, *arguments),) = commands(script, "--use_cpu", "--bf16", "false", GPUS=str(gpus))
    assert (program, arguments[:5]) == (
        "torchrun",
        ["--nproc_per_node", str(gpus), "-m", "o1_model", "train"],
    )
    model, data, _, objective, args = parse(arguments[5:])
    assert args.per_device_train_batch_size * gpus == 64
    assert data.grad_cache == (gpus < 8)
    assert (model.layout, data.negatives, objective.temperature) == (SCRIPTS[script], 15, 0.02)
    assert (model.lora_rank, model.lora_alpha, model.lora_dropout) == (32, 64, 0.1)
    assert (args.learning_rate, args.num_train_epochs) == (1e-4, 1)
    if model.layout == "o1":
        assert (objective.embed_weight, args.warmup_steps) == (0.8, 0.1)
        assert model.query_length + model.thought_length + 6 == 256
    else:
        assert (objective.embed_weight, objective.redapter_from, data.same_dataset) == (1.0, 100, True)


@pytest.mark.parametrize("script", SCRIPTS)
def test_collections_are_embedded_searched_and_scored(commands, script):
    calls = commands(script, COLLECTIONS="beir/scifact beir/nfcorpus")[1:]
    assert [call[:2] for call in calls] == [
        ["o1-model", "embed"], ["o1-model", "embed"],
        ["o1-index", "build"], ["o1-index", "search"], ["o1-bench", "score"],
    ] * 2  # fmt: skip
    for call in calls:
        if call[0] == "o1-model":
            main.parser().parse_args(call[1:])


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_tiny_model_trains_with_the_settings_of_a_paper(commands, script, tmp_path, plain_models, capsys):
    path = tmp_path / "examples.jsonl"
    write_jsonl(path, _examples(script))
    ((*_, train, config, model, _, data, _, output, folder, size, number, cache),) = [
        call[1:] for call in commands(script, GPUS="1", EXAMPLES=str(path))
    ]
    flags = [model, str(plain_models["llama"]), data, str(path), output, folder, size, number, cache]
    code = main([
        train, config, *flags, "--use_cpu", "--bf16", "false", "--max_steps", "2", "--redapter_from", "1",
        "--dataloader_num_workers", "0", "--disable_tqdm", "true", "--per_device_train_batch_size", "4",
    ])  # fmt: skip
    assert code == 0, capsys.readouterr().err
    assert (Path(folder) / "adapter_model.safetensors").exists()


def _examples(script):
    for number in range(12):
        query = Query(query_id=f"q{number}", text="open a zip file", instruction="find code")
        thought = Thought(query_id=query.query_id, thought_id="t", text="sort keys", source=Source(model="m"))
        documents = [Document(doc_id=f"d{number}.{n}", text="read text bytes") for n in range(4)]
        example = Example(
            query=query, positives=tuple(documents[:1]), negatives=tuple(documents[1:]), thought=thought
        )  # fmt: skip
        if script == "paper_reasonembed.sh":
            example = msgspec.structs.replace(
                example,
                thought=None,
                reasoning_query="open the zip file in bytes",
                dataset=f"set {number % 2}",
            )
        yield example
