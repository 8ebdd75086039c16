"""An election or mining on the disk: resumed after a kill, refused for other input, never overwritten."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from o1_records import Document, Exclusion, InputError, Qrel, Query, Source, Thought, write_jsonl
from o1_records.kit.job import ChangedJobError
from o1_vote import BM25Member, Mining, elect, mine, nominate, tally
from o1_vote._job import described, identified
from o1_vote.election.controls import KINDS, SAMPLE
from o1_vote.election.elect import BLOCK
from o1_vote.election.nominate import Nominations
from o1_vote.measure import margin_to_corpus, mean, thought_similarity
from o1_vote.members.protocol import LazyMember
from o1_vote.tally import majority, mean_rank

COUNT = 2 * BLOCK + 40
DOCUMENTS = [Document(doc_id=f"d{n}", text=f"text {n} of a{n % 7} and b{n % 11}") for n in range(60)]
QUERIES = [Query(query_id=f"q{n}", text=f"a{n % 7} and b{n % 11}, query {n}") for n in range(COUNT)]
THOUGHTS = [
    Thought(query_id=f"q{n}", thought_id=name, text=f"text {(n + shift) % 60}", source=Source(model="m"))
    for n in range(COUNT)
    for name, shift in (("a", 0), ("b", 5))
]
QRELS = [Qrel(query_id=f"q{n}", doc_id=f"d{n % 60}", relevance=1) for n in range(COUNT) if n % 50]
INPUT = {"qrels": QRELS, "documents": DOCUMENTS}


class Counting(BM25Member):
    """BM25 that counts what it is asked, and can end the process as the kernel would."""

    asked = 0
    kill_after = None

    def search(self, texts, k):
        for found in super().search(texts, k):
            self.asked += 1
            if self.kill_after is not None and self.asked > self.kill_after:
                import os

                os.kill(os.getpid(), signal.SIGKILL)
            yield found


def files(folder, out="out"):
    """What was published under a name."""
    return {path.name[len(out) :]: path.read_bytes() for path in folder.glob(f"{out}.*jsonl")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    write_jsonl(folder / "queries.jsonl", QUERIES)
    write_jsonl(folder / "thoughts.jsonl", THOUGHTS)
    write_jsonl(folder / "corpus.jsonl", DOCUMENTS)
    write_jsonl(folder / "qrels.jsonl", QRELS)
    return folder


# --- Python does what the command does, and goes on after a kill -----------------------------------------

ELECT = """
from o1_vote import elect
done = elect(read("queries", Query), read("thoughts", Thought), members=members, **shared, **outputs,
    ballots=f"{name}.ballots.jsonl", progress=True)
"""
MINE = """
from o1_vote import mine, Mining
from o1_vote.election.nominate import Nominations
with Nominations(read("queries", Query), (), every_document=True, **shared) as nominations:
    mining = Mining(count=3, seed=1)
    done = mine(nominations, members, nominations.documents, mining, teacher="committee", **outputs)
"""
SCRIPT = """
import importlib.util, json, sys
from o1_records import Document, Qrel, Query, Thought, read_jsonl
spec = importlib.util.spec_from_file_location("tests_of_jobs", {here!r})
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
name, kill = sys.argv[1], json.loads(sys.argv[2])
def read(kind, record):
    return read_jsonl(f"{{kind}}.jsonl", record)  # an iterator: it can be read only once
