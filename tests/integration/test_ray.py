"""Stages on a local Ray: the results of one machine, and nothing lost, doubled or paid for twice under kills.

The full counts (O1_FAULTS=full) kill a worker twenty times a stage.
"""

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from helpers.openai_server import openai_server
from helpers.tiny import save_model, word_tokenizer
from o1_model import Embedder
from o1_records import Ballot, Document, Qrel, Query, Source, Thought, read_jsonl, write_jsonl

pytestmark = pytest.mark.ray

KILLS = 20 if os.environ.get("O1_FAULTS") == "full" else 2
WORDS = ["open", "a", "zip", "file", "sort", "keys", "read", "write", "bytes", "close", "the", "list"]


@pytest.fixture(scope="module")
def local_ray():
    """One Ray for all commands that run in this process, and nothing in the home folder."""
    import ray

    before = {path.name for path in Path.home().iterdir()}
    from o1_records.kit.cluster import Cluster, _connected

    with _connected(Cluster()):
        yield ray
    assert {path.name for path in Path.home().iterdir()} == before


@pytest.fixture(scope="module")
def queries(tmp_path_factory):
    path = tmp_path_factory.mktemp("queries") / "queries.jsonl"
    texts = [" ".join(random.Random(n).choices(WORDS, k=3 + n % 8)) for n in range(120)]
    write_jsonl(path, [Query(query_id=f"q{n:03d}", text=text) for n, text in enumerate(texts)])
    return path


def workers_of(process):
    """The processes of a Ray below `process` that run blocks."""
    found = []
    for child in psutil.Process(process).children(recursive=True):
        try:
            if "ray::" in (name := " ".join(child.cmdline())) and "_Worker" in name:
                found.append(child.pid)
        except psutil.Error:
            continue
    return found


class Killer(threading.Thread):
    """Kills a worker below `process` at random moments, `kills` times."""

    def __init__(self, process, kills, asked):
        super().__init__(daemon=True)
        self.process, self.kills, self.asked = process, kills, asked
        self.killed, self.over = 0, threading.Event()

    def run(self):
        last = 0
        while self.killed < self.kills and not self.over.wait(0.05 + random.random() / 5):
            # each in another moment of the work, not two in the start of a worker
            if self.asked() > last + 4 and (pids := workers_of(self.process)):
                os.kill(random.choice(pids), signal.SIGKILL)
                self.killed += 1
                last = self.asked()


def answer(body):
    """Says something else for every seed, after a while."""
    time.sleep(0.05)
    rng = random.Random(body["seed"])
    return " ".join(rng.choices(WORDS, k=12)) + f" {body['seed']}"


def think(queries, out, server, *more):
    return [
        "think", "--queries", str(queries), "--out", str(out), "--base-url", server.url, "--model", "tiny",
        "--no-stream", "--samples", "2", "--concurrency", "8", "--checks", "none", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32}
    save_model(folder / "plain", tokenizer=word_tokenizer(WORDS), **small)
    Embedder.from_backbone(folder / "plain", document_length=40).save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    texts = [" ".join(random.Random(n).choices(WORDS, k=n % 30)) for n in range(200)]
    write_jsonl(path, [Document(doc_id=f"d{n}", text=text) for n, text in enumerate(texts)])
    return path


ON_RAY = ("--ray", "--ray-workers", "2", "--ray-block", "6")


def asked_of(server):
    """How often each request was made; the seed names the query and the sample."""
    return Counter(body["seed"] for body in server.asked)


def keys_of(path):
    """How often each thought is there."""
    return Counter((thought.query_id, thought.thought_id) for thought in read_jsonl(path, Thought))


def test_thoughts_are_those_of_one_machine_and_each_is_asked_for_once(local_ray, queries, tmp_path):
    from o1_synth.__main__ import main

    with openai_server(chat=answer) as server:
        assert main(think(queries, tmp_path / "here.jsonl", server)) == 0
        here = asked_of(server)
        server.asked.clear()
        assert main(think(queries, tmp_path / "there.jsonl", server, *ON_RAY)) == 0
        assert asked_of(server) == here
    assert (tmp_path / "there.jsonl").read_bytes() == (tmp_path / "here.jsonl").read_bytes()


def test_killed_workers_lose_no_thought_and_pay_twice_only_for_what_was_in_flight(
    local_ray, queries, tmp_path
):
    from o1_synth.__main__ import main

    with openai_server(chat=answer) as server:
        killer = Killer(os.getpid(), KILLS, lambda: len(server.asked))
        killer.start()
        assert main(think(queries, tmp_path / "out.jsonl", server, *ON_RAY)) == 0
        killer.over.set()
        killer.join()
        asked = asked_of(server)
    keys = Counter(
        (thought.query_id, thought.thought_id) for thought in read_jsonl(tmp_path / "out.jsonl", Thought)
    )
    print(
        {
            "kills": killer.killed,
            "thoughts": len(keys),
            "asked": asked.total(),
            "twice": asked.total() - len(asked),
        }
    )
    assert killer.killed > 0
    assert len(keys) == keys.total() == 240
    assert len(asked) == 240
    # a worker has four requests in flight
    assert asked.total() - 240 <= 4 * killer.killed


