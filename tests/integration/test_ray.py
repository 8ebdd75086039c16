"""Stages on a local Ray: the results of one machine, and nothing lost, doubled or paid for twice under kills.

Every stage has its head killed once. The full counts (O1_FAULTS=full) kill a worker twenty times a stage, and
each command once.
"""

import contextlib
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import psutil
import pytest

from helpers.openai_server import openai_server
from helpers.tiny import save_model, word_tokenizer
from o1_model import Embedder
from o1_records import (
    Ballot,
    Document,
    Hit,
    Qrel,
    Query,
    Source,
    Thought,
    read_jsonl,
    sha256_file,
    write_jsonl,
)
from o1_records.trec import write_run

pytestmark = pytest.mark.ray

FULL = os.environ.get("O1_FAULTS") == "full"
KILLS = 20 if FULL else 2
AT_A_TIME = 5  # kills in one run: a block over which eight workers die ends it
IN_FLIGHT = 4  # requests of a worker: --concurrency 8, two workers
WORDS = ["open", "a", "zip", "file", "sort", "keys", "read", "write", "bytes", "close", "the", "list"]
ON_RAY = ("--ray", "--ray-workers", "2")


def text_of(number, length):
    return " ".join(random.Random(number).choices(WORDS, k=length))


@pytest.fixture(scope="module")
def local_ray():
    """One Ray for all commands that run in this process, and nothing in the home folder."""
    import ray

    before = {path.name for path in Path.home().iterdir()}
    from o1_records.kit.cluster import Cluster, _connected

    with _connected(Cluster()):
        yield ray
    assert {path.name for path in Path.home().iterdir()} == before


# --- what the stages read -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def queries(tmp_path_factory):
    path = tmp_path_factory.mktemp("queries") / "queries.jsonl"
    write_jsonl(path, [Query(query_id=f"q{n:03d}", text=text_of(n, 3 + n % 8)) for n in range(120)])
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    write_jsonl(path, [Document(doc_id=f"d{n}", text=text_of(n, n % 30)) for n in range(200)])
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32}
    save_model(folder / "plain", tokenizer=word_tokenizer(WORDS), **small)
    Embedder.from_backbone(folder / "plain", document_length=40).save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def beside(corpus, queries, tmp_path_factory):
    """A folder of qrels, thoughts and candidates of the queries, and of a domain."""
    folder = tmp_path_factory.mktemp("beside")
    names = [query.query_id for query in read_jsonl(queries, Query)]
    pairs = [(name, f"d{30 + n}") for n, name in enumerate(names)]
    write_jsonl(
        folder / "qrels.jsonl",
        [Qrel(query_id=query, doc_id=document, relevance=1) for query, document in pairs],
    )
    thoughts = itertools.product(names, range(3))
    write_jsonl(
        folder / "thoughts.jsonl",
        [
            Thought(query_id=name, thought_id=f"{n}", text=" ".join(WORDS[n:][:6]), source=Source(model="m"))
            for name, n in thoughts
        ],
    )
    ranked = itertools.product(enumerate(names, 30), (1, 2))
    write_run(
        folder / "candidates.trec",
        (Hit(query_id=name, doc_id=f"d{n + rank}", score=-rank, rank=rank) for (n, name), rank in ranked),
    )
    (folder / "domains.toml").write_text('[code]\ninstruction = "Find the call."\ngroup_size = 2\n')
    return folder


def answer(body):
    """What a language model says to each prompt, after a while: always the same to the same body."""
    time.sleep(0.05)
    prompt = body["messages"][-1]["content"]
    drawn = zlib.crc32(json.dumps(body, sort_keys=True).encode())
    if "yes or no" in prompt:
        return "yes" if drawn % 3 else "no"
    if "<query>" in prompt:
        return f"It does that.\n<query>\n{text_of(drawn, 9)} {drawn}\n</query>"
    if "<score>" in prompt:
        return f"They do not meet.\n<score> {1 + drawn % 5} </score>"
    return f"{text_of(drawn, 12)} {drawn}"


@pytest.fixture(scope="module")
def server():
    with openai_server(chat=answer) as server:
        yield server


def asked_of(server):
    """How often each request was made since this was asked last."""
    asked = Counter(json.dumps(body, sort_keys=True) for body in server.asked)
    server.asked.clear()
    return asked


# --- the stages ---------------------------------------------------------------------------------------


