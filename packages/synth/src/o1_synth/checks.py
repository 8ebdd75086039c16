"""Whether a text is a thought about its query: what language models write instead of one.

Pure functions of texts. They find what is plainly wrong; judging is left to o1-vote's committee.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeVar

from o1_records import Document, Example, InputError, Qrel, Query, Record
from o1_records.kit.text import contained, jaccard, runs, shingles, words
from o1_synth.expert import Reason

_REFUSALS = re.compile(
    r"(i['’]m|i am|my apologies|sorry|i apologi[sz]e)[ ,]*(very |so )?(sorry)?[ ,.]*(but )?"
    r"(i |we )?(can['’]t|cannot|can not|won['’]t|am unable|am not able|unable to|not able to)"
    r"|i (can['’]t|cannot|can not|won['’]t) (help|assist|provide|answer|comply|fulfil|do that|discuss)"
    r"|as an ai( language model| assistant)?,? i",
    re.IGNORECASE,
)
_NEW_WORDS = 0.1  # of the distinct words of a thought, at least, are not in the query
_LEAK_WORDS, _LEAK_SHARE = 8, 0.5
_LOOP_WINDOW, _LOOP_SHARE = 60, 0.4
_NEAR_COPY = 0.9  # Jaccard similarity of word triples
_LETTERS = 400  # read to know the script

NAMES = ("refusal", "echo", "leak", "loop", "language", "duplicate", "truncated")
"""The checks that there are."""

RecordT = TypeVar("RecordT", bound=Record, contravariant=True)


def is_refusal(text: str) -> bool:
    """Whether a text begins as models decline: "I'm sorry, but I can't"."""
    return bool(_REFUSALS.match(text.lstrip()))


def is_echo(query: str, text: str) -> bool:
    """Whether nearly all words of a text are words of its query."""
    own, said = set(words(query)), set(words(text))
    return bool(said) and len(said - own) < _NEW_WORDS * len(said)


def leaks(passage: str, text: str) -> bool:
    """Whether a text contains half of a passage's runs of eight words. Shorter passages never leak."""
    known = words(passage)
    if len(known) < _LEAK_WORDS:
        return False
    return contained(runs(known, _LEAK_WORDS), shingles(text, _LEAK_WORDS)) >= _LEAK_SHARE


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

    def fault(self, query: RecordT, text: str, finish_reason: str) -> Reason | None:
        """Return the first thing that is wrong with a text, or None."""

    def compared(self, text: str) -> str:
        """Return the part of a good text that is compared to find near-copies."""


def _no_passages(query: Query) -> Iterable[str]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Checks:
    """The checks that a thought has to pass, and the passages that it must not copy.

    A thought that max_tokens cut off passes, unless `truncated` is among the names.
    """

    names: Sequence[str] = NAMES[:-1]
    passages: Callable[[Query], Iterable[str]] = _no_passages

    def __post_init__(self) -> None:
        """Raise InputError for an unknown name."""
        unknown = sorted(set(self.names) - set(NAMES))
        if unknown:
            raise InputError(f"unknown checks {', '.join(map(repr, unknown))}; there are {', '.join(NAMES)}")

    def fault(self, query: Query, text: str, finish_reason: str) -> Reason | None:
        """Return the first thing that is wrong with a text, or None; near-copies are found elsewhere."""
        tests: dict[Reason, Callable[[], bool]] = {
            Reason.TRUNCATED: lambda: finish_reason == "length",
            Reason.REFUSAL: lambda: is_refusal(text),
            Reason.ECHO: lambda: is_echo(query.text, text),
            Reason.LOOP: lambda: is_loop(text),
            Reason.LANGUAGE: lambda: is_other_script(query.text, text),
            Reason.LEAK: lambda: any(leaks(passage, text) for passage in self.passages(query)),
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

    def fault(self, record: Record, text: str, finish_reason: str) -> Reason | None:
        """Return UNPARSED where the text cannot be read."""
        return Reason.UNPARSED if self._parse(text) is None else None

    def compared(self, text: str) -> str:
        """Return the text; not used, because these answers may be equal."""
        return text


def positives_of(
    examples: Iterable[Example] = (), qrels: Iterable[Qrel] = (), documents: Iterable[Document] = ()
) -> Callable[[Query], Iterable[str]]:
    """Return `passages` for Checks: the positives of a query in examples, and in qrels of the documents.

    All their texts are held in memory.
    """
    texts: defaultdict[str, list[str]] = defaultdict(list)
    for example in examples:
        texts[example.query.query_id] += [document.full_text for document in example.positives]
    answers: defaultdict[str, list[str]] = defaultdict(list)
    for qrel in qrels:
        if qrel.relevance > 0:
            answers[qrel.doc_id].append(qrel.query_id)
    for document in documents:
        for query_id in answers.get(document.doc_id, ()):
            texts[query_id].append(document.full_text)
    return lambda query: texts.get(query.query_id, ())


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


def _scripts(text: str) -> Counter[str]:
    head = text[:_LETTERS]
    if head.isascii():  # five times as fast
        return Counter(LATIN=sum(map(str.isalpha, head)))
    return Counter(_script(letter) for letter in head if letter.isalpha())


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "UNKNOWN").split()[0]
    return {"HIRAGANA": "CJK", "KATAKANA": "CJK"}.get(name, name)
