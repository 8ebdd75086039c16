"""An expert that costs nothing: paragraphs, sections and sentences of what people already wrote."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

import msgspec

from o1_records import InputError, Query, Source, Thought
from o1_records.kit.text import jaccard, words
from o1_synth.expert import NoThought, Reason, Reply

_BLANK_LINES = re.compile(r"\n\s*\n")
# Args:   |   Parameters      |   :param x:
#         |   ----------      |
_HEADING = re.compile(r"[A-Z]\w*(?: \w+){0,2}:")
_UNDERLINE = re.compile(r"([-=~])\1{2,}")
_FIELD = re.compile(r":\w+[^:\n]*:")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'`(])")
_SHORTEST_SENTENCE = 5  # words
_NEARLY_ALL = 0.8  # Jaccard similarity of the words of two candidates


class DocstringExpert:
    """Offers human-written thoughts as candidates: sample i is candidate i of its query.

    `thoughts` maps query_id to text. A query without a text, or with fewer candidates than samples, is
    exhausted, which is not a failure. Candidates are cut to `max_words` words.
    """

    def __init__(self, thoughts: Mapping[str, str], *, max_words: int = 64, model: str = "docstring") -> None:
        if max_words < 1:
            raise InputError(f"max_words must be 1 or more, got {max_words}")
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
        """Return the source; its revision is a digest of all texts."""
        return self._source

    async def think(self, query: Query, sample: int, draw: int = 0) -> Reply:
        """Return candidate number `sample`; raises NoThought(EXHAUSTED) where there are fewer."""
        text = self._thoughts.get(query.query_id, "")
        for place, candidate in enumerate(candidates(text, max_words=self._max_words)):
            if place == sample:
                return Reply(text=candidate, source=self._source)
        raise NoThought(Reason.EXHAUSTED)

    async def close(self) -> None:
        """Do nothing: nothing is open."""


def candidates(text: str, *, max_words: int = 64) -> Iterator[str]:
    """Yield distinct excerpts of a text, most useful first, always in the same order.

    First the whole text, then its first paragraph or section, then the others from the longest to the
    shortest, then its sentences in the same way. A heading alone is left out. Each is cut to `max_words`
    words; blank ones are skipped, and so is one that shares 80 % of its words (Jaccard) with an earlier one.
    """
    seen: list[frozenset[str]] = []
    for excerpt in _excerpts(text):
        cut = " ".join(excerpt.split()[:max_words])
        bag = frozenset(words(cut))
        if bag and all(jaccard(bag, other) < _NEARLY_ALL for other in seen):
            seen.append(bag)
            yield cut


def _excerpts(text: str) -> Iterator[str]:
    yield text
    parts = _BLANK_LINES.split(text.expandtabs())
    blocks = [block for part in parts for block in _sections(part) if not block.endswith(":")]
    yield from blocks[:1]
    yield from sorted(blocks[1:], key=len, reverse=True)
    sentences = [sentence for block in blocks for sentence in _SENTENCE.split(block)]
    long_enough = [sentence for sentence in sentences if len(sentence.split()) >= _SHORTEST_SENTENCE]
    yield from sorted(long_enough, key=len, reverse=True)


def _sections(paragraph: str) -> Iterator[str]:
    """Split a paragraph before every section heading and every field in it."""
    lines = paragraph.strip().splitlines()
    block: list[str] = []
    for line, following in pairwise([*lines, ""]):
        plain = line.strip()
        opens = _HEADING.fullmatch(plain) or _FIELD.match(plain) or _UNDERLINE.fullmatch(following.strip())
        if block and opens:
            yield "\n".join(block)
            block = []
        if not _UNDERLINE.fullmatch(plain):
            block.append(line)
    yield "\n".join(block)
