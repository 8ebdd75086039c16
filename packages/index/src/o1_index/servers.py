"""Indexes behind servers (`o1-index serve`), each of a part of a collection, searched as one.

```python
with Servers(["http://10.0.0.1:8081", "http://10.0.0.2:8081"]) as together:
    together.search(query_vectors, query_ids, k=10)
```
Every server is asked at the same time for its own k best, with every tie settled; together they are merged in
the one total order. Scores travel as JSON numbers that hold a float32 exactly, so the hits are those of one
index of all documents, wherever the indexes are exact.
"""

from __future__ import annotations

import contextlib
import http.client
import operator
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import msgspec
import numpy as np
from numpy.typing import NDArray

from o1_index.documents import Excluded, Where, refuse_text, unique
from o1_index.hits import Hits, Scores
from o1_index.index import Fetched
from o1_index.sharding import merged_hits, refuse_shared, refuse_twice
from o1_index.store.manifest import Settings
from o1_index.vector_store import in_order, refuse_unlike
from o1_index.vectors import Metric, Vectors, as_numpy, checked
from o1_records import InputError, quoted
from o1_records.kit.http import opener
from o1_records.vectors import Encoder

MOST_QUERIES, MOST_HITS = 1_024, 10_000
"""What one request may ask for: vectors, and hits of each."""

TIMEOUT = 60.0
AT_A_TIME = 16
"""Requests to each server that are under way at once; more wait."""

Answer = TypeVar("Answer")


class ServerError(InputError):
    """A server did not answer, or not as `o1-index serve` does, or has a document of another one."""


class _About(msgspec.Struct):
    """What is needed of GET /info."""

    documents: int
    dim: int
    metric: Metric
    encoder: Encoder | None = None


class _Health(msgspec.Struct):
    documents: int


class _Hit(msgspec.Struct):
    doc_id: str
    score: float
    payload: dict[str, Any] = {}


class _Found(msgspec.Struct):
    query_id: str
    hits: list[_Hit]


class _Results(msgspec.Struct):
    results: list[_Found]


class _Document(msgspec.Struct):
    doc_id: str
    vector: list[float]
    payload: dict[str, Any]


class _Documents(msgspec.Struct):
    documents: list[_Document]


class _Refusal(msgspec.Struct):
    error: str


