"""The papers' scripts: their commands parse, and a tiny model trains with their settings."""

import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from o1_model import Embedder
from o1_model.__main__ import main
from o1_model.training.arguments import parse
from o1_records import Document, Example, Query, Source, Thought, write_jsonl

RUNS = Path(__file__).parents[2] / "runs"
SCRIPTS = {"paper_o1.sh": "reference", "paper_reasonembed.sh": "instruct"}

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
    assert (model.layout, objective.temperature) == (SCRIPTS[script], 0.02)
    assert (data.positives, data.negatives, data.draw) == (1, 15, "random")
    assert (model.lora_rank, model.lora_alpha, model.lora_dropout) == (32, 64, 0.1)
    assert sorted(model.lora_targets) == sorted(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    assert (args.learning_rate, args.num_train_epochs, args.warmup_steps) == (1e-4, 1, 0.1)
    assert args.dataloader_drop_last
    if model.layout == "reference":
        assert (objective.embed_weight, objective.teacher, objective.teacher_weight) == (0.8, "kl", 1.0)
        assert (data.thought_dropout, data.same_dataset) == (0.1, False)
        # <query>, </query>, <thought> and eos
        assert model.query_length + model.thought_length + 4 == 256
    else:
        assert (objective.embed_weight, objective.redapter_from, data.same_dataset) == (1.0, 100, True)
        assert (model.row_end, model.query_length, model.document_length) == ("none", 512, 512)
        assert data.batch_size_scale * gpus == 8


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
    data = tmp_path / "data"
    data.mkdir()
    for name in ("stack", "code")[: 1 + (script == "paper_reasonembed.sh")]:
        write_jsonl(data / f"{name}.jsonl", _examples(script, name))
    (call,) = commands(script, GPUS="1", EXAMPLES=str(data), MODEL=str(plain_models["llama"]))
    command = call[call.index("o1_model") + 1 :]
    folder = command[command.index("--output_dir") + 1]
    changes = ["--redapter_from", "1"] if script == "paper_reasonembed.sh" else []
    code = main([
        *command, "--use_cpu", "--bf16", "false", "--max_steps", "2", *changes,
        "--dataloader_num_workers", "0", "--disable_tqdm", "true", "--per_device_train_batch_size", "4",
    ])  # fmt: skip
    assert code == 0, capsys.readouterr().err
    assert (Path(folder) / "adapter_model.safetensors").exists()
    trained = Embedder.from_pretrained(folder)
    (row,), layout = trained.query_rows(["open"]), trained.layout
    if layout.name == "reference":
        assert row.ids[-3:] == (layout.query_end, layout.thought, layout.emb)
    else:
        assert (layout.emb, len(row.ids) - 1) == (None, row.last)


def test_a_tiny_model_trains_with_our_own_recipe(tmp_path, plain_models, capsys):
    write_jsonl(tmp_path / "e.jsonl", _examples("mixture", "stack"))
    code = main([
        "train", str(RUNS / "mixture.yaml"), "--model_name_or_path", str(plain_models["llama"]),
        "--train_data", str(tmp_path / "e.jsonl"), "--output_dir", str(tmp_path / "out"), "--use_cpu",
        "--bf16", "false", "--max_steps", "2", "--own_thoughts_from", "1", "--disable_tqdm", "true",
        "--per_device_train_batch_size", "4",
    ])  # fmt: skip
    assert code == 0, capsys.readouterr().err
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()


def _examples(script, dataset):
    """Rows as the papers' data have them: several positives, scores of a teacher, batches of their own."""
    for number in range(16):
        query = Query(query_id=f"{dataset}{number}", text=f"open {number} zip file", instruction="find code")
        thought = Thought(query_id=query.query_id, thought_id="t", text="sort keys", source=Source(model="m"))
        words = ["read", "text", "bytes", "write", "list", "sort", "keys", "close"]
        documents = [Document(doc_id=f"d{n}", text=" ".join(words[n : n + 3])) for n in range(6)]
        example = Example(
            query=query,
            positives=tuple(documents[:2]),
            negatives=tuple(documents[2:]),
            thought=thought,
            teacher_scores=tuple(float(-n) for n in range(6)),
        )
        if script == "paper_reasonembed.sh":
            example = msgspec.structs.replace(
                example,
                thought=None,
                teacher_scores=(),
                reasoning_query="open the zip file in bytes",
                group_size=2 if dataset == "code" else None,
                batch_size=2 if dataset == "code" else None,
            )
        yield example
