"""Queries written from documents, of a sampled length and level of education (ReasonEmbed, section 3.1).

What is asked for is checked: whether a query has the length that was drawn for it, and whether it is more
than the words of its document in another order.
"""

from __future__ import annotations

import hashlib
import heapq
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from o1_records import Document, Exclusion, InputError, Query, Thought, quoted, write_jsonl
from o1_records.keys import draw
from o1_records.kit.text import words
from o1_synth.checks import RULES, is_loop, is_other_script, leaks
from o1_synth.expert import ExpertOf, Reason
from o1_synth.job.scheduler import Answers, Job, Summary, path_beside, run_job
from o1_synth.prompt import template_digest
from o1_synth.refusal import is_refusal
from o1_synth.remix.domain import Domain
from o1_synth.template import WRITE, Message, Template, as_template

# the choices of ReasonEmbed, and their weights
LENGTHS = {
    "less than 100 words": 1,
    "100 to 200 words": 2,
    "200 to 300 words": 3,
    "300 to 400 words": 3,
    "400 to 500 words": 2,
    "at least 500 words": 1,
}
_BANDS = {
    "less than 100 words": (1, 100),
    "100 to 200 words": (100, 200),
    "200 to 300 words": (200, 300),
    "300 to 400 words": (300, 400),
    "400 to 500 words": (400, 500),
    "at least 500 words": (500, 10**9),
}
_TOLERANCE = 0.2  # of a limit of length
_OVERLAP = 0.6  # of the long words of a query, at most, are words of its document
_LONG = 6  # letters of a long word
LEVELS = {"high school": 1, "college": 2, "doctoral": 2}

SOURCES = ".sources.jsonl"
"""What follows the name of the queries in the name of the file that says what they were written from."""

_QUERY = re.compile(r"<query>(.*?)</query>", re.DOTALL)
_TEXT = r"(?:passage|text|document|article|excerpt|paragraph|snippet|paper|study)s?"
_WRITER = r"(?:authors?|writers?|researchers)"
# "the text of the treaty", "the document scanner", "the article I bought" are not the document of the query
_ANOTHER = (
    r"(?! (?:of|between|through|on|in|for|from|to|with|at|by|i|we|my|our|you|who|sign|editor|scanner"
    r"|file|field"
    r"|frequency|database|message|format|mode|box|break|search|online)\b| (?:above|below) an?\b)"
)
_REFERS_TO_IT = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # "the passage", "this second paragraph", "the given text", "provided article"
        rf"\b(?:the|this|that|given|provided|above) (?:\w+ )?{_TEXT}\b{_ANOTHER}",
        rf"\bthe {_WRITER}\b{_ANOTHER}|\b{_WRITER} (?:of|in) (?:this|the) {_TEXT}\b{_ANOTHER}",
        rf"\b(?:from|by|in|according to|based on) (?:this|the) (?:{_TEXT}|source)\b{_ANOTHER}"
        rf"|\bthe source says?\b",
        # "described above", "the provided solution", "the code above", "Figure 2"
        r"\b(?:mentioned|described|discussed|presented|shown|given|provided|stated|listed|outlined|used)"
        r" (?:above|below|earlier|here|previously)\b",
        r"\b(?:the (?:given|provided|above)|given(?! an? )) (?:\w+ )?(?:information|example|code"
        r"|function|method|algorithm"
        r"|description|context|details|data|table|list|statement|solution|problem|proof|theorem)\b",
        r"\bthe (?:\w+ )?(?:code|table|function|snippet|example|description|data|list|information|solution)"
        r" (?:above|below|(?:given|provided|shown) (?:above|below|here|in))\b(?! an?\b)",
        r"\b(?:in|from|given) the above\b|\bas (?:mentioned|described|stated|shown|discussed) earlier\b"
        r"|\b(?:figure|fig\.|table|paragraph|section) (?:\d+|one|two|three)\b|\binformation provided\b"
        r"|\bin this context,",
    )
)


class WritePrompt:
    """Asks for a query from a document; its length and its level are drawn by doc_id and sample."""

    def __init__(
        self, domain: Domain, template: Template | str | Path = "remix_write", seed: int = 0
    ) -> None:
        self.domain, self.seed = domain, seed
        self.template = as_template(template, WRITE)
        self.digest = template_digest(self.template, domain.task, seed, LENGTHS, LEVELS)

    def drawn(self, doc_id: str, sample: int) -> tuple[str, str]:
        """Return the length and the level that a query is asked for with."""
        draw = random.Random(f"{self.seed}\0{doc_id}" + (f"\0{sample}" if sample else ""))
        (length,) = draw.choices(list(LENGTHS), list(LENGTHS.values()))
        (level,) = draw.choices(list(LEVELS), list(LEVELS.values()))
        return length, level

    def messages(self, document: Document, sample: int = 0) -> list[Message]:
        """Return the request for a query from a document."""
        length, level = self.drawn(document.doc_id, sample)
        parts = {"task": self.domain.task, "length": length, "level": level, "document": document.full_text}
        return self.template.messages(parts)


CHECKS = ("dependent", "refusal", "leak", "loop", "language", "length", "overlap", "duplicate")
"""The checks that there are; that a query stands between its tags is always one."""

CHOSEN = ("dependent", "leak", "loop", "language", "duplicate")
"""The checks that are made unless others are named."""


