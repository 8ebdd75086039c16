"""A look before the million; checks that change; exemplars of a BEIR folder and copies of them."""

from __future__ import annotations

import asyncio
import json

import pytest

from o1_records import Document, Example, Qrel, Query, Source, Thought, read_jsonl, write_jsonl
from o1_synth import ChatExpert, Checks, Job, Prompt, Reply, Retry, think
from o1_synth.__main__ import main
from o1_synth.job.draw import Failure
from o1_synth.prompt import examples_of

QUERIES = [Query(query_id=f"q{n}", text=f"how does number {n} work") for n in range(4)]
GOOD = "It counts up by {seed} and carries the rest to the next place."
WORDS = ["the", "old", "mill", "stands", "by", "a", "river", "that", "never", "freezes"]
PASSAGES = [" ".join(f"{word}{n}" for word in WORDS) for n in range(9)]


def say(request, text):
    return GOOD.format(seed=request["seed"])


def saying(**bad):
    """What a model says that is good but for some queries, by a part of their text."""
    texts = {part.replace("_", " "): said for part, said in bad.items()}

    def either(request, text):
        said = next((said for part, said in texts.items() if part in text), GOOD)
        return said.replace("{seed}", str(request["seed"]))

    return either


def test_a_preview_prints_prompts_and_answers_and_writes_nothing(serve, tmp_path, capsys):
    write_jsonl(tmp_path / "q.jsonl", QUERIES)
    server = serve(say=saying(number_1="I'm sorry, I can't."))
    before = set(tmp_path.iterdir())
    command = ["think", "--queries", str(tmp_path / "q.jsonl"), "--out", str(tmp_path / "t.jsonl")]
    command += ["--base-url", server.base_url, "--model", "echo", "--samples", "1"]
    command += ["--checks", "+refusal"]
    assert main([*command, "--preview", "2"]) == 0
    assert set(tmp_path.iterdir()) == before
    printed = capsys.readouterr().out
    system, user = Prompt().messages(QUERIES[0])
    assert printed.startswith(
        f"=== q0 sample 0\n--- system\n{system['content']}\n--- user\n{user['content']}\n"
    )
    assert f"--- answer (stop, 13 tokens)\n{say(server.requests[0], '')}\n" in printed
    assert "=== q1 sample 0" in printed and "--- no answer: refusal\nI'm sorry, I can't.\n" in printed
    assert "q2" not in printed
    assert len(server.requests) == 2
    assert main(command) == 3, "the job itself begins from nothing"
    assert len(list(read_jsonl(tmp_path / "t.jsonl", Thought))) == 3


