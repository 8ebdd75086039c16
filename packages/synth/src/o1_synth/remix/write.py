"""Queries written of documents, of sampled length and education (ReasonEmbed, section 3.1)."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from o1_records import Document, Exclusion, InputError, Query, Thought, quoted, write_jsonl
from o1_synth.checks import Checks, is_refusal, leaks
from o1_synth.expert import Reason
from o1_synth.generate import Answers, Job, Summary, think
from o1_synth.prompt import Message, fenced, filled, read_template
from o1_synth.remix.documents import ExpertOf, as_query, text_of
from o1_synth.remix.domain import Domain

# ReasonEmbed's choices and their weights
LENGTHS = {
    "less than 100 words": 1,
    "100 to 200 words": 2,
    "200 to 300 words": 3,
    "300 to 400 words": 3,
    "400 to 500 words": 2,
    "500 words or more": 1,
}
LEVELS = {"high school": 1, "college": 2, "doctoral": 2}

_QUERY = re.compile(r"<query>(.*?)</query>", re.DOTALL)
_DOCUMENT = r"(passage|document|text|article|excerpt|paragraph|snippet)"
_SPEAKS_OF_IT = re.compile(
    rf"\b(this|the (above|given|provided|following)|above|according to the|(in|from|of) the) {_DOCUMENT}\b"
    rf"|\bthe {_DOCUMENT} (above|below|says|states|describes|mentions|explains|discusses)\b",
    re.IGNORECASE,
)


class WritePrompt:
    """Asks for a query of a document; its length and level are drawn by the document's id."""

    def __init__(self, domain: Domain, template: str | Path = "remix_write", seed: int = 0) -> None:
        self.domain, self.seed = domain, seed
        self._template = read_template(template, {"document"}, {"task", "length", "level"})
        settings = repr((self._template, domain.task, seed, LENGTHS, LEVELS))
        self.digest = hashlib.sha256(settings.encode()).hexdigest()[:16]

    def messages(self, query: Query) -> list[Message]:
        """The request for a query of the document that stands in the query's place."""
        draw = random.Random(f"{self.seed}\0{query.query_id}")
        (length,) = draw.choices(list(LENGTHS), list(LENGTHS.values()))
        (level,) = draw.choices(list(LEVELS), list(LEVELS.values()))
        document = fenced(text_of(query))
        parts = {"task": self.domain.task, "length": length, "level": level, "document": document}
        return filled(self._template, parts)


class WrittenChecks:
    """A query stands between its tags, stands without its document, and is no copy of it."""

    names = (
        Reason.UNPARSED,
        Reason.DEPENDENT,
        Reason.REFUSAL,
        Reason.LEAK,
        Reason.LOOP,
        Reason.LANGUAGE,
        Reason.DUPLICATE,
    )

    def __init__(self) -> None:
        copies = (Reason.LEAK, Reason.LOOP, Reason.LANGUAGE)
        self._checks = Checks(names=copies, passages=lambda query: (text_of(query),))

    def fault(self, query: Query, text: str, finish_reason: str) -> Reason | None:
        """The first thing that is wrong with what was written of a document."""
        written = written_query(text)
        if written is None:
            return Reason.REFUSAL if is_refusal(text) else Reason.UNPARSED
        if _SPEAKS_OF_IT.search(written):
            return Reason.DEPENDENT
        if leaks(written, text_of(query)):
            return Reason.LEAK
        return self._checks.fault(query, written, finish_reason)

    def compared(self, text: str) -> str:
        """The query, whatever was thought before it."""
        return written_query(text) or ""


def written_query(text: str) -> str | None:
    """What stands between <query> and </query>, where that is one text and not blank."""
    found = [query.strip() for query in _QUERY.findall(text)]
    return found[0] if len(found) == 1 and found[0] and "<query>" not in found[0] else None


def path_of_sources(out: str | Path) -> Path:
    """Where it is kept which query was written of which document."""
    return Path(out).with_name(Path(out).name + ".sources.jsonl")


def write(
    documents: Iterable[Document],
    expert: ExpertOf,
    *,
    out: str | Path,
    domain: Domain | None = None,
    samples: int = 1,
    template: str | Path = "remix_write",
    seed: int = 0,
    concurrency: int = 64,
    progress: bool = False,
    job: Job | None = None,
) -> Summary:
    """Write `samples` queries of each document to `out`; resumes as `think` does.

    A query is named `<doc_id>#<sample>` and has the domain's instruction. `<out>.sources.jsonl` gets
    an Exclusion for each: the document that it was written of is no candidate for it. See `sources`
    for which documents to give.

    Raises InputError as `think` does, where there is no document, and for a doc_id with white space:
    runs, which the queries go into next, cannot hold it.
    """
    domain = domain or Domain()

    def publish(answers: Answers) -> None:
        write_jsonl(path_of_sources(out), map(_source, answers()))
        write_jsonl(out, _queries(answers(), domain.instruction))

    return think(
        _asked(documents),
        expert(prompt=WritePrompt(domain, template, seed)),
        out=out,
        samples=samples,
        concurrency=concurrency,
        progress=progress,
        job=replace(job or Job(), checks=WrittenChecks()),
        publish=publish,
    )


def _asked(documents: Iterable[Document]) -> Iterator[Query]:
    none = True
    for document in documents:
        none = False
        if document.doc_id.split() != [document.doc_id]:
            raise InputError(f"doc_id {quoted(document.doc_id)} has white space, which no run can hold")
        yield as_query(document)
    if none:
        raise InputError("there is no document to write a query of; are all too short, too long or banned?")


def _source(answer: tuple[Query, Thought]) -> Exclusion:
    document, written = answer
    return Exclusion(query_id=written.thought_id, doc_id=document.query_id)


def _queries(answers: Iterable[tuple[Query, Thought]], instruction: str) -> Iterator[Query]:
    for _, written in answers:
        text = written_query(written.text)
        assert text is not None  # the checks let nothing else pass
        yield Query(query_id=written.thought_id, text=text, instruction=instruction)