class WrittenChecks:
    """The checks of a written query, such as that it needs no document, and is not a copy of one."""

    def __init__(self, prompt: WritePrompt, names: Sequence[str] = CHOSEN) -> None:
        if unknown := sorted(set(names) - set(CHECKS)):
            raise InputError(f"unknown checks {', '.join(map(repr, unknown))}; there are {', '.join(CHECKS)}")
        self._prompt = prompt
        self.names: Sequence[str] = (Reason.UNPARSED, *names)
        self.digest = hashlib.sha256(repr((RULES, sorted(names))).encode()).hexdigest()[:16]

    def fault(self, document: Document, text: str, finish_reason: str, sample: int = 0) -> Reason | None:
        """Return the first thing that is wrong with what was written from a document, or None."""
        query, full_text = written_query(text), document.full_text
        if query is None:
            return Reason.REFUSAL if is_refusal(text) else Reason.UNPARSED
        length, _ = self._prompt.drawn(document.doc_id, sample)
        tests: dict[Reason, Callable[[], bool]] = {
            Reason.DEPENDENT: lambda: is_dependent(query),
            Reason.REFUSAL: lambda: is_refusal(query),
            # in both directions: a short query copied from the document, and the document inside the query
            Reason.LEAK: lambda: leaks(query, full_text) or leaks(full_text, query),
            Reason.LOOP: lambda: is_loop(query),
            Reason.LANGUAGE: lambda: is_other_script(document.text, query),
            Reason.LENGTH: lambda: not has_length(query, length),
            Reason.OVERLAP: lambda: overlap(full_text, query) > _OVERLAP,
        }
        return next((reason for reason, test in tests.items() if reason in self.names and test()), None)

    def compared(self, text: str) -> str:
        """Return the query, without what the model thought before it."""
        return written_query(text) or ""


def is_dependent(query: str) -> bool:
    """Whether a query speaks of the document that it was written from: "according to the passage"."""
    return any(pattern.search(query) for pattern in _REFERS_TO_IT)


def has_length(query: str, length: str) -> bool:
    """Whether a query has a length of `LENGTHS`, a fifth more or less."""
    low, high = _BANDS[length]
    return low * (1 - _TOLERANCE) <= len(query.split()) <= high * (1 + _TOLERANCE)


def overlap(document: str, query: str) -> float:
    """Return the share of the long words of a query, each counted once, that are words of its document."""
    long = {word for word in words(query) if len(word) >= _LONG}
    return len(long & set(words(document))) / len(long) if long else 0.0


def written_query(text: str) -> str | None:
    """Return what stands between <query> and </query>, unless it is blank or there are several."""
    found = [query.strip() for query in _QUERY.findall(text)]
    return found[0] if len(found) == 1 and found[0] and "<query>" not in found[0] else None


@dataclass(frozen=True, kw_only=True)
class Written:
    """How the writing ended, how many documents were left out, by reason, and what the queries are like.

    `lengths` has for each length that was drawn the number of queries, of those that have it (a fifth more or
    less), and their median of words. `overlap` is the median share of a query's long words that its document
    has, too.
    """

    summary: Summary
    left_out: dict[str, int]
    lengths: dict[str, tuple[int, int, float]]
    overlap: float


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
    template: Template | str | Path = "remix_write",
    checks: Sequence[str] = CHOSEN,
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
        checks: what is checked, of `CHECKS`.
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

    prompt = WritePrompt(domain, template, seed)
    profile = _Profile(prompt)

    def publish(answers: Answers[Document]) -> None:
        for document, said in answers():
            profile.add(document, said)
        sources_of = (
            Exclusion(query_id=said.thought_id, doc_id=document.doc_id) for document, said in answers()
        )
        write_jsonl(path_beside(out, SOURCES), sources_of)
        write_jsonl(out, (_query(said, domain.instruction) for _, said in answers()))

    summary = run_job(
        named(),
        Document,
        expert(prompt=prompt),
        WrittenChecks(prompt, checks),
        command="remix write",
        outputs=[Path(out), path_beside(out, SOURCES)],
        samples=samples,
        concurrency=concurrency,
        progress=progress,
        job=job or Job(),
        publish=publish,
    )
    return Written(
        summary=summary, left_out=dict(left_out), lengths=profile.lengths(), overlap=profile.overlap()
    )


class _Profile:
    """What the written queries are like, beside what was asked for."""

    def __init__(self, prompt: WritePrompt) -> None:
        self._prompt = prompt
        self._words: defaultdict[str, list[int]] = defaultdict(list)
        self._having: Counter[str] = Counter()
        self._overlaps: list[float] = []

    def add(self, document: Document, said: Thought) -> None:
        query = _query(said, "").text
        sample = int(said.thought_id.rpartition("#")[2])
        length, _ = self._prompt.drawn(document.doc_id, sample)
        self._words[length].append(len(query.split()))
        self._having[length] += has_length(query, length)
        self._overlaps.append(overlap(document.full_text, query))

    def lengths(self) -> dict[str, tuple[int, int, float]]:
        return {
            length: (len(self._words[length]), self._having[length], median(self._words[length]))
            for length in LENGTHS
            if length in self._words
        }

    def overlap(self) -> float:
        return median(self._overlaps) if self._overlaps else 0.0


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
        return draw(f"{seed}\0{document.doc_id}")

    yield from fitting() if count is None else heapq.nsmallest(count, fitting(), key=lot)


def _query(said: Thought, instruction: str) -> Query:
    text = written_query(said.text)
    assert text is not None  # the checks let nothing else pass
    return Query(query_id=said.thought_id, text=text, instruction=instruction)