@pytest.mark.parametrize("step", ["clean", "write"])
def test_steps_of_remix_have_a_preview_too(serve, tmp_path, capsys, step):
    write_jsonl(tmp_path / "c.jsonl", [Document(doc_id="d", text="Cells divide. " * 20)])
    server = serve(say=lambda request, text: "yes" if step == "clean" else "<query>why so?</query>")
    command = ["remix", step, "--corpus", str(tmp_path / "c.jsonl"), "--out", str(tmp_path / "o.jsonl")]
    command += ["--domain", "biology", "--base-url", server.base_url, "--model", "echo", "--preview", "1"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("=== d sample 0\n--- user\n") and "Cells divide." in printed
    assert [path.name for path in tmp_path.iterdir()] == ["c.jsonl"]


def test_other_checks_are_applied_to_finished_work_and_what_passes_is_not_asked_for_again(
    serve, tmp_path, capsys
):
    write_jsonl(tmp_path / "q.jsonl", QUERIES)
    bad = "I'm sorry, but I can't help with that, whatever you say."
    server = serve(
        say=lambda request, text: f"{bad} {request['seed']}" if "number 1 " in text else say(request, text)
    )
    out = tmp_path / "t.jsonl"
    command = ["think", "--queries", str(tmp_path / "q.jsonl"), "--out", str(out), "--redraws", "0"]
    command += ["--base-url", server.base_url, "--model", "echo", "--samples", "1", "--checks"]
    assert main([*command, "none"]) == 0
    first = {thought.query_id: thought.text for thought in read_jsonl(out, Thought)}
    assert first["q1"].startswith(bad)
    capsys.readouterr()

    assert main([*command, "+refusal"]) == 3
    assert (
        "the checks changed: 1 thoughts fail them now and are asked for again, 0 texts"
        in capsys.readouterr().err
    )
    assert {it.query_id for it in read_jsonl(out, Thought)} == {"q0", "q2", "q3"}
    assert [it.reason for it in read_jsonl(f"{out}.failures.jsonl", Failure)] == ["refusal"]
    assert len(server.requests) == 5
    assert len({request["seed"] for request in server.requests}) == 5, "another draw than the one that failed"

    assert main([*command, "none"]) == 0
    assert "0 thoughts fail them now and are asked for again, 1 texts pass now" in capsys.readouterr().err
    assert len(server.requests) == 5
    again = {thought.query_id: thought.text for thought in read_jsonl(out, Thought)}
    assert again.keys() == first.keys() and again["q1"].startswith(bad)


class KilledWhile(Checks):
    """The checks of `names`, in a process that ends after so many texts."""

    texts = 2

    def fault(self, query, text, finish_reason, sample=0):
        self.texts -= 1
        if self.texts < 0:
            raise KeyboardInterrupt
        return super().fault(query, text, finish_reason, sample)


def test_a_run_that_is_killed_while_it_applies_other_checks_applies_them_the_next_time(serve, tmp_path):
    bad = saying(number_0="I'm sorry, but I can't help.", number_3="I'm sorry, but I can't help.")
    server, out = serve(say=bad), tmp_path / "t.jsonl"

    def run(checks):
        expert = ChatExpert(server.base_url, "echo")
        return think(QUERIES, expert, out=out, samples=1, job=Job(checks=checks, redraws=0))

    assert run(None).thoughts == 4
    with pytest.raises(KeyboardInterrupt):
        run(KilledWhile(names=("refusal",)))
    summary = run(Checks(names=("refusal",)))
    assert (summary.thoughts, summary.withdrawn) == (2, 2)
    assert {it.query_id for it in read_jsonl(out, Thought)} == {"q1", "q2"}


def beir(folder):
    (folder / "qrels").mkdir(parents=True)
    asked = {"t0": "old mills", "t1": "rivers in winter", "q1": "how does number 1 work"}
    lines = [json.dumps({"_id": name, "text": text}) for name, text in asked.items()]
    (folder / "queries.jsonl").write_text("\n".join(lines) + "\n")
    lines = [json.dumps({"_id": f"d{n}", "title": "", "text": text}) for n, text in enumerate(PASSAGES)]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    head = "query-id\tcorpus-id\tscore\n"
    (folder / "qrels" / "train.tsv").write_text(f"{head}t0\td0\t1\nt0\td1\t2\nt1\td2\t1\nt1\td3\t0\n")
    (folder / "qrels" / "test.tsv").write_text(f"{head}q1\td1\t1\n")
    return folder


def test_exemplars_come_from_the_train_split_of_a_beir_folder_and_no_query_sees_its_own(serve, tmp_path):
    write_jsonl(tmp_path / "q.jsonl", QUERIES)
    server = serve(say=say)
    command = ["think", "--queries", str(tmp_path / "q.jsonl"), "--out", str(tmp_path / "t.jsonl")]
    command += ["--base-url", server.base_url, "--model", "echo", "--samples", "1"]
    assert main([*command, "--exemplars", str(beir(tmp_path / "beir"))]) == 0
    for request in server.requests:
        prompt = request["messages"][-1]["content"]
        assert PASSAGES[2] in prompt
        assert (PASSAGES[1] in prompt) == ("number 1 " not in prompt), "a positive of its test split"
        assert PASSAGES[0] not in prompt, "the less relevant one"


def test_examples_of_judgements_take_the_most_relevant_document():
    judged = [
        ("a", "d2", 1),
        ("a", "d1", 1),
        ("a", "d0", 0),
        ("b", "d3", 1),
        ("b", "d4", 2),
        ("c", "gone", 1),
    ]
    qrels = [Qrel(query_id=q, doc_id=d, relevance=r) for q, d, r in judged]
    documents = [Document(doc_id=f"d{n}", text=f"text {n}") for n in range(5)]
    made = examples_of([Query(query_id=name, text=name) for name in "abcd"], qrels, documents)
    assert [(it.query.query_id, [p.doc_id for p in it.positives]) for it in made] == [
        ("a", ["d1"]),
        ("b", ["d4"]),
    ]


def test_a_copied_exemplar_is_a_leak_and_so_is_an_invented_further_example(serve, tmp_path):
    pool = [
        Example(
            query=Query(query_id=f"p{n}", text=f"pool {n}"), positives=(Document(doc_id=f"d{n}", text=text),)
        )
        for n, text in enumerate(PASSAGES)
    ]
    prompt = Prompt(examples=pool, exemplar_count=2)
    bad = {
        "number 0 ": prompt.exemplars(QUERIES[0], 0)[1].passage,
        "number 1 ": f"{GOOD}\n\nQuery:\nwhat is a mill\nResponse: It grinds corn.",
        "number 2 ": prompt.exemplars(QUERIES[2], 0)[0].passage.upper() + " indeed",
    }
    server = serve(
        say=lambda request, text: next((t for part, t in bad.items() if part in text), say(request, text))
    )
    expert = ChatExpert(server.base_url, "echo", prompt=prompt, retry=Retry(attempts=1, patience=0))
    job = Job(checks=Checks(prompt=prompt), redraws=0)
    summary = think(QUERIES, expert, out=tmp_path / "t.jsonl", samples=1, job=job)
    reasons = {it.query_id: it.reason for it in read_jsonl(summary.failures_path, Failure)}
    assert reasons == {"q0": "leak", "q1": "scaffold", "q2": "leak"}
    assert [it.query_id for it in read_jsonl(tmp_path / "t.jsonl", Thought)] == ["q3"]


class Broken(Checks):
    """The checks of a user, which half of the answers break."""

    def fault(self, query, text, finish_reason, sample=0):
        if sample % 2:
            raise ZeroDivisionError
        return super().fault(query, text, finish_reason, sample)


class AllAtOnce:
    """Answers when so many are asked that nobody else will be."""

    source = Source(model="m")

    def __init__(self, asked):
        self.left, self.all_are_here = asked, asyncio.Event()

    async def think(self, query, sample, draw=0):
        self.left -= 1
        if not self.left:
            self.all_are_here.set()
        await self.all_are_here.wait()
        return Reply(text=GOOD.format(seed=sample), source=self.source)

    async def close(self):
        pass


def test_what_was_answered_is_kept_where_a_check_breaks(tmp_path):
    out = tmp_path / "t.jsonl"
    with pytest.raises(ZeroDivisionError):
        think(QUERIES[:1], AllAtOnce(8), out=out, samples=8, concurrency=8, job=Job(checks=Broken()))
    summary = think(QUERIES[:1], AllAtOnce(4), out=out, samples=8, concurrency=8, job=Job(checks=Checks()))
    assert (summary.thoughts, summary.asked) == (8, 4)
