"""The flags of `o1-model train`: command line, YAML, JSON, and what they say about mistakes."""

import json
import sys
from dataclasses import fields

import pytest

from o1_model.training.arguments import (
    DataArguments,
    EvalArguments,
    ModelArguments,
    TrainingArguments,
    changed,
    parse,
)
from o1_model.training.checks import refuse_settings
from o1_model.training.objective import Objective
from o1_records import InputError

NEEDED = ["--model_name_or_path", "m", "--train_data", "e.jsonl", "--use_cpu"]


def test_flags_become_five_groups(tmp_path):
    model, data, evaluation, objective, args = parse(
        [*NEEDED, "--layout", "instruct", "--negatives", "3", "--eval_queries", "7", "--temperature", "0.05",
         "--matryoshka_dims", "64", "128", "--learning_rate", "1e-4", "--output_dir", str(tmp_path)]
    )  # fmt: skip
    assert (model.layout, data.negatives, evaluation.eval_queries, objective.temperature) == (
        "instruct", 3, 7, 0.05,
    )  # fmt: skip
    assert objective.matryoshka_dims == [64, 128]
    assert args.learning_rate == 1e-4


def test_no_flag_belongs_to_two_groups():
    names = [
        known.name
        for group in (ModelArguments, DataArguments, EvalArguments, Objective, TrainingArguments)
        for known in fields(group)
        if known.init
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_a_file_sets_what_flags_would_and_flags_win(tmp_path, ending):
    settings = {
        "model_name_or_path": "m", "train_data": "e.jsonl", "use_cpu": True, "learning_rate": 1e-4,
        "matryoshka_dims": [8, 16], "eval_strategy": "no", "lora_rank": 4, "dropout": None, "merge": True,
        "lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-6},
    }  # fmt: skip
    path = tmp_path / f"config.{ending}"
    lines = [f"{name}: {json.dumps(value)}" for name, value in settings.items()]
    path.write_text(json.dumps(settings, indent="\t") if ending == "json" else "\n".join(lines))
    model, _, _, objective, args = parse([str(path), "--lora_rank", "8"])
    assert (model.lora_rank, model.merge, model.dropout) == (8, True, None)
    assert objective.matryoshka_dims == [8, 16]
    assert (args.learning_rate, args.lr_scheduler_kwargs) == (1e-4, {"min_lr": 1e-6})


def test_yaml_values_are_read_as_they_are_written(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("learning_rate: 1e-4  # YAML reads this as text\nsave_strategy: no\nmax-steps: -1\n")
    args = parse([str(path), *NEEDED])[-1]
    assert (args.learning_rate, args.save_strategy, args.max_steps) == (1e-4, "no", -1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "seed: 1\nlearning_rat: 1",
            r"c\.yaml:2: unknown setting 'learning_rat'; did you mean learning_rate\?",
        ),
        ("negatives: many", r"c\.yaml:1: argument --negatives/?.*: invalid int value: 'many'"),
        ("\nlayout: o2", r"c\.yaml:2: argument --layout: invalid choice: 'o2'"),
        ("seed: 1\nseed: 2", r"c\.yaml:2: duplicate setting seed"),
        ("[1, 2]", r"c\.yaml: expected `name: value` lines"),
        ("a: [1", r"c\.yaml: neither YAML nor JSON.*line 1"),
        ("embed_weight: 2", r"embed_weight must be between 0 and 1, got 2\.0"),
        ("load_best_model_at_end: true\neval_strategy: epoch", "the settings do not go together"),
    ],
)
def test_a_wrong_file_is_told_with_its_line(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=f"(?s){message}"):
        parse([str(path), *NEEDED])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learning_rat", "1"], "unknown flag --learning_rat; did you mean --learning_rate?"),
        (["--negative", "1"], "unknown flag --negative; did you mean --negatives?"),
        (["--seed", "1", "extra"], "unexpected argument 'extra'"),
        (["--negatives", "many"], "invalid int value: 'many'"),
    ],
)
def test_a_wrong_command_line_exits_with_2(capsys, flags, message):
    with pytest.raises(SystemExit) as stopped:
        parse([*NEEDED, *flags])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_collection_turns_evaluation_and_keeping_the_best_on():
    args = parse([*NEEDED, "--eval_collection", "c", "--eval_steps", "20"])[-1]
    assert (args.eval_strategy, args.eval_steps, args.save_steps) == ("steps", 20, 20)
    assert (args.load_best_model_at_end, args.metric_for_best_model) == (True, "eval_nDCG@10")
    args = parse([*NEEDED, "--eval_collection", "c", "--save_steps", "30", "--logging_steps", "7"])[-1]
    assert (args.eval_steps, args.save_steps) == (30, 30)
    args = parse([*NEEDED, "--eval_collection", "c", "--metric_for_best_model", "nDCG@10_thoughts"])[-1]
    assert args.metric_for_best_model == "nDCG@10_thoughts"
    args = parse([*NEEDED, "--eval_collection", "c", "--load_best_model_at_end", "false"])[-1]
    assert not args.load_best_model_at_end


