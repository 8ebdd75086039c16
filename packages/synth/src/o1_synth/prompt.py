"""The prompt: a template filled with a task sentence, exemplars drawn for each sample, and the query.

An exemplar is a query with one of its positives. The positives of the query itself are removed before the
draw, so no prompt shows a query its own answer (the public code of O1 Embedder leaked them).
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from o1_records import Document, Example, InputError, Qrel, Query
from o1_synth.template import (
    ABOUT_DOCUMENTS,
    ABOUT_QUERIES,
    Message,
    Template,
    checked_template,
    filled,
    read_template,
)

# O1 Embedder, section 3.1 (arXiv 2502.07555).
TASK = "Think about a plausible response to address the query."

_BYTES_PER_TOKEN = 4  # an estimate without a tokenizer: about right for English, too low for other scripts


class Prompting(Protocol):
    """Builds the messages of a request. `Prompt` does it for queries; each step of remix has its own."""

    template: Template
    """Says how the answer begins and ends, and what is kept of it."""

    digest: str
    """Names everything that shapes the messages; part of the source of every thought."""

    def messages(self, record: Any, sample: int = 0, /) -> list[Message]:
        """Return the messages that ask for a sample about a query, or about another record.

        Always the same ones.
        """


@dataclass(frozen=True)
class Exemplar:
    """A query and one of its positives, as a prompt shows them."""

    query_id: str
    query: str
    doc_id: str
    passage: str


def examples_of(
    queries: Iterable[Query], qrels: Iterable[Qrel], documents: Iterable[Document]
) -> Iterator[Example]:
    """Yield an example of each query with a positive: its most relevant document, the first id among equals.

    These documents are held in memory. A judged document that is not there is no example.
    """
    best: dict[str, tuple[int, str]] = {}
    for qrel in qrels:
        if qrel.relevance > 0:
            found = (-qrel.relevance, qrel.doc_id)
            best[qrel.query_id] = min(best.get(qrel.query_id, found), found)
    wanted = {doc_id for _, doc_id in best.values()}
    texts = {document.doc_id: document for document in documents if document.doc_id in wanted}
    for query in queries:
        if query.query_id in best and (document := texts.get(best[query.query_id][1])):
            yield Example(query=query, positives=(document,))


class Prompt:
    """Builds the chat messages about a query; the same sample of a query always gets the same messages.

    Args:
        task: the sentence that stands for `{task}`.
        examples: where exemplars are drawn from (the first positive of each is shown). Without: none.
        qrels: further judgements. Together with `examples` they say which documents answer which query. A
            query's own positives are those of any query with its id or its text, and all copies of them.
        exemplar_count: exemplars in a prompt.
        exemplar_tokens: stop before the exemplars take more tokens than this (estimated); none is cut.
        template: what the model is told; default: `read_template("paper")`.
        seed: of the draw of exemplars, which differ from sample to sample.

    `digest` names all of these: two prompts with the same digest build the same messages. Raises InputError
    for a task or exemplars that the template has no place for.
    """

    def __init__(
        self,
        task: str = TASK,
        *,
        examples: Iterable[Example] = (),
        qrels: Iterable[Qrel] = (),
        exemplar_count: int = 3,
        exemplar_tokens: int | None = None,
        template: Template | None = None,
        seed: int = 0,
    ) -> None:
        if exemplar_count < 0:
            raise InputError(f"exemplar_count must be 0 or more, got {exemplar_count}")
        self.template = checked_template(template or read_template("paper"), "the template", ABOUT_QUERIES)
        self.exemplar_tokens = exemplar_tokens
        self.task, self.exemplar_count, self.seed = task, exemplar_count, seed
        self._pool: list[Exemplar] = []
        self._positives: defaultdict[str, set[str]] = defaultdict(set)
        self._texts: dict[str, str] = {}
        settings = [msgspec.to_builtins(self.template), task, exemplar_count, exemplar_tokens, seed]
        hasher = hashlib.sha256(msgspec.json.encode(settings))
        for example in examples:
            hasher.update(msgspec.json.encode(example))
            self._add(example)
        for qrel in qrels:
            hasher.update(msgspec.json.encode(qrel))
            if qrel.relevance > 0:
                key = f"id {qrel.doc_id}"
                self._positives[f"id {qrel.query_id}"].update((key, self._texts.get(key, key)))
        self.digest = hasher.hexdigest()[:16]
        for marker, given in (("exemplars", bool(self._pool)), ("task", task != TASK)):
            if given and marker not in self.template.markers:
                raise InputError(
                    f"{marker} would not be used: the template has no {{{marker}}}; leave it out"
                )

    def _add(self, example: Example) -> None:
        for document in example.positives:
            doc_key, text_key = _passage_keys(document.doc_id, document.full_text)
            self._texts[doc_key] = text_key
            for key in _query_keys(example.query):
                self._positives[key].update((doc_key, text_key))
        if example.positives:
            query, first = example.query, example.positives[0]
            self._pool.append(Exemplar(query.query_id, query.text, first.doc_id, first.full_text))

    def messages(self, query: Query, sample: int = 0) -> list[Message]:
        """Return the chat messages that ask for a thought about a query."""
        asked = f"{query.instruction}\n{query.text}" if query.instruction else query.text
        drawn = [self._shown(exemplar) for exemplar in self.exemplars(query, sample)]
        block = filled(self.template.exemplars, {"list": "".join(drawn)}) if drawn else ""
        parts = {"task": self.task, "exemplars": block, "query": asked, "text": query.text}
        return self.template.messages(parts)

    def exemplars(self, query: Query, sample: int = 0) -> list[Exemplar]:
        """Return up to `exemplar_count` exemplars, drawn by query_id and sample; none answers the query."""
        if not self._pool:
            return []
        banned = set().union(*(self._positives.get(key, ()) for key in _query_keys(query)))
        rng = random.Random(f"{self.seed}\0{query.query_id}" + (f"\0{sample}" if sample else ""))
        left = math.inf if self.exemplar_tokens is None else self.exemplar_tokens
        chosen: list[Exemplar] = []
        for place in _permutation(len(self._pool), rng):
            if len(chosen) == self.exemplar_count:
                break
            exemplar = self._pool[place]
            if not banned.isdisjoint(_passage_keys(exemplar.doc_id, exemplar.passage)):
                continue
            left -= len(self._shown(exemplar).encode()) / _BYTES_PER_TOKEN
            if left < 0:
                break
            chosen.append(exemplar)
        return chosen

    def _shown(self, exemplar: Exemplar) -> str:
        return filled(self.template.exemplar, {"query": exemplar.query, "passage": exemplar.passage})


class DocumentPrompt:
    """Builds the chat messages about a document."""

    def __init__(self, template: Template) -> None:
        self.template = checked_template(template, "the template", ABOUT_DOCUMENTS)
        self.digest = template_digest(self.template)

    def messages(self, document: Document, sample: int = 0) -> list[Message]:
        """Return the chat messages that ask for a thought about a document."""
        return self.template.messages({"document": document.full_text, "text": document.full_text})


def template_digest(template: Template, *settings: object) -> str:
    """Return the digest of a prompt: its template, and whatever else shapes its messages."""
    whole = [msgspec.to_builtins(template), *map(str, settings)]
    return hashlib.sha256(msgspec.json.encode(whole)).hexdigest()[:16]


def _query_keys(query: Query) -> tuple[str, str]:
    return f"id {query.query_id}", f"text {_text_digest(query.text)}"


def _passage_keys(doc_id: str, passage: str) -> tuple[str, str]:
    return f"id {doc_id}", f"text {_text_digest(passage)}"


def _text_digest(text: str) -> str:
    """Return a digest that ignores case and spacing."""
    return hashlib.sha256(" ".join(text.casefold().split()).encode()).hexdigest()


def _permutation(count: int, rng: random.Random) -> Iterator[int]:
    """Yield 0..count-1 in random order at the cost of what is drawn (a sparse Fisher-Yates shuffle)."""
    moved: dict[int, int] = {}
    for place in range(count):
        other = rng.randrange(place, count)
        yield moved.get(other, other)
        moved[other] = moved.get(place, place)