members = [tests.Counting(tests.DOCUMENTS, name=each) for each in ("one", "two")]
members[-1].kill_after = kill
shared = dict(qrels=read("qrels", Qrel), documents=read("corpus", Document))
outputs = dict(out=f"{{name}}.jsonl", reasons=f"{{name}}.reasons.jsonl")
{call}
print(json.dumps([*(member.asked for member in members), done.examples, done.left_out, done.up_to_date]))
"""


@pytest.fixture(params=["elect", "mine"])
def kind(request):
    return request.param


def words(kind, name):
    """The same on the command line."""
    inputs = [f"--{each}={each}.jsonl" for each in ("queries", "corpus", "qrels")]
    outputs = [f"--out={name}.jsonl", f"--reasons={name}.reasons.jsonl"]
    members = ["--member", "one=bm25", "--member", "two=bm25"]
    if kind == "elect":
        more = ["--thoughts=thoughts.jsonl", f"--ballots={name}.ballots.jsonl"]
    else:
        more = ["--count=3", "--seed=1", "--teacher=committee"]
    return [kind, *inputs, *members, *outputs, *more]


def script(folder, kind, name, kill=None):
    code = SCRIPT.format(here=__file__, call={"elect": ELECT, "mine": MINE}[kind])
    command = [sys.executable, "-c", code, name, json.dumps(kill)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_python_goes_on_after_a_kill_and_writes_what_the_command_writes(folder, vote, kind):
    assert vote(folder, *words(kind, f"{kind}-command")).returncode == 0
    controls = SAMPLE * (1 + len(KINDS))
    kill = {"elect": controls + 4 * BLOCK, "mine": 6 * 64 + 10}[kind]
    killed = script(folder, kind, f"{kind}-python", kill=kill)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not files(folder, f"{kind}-python")
    assert (folder / f"{kind}-python.jsonl.job" / "journal.sqlite").exists()
    done = script(folder, kind, f"{kind}-python")
    assert done.returncode == 0, done.stderr
    *asked, examples, left_out, up_to_date = json.loads(done.stdout)
    assert not up_to_date
    assert examples + left_out == COUNT
    if kind == "elect":  # one member after another: of the second, what it had not committed
        member = Counting(DOCUMENTS)
        elect(QUERIES, THOUGHTS, members=[member], **INPUT)
        assert asked[0] == 0
        assert member.asked == controls + 3 * len(QRELS)
        assert 0 < asked[1] < member.asked - controls
        assert kill + asked[1] <= member.asked + 3 * BLOCK
    else:  # both at a time: what was not among the six blocks that were committed
        assert asked == [len(QRELS) - 6 * 64] * 2
    assert files(folder, f"{kind}-python") == files(folder, f"{kind}-command")
    again = script(folder, kind, f"{kind}-python")
    assert json.loads(again.stdout) == [0, 0, examples, left_out, True]


# --- one at a time ----------------------------------------------------------------------------------------


def test_two_in_one_process_cannot_work_on_one_job(tmp_path):
    class Nested(BM25Member):
        """Begins the same work again while it is asked."""

        def search(self, texts, k):
            with pytest.raises(InputError, match="is at work there; wait for it"):
                work([BM25Member(DOCUMENTS, name=self.name)])
            tried.append(work)
            return super().search(texts, k)

    def an_election(members):
        return elect(
            QUERIES[:3], THOUGHTS[:6], members=members, out=out, reasons=tmp_path / "r.jsonl", **INPUT
        )

    def some_mining(members):
        nominations, _ = nominate(QUERIES[:3], (), QRELS, DOCUMENTS)
        known = {document.doc_id: document for document in DOCUMENTS}
        return mine(nominations, members, known, Mining(), out=out, reasons=tmp_path / "m.jsonl")

    tried = []
    for number, work in enumerate((an_election, some_mining)):
        out = tmp_path / f"out{number}.jsonl"
        assert work([Nested(DOCUMENTS)]).examples
    assert list(dict.fromkeys(tried)) == [an_election, some_mining]  # the controls are asked before the votes


# --- what a job was made from -------------------------------------------------------------------------------


class Letters:
    """A member without a fingerprint."""

    def __init__(self, name="letters"):
        self.name = name

    def similarities(self, pairs):
        return np.array([len(text) for text, _ in pairs], dtype=np.float32)


class Other(Letters):
    """Another class."""


def begun(out, **changes):
    given = {
        "queries": QUERIES[:4],
        "thoughts": THOUGHTS[:8],
        "members": [Letters()],
        "measure": thought_similarity,
        "reasons": out.with_name("reasons.jsonl"),
        **INPUT,
        **changes,
    }
    return elect(given.pop("queries"), given.pop("thoughts"), out=out, **given)


def test_the_same_content_is_the_same_input_whatever_brings_it(tmp_path):
    out = tmp_path / "out.jsonl"
    done = begun(out)
    assert (done.examples, done.left_out, done.up_to_date) == (3, 1, False)
    for same in (QUERIES[:4], tuple(QUERIES[:4]), iter(QUERIES[:4]), (q for q in QUERIES[:4])):
        done = begun(out, queries=same, documents=iter(DOCUMENTS))
        assert (done.examples, done.left_out, done.up_to_date) == (3, 1, True)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"queries": QUERIES[:3], "thoughts": THOUGHTS[:6]}, "queries sha256 '"),
        ({"thoughts": THOUGHTS[:7]}, "thoughts sha256 '"),
        ({"qrels": QRELS[:-1]}, "qrels sha256 '"),
        ({"documents": DOCUMENTS[::-1]}, "documents sha256 '"),
        ({"members": [Letters("others")]}, "member letters not given, member others '"),
        ({"members": [Other()]}, "member letters '"),
        ({"rule": majority}, "rule 'tally.majority'"),
        ({"measure": margin_to_corpus, "members": [BM25Member(DOCUMENTS)]}, "'measure.margin_to_corpus'"),
    ],
)
def test_other_input_is_refused_with_the_difference_and_a_new_job_keeps_the_old(
    tmp_path, changes, difference
):
    out = tmp_path / "out.jsonl"
    begun(out)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ChangedJobError) as refused:
        begun(out, **changes)
    assert difference in str(refused.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    moved = begun(out, new_job=True, **changes).moved
    assert sorted(path.name for path in moved) == [
        "out.jsonl.job.old1",
        "out.jsonl.old1",
        "reasons.jsonl.old1",
    ]
    assert (tmp_path / "out.jsonl.old1").read_bytes() == before[out]
    assert begun(out, **changes).up_to_date


def test_a_lazy_member_is_loaded_when_it_votes_and_only_once(tmp_path):
    loaded = []

    def load(documents, folder):
        loaded.append(dict(documents))
        (folder / "kept").mkdir(parents=True)
        return Letters("lazy")

    def lazy(fingerprint="one", **options):
        return LazyMember("lazy", fingerprint, load, **options)

    out = tmp_path / "out.jsonl"
    begun(out, members=[Letters(), lazy()])
    (known,) = loaded
    assert set(known) == {"d1", "d2", "d3"}
    assert sorted(path.name for path in (tmp_path / "out.jsonl.job").iterdir()) == ["journal.sqlite", "lock"]
    out.unlink()
    assert not begun(out, members=[Letters(), lazy()]).up_to_date
    assert len(loaded) == 1
    with pytest.raises(ChangedJobError, match="member lazy 'one', this run has member lazy 'two'"):
        begun(out, members=[Letters(), lazy("two")])
    begun(tmp_path / "whole.jsonl", members=[lazy(whole_corpus=True)], reasons=tmp_path / "w.jsonl")
    assert loaded[1] == {document.doc_id: document for document in DOCUMENTS}


def test_a_query_is_not_left_out_without_a_word(tmp_path):
    with pytest.raises(InputError, match=r"1 queries would be left out, the first is 'q0'.*--reasons FILE"):
        begun(tmp_path / "out.jsonl", reasons=None)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="ballots, reasons and new_job need out"):
        elect(QUERIES, THOUGHTS, members=[Letters()], ballots=tmp_path / "b.jsonl", **INPUT)
    nominations, _ = nominate(QUERIES[:3], (), QRELS, DOCUMENTS)
    with pytest.raises(InputError, match="out needs reasons"):
        mine(nominations, [BM25Member(DOCUMENTS)], {}, Mining(), out=tmp_path / "out.jsonl")


def test_weights_of_nobody_are_refused_before_anybody_votes():
    import functools

    rule = functools.partial(mean_rank, weights={"typo": 2.0})
    with pytest.raises(InputError, match="no member is called 'typo'; the members are letters"):
        elect(QUERIES, THOUGHTS, members=[Letters()], rule=rule, **INPUT)


def test_the_outputs_of_one_call_are_different_files(tmp_path):
    with pytest.raises(InputError, match="out and ballots are one file"):
        begun(tmp_path / "out.jsonl", ballots=tmp_path / "." / "out.jsonl")


def test_mining_of_other_settings_is_refused_and_that_of_the_same_nominations_goes_on(tmp_path):
    nominations, _ = nominate(QUERIES[:9], (), QRELS, DOCUMENTS)
    known = {document.doc_id: document for document in DOCUMENTS}
    out, reasons = tmp_path / "out.jsonl", tmp_path / "reasons.jsonl"

    def mined(*, given=nominations, mining=None, **options):
        members = [BM25Member(DOCUMENTS)]
        return mine(given, members, known, mining or Mining(), out=out, reasons=reasons, **options)

    done = mined()
    assert (done.examples + done.left_out, done.up_to_date) == (8, False)
    assert mined(given=iter(nominations)).up_to_date
    for changes, difference in (
        ({"mining": Mining(count=2)}, "count '15', this run has count '2'"),
        ({"excluded": {"q1": {"d3"}}}, "excluded sha256 '"),
        ({"with_thought": True}, "with_thought 'False', this run has with_thought 'True'"),
        ({"teacher": "bm25"}, "teacher 'None', this run has teacher \"'bm25'\""),
        ({"given": nominations[1:]}, "nominations sha256 '"),
    ):
        with pytest.raises(ChangedJobError) as refused:
            mined(**changes)
        assert difference in str(refused.value)
    assert list(mined(mining=Mining(count=2), new_job=True).moved)


def test_the_mining_command_refuses_other_settings_too(folder, vote):
    assert vote(folder, *words("mine", "settings")).returncode == 0
    before = files(folder, "settings")
    refused = vote(folder, *words("mine", "settings"), "--near", "0.5")
    assert refused.returncode == 4
    assert "near '0.8', this run has near '0.5'" in refused.stderr
    write_jsonl(folder / "excluded.jsonl", [Exclusion(query_id="q1", doc_id="d8")])
    refused = vote(folder, *words("mine", "settings"), "--excluded", "excluded.jsonl")
    assert "excluded sha256" in refused.stderr
    assert files(folder, "settings") == before
    new = vote(folder, *words("mine", "settings"), "--near", "0.5", "--new-job")
    assert new.returncode == 0
    assert "settings.jsonl.old1: earlier work, moved aside" in new.stderr
    assert (folder / "settings.jsonl.old1").read_bytes() == before[".jsonl"]


def test_settings_are_described_in_words():
    import functools

    from o1_vote.members.protocol import Retriever

    some = functools.partial(margin_to_corpus, several=mean)
    assert described(some) == "measure.margin_to_corpus(several=measure.mean)"
    weights = functools.partial(mean_rank, weights={"b": 1.0, "a": 2.0}, abstain=True)
    assert described(weights) == "tally.mean_rank(abstain=True, weights={a: 2.0, b: 1.0})"
    assert described(functools.partial(mean, [1, "b"], {3, 2})) == "measure.mean([1, 'b'], [2, 3])"
    counting = tally.Counting("majority", abstain=False, weights={"b": 1.0, "a": 2.0})
    assert described(counting) == (
        "tally.Counting(rule='majority', abstain=False, margin=0.0, least_agreement=None, "
        "weights={a: 2.0, b: 1.0}, tolerance={})"
    )
    assert described(Letters()).endswith(".Letters")
    assert described(BM25Member(DOCUMENTS)).startswith("bm25s ")
    assert isinstance(Letters(), Retriever)


def test_input_of_one_pass_is_copied_and_what_cannot_be_written_is_refused():
    once = identified(iter(DOCUMENTS))
    assert list(once) == list(once) == DOCUMENTS
    assert once.fingerprint == identified(DOCUMENTS).fingerprint != identified(DOCUMENTS[1:]).fingerprint
    assert identified(once) is once
    assert list(identified(iter(()))) == []
    with pytest.raises(InputError, match=r"Document 2: .*surrogates not allowed"):
        identified([DOCUMENTS[0], Document(doc_id="x", text="\ud800")])


def test_nominations_with_a_fingerprint_are_not_read_before_they_are_needed(tmp_path):
    class Unreadable:
        fingerprint = "the same as before"

        def __iter__(self):
            raise AssertionError

    with Nominations(Unreadable(), Unreadable(), Unreadable(), Unreadable()) as nominations:
        assert set(nominations.made_from().values()) == {"the same as before"}
        with pytest.raises(AssertionError):
            len(nominations)


def test_input_that_was_read_up_has_no_fingerprint():
    with Nominations(QUERIES, iter(THOUGHTS), QRELS, DOCUMENTS) as nominations:
        assert len(nominations) == len(QRELS)
        with pytest.raises(InputError, match="the thoughts were read, and can be read only once"):
            nominations.made_from()
    with Nominations(QUERIES, iter(THOUGHTS), QRELS, DOCUMENTS) as nominations:
        made_from = nominations.made_from()
        assert len(nominations) == len(QRELS)
        assert nominations.made_from() == made_from
