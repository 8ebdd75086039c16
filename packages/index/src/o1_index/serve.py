"""A server of one index or collection: POST /search with vectors, GET /info, GET /health.

```
POST /search  {"vectors": [[0.1, ...], ...], "k": 10, "where": "year >= 2020"}
          ->  {"results": [{"query_id": "0", "hits": [{"doc_id": "a", "score": 0.9, "rank": 1}]}]}
```
Requests are searched at the same time, each on a thread of its own. Needs the `[serve]` extra (Starlette,
uvicorn).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from o1_index.index import Index
from o1_index.vector_store import Searchable
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

MOST_QUERIES, MOST_HITS, MOST_BYTES = 1_024, 10_000, 64 * 2**20


class SearchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A body of POST /search. `ids` names the queries; by default they are "0", "1", ...

    `only`, `excluded` and `where` are those of `Index.search`; with `payloads` each hit has its own.
    """

    vectors: Annotated[list[list[float]], Meta(min_length=1, max_length=MOST_QUERIES)]
    k: Annotated[int, Meta(ge=1, le=MOST_HITS)] = 10
    ids: list[str] | None = None
    only: set[str] | None = None
    excluded: dict[str, set[str]] | None = None
    where: str | list[str] | None = None
    payloads: bool = False


def answer(index: Searchable, asked: SearchRequest) -> dict[str, Any]:
    """Search, and return the body of the answer.

    Raises InputError for vectors of another dimension, and whatever else `Index.search` refuses.
    """
    widths = {len(vector) for vector in asked.vectors}
    if widths != {index.dim}:
        raise InputError(f"vectors have {sorted(widths)} dimensions, the index has {index.dim}")
    ids = [str(row) for row in range(len(asked.vectors))] if asked.ids is None else asked.ids
    hits = index.search(
        np.array(asked.vectors, dtype=np.float32),
        ids,
        k=asked.k,
        only=asked.only,
        excluded=asked.excluded,
        where=asked.where,
    )
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in ids}
    for hit, row in zip(hits, hits.rows[hits.rows >= 0].tolist(), strict=True):
        entry = {"doc_id": hit.doc_id, "score": hit.score, "rank": hit.rank}
        if asked.payloads:
            entry["payload"] = hits.names.payload(row)  # type: ignore[attr-defined]  # those of all stores but Shards have it
        results[hit.query_id].append(entry)
    return {"results": [{"query_id": name, "hits": found} for name, found in results.items()]}


def application(index: Searchable, *, threads: int | None = None) -> Starlette:
    """Return the ASGI application; `serve` runs it, a test or a larger application may mount it."""
    workers = ThreadPoolExecutor(threads or os.cpu_count(), thread_name_prefix="search")

    async def search(request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BYTES:
                return _json(
                    {"error": f"the body is larger than {MOST_BYTES} bytes; send fewer vectors"}, 413
                )
        try:
            asked = msgspec.json.decode(body, type=SearchRequest)
            found = await asyncio.get_running_loop().run_in_executor(workers, answer, index, asked)
        except (msgspec.MsgspecError, UnicodeError, RecursionError, InputError) as error:
            return _json({"error": str(error)}, 422)
        return _json(found)

    async def info(request: Request) -> Response:
        return _json(index.info())

    async def health(request: Request) -> Response:
        return _json({"status": "ok", "documents": index.count()})

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        workers.shutdown(wait=False, cancel_futures=True)

    async def refused(request: Request, error: Any) -> Response:
        return _json({"error": f"{request.method} {request.url.path}: {error.detail}"}, error.status_code)

    routes = [Route("/search", search, methods=["POST"]), Route("/info", info), Route("/health", health)]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: refused})


def serve(index: Searchable, *, host: str, port: int, threads: int | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then finish what clients wait for."""
    if isinstance(index, Index):
        index.check()
    config = uvicorn.Config(application(index, threads=threads), host=host, port=port, log_level="info")
    uvicorn.Server(config).run()


def _json(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")