class Servers:
    """Several servers of indexes, searched as one. A context manager.

    Two of them hold no document in common.
    """

    def __init__(self, addresses: Sequence[str], *, timeout: float = TIMEOUT) -> None:
        """Ask each server what it has.

        Args:
            addresses: such as "http://10.0.0.1:8081".
            timeout: seconds to wait for an answer.

        Raises:
            InputError: no address or the same one twice; servers of different dimension, metric or encoder.
            ServerError: one does not answer.
        """
        self.addresses = [_address(each) for each in addresses]
        if not self.addresses:
            raise InputError("give the address of at least one server")
        refuse_twice(self.addresses)
        self._timeout = timeout
        self._pool = ThreadPoolExecutor(AT_A_TIME * len(self.addresses), thread_name_prefix="shard")
        try:
            about = self._all("/info", None, _About)
            refuse_unlike([(each.dim, Settings(metric=each.metric, encoder=each.encoder)) for each in about])
        except BaseException:
            self.close()
            raise
        self.dim, self.settings = about[0].dim, Settings(metric=about[0].metric, encoder=about[0].encoder)

    def close(self) -> None:
        """Ask nothing more."""
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def count(self) -> int:
        """Return how many documents can be found now. Raises ServerError where a server does not answer."""
        return sum(each.documents for each in self._all("/health", None, _Health))

    def info(self) -> dict[str, Any]:
        """Return what there is to know about the servers. Raises ServerError where one does not answer."""
        about = self._all("/info", None, dict[str, Any])
        return {
            "documents": sum(each["documents"] for each in about),
            "dim": self.dim,
            "metric": self.settings.metric,
            "encoder": msgspec.to_builtins(self.settings.encoder),
            "servers": dict(zip(self.addresses, about, strict=True)),
        }

    def search(
        self,
        query_vectors: Vectors,
        query_ids: Sequence[str],
        *,
        k: int,
        excluded: Excluded | None = None,
        only: Set[str] | None = None,
        where: Where | None = None,
        payloads: bool = False,
        missing: dict[str, str] | None = None,
    ) -> Hits:
        """Return the k best documents of each query of all servers; see `Index.search`.

        Args:
            query_vectors: [len(query_ids), dim], a numpy array or a torch tensor.
            query_ids: one id for each row.
            k: hits a query, up to 10,000.
            excluded: for a query_id, documents that are not returned for it.
            only: the documents to search.
            where: a filter on payloads as text; a function cannot go to a server.
            payloads: bring the payloads of the hits along; `hits.names.payload(row)` gives them.
            missing: takes the servers that did not answer, and why; the hits are then those of the others.

        Raises:
            InputError: as `Index.search` does.
            ServerError: a server does not answer, and `missing` was not given; none answers; or two of them
                found the same document.
        """
        k = operator.index(k)
        if not 1 <= k <= MOST_HITS:
            raise InputError(f"k must be between 1 and {MOST_HITS:,}, got {k}")
        if callable(where):
            raise InputError("a filter that is a function cannot go to a server; give it as text")
        names = unique(query_ids)
        checked(names, query_vectors, self.settings.metric, "the queries", self.dim)
        # as they are: each server brings them to unit length, as an index does
        vectors = as_numpy(query_vectors).astype(np.float32)
        body: dict[str, Any] = {"k": k, "payloads": payloads}
        body |= {"only": sorted(refuse_text(only, "only"))} if only is not None else {}
        body |= {"where": where} if where is not None else {}
        answers: dict[str, list[_Found]] = {address: [] for address in self.addresses}
        for start in range(0, len(names), MOST_QUERIES):
            part = names[start : start + MOST_QUERIES]
            left_out = {name: sorted(excluded[name]) for name in part if excluded and name in excluded}
            asked = {**body, "vectors": vectors[start : start + len(part)].tolist(), "ids": part}
            asked |= {"excluded": left_out} if left_out else {}
            # a server that is missing once is missing for all queries: no query has hits of it then
            for address, results in self._each("/search", asked, _Results, list(answers), missing).items():
                if [each.query_id for each in results.results] != part:
                    raise ServerError(f"{address}: answers other queries than were asked for")
                answers[address] += results.results
            answers = {address: found for address, found in answers.items() if address not in (missing or ())}
        found = {address: _arrays(results) for address, results in answers.items()}
        stored = {
            hit.doc_id: hit.payload
            for results in answers.values()
            for result in results
            for hit in result.hits
        }
        with _in_one_place():
            return merged_hits(names, found, k, stored)

    def fetch(self, ids: Sequence[str]) -> Fetched:
        """Return those of the documents that are there, in the order asked for.

        Raises InputError as `Index.fetch` does, ServerError where a server does not answer or two of them
        have the same document.
        """
        names = unique(ids)
        parts: list[Fetched] = []
        homes: dict[str, str] = {}
        for start in range(0, len(names), MOST_HITS):
            asked = {"ids": names[start : start + MOST_HITS]}
            for address, answer in self._each("/fetch", asked, _Documents, self.addresses, None).items():
                there = answer.documents
                with _in_one_place():
                    refuse_shared(homes, address, [each.doc_id for each in there])
                if any(len(each.vector) != self.dim for each in there):
                    raise ServerError(f"{address}: has vectors of other dimensions now; start this anew")
                vectors = np.array([each.vector for each in there], dtype=np.float32)
                stored = [each.payload for each in there]
                parts.append(Fetched([each.doc_id for each in there], vectors.reshape(-1, self.dim), stored))
        return in_order(names, parts, self.dim)

    def _all(self, path: str, body: Any, answer: type[Answer]) -> list[Answer]:
        """Return the answer of every server."""
        return list(self._each(path, body, answer, self.addresses, None).values())

    def _each(
        self,
        path: str,
        body: Any,
        answer: type[Answer],
        addresses: Sequence[str],
        missing: dict[str, str] | None,
    ) -> dict[str, Answer]:
        """Return the answer of each server, asked at the same time."""
        content = None if body is None else msgspec.json.encode(body)
        asked = {
            address: self._pool.submit(_ask, address, path, content, answer, self._timeout)
            for address in addresses
        }
        answers: dict[str, Answer] = {}
        failed: list[ServerError] = []
        for address, future in asked.items():
            try:
                answers[address] = future.result()
            except ServerError as error:
                failed.append(error)
                if missing is not None:
                    missing[address] = str(error)
        if failed and (missing is None or not answers):
            raise failed[0]
        return answers


def _address(text: str) -> str:
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise InputError(f"{text}: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise InputError(f"{text}: not the address of a server, such as http://10.0.0.1:8081")
    return text.rstrip("/")


def _ask(address: str, path: str, content: bytes | None, answer: type[Answer], timeout: float) -> Answer:
    """Ask one server.

    Raises InputError for what it refuses, with its own words; ServerError where it does not answer.
    """
    request = urllib.request.Request(address + path, content, {"Content-Type": "application/json"})
    try:
        with opener.open(request, timeout=timeout) as response:
            return msgspec.json.decode(response.read(), type=answer)
    except urllib.error.HTTPError as error:
        said = error.read(65_536)
        try:
            why = msgspec.json.decode(said, type=_Refusal).error
        except (msgspec.MsgspecError, UnicodeError):
            why = quoted(said[:200].decode(errors="replace"))
        if error.code in (413, 422):  # every server would refuse it
            raise InputError(why) from error
        raise ServerError(f"{address}: status {error.code}: {why}") from error
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ServerError(f"{address}{path}: {error}; is it `o1-index serve`?") from error
    except (OSError, http.client.HTTPException) as error:  # the latter: it broke off
        why = str(getattr(error, "reason", "") or error or type(error).__name__)
        raise ServerError(f"{address}: does not answer ({why}); its documents cannot be searched") from error


@contextlib.contextmanager
def _in_one_place() -> Iterator[None]:
    """Say of a document that two servers have that it is their fault, and not that of the request."""
    try:
        yield
    except InputError as error:
        raise ServerError(f"{error}, and start that server again") from error


def _arrays(results: Sequence[_Found]) -> tuple[NDArray[np.object_], Scores]:
    """Return ids (None after the last hit) and scores (-inf there) [queries, most hits]."""
    width = max((len(result.hits) for result in results), default=0)
    ids: NDArray[np.object_] = np.full((len(results), width), None, dtype=object)
    scores = np.full((len(results), width), -np.inf, dtype=np.float32)
    for row, result in enumerate(results):
        ids[row, : len(result.hits)] = [hit.doc_id for hit in result.hits]
        scores[row, : len(result.hits)] = [hit.score for hit in result.hits]
    return ids, scores