def test_a_command_that_is_killed_goes_on_from_what_its_workers_noted(queries, tmp_path):
    with openai_server(chat=answer) as server:
        command = [sys.executable, "-m", "o1_synth", *think(queries, tmp_path / "out.jsonl", server, *ON_RAY)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as running:
            while len(server.asked) < 60 and running.poll() is None:
                time.sleep(0.02)
            workers = [psutil.Process(pid) for pid in workers_of(running.pid)]
            running.kill()
            running.wait()
        # Ray ends what it began without the command
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert workers
        assert not alive
        # and on one machine the job goes on where the cluster stopped
        from o1_synth.__main__ import main

        assert main(think(queries, tmp_path / "out.jsonl", server)) == 0
        asked = asked_of(server)
    keys = Counter(
        (thought.query_id, thought.thought_id) for thought in read_jsonl(tmp_path / "out.jsonl", Thought)
    )
    print({"thoughts": len(keys), "asked": asked.total(), "twice": asked.total() - len(asked)})
    assert len(keys) == keys.total() == len(asked) == 240
    assert asked.total() - 240 <= 8


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_vectors_are_those_of_one_machine_also_where_it_began_them_and_workers_die(
    local_ray, checkpoint, corpus, tmp_path
):
    from o1_model.jobs import embed
    from o1_records.kit.cluster import Cluster
    from o1_records.vectors import VectorWriter

    here = embed(checkpoint, corpus=corpus, out=tmp_path / "here", shard_rows=8)
    with VectorWriter(
        tmp_path / "there", encoder=here.manifest.encoder, source=here.manifest.source
    ) as begun:
        for ids, vectors in itertools.islice(here.shards(), 3):
            begun.write(ids, vectors)
    done = tmp_path / "there.partial" / "ray"
    killer = Killer(os.getpid(), KILLS, lambda: 5 * len([*done.glob("*/done")]))
    killer.start()
    embed(checkpoint, corpus=corpus, out=tmp_path / "there", shard_rows=8, cluster=Cluster(workers=2))
    killer.over.set()
    killer.join()
    print({"kills": killer.killed, "shards": len(here.manifest.shards)})
    assert files_of(tmp_path / "there") == files_of(tmp_path / "here")


def test_a_checkpoint_thinks_on_a_cluster_as_on_one_machine(local_ray, checkpoint, queries, tmp_path):
    from o1_model.jobs import think
    from o1_model.thinking.settings import Thinking
    from o1_records.kit.cluster import Cluster

    how = Thinking(samples=2, max_tokens=8)
    here = think(checkpoint, queries, how, out=tmp_path / "here.jsonl")
    there = think(
        checkpoint, queries, how, out=tmp_path / "there.jsonl", cluster=Cluster(workers=2, block=30)
    )
    assert there == here
    assert (tmp_path / "there.jsonl").read_bytes() == (tmp_path / "here.jsonl").read_bytes()


@pytest.fixture(scope="module")
def judged(corpus, queries, tmp_path_factory):
    """Qrels and thoughts of the queries."""
    folder = tmp_path_factory.mktemp("judged")
    asked = [*read_jsonl(queries, Query)]
    write_jsonl(
        folder / "qrels.jsonl",
        [Qrel(query_id=q.query_id, doc_id=f"d{30 + n}", relevance=1) for n, q in enumerate(asked)],
    )
    source = Source(model="m")
    write_jsonl(
        folder / "thoughts.jsonl",
        [
            Thought(query_id=q.query_id, thought_id=f"{n}", text=" ".join(WORDS[n:][:6]), source=source)
            for q in asked
            for n in range(3)
        ],
    )
    return folder


def test_ballots_and_negatives_are_those_of_one_machine(local_ray, corpus, queries, judged, tmp_path):
    from o1_vote.__main__ import main

    given = ["--queries", queries, "--qrels", judged / "qrels.jsonl", "--corpus", corpus]
    given += ["--member", "bm25", "--member", "static"]
    on_ray = ["--ray", "--ray-workers", "2", "--ray-block", "25"]

    def elect(name, *more):
        out = ["--out", tmp_path / f"{name}.jsonl", "--ballots", tmp_path / f"{name}.ballots.jsonl"]
        words = ["elect", *given, "--thoughts", judged / "thoughts.jsonl", *out, *more]
        assert main([str(word) for word in words]) == 0
        return (tmp_path / f"{name}.jsonl").read_bytes()

    def mine(name, *more):
        out = ["--out", tmp_path / f"{name}.jsonl", "--reasons", tmp_path / f"{name}.reasons.jsonl"]
        assert main([str(word) for word in ["mine", *given, "--count", "3", *out, *more]]) == 0
        return (tmp_path / f"{name}.jsonl").read_bytes()

    assert elect("there", *on_ray) == elect("here")
    here, there = ([*read_jsonl(tmp_path / f"{name}.ballots.jsonl", Ballot)] for name in ("here", "there"))
    assert [(b.query_id, b.thought_id, b.retriever) for b in here] == [
        (b.query_id, b.thought_id, b.retriever) for b in there
    ]
    assert [b.score for b in there] == pytest.approx([b.score for b in here], abs=1e-6)
    assert mine("mined-there", *on_ray) == mine("mined-here")
    assert not (tmp_path / "there.jsonl.job" / "members").exists()
