"""Options of every command: files are declared, what is read is never written, everything is explained."""

from argparse import _SubParsersAction
from pathlib import Path

import pytest

from o1_records import Ballot, Document, Example, Qrel, Query, Source, Thought, beir, read_jsonl, write_jsonl
from o1_records.kit.command import _Input, _Output, role_of
from o1_vote.__main__ import main

NO_FILES = {
    "ray",
    "split",
    "device",
    "revision",
    "query_prompt",
    "document_prompt",
    "teacher",
    "query_id",
    "prompt",
}
"""Options of free text that name no file."""


def commands():
    (choices,) = (action for action in main.parser()._actions if isinstance(action, _SubParsersAction))
    return choices.choices


def options(kind):
    return [
        (name, action)
        for name, command in commands().items()
        for action in command._actions
        if isinstance(role_of(action), kind)
    ]


def test_every_option_that_takes_text_names_a_file_or_is_known_not_to():
    undeclared = {
        action.dest
        for command in commands().values()
        for action in command._actions
        if action.nargs != 0 and action.choices is None and action.type in (None, str, Path)
        if role_of(action) is None
    }
    assert undeclared == NO_FILES


def test_every_option_is_explained_and_none_tells_its_default_by_hand():
    for name, command in commands().items():
        for action in command._actions:
            assert action.help, (name, action.dest)
            assert "default:" not in action.help, (name, action.dest)


@pytest.fixture
def folder(tmp_path):
    """Every input under the name of its option, and as a BEIR folder."""
    query, document = Query(query_id="q", text="a b"), Document(doc_id="d", text="b c")
    thought = Thought(query_id="q", thought_id="t", text="c", source=Source(model="m"))
    qrel = Qrel(query_id="q", doc_id="d", relevance=1)
    example = Example(query=query, positives=(document,), negatives=(document,))
    records = {
        "queries": query, "test_queries": query, "files": query, "against": query, "corpus": document,
        "test_corpus": document, "qrels": qrel, "test_qrels": qrel, "thoughts": thought, "examples": example,
        "negatives": example,
        "ballots": Ballot(query_id="q", thought_id=None, retriever="m", score=0.0),
    }  # fmt: skip
    for name, record in records.items():
        write_jsonl(tmp_path / f"{name}.jsonl", [record])
    write_jsonl(tmp_path / "scores.jsonl", [records["ballots"]])
    (tmp_path / "excluded.jsonl").write_text("")
    (tmp_path / "weights.jsonl").write_text('{"m": 1.0}')
    beir.write_beir(tmp_path / "set", documents=[document], queries=[query], qrels={"test": [qrel]})
    return tmp_path


def place(action):
    return "scores.jsonl" if action.dest == "member" else f"{action.dest}.jsonl"


def arguments(command, changed):
    """A command line with every file of the command, each under its own name or that in `changed`."""
    words = []
    for action in commands()[command]._actions:
        role = role_of(action)
        if role is None:
            if action.dest == "query_id":
                words.append("q")
            elif action.required:
                words += [action.option_strings[0], sorted(action.choices)[0]]
            continue
        value = changed.get(action.dest, f"new-{action.dest}" if isinstance(role, _Output) else place(action))
        value = f"scores:{value}" if action.dest == "member" else value
        words += [f"{action.option_strings[0]}={value}"] if action.option_strings else [value]
    return words


PAIRS = [
    (command, output.dest, given.dest, place(given))
    for command, output in options(_Output)
    for other, given in options(_Input)
    if other == command
]


@pytest.mark.parametrize(("command", "output", "given", "path"), PAIRS)
def test_an_output_that_is_an_input_is_refused_and_nothing_changes(
    folder, vote, command, output, given, path
):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = vote(folder, command, *arguments(command, {output: path}))
    assert done.returncode == 4
    (line,) = done.stderr.splitlines()
    assert "would overwrite the input of" in line or "is a file; name a folder" in line
    assert path in line
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_there_is_a_pair_for_every_command_that_writes():
    assert {command for command, *_ in PAIRS} == set(commands()) - {"explain", "stats"}


@pytest.mark.parametrize("command", sorted({command for command, *_ in PAIRS}))
def test_two_outputs_are_not_one_file_and_no_folder(folder, vote, command):
    outputs = [action.dest for name, action in options(_Output) if name == command]
    for one in outputs:
        for other in outputs:
            if one != other:
                done = vote(folder, command, *arguments(command, {one: "same", other: "same"}))
                assert done.returncode == 4
                assert "are one file, same" in done.stderr
        if one != "cache":
            done = vote(folder, command, *arguments(command, {one: "set"}))
            assert done.returncode == 4
            assert f"--{one} set is a folder; name a file" in done.stderr
    assert not list(folder.glob("*.job"))


def test_a_file_inside_a_folder_that_is_read_is_not_overwritten(folder, vote):
    for name in ("queries.jsonl", "corpus.jsonl", "qrels/test.tsv"):
        words = arguments(
            "calibrate", {"queries": "set", "corpus": "set", "qrels": "set", "out": f"set/{name}"}
        )
        done = vote(folder, "calibrate", *words)
        assert done.returncode == 4
        assert f"--out set/{name} would overwrite the input of" in done.stderr
    assert [query.query_id for query in read_jsonl(folder / "queries.jsonl", Query)] == ["q"]
