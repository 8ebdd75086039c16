"""A server of an index, of several as one, or of a collection: POST /search, /fetch; GET /info, /health.

```
POST /search  {"vectors": [[0.1, ...], ...], "k": 10, "where": "year >= 2020"}
          ->  {"results": [{"query_id": "0", "hits": [{"doc_id": "a", "score": 0.9, "rank": 1}]}]}
POST /fetch   {"ids": ["a", "b"]}
          ->  {"documents": [{"doc_id": "a", "vector": [0.1, ...], "payload": {"year": 2021}}]}
```
What a client got wrong is answered with status 422; a server of a part that does not answer, or that has a
document of another one, with 502.
Requests are searched at the same time, each on a thread of its own. Needs the `[serve]` extra (Starlette,
uvicorn).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from o1_index.index import Index
from o1_index.servers import AT_A_TIME, MOST_HITS, MOST_QUERIES, ServerError, Servers
from o1_index.vector_store import Shards, VectorStore
from o1_records import InputError, MissingExtraError

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route
except ModuleNotFoundError as error:
    raise MissingExtraError("o1-index", "serve", "the server") from error

MOST_BYTES = 64 * 2**20

Asked = TypeVar("Asked")
Served = VectorStore | Servers


class SearchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A body of POST /search. `ids` names the queries; by default they are "0", "1", ...

    `only`, `excluded` and `where` are those of `Index.search`; with `payloads` each hit has its own.
    `partial` is for an index in parts on several servers: where some do not answer, the answer has the hits
    of the others, and says in `missing` which they are, and why.
    """

    vectors: Annotated[list[list[float]], Meta(min_length=1, max_length=MOST_QUERIES)]
    k: Annotated[int, Meta(ge=1, le=MOST_HITS)] = 10
    ids: list[str] | None = None
    only: set[str] | None = None
    excluded: dict[str, set[str]] | None = None
    where: str | list[str] | None = None
    payloads: bool = False
    partial: bool = False


class FetchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A body of POST /fetch; documents that are not there are left out of the answer."""

    ids: Annotated[list[str], Meta(max_length=MOST_HITS)]


def answer(index: Served, asked: SearchRequest) -> dict[str, Any]:
    """Search, and return the body of the answer.

    Raises InputError for vectors of another dimension, and whatever else `Index.search` refuses; ServerError
    where a server of a part does not answer, unless a partial answer was asked for, and where two of them
    have the same document.
    """
    widths = {len(vector) for vector in asked.vectors}
    if widths != {index.dim}:
        raise InputError(f"vectors have {sorted(widths)} dimensions, the index has {index.dim}")
    ids = [str(row) for row in range(len(asked.vectors))] if asked.ids is None else asked.ids
    more: dict[str, Any] = {}
    missing: dict[str, str] = {}
    if isinstance(index, Servers):
        more = {"payloads": asked.payloads, "missing": missing if asked.partial else None}
    elif asked.partial:
        raise InputError("partial has no effect here: the index is not on several servers; leave it out")
    hits = index.search(
        np.array(asked.vectors, dtype=np.float32),
        ids,
        k=asked.k,
        only=asked.only,
        excluded=asked.excluded,
        where=asked.where,
        **more,
    )
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in ids}
    for hit, row in zip(hits, hits.rows[hits.rows >= 0].tolist(), strict=True):
        entry = {"doc_id": hit.doc_id, "score": hit.score, "rank": hit.rank}
        if asked.payloads:
            entry["payload"] = hits.names.payload(row)  # type: ignore[attr-defined]  # those of all stores have it
        results[hit.query_id].append(entry)
    found = {"results": [{"query_id": name, "hits": found} for name, found in results.items()]}
    return {**found, "missing": missing} if asked.partial else found


def fetched(index: Served, asked: FetchRequest) -> dict[str, Any]:
    """Return the body of the answer to a fetch. Raises InputError and ServerError as `fetch` does."""
    ids, vectors, payloads = index.fetch(asked.ids)
    rows = zip(ids, vectors.tolist(), payloads, strict=True)
    return {"documents": [{"doc_id": name, "vector": row, "payload": own} for name, row, own in rows]}


def application(index: Served, *, threads: int | None = None) -> Starlette:
    """Return the ASGI application; `serve` runs it, a test or a larger application may mount it."""
    # those that ask other servers only wait
    usual = AT_A_TIME if isinstance(index, Servers) else os.cpu_count()
    workers = ThreadPoolExecutor(threads or usual, thread_name_prefix="search")

    async def answered(do: Callable[..., Any], *given: Any, by: ThreadPoolExecutor | None = None) -> Response:
        try:
            return _json(await asyncio.get_running_loop().run_in_executor(by, do, *given))
        except ServerError as error:
            return _json({"error": str(error)}, 502)
        except InputError as error:
            return _json({"error": str(error)}, 422)

    async def posted(request: Request, kind: type[Asked], do: Callable[[Served, Asked], Any]) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BYTES:
                return _json({"error": f"the body is larger than {MOST_BYTES} bytes; send less"}, 413)
        try:
            asked = msgspec.json.decode(body, type=kind)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            return _json({"error": str(error)}, 422)
        return await answered(do, index, asked, by=workers)

    async def search(request: Request) -> Response:
        return await posted(request, SearchRequest, answer)

    async def fetch(request: Request) -> Response:
        return await posted(request, FetchRequest, fetched)

    async def info(request: Request) -> Response:
        return await answered(index.info)

    async def health(request: Request) -> Response:
        return await answered(lambda: {"status": "ok", "documents": index.count()})

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        workers.shutdown(wait=False, cancel_futures=True)

    async def refused(request: Request, error: Any) -> Response:
        return _json({"error": f"{request.method} {request.url.path}: {error.detail}"}, error.status_code)

    routes = [
        Route("/search", search, methods=["POST"]),
        Route("/fetch", fetch, methods=["POST"]),
        Route("/info", info),
        Route("/health", health),
    ]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: refused})


def serve(index: Served, *, host: str, port: int, threads: int | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then finish what clients wait for."""
    if isinstance(index, Index | Shards):
        index.check()
    config = uvicorn.Config(application(index, threads=threads), host=host, port=port, log_level="info")
    uvicorn.Server(config).run()


def _json(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")
