"""Batch files: requests are written, results are read where they are, and nothing is asked for twice."""

from __future__ import annotations

import json

import pytest

from o1_records import Document, Query, Thought, read_jsonl, write_jsonl
from o1_synth import Checks, Job, Prompt, Sampling, think
from o1_synth.__main__ import main
from o1_synth.chat.batch import BatchExpert
from o1_synth.expert import sample_seed
from o1_synth.job.draw import Failure
from o1_synth.job.watch import status

QUERIES = [Query(query_id=f"q{n}", text=f"how does number {n} work") for n in range(4)]
THOUGHT = "It counts up, {seed} at a time, and carries the rest to the next place."


def requests_in(folder, name="requests-0001.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def result(asked, text=None, *, status_code=200, error=None, **body):
    """A line as OpenAI's batch API and `vllm run-batch` write it."""
    said = THOUGHT.format(seed=asked["body"].get("seed", 0)) if text is None else text
    choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 7, "completion_tokens": 5}
    body = body or {"model": "m", "choices": [choice], "usage": usage}
    response = {"status_code": status_code, "request_id": "r", "body": body}
    return {"id": "b", "custom_id": asked["custom_id"], "response": response, "error": error}


def put(folder, results, name="results.jsonl"):
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in results))


def think_in(tmp_path, *, job=None, samples=2, **options):
    expert = BatchExpert(tmp_path / "batch", "m", **options)
    return think(QUERIES, expert, out=tmp_path / "t.jsonl", samples=samples, job=job)


def test_the_same_command_writes_requests_and_then_reads_their_results(tmp_path, capsys):
    write_jsonl(tmp_path / "q.jsonl", QUERIES)
    out, folder = tmp_path / "t.jsonl", tmp_path / "batch"
    command = ["think", "--queries", str(tmp_path / "q.jsonl"), "--out", str(out), "--samples", "2"]
    command += ["--batch", str(folder), "--model", "m"]
    assert main(command) == 3
    told = capsys.readouterr().err
    assert f"8 wait for the results of a batch; send {folder}/requests-0001.jsonl and put the results" in told
    assert "failed" not in told.replace('"failed"', "")
    asked = requests_in(folder)
    assert len({line["custom_id"] for line in asked}) == 8
    assert {(line["method"], line["url"]) for line in asked} == {("POST", "/v1/chat/completions")}
    seeds = {sample_seed(0, query.query_id, sample) for query in QUERIES for sample in range(2)}
    assert {line["body"]["seed"] for line in asked} == seeds
    assert not any("stream" in line["body"] for line in asked)
    messages = [Prompt().messages(query) for query in QUERIES for _ in range(2)]
    assert sorted((line["body"]["messages"] for line in asked), key=str) == sorted(messages, key=str)

    assert main(command) == 3, "no result yet"
    assert [path.name for path in folder.iterdir()] == ["requests-0001.jsonl"]

    put(folder, map(result, reversed(asked)))  # in any order
    assert main(command) == 0
    of_seed = {sample_seed(0, q.query_id, n): f"{q.query_id}#{n}" for q in QUERIES for n in range(2)}
    for thought in read_jsonl(out, Thought):
        assert thought.thought_id == of_seed[thought.source.seed]
        assert thought.text == THOUGHT.format(seed=thought.source.seed)
    spent = status(out)["all runs"]
    assert (spent["runs"], spent["requests"], spent["completion_tokens"]) == (3, 8, 8 * 5)


def test_an_error_is_a_failure_and_what_was_not_served_is_asked_for_again(tmp_path):
    assert think_in(tmp_path).failures == {"pending": 8}
    asked = requests_in(tmp_path / "batch")
    blocked = result(asked[0], status_code=400, error={"message": "content is blocked"})
    busy = result(asked[1], status_code=429, error={"message": "slow down"})
    expired = {"custom_id": asked[2]["custom_id"], "response": None, "error": {"message": "expired"}}
    put(tmp_path / "batch", [blocked, busy, expired, *map(result, asked[3:])])
    summary = think_in(tmp_path)
    assert (summary.thoughts, summary.failures) == (5, {"http_status": 1, "pending": 2})
    name = asked[0]["custom_id"]
    assert summary.examples["http_status"] == f"400: 'content is blocked' (custom_id {name})"
    again = requests_in(tmp_path / "batch", "requests-0002.jsonl")
    assert [line["custom_id"] for line in again] == [line["custom_id"] for line in asked[1:3]]
    put(tmp_path / "batch", map(result, again), "results-2.jsonl")
    summary = think_in(tmp_path)
    assert (summary.thoughts, summary.failures) == (7, {"http_status": 1})
    assert not (tmp_path / "batch" / "requests-0003.jsonl").exists()


