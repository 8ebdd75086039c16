"""The program behind every command: help, exit codes, signals, and outputs that are not inputs."""

import argparse
import os
import re
import signal
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest

from o1_records import InputError, InputWarning
from o1_records.kit.command import (
    EVERYTHING,
    Program,
    at_least,
    between,
    new_job,
    reads,
    refuse_overwriting,
    run_command,
    writes,
)


def program(declare, run=lambda args: 0, **attributes):
    module = types.SimpleNamespace(declare=declare, run=run, **attributes)
    return Program("o1-test", {"do": (module, "do it")}, version="1.2.3", description="A test.")


def copy(command):
    reads(command, "--queries", help="what to read")
    reads(command, "--corpus", help="what to search")
    reads(command, "--model", inside=EVERYTHING, type=str, help="a checkpoint")
    writes(command, "--out", beside=[".failures"], help="what to write")
    writes(command, "--report", help="what to report")
    writes(command, "--vectors", folder=True, help="a folder to write")


def test_help_shows_the_default_of_every_option_that_has_one(capsys):
    def declare(command):
        command.add_argument("--k", type=at_least(1), default=10, help="documents a query")
        command.add_argument("--seed", type=int, default=0, help="of the draw")
        command.add_argument("--name", help="a name")
        command.add_argument("--fast", action="store_true", help="be quick")
        command.add_argument("--b", default=0.4, help="BM25's b; by default 0.4")
        new_job(command)

    with pytest.raises(SystemExit):
        program(declare)(["do", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "documents a query (default: 10)" in shown
    assert "be quick --b" in shown
    assert "of the draw (default: 0)" in shown
    assert shown.count("default: ") == 2
    assert "nothing is deleted" in shown


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("a.jsonl:3: bad"), 4, "error: a.jsonl:3: bad\n"),
        (FileNotFoundError(2, "No such file or directory", "x.jsonl"), 4, "error: x.jsonl: No such file"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to resume"),
    ],
)
def test_what_a_user_can_correct_is_one_line_and_an_exit_code(error, code, said, capsys):
    def main(argv):
        raise error

    assert run_command(main, []) == code
    assert said in capsys.readouterr().err


def test_an_input_warning_is_one_line_however_often_it_is_given(capsys):
    def main(argv):
        for _ in range(3):
            warnings.warn("q.tsv: four columns, read as TREC's", InputWarning, stacklevel=2)
        return 0

    assert run_command(main, []) == 0
    assert capsys.readouterr().err == "note: q.tsv: four columns, read as TREC's\n"


def test_sigterm_unwinds_the_stack_and_exits_with_143(tmp_path):
    script = f"""
import contextlib, sys, time, pathlib
from o1_records.kit.command import run_command
def main(argv):
    try:
        print("at work", flush=True)
        time.sleep(60)
    finally:
        pathlib.Path({str(tmp_path / "unwound")!r}).write_text("yes")
    return 0
sys.exit(run_command(main, []))
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 143
    assert (tmp_path / "unwound").exists()


def test_a_command_with_a_parser_of_its_own_gets_its_words():
    seen = []
    run = lambda args: seen.append(args.typed) or 0  # noqa: E731
    assert program(lambda command: None, run, own_parser=True)(["do", "--anything", "1"]) == 0
    assert seen == [["do", "--anything", "1"]]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--queries", "q", "--out", "q"], "--out q would overwrite the input of --queries, q"),
        (["--queries", "q", "--out", "link"], "--out link would overwrite the input of --queries, q"),
        (["--corpus", "beir", "--out", "beir/corpus.jsonl"], "would overwrite the input of --corpus, beir"),
        (["--corpus", "beir", "--out", "beir/qrels/new.tsv"], "would overwrite the input of --corpus, beir"),
        (
            ["--corpus", "root", "--out", "root/beir/queries.jsonl.gz"],
            "would overwrite the input of --corpus",
        ),
        (["--model", "beir", "--out", "beir/any.json"], "would overwrite the input of --model, beir"),
        (["--out", "x", "--report", "x"], "--out and --report are one file, x"),
        (["--out", "x", "--report", "x.failures"], "the .failures file of --out and --report are one file"),
        (["--queries", "q.failures", "--out", "q"], "the .failures file of --out q.failures would overwrite"),
        (["--queries", "q.failures", "--out", "q"], "--queries, q.failures; choose another --out"),
        (["--out", "beir"], "--out beir is a folder; name a file"),
        (["--vectors", "q"], "--vectors q is a file; name a folder"),
        (["--model", "beir", "--vectors", "beir"], "--vectors beir would overwrite the input of --model"),
    ],
)
def test_an_output_is_no_input_and_no_other_output(argv, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("q", "q.failures", "beir/corpus.jsonl", "root/beir/corpus.jsonl"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    Path("link").symlink_to("q")
    ran = []
    assert program(copy, lambda args: ran.append(args) or 0)(["do", *argv]) == 4
    assert said in capsys.readouterr().err
    assert not ran


@pytest.mark.parametrize(
    "argv",
    [
        ["--queries", "beir", "--out", "beir/thoughts.jsonl"],
        ["--queries", "q", "--corpus", "q", "--out", "new"],
        ["--model", "bm25", "--out", "new"],
        ["--corpus", "beir", "--vectors", "beir/vectors"],
    ],
)
def test_what_overwrites_nothing_runs(argv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("q").write_text("q")
    Path("beir").mkdir()
    assert program(copy)(["do", *argv]) == 0


def test_a_pipe_is_refused_where_the_input_is_read_more_than_once(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    assert program(copy)(["do", "--queries", str(tmp_path / "pipe")]) == 4
    assert "is a pipe, which can be read only once" in capsys.readouterr().err
    once = program(lambda command: reads(command, "input", once=True, help="read once"))
    assert once(["do", str(tmp_path / "pipe")]) == 0


def test_values_that_name_paths_in_their_own_way_are_looked_at(tmp_path, capsys):
    (tmp_path / "b.jsonl").write_text("")

    def declare(command):
        reads(
            command,
            "--member",
            action="append",
            default=[],
            paths=lambda members: [m.removeprefix("scores:") for m in members if m.startswith("scores:")],
            help="bm25 or scores:FILE",
        )
        writes(command, "--out", help="what to write")

    argv = ["do", "--member", "bm25", "--member", f"scores:{tmp_path}/b.jsonl"]
    assert program(declare)([*argv, "--out", f"{tmp_path}/c.jsonl"]) == 0
    assert program(declare)([*argv, "--out", f"{tmp_path}/b.jsonl"]) == 4
    assert "would overwrite the input of --member" in capsys.readouterr().err


def test_the_public_function_takes_options_and_paths(tmp_path):
    (tmp_path / "corpus.jsonl").write_text("")
    with pytest.raises(InputError, match=r"--out .* would overwrite the input of --corpus"):
        refuse_overwriting({"--corpus": tmp_path, "--qrels": None}, {"--out": tmp_path / "corpus.jsonl"})


@pytest.mark.parametrize("text", ["-0.1", "1.1", "nan", "x"])
def test_a_number_outside_its_range_is_a_usage_error(text):
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--near", type=between(0, 1))
    with pytest.raises(argparse.ArgumentError, match=re.escape(f"must be between 0 and 1, got '{text}'")):
        parser.parse_args([f"--near={text}"])


def test_zero_is_refused_where_the_range_is_open():
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--near", type=between(0, 1, open_low=True))
    with pytest.raises(argparse.ArgumentError, match="must be above 0 and at most 1, got '0'"):
        parser.parse_args(["--near=0"])
