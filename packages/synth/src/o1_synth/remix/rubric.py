"""The question of the annotator about one pair of query and document, and the score it gives."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from o1_records import Document, Hit, InputError, Query, quoted
from o1_synth.expert import Reason
from o1_synth.prompt import Message, fenced, filled, read_template

_TAG = re.compile(r"<score>(.*?)</score>", re.DOTALL)
_PAIR = msgspec.json.Decoder(tuple[str, str])


class Pairs:
    """Queries with their candidates, the best first, and the documents of these.

    Raises InputError for an id that stands twice, and for a candidate of a query or a document that
    is not there.
    """

    def __init__(
        self, queries: Iterable[Query], candidates: Iterable[Hit], documents: Iterable[Document]
    ) -> None:
        self.queries: dict[str, Query] = {}
        for query in queries:
            if self.queries.setdefault(query.query_id, query) is not query:
                raise InputError(f"query_id {quoted(query.query_id)} stands twice; keep one of them")
        ranked: dict[str, list[tuple[int, str]]] = {query_id: [] for query_id in self.queries}
        for hit in candidates:
            if hit.query_id not in ranked:
                raise InputError(
                    f"a candidate of query {quoted(hit.query_id)}, which is not among the queries"
                )
            ranked[hit.query_id].append((hit.rank, hit.doc_id))
        self.candidates = {query_id: [d for _, d in sorted(hits)] for query_id, hits in ranked.items()}
        wanted = {doc_id for doc_ids in self.candidates.values() for doc_id in doc_ids}
        self.documents: dict[str, Document] = {}
        for document in documents:
            known = document.doc_id in wanted and self.documents.setdefault(document.doc_id, document)
            if known and known is not document:
                raise InputError(f"doc_id {quoted(document.doc_id)} stands twice; keep one of them")
        if missing := wanted - self.documents.keys():
            raise InputError(
                f"{len(missing)} candidates are not in the corpus, {quoted(min(missing))} among them; give "
                "the corpus that was searched"
            )

    def asked(self) -> Iterator[Query]:
        """A query of the scheduler for each pair; its instruction is a digest of all that its text is not."""
        for query_id, doc_ids in self.candidates.items():
            query = self.queries[query_id]
            for doc_id in doc_ids:
                rest = f"{query.instruction}\0{self.documents[doc_id].full_text}"
                digest = hashlib.sha256(rest.encode()).hexdigest()[:16]
                name = msgspec.json.encode((query_id, doc_id)).decode()
                yield Query(query_id=name, text=query.text, instruction=f"instruction and document {digest}")


class RubricPrompt:
    """Asks for the analysis of a pair and its score."""

    def __init__(self, pairs: Pairs, template: str | Path = "remix_annotate") -> None:
        self._pairs = pairs
        self._template = read_template(template, {"query", "document"}, {"instruction"})
        self.digest = hashlib.sha256(self._template.encode()).hexdigest()[:16]

    def messages(self, query: Query) -> list[Message]:
        """The question about the pair that the id names."""
        query_id, doc_id = pair_of(query.query_id)
        asked, document = self._pairs.queries[query_id], self._pairs.documents[doc_id]
        parts = {
            "instruction": asked.instruction,
            "query": fenced(asked.text),
            "document": fenced(document.full_text),
        }
        return filled(self._template, parts)


class ScoreChecks:
    """An answer gives one score."""

    names = (Reason.UNPARSED,)

    def fault(self, query: Query, text: str, finish_reason: str) -> Reason | None:
        """UNPARSED for an answer without a score, or with several."""
        return Reason.UNPARSED if score_of(text) is None else None

    def compared(self, text: str) -> str:
        """Not compared: every pair has one answer."""
        return text


def pair_of(name: str) -> tuple[str, str]:
    """The query_id and doc_id of a pair's name."""
    return _PAIR.decode(name)


def score_of(text: str) -> int | None:
    """The integer from 1 to 5 between <score> and </score>; None where there is none, or two differ."""
    found = {tag.strip() for tag in _TAG.findall(text)}
    score = found.pop() if len(found) == 1 else ""
    return int(score) if re.fullmatch("[1-5]", score) else None