def test_a_setting_of_a_package_that_is_absent_is_one_sentence(monkeypatch):
    # None in sys.modules is how Python marks a module that cannot be imported
    monkeypatch.setitem(sys.modules, "transformers.integrations.deepspeed", None)
    with pytest.raises(InputError, match=r"a setting needs what is not installed: .*deepspeed"):
        parse([*NEEDED, "--deepspeed", "zero2.json"])


def test_fsdp_is_turned_on_by_a_flag_and_needs_several_processes():
    args = parse([*NEEDED, "--fsdp", "true"])[-1]
    assert args.fsdp
    with pytest.raises(InputError, match="fsdp spreads a model over processes, and there is only one"):
        refuse_settings(args)


def test_changed_settings_are_those_that_are_not_the_default():
    groups = parse([*NEEDED, "--negatives", "3", "--matryoshka_dims", "8", "--lr_scheduler_type", "cosine"])
    found = changed(*groups)
    assert found["negatives"] == 3
    assert found["matryoshka_dims"] == [8]
    assert found["lr_scheduler_type"] == "cosine"
    assert not {"layout", "query_length", "learning_rate", "seed"} & set(found)


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        (ModelArguments, "lora_rank", -1),
        (ModelArguments, "lora_alpha", 0),
        (ModelArguments, "lora_dropout", 1.0),
        (ModelArguments, "dropout", -0.1),
        (DataArguments, "negatives", -1),
        (DataArguments, "thought_dropout", 2.0),
        (DataArguments, "chunk_tokens", 0),
        (EvalArguments, "eval_queries", 0),
        (EvalArguments, "eval_documents", 0),
        (EvalArguments, "eval_samples", -1),
    ],
)
def test_a_number_out_of_range_is_refused(group, name, value):
    needed = {ModelArguments: {"model_name_or_path": "m"}, DataArguments: {"train_data": "e"}}
    with pytest.raises(InputError, match=f"{name} must be .*, got {value}"):
        group(**{**needed.get(group, {}), name: value})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"row_end": "none"}, "row_end none is for the layout instruct; o1 closes rows with <emb>"),
        ({"lora_targets": ["q_proj"]}, "lora_targets would have no effect without lora_rank"),
        ({"lora_alpha": 8}, "lora_alpha would have no effect without lora_rank"),
        ({"merge": True}, "merge would have no effect without lora_rank"),
    ],
)
def test_settings_of_a_model_that_do_not_go_together_are_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        ModelArguments("m", **settings)


def test_the_untrained_model_is_measured_too(tmp_path):
    flags = ["--model_name_or_path", "m", "--train_data", "d", "--output_dir", str(tmp_path), "--use_cpu"]
    assert not parse(flags)[4].eval_on_start
    assert parse([*flags, "--eval_collection", "c"])[4].eval_on_start
    assert not parse([*flags, "--eval_collection", "c", "--eval_on_start", "false"])[4].eval_on_start
