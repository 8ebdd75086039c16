"""Whether a text is a thought about its query: what language models write instead of one.

Pure functions of texts. They find what is plainly wrong and leave judging to the committee.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from o1_records import InputError, Query
from o1_synth.expert import Reason

_REFUSALS = re.compile(
    r"(i['’]m|i am|my apologies|sorry|i apologi[sz]e)[ ,]*(very |so )?(sorry)?[ ,.]*(but )?"
    r"(i |we )?(can['’]t|cannot|can not|won['’]t|am unable|am not able|unable to|not able to)"
    r"|i (can['’]t|cannot|can not|won['’]t) (help|assist|provide|answer|comply|fulfil|do that|discuss)"
    r"|as an ai( language model| assistant)?,? i",
    re.IGNORECASE,
)
_NEW_WORDS = 0.1  # of a thought's distinct words, at least, are not the query's
_LEAK_WORDS, _LEAK_SHARE = 8, 0.5
_LOOP_WINDOW, _LOOP_SHARE = 60, 0.4
_ALIKE = 0.9  # Jaccard similarity of word triples
_LETTERS = 400  # looked at, to know the script


def is_refusal(text: str) -> bool:
    """Whether a text begins as models decline: "I'm sorry, but I can't"."""
    return bool(_REFUSALS.match(text.lstrip()))


def is_echo(query: str, text: str) -> bool:
    """Whether a text has hardly a word that its query has not."""
    own, said = set(_words(query)), set(_words(text))
    return bool(said) and len(said - own) < _NEW_WORDS * len(said)


def leaks(passage: str, text: str) -> bool:
    """Whether half of a passage's runs of eight words stand in a text; shorter passages never."""
    runs = _runs(_words(passage), _LEAK_WORDS)
    if not runs:
        return False
    return len(runs & _runs(_words(text), _LEAK_WORDS)) >= _LEAK_SHARE * len(runs)


def is_loop(text: str) -> bool:
    """Whether a text ends in repeating itself: few of the word triples of its last 60 are distinct.

    Text without spaces is looked at letter by letter.
    """
    words = _words(text)
    if len(words) < 10 and len(text) > 200:
        words = list(text[-4 * _LOOP_WINDOW :])
    tail = words[-_LOOP_WINDOW:]
    triples = len(tail) - 2
    return triples >= 20 and len(_runs(tail, 3)) < _LOOP_SHARE * triples


def is_other_script(query: str, text: str) -> bool:
    """Whether a text is mostly in another script than its query. Languages of one script are one."""
    asked, said = _scripts(query), _scripts(text)
    if asked.total() < 3 or said.total() < 20:
        return False
    script, letters = asked.most_common(1)[0]
    return letters >= 0.8 * asked.total() and said[script] < 0.5 * said.total()


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """The word triples of a text, by which near-identical ones are known."""
    words = _words(text)
    return frozenset(_runs(words, 3)) or frozenset({tuple(words)})


def alike(one: frozenset[tuple[str, ...]], other: frozenset[tuple[str, ...]]) -> bool:
    """Whether two texts share nine in ten of their word triples."""
    return len(one & other) >= _ALIKE * len(one | other)


NAMES = tuple(
    str(reason)
    for reason in (
        Reason.REFUSAL,
        Reason.ECHO,
        Reason.LEAK,
        Reason.LOOP,
        Reason.LANGUAGE,
        Reason.DUPLICATE,
        Reason.TRUNCATED,
    )
)


class Checking(Protocol):
    """Whatever tells a good answer from another: `Checks`, or another class with its attributes."""

    @property
    def names(self) -> Sequence[str]:
        """What is looked for; with `duplicate` among them, near-copies of a sibling are drawn again."""

    def fault(self, query: Query, text: str, finish_reason: str) -> Reason | None:
        """The first thing that is wrong with a text, or None."""

    def compared(self, text: str) -> str:
        """The part of a text without fault by which near-copies are known."""


def _no_passages(query: Query) -> Iterable[str]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Checks:
    """Which checks a thought has to pass, and which passages it must not have copied.

    A thought that max_tokens ended is one, unless `truncated` is among the names.
    """

    names: Sequence[str] = NAMES[:-1]
    passages: Callable[[Query], Iterable[str]] = _no_passages

    def __post_init__(self) -> None:
        """Refuse names that no check has."""
        unknown = set(self.names) - set(NAMES)
        if unknown:
            raise InputError(f"no check is called {sorted(unknown)}; there are {', '.join(NAMES)}")

    def fault(self, query: Query, text: str, finish_reason: str) -> Reason | None:
        """The first thing that is wrong with a text, or None. Near-copies are looked for elsewhere."""
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
        """All of it."""
        return text


class Siblings:
    """The thoughts about the queries that are being worked on, to know a near-copy by.

    `begun` loads what was written before. Queries come one after the other, so that a query whose
    samples have all ended, and after which another began, is forgotten.
    """

    def __init__(self, load: Callable[[str], Iterable[str]]) -> None:
        self._load = load
        self._kept: dict[str, list[frozenset[tuple[str, ...]]]] = {}
        self._running: Counter[str] = Counter()
        self._latest = ""

    def begin(self, query_id: str) -> None:
        """A sample of this query begins."""
        if query_id not in self._kept:
            self._kept[query_id] = [shingles(text) for text in self._load(query_id)]
        self._running[query_id] += 1
        before, self._latest = self._latest, query_id
        self._forget(before)

    def end(self, query_id: str) -> None:
        """A sample of this query ended."""
        self._running[query_id] -= 1
        self._forget(query_id)

    def take(self, query_id: str, text: str) -> bool:
        """Whether a text is new among the query's; if so, it is remembered."""
        own = shingles(text)
        if any(alike(own, other) for other in self._kept[query_id]):
            return False
        self._kept[query_id].append(own)
        return True

    def _forget(self, query_id: str) -> None:
        if query_id != self._latest and not self._running[query_id]:
            self._kept.pop(query_id, None)
            del self._running[query_id]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _runs(words: Sequence[str], length: int) -> set[tuple[str, ...]]:
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}


def _scripts(text: str) -> Counter[str]:
    return Counter(_script(letter) for letter in text[:_LETTERS] if letter.isalpha())


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "UNKNOWN").split()[0]
    return {"HIRAGANA": "CJK", "KATAKANA": "CJK"}.get(name, name)
