"""Keys: which ones a file has had, and names by content for what files leave unnamed."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Container, Iterable, Set

import msgspec

from o1_records.types import Document, Query

_DIGEST_BYTES = 16
_BUCKET_KEYS = 64  # a bucket is searched in C; twice as many keys split all buckets


class KeySet:
    """A set of keys that can only grow; it keeps digests of 128 bits, not the keys.

    About 24 bytes a key: 8.8 million take 0.2 GB where a Python set of tuples takes 1.7.
    """

    def __init__(self) -> None:
        self._buckets = [bytearray()]
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, key: object) -> bool:
        """Add a tuple of strings and numbers; returns False when it was there before."""
        encoded = msgspec.msgpack.encode(key)
        digest = hashlib.blake2b(encoded, digest_size=_DIGEST_BYTES).digest()
        bucket = self._buckets[_place(digest, len(self._buckets))]
        if _holds(bucket, digest):
            return False
        bucket += digest
        self._count += 1
        if self._count > _BUCKET_KEYS * len(self._buckets):
            self._split()
        return True

    def _split(self) -> None:
        """Deal the keys of each bucket to four."""
        count = 4 * len(self._buckets)
        buckets = [bytearray() for _ in range(count)]
        while self._buckets:
            old = self._buckets.pop()
            for start in range(0, len(old), _DIGEST_BYTES):
                digest = old[start : start + _DIGEST_BYTES]
                buckets[_place(digest, count)] += digest
        self._buckets = buckets


def same_text(text: str) -> str:
    """Return what texts have in common that differ only in case, white space and Unicode's forms (NFC).

    Punctuation and accents count: "C", "C++" and "C#" are three texts.
    """
    # once more, because folding can take a composed letter apart
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return " ".join(folded.split())


def same_query(query: Query) -> str:
    """Return what queries have in common that ask the same: `same_text` of instruction and text."""
    return f"{same_text(query.instruction)}\n{same_text(query.text)}"


def itself(query_id: str, judged: Container[str] = ()) -> frozenset[str]:
    """Return the doc_id of the document that is the query itself, which no search is asked to find; or none.

    Sets whose queries are documents too, such as ArguAna and Quora, give both one id; BEIR's evaluator never
    counts it, and it is no negative. A document that is judged for the query is another one, and counts.
    """
    return frozenset() if query_id in judged else frozenset((query_id,))


class SharedPositives:
    """The positives of queries, shared by all queries that ask the same (`same_query`).

    Data sets judge a document for one query and forget the same words under another id: there it would become
    a negative, or the answer shown in an exemplar. Memory: about 200 bytes a query.
    """

    def __init__(self) -> None:
        self._doc_ids: dict[bytes, tuple[str, ...]] = {}

    def add(self, query: Query, doc_ids: Iterable[str]) -> None:
        """Add positives of a query."""
        key = _query_digest(query)
        self._doc_ids[key] = tuple(dict.fromkeys((*self._doc_ids.get(key, ()), *doc_ids)))

    def of(self, query: Query) -> Set[str]:
        """Return the doc_ids of the positives of every query that asks the same."""
        return dict.fromkeys(self._doc_ids.get(_query_digest(query), ())).keys()


def content_doc_id(text: str) -> str:
    """Return the name of a document by its text: the same passage has the same name in every file."""
    return "d-" + hashlib.sha256(text.encode()).hexdigest()[:16]


def content_query_id(*parts: str) -> str:
    """Return the name of a query by its text and its instruction."""
    return "q-" + hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:16]


def draw(name: str) -> bytes:
    """Return what puts names in an order as if by lot: the same whatever else is in it, on every machine."""
    return hashlib.sha256(name.encode()).digest()


class QueryNames:
    """Name the queries of one file; the second equal query is `q-...#2`."""

    def __init__(self) -> None:
        self._seen = KeySet()
        self._repeats: dict[str, int] = {}

    def name(self, *parts: str) -> str:
        """Return the name of the next query."""
        query_id = content_query_id(*parts)
        if self._seen.add((query_id,)):
            return query_id
        self._repeats[query_id] = self._repeats.get(query_id, 1) + 1
        return f"{query_id}#{self._repeats[query_id]}"


def documents_of(texts: list[str], ids: list[str] | None = None) -> tuple[Document, ...]:
    """Return the documents of passages, under the names given or those of their content."""
    names = [content_doc_id(text) for text in texts] if ids is None else ids
    return tuple(Document(doc_id=name, text=text) for name, text in zip(names, texts, strict=True))


def _query_digest(query: Query) -> bytes:
    encoded = same_query(query).encode(errors="surrogatepass")
    return hashlib.blake2b(encoded, digest_size=_DIGEST_BYTES).digest()


def _place(digest: bytes | bytearray, count: int) -> int:
    return int.from_bytes(digest[:4], "little") % count


def _holds(bucket: bytearray, digest: bytes) -> bool:
    start = bucket.find(digest)
    while start >= 0 and start % _DIGEST_BYTES:  # bytes of two neighbours look like it
        start = bucket.find(digest, start + 1)
    return start >= 0
