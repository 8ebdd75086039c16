"""Queries written from documents, of a sampled length and level of education (ReasonEmbed, section 3.1)."""

from __future__ import annotations

import hashlib
import heapq
import random
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from o1_records import Document, Exclusion, InputError, Query, Thought, quoted, write_jsonl
from o1_synth.checks import is_loop, is_other_script, is_refusal, leaks
from o1_synth.expert import ExpertOf, Reason
from o1_synth.job.scheduler import Answers, Job, Summary, path_beside, run_job
from o1_synth.prompt import Message, fenced, filled, read_template
from o1_synth.remix.domain import Domain

# the choices of ReasonEmbed, and their weights
LENGTHS = {
    "less than 100 words": 1,
    "100 to 200 words": 2,
    "200 to 300 words": 3,
    "300 to 400 words": 3,
    "400 to 500 words": 2,
    "500 words or more": 1,
}
LEVELS = {"high school": 1, "college": 2, "doctoral": 2}

SOURCES = ".sources.jsonl"
"""What follows the name of the queries in the name of the file that says what they were written from."""

_QUERY = re.compile(r"<query>(.*?)</query>", re.DOTALL)
_DOCUMENT = r"(passage|document|text|article|excerpt|paragraph|snippet)"
_REFERS_TO_IT = re.compile(
    rf"\b(this|the (above|given|provided|following)|above|according to the|(in|from|of) the) {_DOCUMENT}\b"
    rf"|\bthe {_DOCUMENT} (above|below|says|states|describes|mentions|explains|discusses)\b",
    re.IGNORECASE,
)


class WritePrompt:
    """Asks for a query from a document; its length and its level are drawn by the doc_id."""

    def __init__(self, domain: Domain, template: str | Path = "remix_write", seed: int = 0) -> None:
        self.domain, self.seed = domain, seed
        self._template = read_template(template, {"document"}, {"task", "length", "level"})
        settings = repr((self._template, domain.task, seed, LENGTHS, LEVELS))
        self.digest = hashlib.sha256(settings.encode()).hexdigest()[:16]

    def messages(self, document: Document) -> list[Message]:
        """Return the request for a query from a document."""
        draw = random.Random(f"{self.seed}\0{document.doc_id}")
        (length,) = draw.choices(list(LENGTHS), list(LENGTHS.values()))
        (level,) = draw.choices(list(LEVELS), list(LEVELS.values()))
        text = fenced(document.full_text)
        return filled(
            self._template, {"task": self.domain.task, "length": length, "level": level, "document": text}
        )


class WrittenChecks:
    """The checks of a written query: it stands between its tags, needs no document, and is not a copy."""

    names = (
        Reason.UNPARSED,
        Reason.DEPENDENT,
        Reason.REFUSAL,
        Reason.LEAK,
        Reason.LOOP,
        Reason.LANGUAGE,
        Reason.DUPLICATE,
    )

    def fault(self, document: Document, text: str, finish_reason: str) -> Reason | None:
        """Return the first thing that is wrong with what was written from a document, or None."""
        query, full_text = written_query(text), document.full_text
        if query is None:
            return Reason.REFUSAL if is_refusal(text) else Reason.UNPARSED
        tests: dict[Reason, Callable[[], bool]] = {
            Reason.DEPENDENT: lambda: bool(_REFERS_TO_IT.search(query)),
            # in both directions: a short query copied from the document, and the document inside the query
            Reason.LEAK: lambda: leaks(query, full_text) or leaks(full_text, query),
            Reason.LOOP: lambda: is_loop(query),
            Reason.LANGUAGE: lambda: is_other_script(document.text, query),
        }
        return next((reason for reason, test in tests.items() if test()), None)

    def compared(self, text: str) -> str:
        """Return the query, without what the model thought before it."""
        return written_query(text) or ""


def written_query(text: str) -> str | None:
    """Return what stands between <query> and </query>, unless it is blank or there are several."""
    found = [query.strip() for query in _QUERY.findall(text)]
    return found[0] if len(found) == 1 and found[0] and "<query>" not in found[0] else None


@dataclass(frozen=True, kw_only=True)
class Written:
    """How the writing ended, and how many documents were left out, by reason."""

    summary: Summary
    left_out: dict[str, int]


