"""An expert that cost nothing: the paragraphs and sections of what people already wrote."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

import msgspec

from o1_records import InputError, Query, Source, Thought
from o1_synth.expert import NoThought, Reason, Reply

_BLANK_LINES = re.compile(r"\n\s*\n")
# Args:   |   Parameters      |   :param x:
#         |   ----------      |
_HEADING = re.compile(r"[A-Z]\w*(?: \w+){0,2}:")
_UNDERLINE = re.compile(r"([-=~])\1{2,}")
_FIELD = re.compile(r":\w+[^:\n]*:")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'`(])")
_SHORTEST_SENTENCE = 5
_NEARLY_ALL = 0.8


class DocstringExpert:
    """Offers human-written thoughts as candidates: sample i is the i-th candidate of its query.

    `thoughts` maps query_id to text. A query without an entry, or with fewer candidates than
    samples, is exhausted, which is no failure. Texts are cut to `max_words` words.
    """

    def __init__(self, thoughts: Mapping[str, str], *, max_words: int = 64, model: str = "docstring") -> None:
        if max_words < 1:
            raise InputError(f"max_words is {max_words}; it must be 1 or more")
        self._thoughts = thoughts
        self._max_words = max_words
        hasher = hashlib.sha256(str(max_words).encode())
        for query_id in sorted(thoughts):
            hasher.update(msgspec.json.encode([query_id, thoughts[query_id]]))
        self._source = Source(model=model, revision=hasher.hexdigest()[:16], finish_reason="stop")

    @classmethod
    def of_records(cls, thoughts: Iterable[Thought], *, max_words: int = 64) -> DocstringExpert:
        """Take thought records; several of one query are joined as paragraphs, in order."""
        texts: dict[str, list[str]] = {}
        for thought in thoughts:
            texts.setdefault(thought.query_id, []).append(thought.text)
        joined = {query_id: "\n\n".join(parts) for query_id, parts in texts.items()}
        return cls(joined, max_words=max_words)

    @property
    def source(self) -> Source:
        """The revision is a digest of all texts."""
        return self._source

    async def think(self, query: Query, sample: int, draw: int = 0) -> Reply:
        """The candidate number `sample`; raises NoThought(EXHAUSTED) when there are no more."""
        text = self._thoughts.get(query.query_id, "")
        for place, candidate in enumerate(candidates(text, max_words=self._max_words)):
            if place == sample:
                return Reply(text=candidate, source=self._source)
        raise NoThought(Reason.EXHAUSTED)

    async def close(self) -> None:
        """Nothing is open."""


def candidates(text: str, *, max_words: int = 64) -> Iterator[str]:
    """Yield distinct readings of a text, most useful first, always in the same order.

    The whole text; its first paragraph or section; the others from the longest to the shortest;
    then its sentences in the same way. A heading alone is none of them. Each is cut to `max_words`
    words; blank ones are left out, and so is one that shares 80 % of its words (Jaccard) with one
    before it.
    """
    seen: list[frozenset[str]] = []
    for reading in _readings(text):
        words = reading.split()[:max_words]
        bag = frozenset(re.findall(r"\w+", " ".join(words).casefold()))
        if bag and not any(_alike(bag, other) for other in seen):
            seen.append(bag)
            yield " ".join(words)


def _readings(text: str) -> Iterator[str]:
    yield text
    parts = _BLANK_LINES.split(text.expandtabs())
    blocks = [block for part in parts for block in _sections(part) if not block.endswith(":")]
    yield from blocks[:1]
    yield from sorted(blocks[1:], key=len, reverse=True)
    sentences = [s for block in blocks for s in _SENTENCE.split(block)]
    long_enough = [s for s in sentences if len(s.split()) >= _SHORTEST_SENTENCE]
    yield from sorted(long_enough, key=len, reverse=True)


def _sections(paragraph: str) -> Iterator[str]:
    """Split a paragraph before every section heading and field that stands in it."""
    lines = paragraph.strip().splitlines()
    block: list[str] = []
    for line, following in pairwise([*lines, ""]):
        if block and _opens_section(line.strip(), following.strip()):
            yield "\n".join(block)
            block = []
        if not _UNDERLINE.fullmatch(line.strip()):
            block.append(line)
    yield "\n".join(block)


def _opens_section(line: str, following: str) -> bool:
    heading = _HEADING.fullmatch(line) or _FIELD.match(line)
    return bool(heading or _UNDERLINE.fullmatch(following))


def _alike(bag: frozenset[str], other: frozenset[str]) -> bool:
    return len(bag & other) >= _NEARLY_ALL * len(bag | other)