def unreadable(asked):
    return {"custom_id": asked["custom_id"], "response": {"status_code": 200, "body": {"model": "m"}}}


def test_what_failed_for_good_is_listed_and_asked_for_again_on_demand(tmp_path, capsys):
    write_jsonl(tmp_path / "q.jsonl", QUERIES)
    out, folder = tmp_path / "t.jsonl", tmp_path / "batch"
    command = ["think", "--queries", str(tmp_path / "q.jsonl"), "--out", str(out), "--samples", "1"]
    command += ["--batch", str(folder), "--model", "m"]
    assert main(command) == 3
    asked = requests_in(folder)
    blocked = result(asked[0], status_code=400, error={"message": "content is blocked"})
    put(folder, [blocked, unreadable(asked[1]), *map(result, asked[2:])])
    for _ in range(2):  # they are not asked for again by themselves
        assert main(command) == 3
        told = capsys.readouterr().err
        assert "2 failed" in told
        assert "; 2 requests of the batch are written again with --retry-failed only" in told
        listed = {f.reason: f.detail for f in read_jsonl(f"{out}.failures.jsonl", Failure)}
        assert f"custom_id {asked[0]['custom_id']}" in listed["http_status"]
        assert f"custom_id {asked[1]['custom_id']}" in listed["malformed"]
    assert [path.name for path in sorted(folder.iterdir())] == ["requests-0001.jsonl", "results.jsonl"]
    for flags in (["--retry-failed"], ["--retry-failed"], []):  # they wait, and are written once
        assert main([*command, *flags]) == 3
        told = capsys.readouterr().err
        assert "2 wait for the results of a batch" in told and "with --retry-failed only" not in told
        again = requests_in(folder, "requests-0002.jsonl")
        assert [line["custom_id"] for line in again] == [line["custom_id"] for line in asked[:2]]
    # under a name that is read before that of the first results
    put(folder, [unreadable(again[0]), result(again[1])], "another.jsonl")
    assert main(command) == 3
    told = capsys.readouterr().err
    assert "1 failed" in told and "1 requests of the batch are written again" in told
    assert main([*command, "--retry-failed"]) == 3
    put(folder, map(result, requests_in(folder, "requests-0003.jsonl")), "last.jsonl")
    assert main(command) == 0
    assert len(list(read_jsonl(out, Thought))) == 4


def test_retry_failed_without_a_batch_is_refused(tmp_path, capsys):
    write_jsonl(tmp_path / "q.jsonl", QUERIES)
    command = ["think", "--queries", str(tmp_path / "q.jsonl"), "--out", str(tmp_path / "t.jsonl")]
    assert main([*command, "--base-url", "http://localhost:1/v1", "--model", "m", "--retry-failed"]) == 4
    assert "--retry-failed" in capsys.readouterr().err


def test_what_fails_a_check_is_a_new_request_with_another_seed(tmp_path):
    job = Job(checks=Checks(names=("refusal",)), redraws=1)
    think_in(tmp_path, job=job, samples=1)
    asked = requests_in(tmp_path / "batch")
    put(tmp_path / "batch", [result(asked[0], "I'm sorry, but I can't help."), *map(result, asked[1:])])
    summary = think_in(tmp_path, job=job, samples=1)
    assert (summary.thoughts, summary.failures) == (3, {"pending": 1})
    (again,) = requests_in(tmp_path / "batch", "requests-0002.jsonl")
    assert again["body"]["messages"] == asked[0]["body"]["messages"]
    assert again["body"]["seed"] != asked[0]["body"]["seed"]
    put(tmp_path / "batch", [result(again)], "more.jsonl")
    assert think_in(tmp_path, job=job, samples=1).thoughts == 4


def test_without_a_seed_in_the_body_samples_are_still_told_apart(tmp_path):
    from o1_synth import Request

    think_in(tmp_path, request=Request(omit=["seed"]), sampling=Sampling(temperature=1.0))
    asked = requests_in(tmp_path / "batch")
    assert not any("seed" in line["body"] for line in asked)
    assert len({line["custom_id"] for line in asked}) == 8
    put(tmp_path / "batch", [result(line, f"{THOUGHT} {n}") for n, line in enumerate(asked)])
    summary = think_in(tmp_path, request=Request(omit=["seed"]), sampling=Sampling(temperature=1.0))
    assert summary.thoughts == 8


