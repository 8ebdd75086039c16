"""The prompt: a template filled with a task sentence, exemplars drawn for each query, and the query.

An exemplar is a query with one of its positives. The positives of the query itself are removed before the
draw, so no prompt shows a query its own answer (the public code of O1 Embedder leaked them).
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from o1_records import Example, InputError, Qrel, Query

# O1 Embedder, section 3.1 (arXiv 2502.07555).
TASK = "Think about a plausible response to address the query."

_TEMPLATES = Path(__file__).parent / "templates"
_MARKER = re.compile(r"\{(\w+)\}")
_NEEDS, _MAY = frozenset({"query"}), frozenset({"task", "exemplars"})
_BYTES_PER_TOKEN = 4  # an estimate without a tokenizer: about right for English, too low for other scripts

Message = dict[str, str]


class Prompting(Protocol):
    """Builds the messages of a request. `Prompt` does it for queries; each step of remix has its own."""

    digest: str
    """Names everything that shapes the messages; part of the source of every thought."""

    def messages(self, query: Any, /) -> list[Message]:
        """Return the chat messages about a query, or about another record; always the same ones."""


@dataclass(frozen=True)
class Exemplar:
    """A query and one of its positives, as a prompt shows them."""

    query_id: str
    query: str
    doc_id: str
    passage: str

    def __str__(self) -> str:
        return f"\nExample query:\n{fenced(self.query)}\nIts response:\n{fenced(self.passage)}\n"


class Prompt:
    """Builds the chat messages for a query; the same query always gets the same messages.

    Args:
        task: the sentence that stands for `{task}`.
        examples: where exemplars are drawn from (the first positive of each is shown). Without: none.
        qrels: further judgements. Together with `examples` they say which documents answer which query. A
            query's own positives are those of any query with its id or its text, and all copies of them.
        exemplar_count: exemplars in a prompt.
        exemplar_tokens: stop before the exemplars take more tokens than this (estimated); none is cut.
        template: a text with `{query}` and, optionally, `{task}` and `{exemplars}`; see `read_template`.
        seed: of the draw of exemplars.

    `digest` names all of these: two prompts with the same digest build the same messages.
    """

    def __init__(
        self,
        task: str = TASK,
        *,
        examples: Iterable[Example] = (),
        qrels: Iterable[Qrel] = (),
        exemplar_count: int = 3,
        exemplar_tokens: int | None = None,
        template: str | None = None,
        seed: int = 0,
    ) -> None:
        if exemplar_count < 0:
            raise InputError(f"exemplar_count must be 0 or more, got {exemplar_count}")
        self._template = checked_template(template or read_template("paper"), "the template")
        self.exemplar_tokens = exemplar_tokens
        self.task, self.exemplar_count, self.seed = task, exemplar_count, seed
        self._pool: list[Exemplar] = []
        self._positives: defaultdict[str, set[str]] = defaultdict(set)
        self._texts: dict[str, str] = {}
        layout = str(Exemplar("", "", "", ""))
        settings = [self._template, layout, task, exemplar_count, exemplar_tokens, seed]
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

    def _add(self, example: Example) -> None:
        for document in example.positives:
            doc_key, text_key = _passage_keys(document.doc_id, document.full_text)
            self._texts[doc_key] = text_key
            for key in _query_keys(example.query):
                self._positives[key].update((doc_key, text_key))
        if example.positives:
            query, first = example.query, example.positives[0]
            self._pool.append(Exemplar(query.query_id, query.text, first.doc_id, first.full_text))

    def messages(self, query: Query) -> list[Message]:
        """Return the chat messages that ask for a thought about a query."""
        asked = f"{query.instruction}\n{query.text}" if query.instruction else query.text
        exemplars = "".join(map(str, self.exemplars(query)))
        return filled(self._template, {"task": self.task, "exemplars": exemplars, "query": fenced(asked)})

    def exemplars(self, query: Query) -> list[Exemplar]:
        """Return up to `exemplar_count` exemplars, drawn by the query_id; none answers the query."""
        banned = set().union(*(self._positives.get(key, ()) for key in _query_keys(query)))
        rng = random.Random(f"{self.seed}\0{query.query_id}")
        left = math.inf if self.exemplar_tokens is None else self.exemplar_tokens
        chosen: list[Exemplar] = []
        for place in _permutation(len(self._pool), rng):
            if len(chosen) == self.exemplar_count:
                break
            exemplar = self._pool[place]
            if not banned.isdisjoint(_passage_keys(exemplar.doc_id, exemplar.passage)):
                continue
            left -= len(str(exemplar).encode()) / _BYTES_PER_TOKEN
            if left < 0:
                break
            chosen.append(exemplar)
        return chosen


def read_template(name: str | Path, needs: Set[str] = _NEEDS, may: Set[str] = _MAY) -> str:
    """Return the text of a template: of a file (a name with a suffix), or of one that comes with o1-synth.

    `paper` is the prompt of O1 Embedder, `reason` asks for reasoning in steps (in the manner of BRIGHT), and
    `keywords` for a few words that relevant documents contain. `needs` are the markers that the template must
    have, `may` those that it can have. Raises InputError for any other marker, and where there is no such
    template.
    """
    named = bool(Path(name).suffix)
    path = Path(name) if named else _TEMPLATES / f"{name}.txt"
    if not path.exists():
        if named:
            raise InputError(f"{path}: there is no such template file")
        fitting = [file.stem for file in _TEMPLATES.glob("*.txt") if _fits(file.read_text(), needs, may)]
        raise InputError(
            f"there is no template {str(name)!r}; name a file (with a suffix), or one of "
            f"{', '.join(sorted(fitting))}"
        )
    try:
        return checked_template(path.read_text(encoding="utf-8"), str(path), needs, may)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}") from error


def checked_template(text: str, place: str, needs: Set[str] = _NEEDS, may: Set[str] = _MAY) -> str:
    """Return the template; InputError where a marker is missing or unknown. Other braces stay as they are."""
    if not _fits(text, needs, may):
        optional = f" and may have {_listed(may)}" if may else ""
        markers = sorted(set(_MARKER.findall(text)))
        raise InputError(f"{place}: has markers {markers}; it needs {_listed(needs)}{optional}, and no other")
    return text


def _fits(text: str, needs: Set[str], may: Set[str]) -> bool:
    return needs <= set(_MARKER.findall(text)) <= needs | may


def _listed(markers: Set[str]) -> str:
    return " and ".join(f"{{{marker}}}" for marker in sorted(markers))


def filled(template: str, parts: Mapping[str, str]) -> list[Message]:
    """Return a checked template, with its markers replaced, as one message of the user."""
    # in one pass, so that a marker inside an inserted text stays text
    return [{"role": "user", "content": _MARKER.sub(lambda found: parts[found[1]], template)}]


def fenced(text: str) -> str:
    """Return a text between fences of more backticks than it contains, so that it cannot close its own."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


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
