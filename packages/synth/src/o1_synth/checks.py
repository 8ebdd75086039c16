"""Whether a text is a thought about its query: what language models write instead of one.

Pure functions of texts. They find what is plainly wrong; judging is left to o1-vote's committee. How many of
the wrong ones they find, and how many good ones they take for wrong, is measured on labelled sentences
(`benchmarks/synth_checks.py`); the README has the figures.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol, TypeVar

import msgspec

from o1_records import Document, Example, InputError, Qrel, Query, Record
from o1_records.kit.text import contained, jaccard, runs, shingles, words
from o1_synth.expert import Reason
from o1_synth.prompt import DocumentPrompt, Prompt
from o1_synth.refusal import is_refusal

RULES = 3
"""Counted up when a rule below changes, so that finished work is checked again."""

_NEW_WORDS, _NEW_SHARE = 4, 0.5
_RUN = 8  # words of a verbatim copy
_COPIED_SHARE, _COPIED_PART = 0.5, 0.5
_LOOP_WINDOW, _LOOP_SHARE = 60, 0.4
_NEAR_COPY = 0.9  # Jaccard similarity of word triples
_LETTERS = 400  # read to know the script

_FILLERS = frozenset(
    words("""
    a an the of in on at to for with by from as is are was be been do does did how what why when where
    which who whose that this these those it its and or not if can could should would will may might i
    you we they he she his her my your about into there then than so such have has had also any some all
    more most very just only one query question ask answer asks asked asking want know find out explain
    describe tell user topic regard relat following mean please understand look seek provide response
    information reason
    """)
)

NAMES = ("refusal", "echo", "scaffold", "leak", "loop", "language", "duplicate", "truncated")
"""The checks that there are."""

CHOSEN = ("echo", "scaffold", "leak", "loop", "language", "duplicate")
"""The checks that are made unless others are named.

