"""Thoughts that a thinker writes about judged queries: kept as they are written, read whole or cut."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from tqdm import tqdm

from o1_model.retriever.identity import digest_of
from o1_model.retriever.instruct import Instruct, VLLMInstruct
from o1_model.retriever.judged import LEAST_QUERIES, Judged
from o1_model.retriever.retriever import Texts
from o1_model.retriever.thinker import Thinker
from o1_model.retriever.thinkers import GivenThoughts, chunk_of, open_thinker
from o1_model.thinking.settings import Thinking
from o1_records import Document, DocumentThought, InputError, Query, Thought, read_jsonl
from o1_records.kit.controls import copied_thoughts, empty_thoughts, filler_thoughts, shuffled_thoughts
from o1_records.kit.job import Job
from o1_records.styles import Style

logger = logging.getLogger(__name__)

_THOUGHTS = (
    "CREATE TABLE IF NOT EXISTS thoughts "
    "(style TEXT, query_id TEXT, body BLOB NOT NULL, PRIMARY KEY (style, query_id)) WITHOUT ROWID;"
)


class Asked(NamedTuple):
    """A thinker that is asked for a style, and how it thinks."""

    thinker: Thinker
    thinking: Thinking
    style: Style | None

    @property
    def key(self) -> str:
        """What it is called in a journal."""
        return digest_of(self.thinker.fingerprint)[:16]


def ask(
    thinker: Any, styles: Sequence[str | Style], samples: int, max_tokens: int | None, device: str | None
) -> list[Asked]:
    """Open a thinker once for each style; `samples` and `max_tokens` are how much it thinks."""
    named = isinstance(thinker, str | Path)
    if not named and styles:
        raise InputError("the thinker is opened already, with a style of its own; leave out styles")
    first = open_thinker(thinker, styles[0] if styles else None, device=device if named else None)
    opened: list[Thinker] = [first]
    for style in styles[1:]:
        if isinstance(first, Instruct | VLLMInstruct):  # loaded once
            opened.append(first.asking(style))
        else:
            opened.append(open_thinker(thinker, style, device=device))
    made = []
    for each in opened:
        thinking = each.usual
        if samples != thinking.samples:
            thinking = replace(thinking, samples=samples, temperature=thinking.temperature or 0.7)
        if max_tokens is not None and isinstance(each, GivenThoughts):
            raise InputError(f"{each.name}: thoughts that are there have their length; leave out max_tokens")
        if max_tokens is not None:
            thinking = replace(thinking, max_tokens=max_tokens)
        made.append(Asked(each, thinking, getattr(each, "style", None)))
    return made


class AskedThoughts:
    """Thoughts about all queries by all that are asked, in a journal if there is a file to write."""

    def __init__(
        self,
        judged: Judged,
        asked: Sequence[Asked],
        out: str | Path | None,
        about_model: Mapping[str, str],
        *,
        new_job: bool,
    ) -> None:
        self._queries, self._asked, self._new_job = judged.queries, asked, new_job
        self._about_model = dict(about_model)
        self._out = out
        self._kept: dict[tuple[str, str], list[Thought]] = {}
        self._job: Job | None = None

    def __enter__(self) -> AskedThoughts:
        if self._out is not None:
            self._job = Job(self._out, self._made_from(), schema=_THOUGHTS, new_job=self._new_job)
            for style, query_id, body in self._job.db.rows("SELECT style, query_id, body FROM thoughts"):
                self._kept[style, query_id] = msgspec.json.decode(bytes(body), type=list[Thought])
        return self

    def __exit__(self, *error: Any) -> None:
        if self._job is not None:
            self._job.close()

    def think(self, stop: threading.Event | None, *, progress: bool) -> bool:
        """Think about what is left; return whether all is done."""
        total = len(self._queries) * len(self._asked)
        with tqdm(
            total=total, initial=len(self._kept), unit="query", desc="think", disable=not progress
        ) as bar:
            for each in self._asked:
                left = [query for query in self._queries if (each.key, query.query_id) not in self._kept]
                at_once = chunk_of(each.thinker)
                for start in range(0, len(left), at_once):
                    if stop is not None and stop.is_set():
                        return False
                    chunk = left[start : start + at_once]
                    made = each.thinker.think(chunk, each.thinking)
                    self._keep(each.key, chunk, made)
                    bar.update(len(chunk))
        return True

    def of(self, asked: Asked) -> list[list[Thought]]:
        """Return the thoughts about each query."""
        return [self._kept[asked.key, query.query_id] for query in self._queries]

    def refuse_few(self) -> None:
        """Raise InputError where too few queries have a thought; tell how many have none."""
        thoughts = (self.of(each) for each in self._asked)
        with_thought = sum(any(own) for own in zip(*thoughts, strict=True))
        if with_thought < LEAST_QUERIES:
            raise InputError(
                f"{self._asked[0].thinker.name}: thoughts about {with_thought} of {len(self._queries)} "
                f"queries, but at least {LEAST_QUERIES} are needed; are they about this split?"
            )
        if without := len(self._queries) - with_thought:
            logger.warning(
                "%d of %d queries have no thought; they dilute every gain", without, len(self._queries)
            )

    def _made_from(self) -> dict[str, str]:
        said = [(query.query_id, query.text, query.instruction) for query in self._queries]
        return {
            "queries": hashlib.sha256(msgspec.json.encode(said)).hexdigest(),
            **self._about_model,
            "thinkers": ",".join(each.key for each in self._asked),
            "thinking": " ".join(str(each.thinking) for each in self._asked),
        }

    def _keep(self, style: str, queries: Sequence[Query], made: Sequence[list[Thought]]) -> None:
        rows = list(zip(queries, made, strict=True))
        self._kept.update({(style, query.query_id): own for query, own in rows})
        if self._job is not None:
            with self._job.db.transaction():
                self._job.db.execute_many(
                    "INSERT INTO thoughts VALUES (?, ?, ?)",
                    [(style, query.query_id, msgspec.json.encode(own)) for query, own in rows],
                )


def texts_about(thoughts: str | Path | Iterable[DocumentThought], documents: Sequence[Document]) -> Texts:
    """Return the texts of the thoughts about each document."""
    own: dict[str, list[str]] = {document.doc_id: [] for document in documents}
    strangers = 0
    for thought in read_jsonl(thoughts, DocumentThought) if isinstance(thoughts, str | Path) else thoughts:
        if thought.doc_id in own:
            own[thought.doc_id].append(thought.text)
        else:
            strangers += 1
    if not any(own.values()):
        raise InputError(f"none of the {strangers} thoughts is about a document of the corpus")
    if without := sum(not each for each in own.values()):
        logger.warning("%d of %d documents have no thought", without, len(own))
    return list(own.values())


def texts_of(
    asked: Asked, thoughts: Sequence[Sequence[Thought]], samples: int, tokens: int
) -> list[list[str]]:
    """Return the texts of the first samples, as if each had been cut after so many tokens."""
    kept = [[thought for n, thought in enumerate(own) if _number(thought, n) < samples] for own in thoughts]
    if tokens == asked.thinking.max_tokens or not isinstance(asked.thinker, Instruct | VLLMInstruct):
        return [[thought.text for thought in own] for own in kept]
    read = asked.thinker.text
    cut = [[read(thought.token_ids[:tokens]) for thought in own] for own in kept]
    return [[text for text in own if text.strip()] for own in cut]


def _number(thought: Thought, place: int) -> int:
    """Return the number of a sample; blank ones have been left out before it."""
    number = thought.thought_id.rpartition("#")[2]
    return int(number) if number.isdecimal() else place


def tokens_of(asked: Asked, thoughts: Sequence[Sequence[Thought]], samples: int, tokens: int) -> float:
    """Return the mean of the tokens written about a query, of thoughts that were cut only those kept."""
    cut = isinstance(asked.thinker, Instruct | VLLMInstruct)
    counts = [
        min(written, tokens) if cut else written
        for own in thoughts
        for n, thought in enumerate(own)
        if _number(thought, n) < samples
        for written in [thought.source.completion_tokens or len(thought.token_ids)]
    ]
    return sum(counts) / len(thoughts)


def control_texts(queries: Sequence[Query], thoughts: Texts) -> dict[str, list[list[str]]]:
    """Return what should not help in the place of each query's thoughts, by the name of the control."""
    own = {query.query_id: list(texts) for query, texts in zip(queries, thoughts, strict=True) if len(texts)}
    made = {
        "empty": empty_thoughts(own),
        "other": shuffled_thoughts(own),
        "filler": filler_thoughts(own),
        "copy": copied_thoughts(own, queries),
    }
    return {name: [each.get(query.query_id, []) for query in queries] for name, each in made.items()}