@dataclass
class Stage:
    """A command: the module of its program and its words, without the folder of its outputs.

    `outputs` are options and names of files there; `asks` says whether it asks a language model.
    """

    module: str
    words: list[str]
    outputs: dict[str, str]
    block: str = "--ray-block 6"
    asks: bool = False

    def command(self, folder, *more):
        """The words of the command that writes into a folder."""
        folder.mkdir(exist_ok=True)
        out = [word for option, name in self.outputs.items() for word in (option, str(folder / name))]
        return [*self.words, *out, *more]

    def run(self, folder, *more):
        """Run it in this process."""
        assert import_module(f"{self.module}.__main__").main(self.command(folder, *more)) == 0

    @property
    def on_ray(self):
        """The options of a cluster."""
        return (*ON_RAY, *self.block.split())


@pytest.fixture(scope="module")
def stages(queries, corpus, beside, checkpoint, server):
    """Every command that has --ray, by name."""
    asks = f"--base-url {server.url} --model tiny --no-stream --concurrency 8"
    domain = f"--domains {beside / 'domains.toml'} --domain code {asks}"
    judged = f"--queries {queries} --qrels {beside / 'qrels.jsonl'} --corpus {corpus}"
    judged += " --member bm25 --member static"
    found = {
        "think": f"o1_synth think --queries {queries} --samples 2 --checks none {asks}",
        "clean": f"o1_synth remix clean --corpus {corpus} {domain}",
        "write": f"o1_synth remix write --corpus {corpus} --shortest 20 --samples 2 --checks none {domain}",
        "annotate": f"o1_synth remix annotate --queries {queries} --corpus {corpus} "
        f"--candidates {beside / 'candidates.trec'} {domain}",
        "elect": f"o1_vote elect {judged} --thoughts {beside / 'thoughts.jsonl'}",
        "mine": f"o1_vote mine {judged} --count 3",
        "embed": f"o1_model embed --model {checkpoint} --corpus {corpus} --shard-rows 6",
        "own": f"o1_model think --model {checkpoint} --queries {queries} --samples 2 --max-tokens 8",
    }
    more = {
        "annotate": {"--judgements": "judgements.jsonl"},
        "elect": {"--ballots": "ballots.jsonl"},
        "mine": {"--reasons": "reasons.jsonl"},
    }
    stages = {}
    for name, words in found.items():
        module, *rest = words.split()
        stages[name] = Stage(module, rest, {"--out": "out.jsonl", **more.get(name, {})})
        stages[name].asks = module == "o1_synth"
    stages["embed"].outputs, stages["embed"].block = {"--out": "vectors"}, ""  # a block is a shard
    return stages


STAGES = ["think", "clean", "write", "annotate", "elect", "mine", "embed", "own"]


@pytest.fixture
def stage(request, stages):
    return stages[request.param]


on_every_stage = pytest.mark.parametrize("stage", STAGES, indirect=True)


@pytest.fixture
def here(stage, server, tmp_path):
    """The folder of the outputs of one machine, and what was asked for."""
    asked_of(server)
    stage.run(tmp_path / "here")
    return tmp_path / "here", asked_of(server)