`refusal` is not: of sentences that no rule was made for it finds fewer than nine in ten. Nor is `truncated`.
"""

RecordT = TypeVar("RecordT", bound=Record, contravariant=True)


def is_echo(query: str, text: str) -> bool:
    """Whether a text says its query again and adds next to nothing.

    That is fewer than 4 words of content that the query does not have, and less than half of its own.
    """
    asked = {_stem(word) for word in words(query)}
    told = words(text)
    said = {_stem(word) for word in told if word not in _FILLERS} - _FILLERS
    new = said - asked
    return bool(told) and len(new) < _NEW_WORDS and len(new) < _NEW_SHARE * len(said)


def leaks(passage: str, text: str, query: str = "") -> bool:
    """Whether a text copies a passage.

    Of the passage's runs of eight words it contains half, or half of its own are from there. Runs that the
    query has, too, do not count; shorter passages never leak.
    """
    own = runs(words(query), _RUN) if len(words(query)) >= _RUN else frozenset[str]()
    known = words(passage)
    if len(known) < _RUN:
        return False
    whole = runs(known, _RUN) - own
    said = shingles(text, _RUN) - own
    return contained(whole, said) >= _COPIED_PART or contained(said, whole) >= _COPIED_SHARE


def is_scaffold(frame: Iterable[str], labels: Iterable[str], text: str, query: str = "") -> bool:
    """Whether a text repeats the prompt around its query.

    That is eight words of an instruction in `frame`, one of the `labels` (such as "Query:") at the beginning
    of a line, or two of them anywhere.
    """
    names = {label.rstrip(": ").casefold() for label in labels}
    lines = "|".join(map(re.escape, sorted(names)))
    if names and re.search(rf"^[\W\d]{{,8}}(?:{lines})[\W\d]{{,4}}:", text, re.IGNORECASE | re.MULTILINE):
        return True
    if len(names) > 1 and len(names & {found.casefold() for found in re.findall(r"\b(\w+) ?:", text)}) > 1:
        return True
    said = runs(words(text), _RUN) - shingles(query, _RUN)
    told = (words(part) for part in frame)
    return any(len(part) >= _RUN and runs(part, _RUN) & said for part in told)


def is_loop(text: str) -> bool:
    """Whether a text ends in repeating itself: few of the word triples in its last 60 words are distinct.

    Text without spaces is read letter by letter.
    """
    units = words(text)
    if len(units) < 10 and len(text) > 200:
        units = list(text[-4 * _LOOP_WINDOW :])
    tail = units[-_LOOP_WINDOW:]
    triples = len(tail) - 2
    return triples >= 20 and len(runs(tail, 3)) < _LOOP_SHARE * triples


def is_other_script(query: str, text: str) -> bool:
    """Whether a text is mostly in another script than its query. Languages of one script count as equal."""
    if query[:_LETTERS].isascii() and text[:_LETTERS].isascii():
        return False
    asked, said = _scripts(query), _scripts(text)
    if asked.total() < 3 or said.total() < 20:
        return False
    script, letters = asked.most_common(1)[0]
    return letters >= 0.8 * asked.total() and said[script] < 0.5 * said.total()


class Checking(Protocol[RecordT]):
    """What tells a good answer from a bad one: `Checks`, or another class with these members."""

    @property
    def names(self) -> Sequence[str]:
        """Return what is checked. With `duplicate` among them, near-copies of another sample are redrawn."""

    @property
    def digest(self) -> str:
        """Return what names these checks; where it changed, finished work is checked again."""

    def fault(self, record: RecordT, text: str, finish_reason: str, sample: int = 0) -> Reason | None:
        """Return the first thing that is wrong with the text of a sample, or None."""

    def compared(self, text: str) -> str:
        """Return the part of a good text that is compared to find near-copies."""


class Passages:
    """The passages that thoughts about a query must not copy: its positives. All texts are held in memory."""

    def __init__(
        self, examples: Iterable[Example] = (), qrels: Iterable[Qrel] = (), documents: Iterable[Document] = ()
    ) -> None:
        self._texts: defaultdict[str, list[str]] = defaultdict(list)
        hasher = hashlib.sha256()
        for example in examples:
            for document in example.positives:
                self._add(hasher, example.query.query_id, document.full_text)
        answers: defaultdict[str, list[str]] = defaultdict(list)
        for qrel in qrels:
            if qrel.relevance > 0:
                answers[qrel.doc_id].append(qrel.query_id)
        for document in documents:
            for query_id in answers.get(document.doc_id, ()):
                self._add(hasher, query_id, document.full_text)
        self.digest = hasher.hexdigest()[:16]

    def _add(self, hasher: hashlib._Hash, query_id: str, text: str) -> None:
        hasher.update(msgspec.json.encode([query_id, text]))
        self._texts[query_id].append(text)

    def __call__(self, query: Query) -> Sequence[str]:
        """Return the passages of a query."""
        return self._texts.get(query.query_id, ())


@dataclass(frozen=True, kw_only=True)
class Checks:
    """The checks that a thought has to pass.

    Args:
        names: what is checked, of `NAMES`.
        passages: texts that a thought about a query must not copy.
        prompt: what the model is told, for `scaffold` and for exemplars that it copies.
    """

    names: Sequence[str] = CHOSEN
    passages: Callable[[Query], Iterable[str]] = field(default_factory=Passages)
    prompt: Prompt | None = None

    def __post_init__(self) -> None:
        """Raise InputError for an unknown name."""
        _refuse_unknown(self.names, NAMES)

    @property
    def digest(self) -> str:
        """Return a name of the rules, the checks that are made, and the passages."""
        return _digest(self.names, getattr(self.passages, "digest", ""))

    def fault(self, query: Query, text: str, finish_reason: str, sample: int = 0) -> Reason | None:
        """Return the first thing that is wrong with a text, or None; near-copies are found elsewhere."""
        tests: dict[Reason, Callable[[], bool]] = {
            Reason.TRUNCATED: lambda: finish_reason == "length",
            Reason.REFUSAL: lambda: is_refusal(text),
            Reason.ECHO: lambda: is_echo(query.text, text),
            Reason.LOOP: lambda: is_loop(text),
            Reason.LANGUAGE: lambda: is_other_script(query.text, text),
            Reason.SCAFFOLD: lambda: is_scaffold(*self._frame(), text, query.text),
            Reason.LEAK: lambda: any(leaks(it, text, query.text) for it in self._not_to_copy(query, sample)),
        }
        return next((reason for reason, test in tests.items() if reason in self.names and test()), None)

    def compared(self, text: str) -> str:
        """Return all of the text."""
        return text

    def _frame(self) -> tuple[Iterable[str], Iterable[str]]:
        if self.prompt is None:
            return (), ()
        template = self.prompt.template
        return [*template.frame(), self.prompt.task], template.labels

    def _not_to_copy(self, query: Query, sample: int) -> Iterator[str]:
        yield from self.passages(query)
        if self.prompt is not None:
            # a request for several samples shows the exemplars of the first one
            for shown in range(sample + 1):
                for exemplar in self.prompt.exemplars(query, shown):
                    yield exemplar.passage


@dataclass(frozen=True, kw_only=True)
class DocumentChecks:
    """The checks that a thought about a document has to pass; `leak` is a copy of the document."""

    NAMES = ("refusal", "scaffold", "leak", "loop", "language", "duplicate", "truncated")

    names: Sequence[str] = NAMES[1:-1]
    prompt: DocumentPrompt | None = None

    def __post_init__(self) -> None:
        """Raise InputError for an unknown name."""
        _refuse_unknown(self.names, self.NAMES)

    @property
    def digest(self) -> str:
        """Return a name of the rules and the checks that are made."""
        return _digest(self.names)

    def fault(self, document: Document, text: str, finish_reason: str, sample: int = 0) -> Reason | None:
        """Return the first thing that is wrong with a text, or None; near-copies are found elsewhere."""
        frame = tuple(self.prompt.template.frame()) if self.prompt else ()
        labels = self.prompt.template.labels if self.prompt else ()
        tests: dict[Reason, Callable[[], bool]] = {
            Reason.TRUNCATED: lambda: finish_reason == "length",
            Reason.REFUSAL: lambda: is_refusal(text),
            Reason.LOOP: lambda: is_loop(text),
            Reason.LANGUAGE: lambda: is_other_script(document.text, text),
            Reason.SCAFFOLD: lambda: is_scaffold(frame, labels, text, document.full_text),
            Reason.LEAK: lambda: leaks(document.full_text, text),
        }
        return next((reason for reason, test in tests.items() if reason in self.names and test()), None)

    def compared(self, text: str) -> str:
        """Return all of the text."""
        return text


class Parses:
    """The check of an answer that is read by a function: it fails where `parse` returns None."""

    names = (Reason.UNPARSED,)

    def __init__(self, parse: Callable[[str], object | None]) -> None:
        self._parse = parse
        self.digest = _digest(self.names)

    def fault(self, record: Record, text: str, finish_reason: str, sample: int = 0) -> Reason | None:
        """Return UNPARSED where the text cannot be read."""
        return Reason.UNPARSED if self._parse(text) is None else None

    def compared(self, text: str) -> str:
        """Return the text; not used, because these answers may be equal."""
        return text


def _refuse_unknown(names: Iterable[str], known: Sequence[str]) -> None:
    if unknown := sorted(set(names) - set(known)):
        raise InputError(f"unknown checks {', '.join(map(repr, unknown))}; there are {', '.join(known)}")


def _digest(names: Iterable[str], *more: str) -> str:
    return hashlib.sha256(msgspec.json.encode([RULES, sorted(map(str, names)), *more])).hexdigest()[:16]


class Known:
    """The texts that one query has so far, to recognise a near-copy by."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._shingles = [shingles(text) for text in texts]

    def add(self, text: str) -> bool:
        """Add a text; where it is a near-copy of one of them, return False and do not add it."""
        own = shingles(text)
        if any(jaccard(own, other) >= _NEAR_COPY for other in self._shingles):
            return False
        self._shingles.append(own)
        return True


