"""The prompt: a task sentence, exemplars drawn per query, the query, put together by a template.

An exemplar is a query with its gold passage. The query's own positives never appear among them:
they are taken out before the draw (O1 Embedder's public code did not, and leaked them).
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

import msgspec

from o1_records import Example, InputError, Qrel, Query

# O1 Embedder, section 3.1 (arXiv 2502.07555).
TASK = "Think about a plausible response to address the query."

_EXEMPLAR = "\nExample query:\n{query}\nIts response:\n{passage}\n"
_BYTES_PER_TOKEN = 4  # to estimate without a tokenizer; English has more, other scripts fewer

_MARKER = re.compile(r"\{(\w+)\}")
_NEEDS, _MAY = frozenset({"query"}), frozenset({"task", "exemplars"})

Message = dict[str, str]


@dataclass(frozen=True)
class Exemplar:
    """A query and its gold passage, as a prompt shows them."""

    query_id: str
    query: str
    doc_id: str
    passage: str


class Prompt:
    """Builds the chat messages of a query; the same query always gets the same messages.

    `examples` are where exemplars are drawn from (their first positive is the passage) and, with
    `qrels`, all that is known of which documents answer which query. A positive of an equal text
    or of a query with an equal text counts as the query's own. Without examples: no exemplars.
    Exemplars end before they take more than `exemplar_tokens` (estimated, none is cut).
    `template` is a text with `{query}` and, where wanted, `{task}` and `{exemplars}`; see
    `read_template`. `digest` names everything above: two prompts of one digest build the same.
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
            raise InputError(f"exemplar_count is {exemplar_count}; it must be 0 or more")
        self._template = checked_template(template or read_template("paper"), "the template")
        self.exemplar_tokens = exemplar_tokens
        self.task, self.exemplar_count, self.seed = task, exemplar_count, seed
        self._pool: list[Exemplar] = []
        self._positives: defaultdict[str, set[str]] = defaultdict(set)
        self._texts: dict[str, str] = {}
        settings = [self._template, _EXEMPLAR, task, exemplar_count, exemplar_tokens, seed]
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
            exemplar = Exemplar(query.query_id, query.text, first.doc_id, first.full_text)
            self._pool.append(exemplar)

    def messages(self, query: Query) -> list[Message]:
        """The chat messages that ask for a thought about a query."""
        asked = f"{query.instruction}\n{query.text}" if query.instruction else query.text
        parts = {
            "task": self.task,
            "exemplars": "".join(_shown(exemplar) for exemplar in self.exemplars(query)),
            "query": fenced(asked),
        }
        return filled(self._template, parts)

    def exemplars(self, query: Query) -> list[Exemplar]:
        """Up to `exemplar_count` exemplars, seeded by the query's id, none of which answers the query."""
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
            left -= len(_shown(exemplar).encode()) / _BYTES_PER_TOKEN
            if left < 0:
                break
            chosen.append(exemplar)
        return chosen


def read_template(name: str | Path, needs: Set[str] = _NEEDS, may: Set[str] = _MAY) -> str:
    """The text of a template: a file, or one of `paper`, `reason` and `keywords`.

    `paper` is O1 Embedder's, `reason` asks for reasoning in steps (in the manner of BRIGHT's),
    `keywords` for a few words that relevant documents hold. `needs` and `may` are its markers.
    """
    path = Path(name) if Path(name).suffix else Path(__file__).parent / "templates" / f"{name}.txt"
    if not path.exists() and Path(name).suffix:
        raise InputError(f"{path}: no such file, to be a template")
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in (Path(__file__).parent / "templates").glob("*.txt")))
        raise InputError(f"there is no template {str(name)!r}: name a file (with a suffix) or one of {known}")
    try:
        return checked_template(path.read_text(encoding="utf-8"), str(path), needs, may)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}") from error


def checked_template(text: str, place: str, needs: Set[str] = _NEEDS, may: Set[str] = _MAY) -> str:
    """The text, where its markers are those it may have. Other braces stay as they are."""
    markers = set(_MARKER.findall(text))
    if not needs <= markers <= needs | may:
        optional = f" and may have {_listed(may)}" if may else ""
        raise InputError(
            f"{place}: has markers {sorted(markers)}; it needs {_listed(needs)}{optional}, and no other"
        )
    return text


def filled(template: str, parts: Mapping[str, str]) -> list[Message]:
    """The one message of a checked template."""
    # in one pass, so that a marker inside a text stays text
    return [{"role": "user", "content": _MARKER.sub(lambda found: parts[found[1]], template)}]


def _listed(markers: Set[str]) -> str:
    return " and ".join(f"{{{marker}}}" for marker in sorted(markers))


def fenced(text: str) -> str:
    """A text between fences of backticks longer than any it contains, so it cannot end its own."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def _shown(exemplar: Exemplar) -> str:
    return _EXEMPLAR.format(query=fenced(exemplar.query), passage=fenced(exemplar.passage))


def _query_keys(query: Query) -> tuple[str, str]:
    return f"id {query.query_id}", f"text {_squeezed(query.text)}"


def _passage_keys(doc_id: str, passage: str) -> tuple[str, str]:
    return f"id {doc_id}", f"text {_squeezed(passage)}"


def _squeezed(text: str) -> str:
    """A digest of a text that ignores case and spacing."""
    return hashlib.sha256(" ".join(text.casefold().split()).encode()).hexdigest()


def _permutation(count: int, rng: random.Random) -> Iterator[int]:
    """Yield 0..count-1 in random order, paying only for what is drawn (sparse Fisher-Yates)."""
    moved: dict[int, int] = {}
    for place in range(count):
        other = rng.randrange(place, count)
        yield moved.get(other, other)
        moved[other] = moved.get(place, place)
