"""Earlier work is continued, refused with every difference named, or moved aside: think and remix alike."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from contextlib import closing
from functools import partial

import pytest

from o1_records import Document, Exclusion, Hit, InputError, Query, Thought, read_jsonl, write_jsonl
from o1_records.trec import write_run
from o1_synth import ChatExpert, Checks, Job, Retry, Sampling, think
from o1_synth.__main__ import main
from o1_synth.remix import Domain, annotate, clean, write
from o1_synth.remix.mine import mine_files

QUERIES = [Query(query_id=f"q{n}", text=f"how {n}", instruction="Find.") for n in range(3)]
DOCUMENTS = [Document(doc_id=f"d{n}", title=f"Title {n}", text=f"fact{n} " * 60) for n in range(4)]
HITS = [
    Hit(query_id=query.query_id, doc_id=f"d{n}", score=-n, rank=n + 1) for query in QUERIES for n in range(4)
]
DOMAIN = Domain(name="biology", topic="biology")


def say(request, text):
    """A model that does what each prompt asks for, but has nothing to say about number 2."""
    prompt = request["messages"][-1]["content"]
    if "yes or no" in prompt:
        return "maybe" if "fact2" in text else "yes"
    if "<query>" in prompt:
        return "none" if "fact2" in text else f"<query>Why does {text[:7]} matter?</query>"
    if "<score>" in prompt:
        return "none" if "fact2" in text else f"<score>{5 if 'fact1' in text else 1}</score>"
    return " " if "how 2" in text else f"a thought about {text} with seed {request['seed']}"


@pytest.fixture
def server(serve):
    return serve(say=say)


def expert_of(server, temperature):
    quick = Retry(attempts=1, patience=0.0)
    sampling = Sampling(temperature=temperature)
    return partial(ChatExpert, server.base_url, "echo", sampling=sampling, retry=quick, stream=False)


def mine_some(server, out, depth, job):
    folder = out.parent
    write_jsonl(folder / "q.jsonl", QUERIES)
    sources = [Exclusion(query_id=query.query_id, doc_id="d0") for query in QUERIES]
    write_jsonl(folder / "q.jsonl.sources.jsonl", sources)
    write_run(folder / "run.trec", HITS)
    new_job = job is not None and job.new_job
    return mine_files(folder / "q.jsonl", out=out, run=folder / "run.trec", depth=depth, new_job=new_job)


# one setting that may differ; what it is called; the outputs beside `out`
STEPS = {
    "think": (
        lambda server, out, t, job: think(QUERIES, expert_of(server, t)(), out=out, samples=1, job=job),
        ("temperature", 0.5, 1.0),
        [".failures.jsonl"],
    ),
    "remix clean": (
        lambda server, out, t, job: clean(DOCUMENTS, expert_of(server, t), out=out, domain=DOMAIN, job=job),
        ("temperature", 0.5, 1.0),
        [".failures.jsonl"],
    ),
    "remix write": (
        lambda server, out, t, job: write(DOCUMENTS, expert_of(server, t), out=out, job=job),
        ("temperature", 0.5, 1.0),
        [".failures.jsonl", ".sources.jsonl"],
    ),
    "remix mine": (mine_some, ("depth", 2, 3), []),
    "remix annotate": (
        lambda server, out, t, job: annotate(
            QUERIES,
            HITS,
            DOCUMENTS,
            expert_of(server, t),
            out=out,
            distill=f"{out}.chat",
            flagembedding=f"{out}.flag",
            job=job,
        ),
        ("temperature", 0.5, 1.0),
        [".failures.jsonl", ".dropped.jsonl", ".chat", ".flag"],
    ),
}
every_step = pytest.mark.parametrize("step", STEPS)


@every_step
def test_other_settings_are_refused_by_name_and_a_new_job_moves_everything_aside(server, tmp_path, step):
    run, (name, first, second), beside = STEPS[step]
    out = tmp_path / "out"
    run(server, out, first, None)
    outputs = [tmp_path / f"out{suffix}" for suffix in ("", *beside)]
    before = {path.name: path.read_bytes() for path in outputs}
    asked = server.asked.total()
    refused = f"made with {name} '{first}', this run has {name} '{second}'; .*--new-job"
    with pytest.raises(InputError, match=refused):
        run(server, out, second, None)
    assert server.asked.total() == asked
    assert {path.name: path.read_bytes() for path in outputs} == before

    made = run(server, out, second, Job(new_job=True))
    moved = getattr(made, "summary", made).moved
    aside = {f"{name}.old1" for name in before}
    assert {path.name for path in moved} == {*aside, "out.job.old1"}
    assert {name: (tmp_path / f"{name}.old1").read_bytes() for name in before} == before
    assert (tmp_path / "out.job.old1" / "journal.sqlite").exists()
    assert all(path.exists() for path in outputs)

    asked = server.asked.total()
    again = run(server, out, second, Job(new_job=True))  # nothing differs: nothing is moved
    assert getattr(again, "summary", again).moved == ()
    assert server.asked.total() - asked <= 3 * 3, "only what failed is asked for again"


@every_step
def test_a_file_that_no_job_wrote_is_not_replaced(server, tmp_path, step):
    run, (_, setting, _), beside = STEPS[step]
    for suffix in ("", *beside):
        theirs = tmp_path / f"out{suffix}"
        theirs.write_text("precious")
        with pytest.raises(InputError, match=f"{theirs.name}: exists, and no job beside it says"):
            run(server, tmp_path / "out", setting, None)
        assert theirs.read_text() == "precious"
        theirs.unlink()
        assert not (tmp_path / "out.job").exists()
    assert not server.asked


def test_a_job_belongs_to_its_command(server, tmp_path):
    out = tmp_path / "out"
    clean(DOCUMENTS, expert_of(server, 0.5), out=out, domain=DOMAIN)
    with pytest.raises(
        InputError, match=r"made with command 'remix clean'.*this run has command 'remix write'"
    ):
        write(DOCUMENTS, expert_of(server, 0.5), out=out)


@every_step
def test_two_jobs_of_one_process_on_the_same_output_are_refused(server, tmp_path, step):
    server.delay = (0.2, 0.2)
    out, run, ended = tmp_path / "out", STEPS[step][0], []
    holder = lambda: ended.append(think(QUERIES, expert_of(server, 0.5)(), out=out, samples=1))  # noqa: E731
    thread = threading.Thread(target=holder)
    thread.start()
    while not server.asked:
        time.sleep(0.001)
    with pytest.raises(InputError, match=r"out\.job: process \d+ on .* is at work there"):
        run(server, out, 2, Job(new_job=True))
    thread.join()
    assert ended[0].thoughts == 2


def test_nothing_is_left_of_a_job_whose_input_was_refused(server, tmp_path):
    with pytest.raises(InputError, match="duplicate query_id 'q0'"):
        think([*QUERIES, QUERIES[0]], expert_of(server, 0.5)(), out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert think(QUERIES[:2], expert_of(server, 1.0)(), out=tmp_path / "out", samples=1).thoughts == 2


def test_a_job_about_nothing_can_be_run_again(server, tmp_path):
    for _ in range(2):
        assert think([], expert_of(server, 0.5)(), out=tmp_path / "out").queries == 0
        assert (tmp_path / "out").read_bytes() == b""


def test_the_journal_keeps_documents_and_pairs_as_they_are(server, tmp_path):
    clean(DOCUMENTS[:1], expert_of(server, 0.5), out=tmp_path / "c", domain=DOMAIN)
    annotate(QUERIES[:1], HITS[:1], DOCUMENTS, expert_of(server, 0.5), out=tmp_path / "a")
    rows = []
    for name in "ca":
        with closing(sqlite3.connect(tmp_path / f"{name}.job" / "journal.sqlite")) as journal:
            rows += [
                (key, text, json.loads(payload))
                for key, text, payload in journal.execute("SELECT key, text, payload FROM item")
            ]
    document, (key, text, payload) = rows
    assert document == ("d0", DOCUMENTS[0].text, {"doc_id": "d0", "title": "Title 0"})
    assert (key, text) == ("q0\td0", "how 0")
    assert len(payload.pop("document_sha256")) == 64
    assert payload == {"query_id": "q0", "doc_id": "d0", "instruction": "Find."}


def test_a_step_has_its_own_checks(server, tmp_path):
    with pytest.raises(InputError, match=r"job\.checks has no effect: remix write has checks of its own"):
        write(DOCUMENTS, expert_of(server, 0.5), out=tmp_path / "out", job=Job(checks=Checks()))


def test_mining_again_does_nothing_until_its_input_changes(server, tmp_path):
    out = tmp_path / "out"
    first = mine_some(server, out, 2, None)
    assert (first.candidates, first.searched) == (6, True)
    written = out.stat().st_mtime_ns
    again = mine_some(server, out, 2, None)
    assert (again.candidates, again.searched) == (6, False)
    assert out.stat().st_mtime_ns == written
    write_run(tmp_path / "run.trec", HITS[1:])
    with pytest.raises(InputError, match=r"made with run '\w{64}', this run has run '\w{64}'; "):
        mine_files(tmp_path / "q.jsonl", out=out, run=tmp_path / "run.trec", depth=2)
    out.unlink()
    assert mine_some(server, out, 2, None).searched, "a file that is gone is written again"


def test_the_command_says_where_earlier_work_is(server, tmp_path, capsys):
    write_jsonl(tmp_path / "q.jsonl", QUERIES[:2])
    given = ["think", "--queries", str(tmp_path / "q.jsonl"), "--out", str(tmp_path / "t"), "--samples", "1"]
    given += ["--base-url", server.base_url, "--model", "echo"]
    assert main(given) == 0
    assert main([*given, "--temperature", "0"]) == 4
    assert "temperature '0.8', this run has temperature '0.0'" in capsys.readouterr().err
    assert main([*given, "--temperature", "0", "--new-job"]) == 0
    assert f"earlier work was moved to {tmp_path}/t.job.old1, {tmp_path}/t.old1" in capsys.readouterr().err
    assert len(list(read_jsonl(tmp_path / "t.old1", Thought))) == 2