def test_several_samples_of_a_query_are_one_request(tmp_path):
    think_in(tmp_path, job=Job(n_per_request=2))
    asked = requests_in(tmp_path / "batch")
    assert [line["body"]["n"] for line in asked] == [2] * 4

    def both(line):
        made = result(line)
        (choice,) = made["response"]["body"]["choices"]
        other = {**choice, "index": 1, "message": {"content": "Another one, of ships and whales."}}
        made["response"]["body"]["choices"] = [choice, other]
        return made

    put(tmp_path / "batch", map(both, asked))
    assert think_in(tmp_path, job=Job(n_per_request=2)).thoughts == 8


@pytest.mark.parametrize(
    "name", ["requests-0001.results.jsonl", "requests-0001_output.jsonl", "requests-results.jsonl", "a.jsonl"]
)
def test_results_are_read_under_any_name(tmp_path, name):
    think_in(tmp_path)
    put(tmp_path / "batch", map(result, requests_in(tmp_path / "batch")), name)
    assert think_in(tmp_path).thoughts == 8


def test_requests_under_another_name_are_no_results_and_are_not_written_again(tmp_path):
    think_in(tmp_path)
    folder = tmp_path / "batch"
    (folder / "requests-0001.jsonl").rename(folder / "sent.jsonl")
    assert think_in(tmp_path).failures == {"pending": 8}
    assert [path.name for path in folder.iterdir()] == ["sent.jsonl"]


def test_a_service_that_ignores_n_gives_a_failure_that_says_so(tmp_path):
    think_in(tmp_path, job=Job(n_per_request=2))
    put(tmp_path / "batch", map(result, requests_in(tmp_path / "batch")))
    summary = think_in(tmp_path, job=Job(n_per_request=2))
    assert (summary.thoughts, summary.failures) == (0, {"malformed": 8})
    assert (
        "1 choices for n = 2; the service ignores n, leave out --n-per-request"
        in (summary.examples["malformed"])
    )
    assert [path.name for path in sorted((tmp_path / "batch").iterdir())] == [
        "requests-0001.jsonl",
        "results.jsonl",
    ]


@pytest.mark.parametrize(
    ("line", "told"),
    [("<html>", "byte 0: not a line of a batch"), ('{"id": "x"}', "missing required field `custom_id`")],
)
def test_a_file_that_is_no_batch_is_named(tmp_path, capsys, line, told):
    write_jsonl(tmp_path / "q.jsonl", QUERIES)
    (tmp_path / "batch").mkdir()
    (tmp_path / "batch" / "stray.jsonl").write_text(line + "\n")
    command = ["think", "--queries", str(tmp_path / "q.jsonl"), "--out", str(tmp_path / "t.jsonl")]
    assert main([*command, "--batch", str(tmp_path / "batch"), "--model", "m"]) == 4
    error = capsys.readouterr().err
    assert told in error and "stray.jsonl" in error and "move it away" in error


@pytest.mark.parametrize("step", ["think", "remix clean"])
def test_a_preview_of_a_batch_is_refused_and_writes_nothing(tmp_path, capsys, step):
    write_jsonl(tmp_path / "q.jsonl", QUERIES)
    write_jsonl(tmp_path / "c.jsonl", [Document(doc_id="d", text="Cells divide. " * 20)])
    before = set(tmp_path.iterdir())
    asked = ["--queries", "q.jsonl"] if step == "think" else ["--corpus", "c.jsonl", "--domain", "biology"]
    asked = [str(tmp_path / part) if part.endswith("jsonl") else part for part in asked]
    command = [*step.split(), *asked, "--out", str(tmp_path / "t.jsonl"), "--model", "m"]
    assert main([*command, "--batch", str(tmp_path / "batch"), "--preview", "2"]) == 4
    assert "--preview has no answer to show with --batch" in capsys.readouterr().err
    assert set(tmp_path.iterdir()) == before


def test_however_many_results_are_errors_the_others_are_read(tmp_path):
    think_in(tmp_path, samples=20)
    asked = requests_in(tmp_path / "batch")
    errors = [result(line, status_code=400, error={"message": "too long"}) for line in asked[:60]]
    put(tmp_path / "batch", [*errors, *map(result, asked[60:])])
    summary = think_in(tmp_path, samples=20)
    assert (summary.thoughts, summary.failures) == (20, {"http_status": 60})


def test_an_answer_that_is_no_completion_is_a_failure(tmp_path):
    think_in(tmp_path)
    asked = requests_in(tmp_path / "batch")
    put(tmp_path / "batch", [result(asked[0], choices=[]), *map(result, asked[1:])])
    summary = think_in(tmp_path)
    assert summary.failures == {"malformed": 1}
    (failure,) = read_jsonl(summary.failures_path, Failure)
    assert "results.jsonl: custom_id" in failure.detail and "no choice" in failure.detail