def write(
    documents: Iterable[Document],
    expert: ExpertOf,
    *,
    out: str | Path,
    domain: Domain | None = None,
    samples: int = 1,
    banned: Container[str] = frozenset(),
    shortest: int = 200,
    longest: int = 5000,
    count: int | None = None,
    template: str | Path = "remix_write",
    seed: int = 0,
    concurrency: int = 64,
    progress: bool = False,
    job: Job | None = None,
) -> Written:
    """Write `samples` queries from each document to `out`; resumes as `think` does.

    A query is named `<doc_id>#<sample>` and has the instruction of the domain. `<out>.sources.jsonl` gets an
    Exclusion for each: the document that it was written from is not a candidate for it.

    Args:
        documents: what to write from.
        expert: makes an expert that asks with a prompt, as `functools.partial(ChatExpert, url, model)` does.
        out: JSONL of Query records.
        domain: describes the queries.
        samples: queries from each document.
        banned: doc_ids that are never written from, such as those of the test set.
        shortest: characters of title and text that a document has to have.
        longest: characters of title and text that it may have.
        count: take this many documents at random, and hold them in memory; a document's place in the draw
            depends on its id and the seed alone. Without: all that fit.
        template: the prompt; a file of your own with `{document}` and, optionally, `{task}`, `{length}` and
            `{level}`.
        seed: of the draws of documents, lengths and levels.
        concurrency: requests in flight.
        progress: show progress on stderr.
        job: see `Job`.

    Raises InputError as `think` does, where no document is left, and for a doc_id with white space, which
    runs cannot contain.
    """
    domain, left_out = domain or Domain(), Counter[str]()
    chosen = sources(
        documents,
        banned=banned,
        shortest=shortest,
        longest=longest,
        count=count,
        seed=seed,
        left_out=left_out,
    )

    def named() -> Iterator[Document]:
        empty = True
        for document in chosen:
            empty = False
            if document.doc_id.split() != [document.doc_id]:
                raise InputError(
                    f"doc_id {quoted(document.doc_id)} contains white space, which a run cannot contain; "
                    "rename the document"
                )
            yield document
        if empty:
            counts = ", ".join(f"{number} {reason}" for reason, number in sorted(left_out.items()))
            raise InputError(f"there is no document to write a query from (left out: {counts or 'none'})")

    def publish(answers: Answers[Document]) -> None:
        sources_of = (
            Exclusion(query_id=said.thought_id, doc_id=document.doc_id) for document, said in answers()
        )
        write_jsonl(path_beside(out, SOURCES), sources_of)
        write_jsonl(out, (_query(said, domain.instruction) for _, said in answers()))

    summary = run_job(
        named(),
        Document,
        expert(prompt=WritePrompt(domain, template, seed)),
        WrittenChecks(),
        command="remix write",
        outputs=[Path(out), path_beside(out, SOURCES)],
        samples=samples,
        concurrency=concurrency,
        progress=progress,
        job=job or Job(),
        publish=publish,
    )
    return Written(summary=summary, left_out=dict(left_out))


def sources(
    documents: Iterable[Document],
    *,
    banned: Container[str] = frozenset(),
    shortest: int = 200,
    longest: int = 5000,
    count: int | None = None,
    seed: int = 0,
    left_out: Counter[str] | None = None,
) -> Iterator[Document]:
    """Yield the documents that queries may be written from; `write` says what the options mean.

    `left_out` counts those that are banned, too short or too long.
    """
    skipped = Counter[str]() if left_out is None else left_out

    def fitting() -> Iterator[Document]:
        for document in documents:
            length = len(document.full_text)
            if document.doc_id in banned:
                skipped["banned"] += 1
            elif length < shortest:
                skipped["too short"] += 1
            elif length > longest:
                skipped["too long"] += 1
            else:
                yield document

    def lot(document: Document) -> bytes:
        return hashlib.sha256(f"{seed}\0{document.doc_id}".encode()).digest()

    yield from fitting() if count is None else heapq.nsmallest(count, fitting(), key=lot)


def _query(said: Thought, instruction: str) -> Query:
    text = written_query(said.text)
    assert text is not None  # the checks let nothing else pass
    return Query(query_id=said.thought_id, text=text, instruction=instruction)