class Siblings:
    """The known texts of the queries that are being worked on.

    Queries come one after another: a query is forgotten when its last request has ended and another query has
    begun. `load` returns what was written about a query in earlier runs.
    """

    def __init__(self, load: Callable[[str], Iterable[str]]) -> None:
        self._load = load
        self._known: dict[str, Known] = {}
        self._running: Counter[str] = Counter()
        self._latest = ""

    @contextlib.contextmanager
    def of(self, key: str) -> Iterator[Known]:
        """Yield the known texts of a query while a request for it is running."""
        if key not in self._known:
            self._known[key] = Known(self._load(key))
        self._running[key] += 1
        before, self._latest = self._latest, key
        self._forget(before)
        try:
            yield self._known[key]
        finally:
            self._running[key] -= 1
            self._forget(key)

    def _forget(self, key: str) -> None:
        if key != self._latest and not self._running[key]:
            self._known.pop(key, None)
            del self._running[key]


@lru_cache(maxsize=65_536)
def _stem(word: str) -> str:
    """Return a word without the endings that a repeated query changes."""
    for ending in ("ing", "ies", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word


def _scripts(text: str) -> Counter[str]:
    return Counter(_script(letter) for letter in text[:_LETTERS] if letter.isalpha())


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "UNKNOWN").split()[0]
    return {"HIRAGANA": "CJK", "KATAKANA": "CJK"}.get(name, name)
