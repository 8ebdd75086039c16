"""Every option is declared with what the command does with it: reads a file, writes one, or uses a value."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from o1_records import InputError, Query, Source, Thought, write_jsonl
from o1_records.kit.command import role_of
from o1_synth.__main__ import main
from o1_synth.commands.options import names_of


def commands(parser=None, name=()):
    """Every command with its parser, as the program has them."""
    parser = parser or main.parser()
    steps = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not steps:
        yield " ".join(name), parser
    for action in steps:
        for step, command in action.choices.items():
            yield from commands(command, (*name, step))


COMMANDS = dict(commands())
OPTIONS = [(name, action) for name, command in COMMANDS.items() for action in command._actions]


def written(action):
    return hasattr(role_of(action), "folder")


READ = [(name, action) for name, action in OPTIONS if role_of(action) and not written(action)]
WRITTEN = [(name, action) for name, action in OPTIONS if role_of(action) and written(action)]
BOTH = [
    (name, read, out, suffix)
    for name, read in READ
    for other, out in WRITTEN
    if name == other and not role_of(out).folder
    for suffix in ("", *role_of(out).beside)
]


def flag(action):
    return action.option_strings[0] if action.option_strings else action.dest


def test_all_commands_are_looked_at():
    assert set(COMMANDS) == {
        *("think", "status", "export", "remix clean", "remix write", "remix mine", "remix annotate")
    }
    assert len(BOTH) > 30


@pytest.mark.parametrize(("name", "action"), OPTIONS, ids=lambda value: getattr(value, "dest", value))
def test_an_option_has_a_help_text_and_a_file_a_role(name, action):
    assert action.help and action.help[0] != " "
    assert "(default" not in action.help
    if action.type is Path:
        assert role_of(action), f"{name} {flag(action)} names a file: declare it with reads or writes"


@pytest.mark.parametrize("name", [name for name, out in WRITTEN if out.dest == "out" and name != "export"])
def test_whoever_publishes_a_file_has_the_answer_to_earlier_work(name):
    assert "--new-job" in {flag(action) for action in COMMANDS[name]._actions}


def complete(command, chosen, folder):
    """Arguments that the parser takes: `chosen` values, and a file for whatever else it wants."""
    values = dict(chosen)
    for group in command._mutually_exclusive_groups:
        if group.required and not any(flag(action) in values for action in group._group_actions):
            values[flag(group._group_actions[0])] = str(folder / "model")
    for action in command._actions:
        wanted = action.required or not action.option_strings
        if wanted and flag(action) not in values and flag(action) != "-h":
            values[flag(action)] = str(folder / action.dest)
    words = [[name, value] if name.startswith("-") else [value] for name, value in values.items()]
    return [word for pair in words for word in pair]


@pytest.mark.parametrize(
    ("name", "read", "out", "suffix"),
    BOTH,
    ids=[f"{name} {flag(read)} {flag(out)}{suffix}" for name, read, out, suffix in BOTH],
)
def test_an_output_that_is_an_input_is_refused_by_every_command(tmp_path, capsys, name, read, out, suffix):
    file = tmp_path / f"shared.jsonl{suffix}"
    file.write_text("precious")
    chosen = {flag(read): str(file), flag(out): str(tmp_path / "shared.jsonl")}
    assert main([*name.split(), *complete(COMMANDS[name], chosen, tmp_path)]) == 4
    error = capsys.readouterr().err
    assert f"would overwrite the input of {flag(read)}, {file}" in error and error.count("\n") == 1
    assert file.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        (["--docstrings", "d.jsonl", "--temperature", "0"], "--temperature has no effect with --docstrings"),
        (["--docstrings", "d.jsonl", "--checks", "none"], "--checks has no effect with --docstrings"),
        (["--docstrings", "d.jsonl", "--model", "m"], "--model has no effect with --docstrings"),
        (["--docstrings", "d.jsonl", "--split", "test"], "--split has no effect without a BEIR folder"),
        (["--transformers", "m", "--model", "m"], "--model has no effect without --base-url"),
        (["--transformers", "m", "--no-stream"], "--no-stream has no effect without --base-url"),
        (
            ["--transformers", "m", "--vllm-options", '{"a": 1}'],
            "--vllm-options has no effect without --vllm",
        ),
        (["--transformers", "m", "--corpus", "c.jsonl"], "--corpus has no effect without --qrels"),
        (
            ["--transformers", "m", "--exemplar-count", "1"],
            "--exemplar-count has no effect without --exemplars",
        ),
        (
            ["--transformers", "m", "--qrels", "r.tsv"],
            "--qrels has no effect without --exemplars or --corpus",
        ),
    ],
)
def test_an_option_that_would_not_be_used_is_refused(tmp_path, monkeypatch, capsys, given, refused):
    monkeypatch.chdir(tmp_path)
    write_jsonl("q.jsonl", [Query(query_id="q", text="t")])
    thought = Thought(query_id="q", thought_id="x", text="About.", source=Source(model="people"))
    write_jsonl("d.jsonl", [thought])
    assert main(["think", "--queries", "q.jsonl", "--out", "t.jsonl", *given]) == 4
    assert refused in capsys.readouterr().err
    assert not Path("t.jsonl").exists() and not Path("t.jsonl.job").exists()


def test_a_name_with_a_plus_is_checked_beside_the_default():
    chosen = ("echo", "leak")
    assert names_of("+refusal,+echo", chosen) == ("echo", "leak", "refusal")
    assert names_of("refusal", chosen) == ("refusal",)
    assert names_of("none", chosen) == ()
    with pytest.raises(
        InputError, match=r"--checks \+refusal,echo: \+ adds to the default; give it to every"
    ):
        names_of("+refusal,echo", chosen)