def results(folder):
    """The content of all results in a folder; scores of ballots are equal to 1e-6 only."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_dir() or any(part.endswith(".job") for part in name.parts):
            continue
        if path.name == "ballots.jsonl":
            found[str(name)] = [
                (ballot.query_id, ballot.thought_id, ballot.retriever, pytest.approx(ballot.score, abs=1e-6))
                for ballot in read_jsonl(path, Ballot)
            ]
        elif path.name == "ballots.jsonl.settings.json":
            settings = json.loads(path.read_bytes())
            assert settings.pop("ballots_sha256") == sha256_file(path.with_name("ballots.jsonl"))
            found[str(name)] = settings
        else:
            found[str(name)] = path.read_bytes()
    return found


# --- what kills ---------------------------------------------------------------------------------------


def children(process, wanted):
    """The processes below `process` whose command line is wanted."""
    found = []
    for child in psutil.Process(process).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if wanted(" ".join(child.cmdline())):
                found.append(child)
    return found


def workers_of(process):
    """Those that run blocks."""
    return children(process, lambda line: "ray::" in line and "_Worker" in line)


def is_head(line):
    """Whether it is the one that knows the cluster."""
    return "gcs_server" in line.split(" ")[0]


def attempts_below(folder):
    """The attempts at blocks that have notes now: a worker makes a file of notes when it begins a block."""
    return {name for _, _, names in os.walk(folder) for name in names if name.endswith(".notes")}


class Killer(threading.Thread):
    """Kills workers below `process` at random moments, each after another block was begun in `folder`."""

    def __init__(self, process, folder, kills):
        super().__init__(daemon=True)
        self.process, self.folder, self.kills = process, folder, kills
        self.killed, self.over = 0, threading.Event()

    def run(self):
        before = set()
        while self.killed < self.kills and not self.over.wait(0.005):
            if not attempts_below(self.folder) - before:
                continue
            self.over.wait(random.random() / 5)
            before = attempts_below(self.folder)
            workers = workers_of(self.process)
            if workers and not self.over.is_set():
                with contextlib.suppress(psutil.NoSuchProcess):
                    random.choice(workers).send_signal(signal.SIGKILL)
                    self.killed += 1

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()


@on_every_stage
def test_killed_workers_lose_and_double_nothing_and_pay_twice_only_for_what_was_in_flight(
    local_ray, stage, here, server, tmp_path
):
    expected, once = results(here[0]), here[1]
    kills = runs = twice = 0
    while kills < KILLS:
        runs += 1
        assert runs <= 5 * KILLS, f"{kills} kills in {runs} runs: they end before anything can be killed"
        out = tmp_path / f"there{runs}"
        with Killer(os.getpid(), out, min(AT_A_TIME, KILLS - kills)) as killer:
            stage.run(out, *stage.on_ray)
        asked = asked_of(server)
        assert results(out) == expected
        assert asked.keys() == once.keys()
        assert asked.total() - once.total() <= IN_FLIGHT * killer.killed
        kills, twice = kills + killer.killed, twice + asked.total() - once.total()
        print({"kills": kills, "runs": runs, "asked twice": twice})


@pytest.mark.parametrize("stage", ["think", "clean", "write", "annotate"], indirect=True)
def test_each_answer_is_asked_for_once(local_ray, stage, here, server, tmp_path):
    stage.run(tmp_path / "there", *stage.on_ray)
    assert asked_of(server) == here[1]
    assert results(tmp_path / "there") == results(here[0])


@pytest.mark.parametrize(
    ("stage", "dies"),
    [
        *((stage, "head") for stage in STAGES),
        *((stage, "command") for stage in (STAGES if FULL else ["think", "embed"])),
    ],
    indirect=["stage"],
)
def test_a_command_goes_on_after_it_or_the_head_was_killed(stage, dies, here, server, tmp_path):
    out = tmp_path / "there"
    command = [sys.executable, "-m", stage.module, *stage.command(out, *stage.on_ray)]
    # how long a driver waits for a head that comes back
    patience = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, start_new_session=True, env={**os.environ, **patience}
    ) as running:
        begun, victim = [], running
        while not attempts_below(out) and running.poll() is None:
            begun = children(running.pid, lambda line: "ray::" in line or is_head(line)) or begun
            time.sleep(0.01)
        if dies == "head":
            [victim] = [process for process in begun if process.name() == "gcs_server"]
        time.sleep(random.random() / 10)
        assert running.poll() is None, running.communicate()[1].decode()
        victim.kill()
        said = running.communicate(timeout=300)[1].decode()
        assert running.returncode == (4 if dies == "head" else -signal.SIGKILL), said
    if dies == "head":
        told = r"^error: Ray's head at \S+:\d+ \(this machine\) is gone, .*; what was done is kept: "
        assert re.search(told + r".*run the same command again$", said, re.MULTILINE), said
    print({"dies": dies, "code": running.returncode, "said": said[-1000:]})
    # Ray ends what it began, also without the command; on a busy machine that takes minutes
    _, alive = psutil.wait_procs(begun, timeout=300)
    assert not alive
    if stage.asks:  # on one machine the job goes on where the cluster stopped
        stage.run(out)
    else:
        again = subprocess.run(command, capture_output=True, text=True, check=False)
        assert again.returncode == 0, again.stderr
    asked = asked_of(server)
    print({"dies": dies, "asked twice": asked.total() - here[1].total()})
    assert results(out) == results(here[0])
    assert asked.keys() == here[1].keys()
    assert asked.total() - here[1].total() <= 2 * IN_FLIGHT


def test_vectors_that_one_machine_began_are_finished_on_a_cluster(local_ray, checkpoint, corpus, tmp_path):
    from o1_model.jobs import embed
    from o1_records.kit.cluster import Cluster
    from o1_records.vectors import VectorWriter

    here = embed(checkpoint, corpus=corpus, out=tmp_path / "here", shard_rows=8)
    with VectorWriter(
        tmp_path / "there", encoder=here.manifest.encoder, source=here.manifest.source
    ) as begun:
        for ids, vectors in itertools.islice(here.shards(), 3):
            begun.write(ids, vectors)
    embed(checkpoint, corpus=corpus, out=tmp_path / "there", shard_rows=8, cluster=Cluster(workers=2))
    assert results(tmp_path / "there") == results(tmp_path / "here")
