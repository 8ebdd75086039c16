"""One request: what comes of it, without a scheduler and without a journal."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from o1_records import Document, Example, Hit, InputError, Qrel, Query, Source, Thought, read_jsonl
from o1_synth import Checks, NoThought, Reason, Reply
from o1_synth.checks import Known, Passages
from o1_synth.job.draw import Failure, Spent, draw
from o1_synth.remix import Domain, annotate, clean, write

QUERY = Query(query_id="q", text="why is the sky blue")
SOURCE = Source(model="m", prompt_tokens=10, completion_tokens=3)


class Scripted:
    """Says for each (sample, draw) what its script says; several samples in one request."""

    source = SOURCE

    def __init__(self, script):
        self.script, self.requests = script, []

    async def think_together(self, query, samples, draw=0):
        self.requests.append((query, tuple(samples), draw))
        said = [self.script[sample, draw] for sample in samples]
        return [
            text if isinstance(text, NoThought) else Reply(text=text, source=SOURCE, answered_by="model-1")
            for text in said
        ]

    async def think(self, query, sample, draw=0):
        (reply,) = await self.think_together(query, (sample,), draw)
        if isinstance(reply, NoThought):
            raise reply
        return reply

    async def close(self):
        pass


def ends(drawn):
    """Text or reason of each sample."""
    decoded = {}
    for outcome in drawn.outcomes:
        kind = Failure if outcome.reason else Thought
        record = msgspec.json.decode(outcome.body, type=kind)
        assert outcome.key == record.query_id == "q"
        decoded[outcome.sample] = record.reason if outcome.reason else record.text
    return decoded


def test_samples_that_fail_are_drawn_again_and_every_sample_ends(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scattered = "sunlight is scattered by the air"
    expert = Scripted(
        {
            (0, 0): scattered,
            (1, 0): "Why is the sky blue?",
            (2, 0): scattered,
            (3, 0): NoThought(Reason.TIMEOUT),
            (1, 1): "short waves are scattered most",
            (2, 1): scattered.upper(),
        }
    )
    drawn = asyncio.run(draw(expert, QUERY, range(4), checks=Checks(), redraws=1))
    assert ends(drawn) == {0: scattered, 1: "short waves are scattered most", 2: "duplicate", 3: "timeout"}
    assert expert.requests == [(QUERY, (0, 1, 2, 3), 0), (QUERY, (1, 2), 1)]
    assert drawn.spent == Spent(requests=2, prompt_tokens=20, completion_tokens=15)
    assert [(it.sample, it.draws) for it in drawn.rejected] == [(1, 1), (2, 2)]
    assert drawn.answered_by == {"model-1"}
    assert list(Path().iterdir()) == []


def test_near_copies_of_what_was_there_before_are_known():
    known = Known(["sunlight is scattered by the air"])
    expert = Scripted({(0, 0): "Sunlight is scattered by the air!"})
    assert ends(asyncio.run(draw(expert, QUERY, [0], checks=Checks(), known=known))) == {0: "duplicate"}


def test_a_timeout_of_an_experts_own_is_not_the_deadline_of_the_run():
    class Slow(Scripted):
        async def think(self, query, sample, draw=0):
            await asyncio.wait_for(asyncio.sleep(60), self.script)

    async def ask(seconds, deadline):
        loop = asyncio.get_running_loop()
        return await draw(Slow(seconds), QUERY, [0], deadline=deadline and loop.time() + deadline)

    assert ends(asyncio.run(ask(0.01, None))) == {0: "timeout"}
    assert ends(asyncio.run(ask(60, 0.01))) == {0: "deadline"}


def test_after_the_deadline_no_request_goes_out():
    expert = Scripted({(0, 0): "a thought"})

    async def ask():
        return await draw(expert, QUERY, [0], deadline=asyncio.get_running_loop().time())

    assert ends(asyncio.run(ask())) == {0: "deadline"}
    assert expert.requests == []


def test_an_error_that_no_sample_can_escape_ends_the_request():
    class Hopeless(Scripted):
        async def think(self, query, sample, draw=0):
            raise InputError("the key is wrong")

    with pytest.raises(InputError, match="the key is wrong"):
        asyncio.run(draw(Hopeless({}), QUERY, [0], redraws=3))


def test_passages_are_the_positives_of_examples_and_of_judged_documents():
    examples = [Example(query=QUERY, positives=(Document(doc_id="a", text="one"),))]
    qrels = [
        Qrel(query_id="q", doc_id="b", relevance=1),
        Qrel(query_id="q", doc_id="c", relevance=0),
        Qrel(query_id="x", doc_id="b", relevance=2),
    ]
    corpus = [Document(doc_id=name, title=name.upper(), text=f"text {name}") for name in "abc"]
    passages = Passages(examples, qrels, corpus)
    assert list(passages(QUERY)) == ["one", "B text b"]
    assert list(passages(Query(query_id="x", text=""))) == ["B text b"]
    assert list(passages(Query(query_id="unknown", text=""))) == []


class OwnExpert(Scripted):
    """A stranger's expert, made of a prompt: remembers what it was asked about."""

    def __init__(self, answer, asked):
        self.answer, self.asked = answer, asked

    def __call__(self, *, prompt):
        self.prompt = prompt
        return self

    async def think(self, record, sample, draw=0):
        self.asked.append((record, self.prompt.messages(record)[0]["content"]))
        return Reply(text=self.answer, source=self.source)


def test_experts_of_ones_own_are_asked_about_documents_and_pairs_themselves(tmp_path):
    document = Document(doc_id="d", title="Sky", text="Air scatters light. " * 20)
    asked = []
    clean([document], OwnExpert("yes", asked), out=tmp_path / "c", domain=Domain(topic="optics"))
    write([document], OwnExpert("<query>Why is it blue?</query>", asked), out=tmp_path / "w")
    hit = Hit(query_id="q", doc_id="d", score=1.0, rank=1)
    annotate([QUERY], [hit], [document], OwnExpert("<score>4</score>", asked), out=tmp_path / "a")
    (first, second, third), prompts = zip(*asked, strict=True)
    assert first == second == document
    assert (third.query_id, third.doc_id, third.text) == ("q", "d", QUERY.text)
    assert all(document.full_text in prompt for prompt in prompts)
    assert [query.query_id for query in read_jsonl(tmp_path / "w", Query)] == ["d#0"]


def test_an_id_with_a_tab_makes_no_pair(tmp_path):
    hit = Hit(query_id="q", doc_id="a\tb", score=1.0, rank=1)
    with pytest.raises(InputError, match=r"id 'a\\tb' contains a tab"):
        annotate([QUERY], [hit], [], OwnExpert("", []), out=tmp_path / "a")
