"""An OpenAI-compatible server: POST /v1/embeddings, /v1/models, /info, /openapi.json, /health, /metrics.

With a collection it also searches: GET / is a page, which asks POST /v1/search (server-sent events).

Requests of many clients share batches (`answers.py`); the model runs on one thread, so that a long
batch never blocks the answers to others. Needs the `[serve]` extra (Starlette, uvicorn,
prometheus-client).
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, TypeVar

import msgspec

from o1_model import __version__
from o1_model.embedder import Embedder
from o1_model.encoding.encode import BrokenVectorsError
from o1_model.retriever.retriever import ThinkingRetriever
from o1_model.serving.answers import Answer, AsyncEmbedder, Work
from o1_model.serving.batcher import QueueFullError
from o1_model.serving.mixed import AsyncRetriever
from o1_model.serving.page import page
from o1_model.serving.search import Collection, searching
from o1_model.serving.settings import Serving
from o1_model.serving.wire import (
    EmbeddingRequest,
    SearchRequest,
    ThinkOptions,
    decode_request,
    embedding,
    error_body,
    event,
    openapi,
    response,
)
from o1_model.thinking.aggregate import truncated
from o1_records import InputError, MissingExtraError, Query

try:
    import uvicorn
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.middleware.cors import CORSMiddleware
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
    from starlette.routing import Route
except ModuleNotFoundError as error:
    raise MissingExtraError("o1-model", "serve", "the server") from error

Result = TypeVar("Result")
SIZES = [2**power for power in range(11)]
SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300]
CUT = "X-Truncated-Inputs"  # the header that counts inputs of which only the beginning was read


class ClientLeftError(Exception):
    """The client has closed the connection."""


class Refusal(Exception):  # noqa: N818  it is an answer, not a fault
    """An answer with an error status."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}


class Stream(StreamingResponse):
    """Server-sent events; `ended` is called once, however they end."""

    def __init__(self, events: AsyncIterator[bytes], ended: Callable[[], None]) -> None:
        # not kept, not collected on the way by a proxy
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._ended = ended

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


class Counts:
    """The server's counters for Prometheus."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "o1_requests", "Requests answered", ["path", "status"], registry=self.registry
        )
        self.inputs = Counter("o1_inputs", "Texts embedded", ["input_type"], registry=self.registry)
        self.cut = Counter(
            "o1_inputs_truncated", "Texts that were cut", ["input_type"], registry=self.registry
        )
        self.tokens = Counter("o1_tokens", "Tokens read and thought", registry=self.registry)
        self.seconds = Histogram(
            "o1_request_seconds", "Time to an answer", buckets=SECONDS, registry=self.registry
        )
        self.batches = Histogram("o1_batch_inputs", "Texts of a batch", buckets=SIZES, registry=self.registry)
        gauge = Gauge("o1_inputs_waiting", "Texts in the queue", registry=self.registry)
        gauge.set_function(waiting)


class Server:
    """The state behind the routes: the model for many callers, and the counters."""

    def __init__(
        self, model: Embedder | ThinkingRetriever, serving: Serving, collection: Collection | None = None
    ) -> None:
        gate = serving.gate
        if gate is not None and gate.signal == "margin":
            raise InputError(
                "a gate that needs margins cannot serve: nothing is searched here; learn another"
            )
        shared = {"batch_tokens": serving.batch_tokens, "max_waiting": serving.max_waiting}
        self.model: AsyncEmbedder | AsyncRetriever
        if isinstance(model, ThinkingRetriever):
            self.model = AsyncRetriever(model, **shared)
        else:
            self.model = AsyncEmbedder(model, **shared)
        if (serving.think is not None or gate is not None) and not self.model.thinks:
            raise InputError(f"{self.model.name} does not think; leave out --think")
        if collection is not None:
            collection.refuse_other_encoder(self.model.name, self.model.encoder)
        self.collection, self.searches = collection, 0
        self.serving = serving
        self.think = serving.think or self.model.thinking
        self.names = serving.names or (self.model.name,)
        self.counts = Counts(lambda: self.model.batcher.waiting)
        self.model.batcher.ran = self.counts.batches.observe
        self.started = int(time.time())

    async def embeddings(self, request: Request) -> Response:
        """Answer POST /v1/embeddings."""
        asked = decode_request(await self._body(request), EmbeddingRequest)
        work = self._work(asked)
        inputs = self._inputs(asked, work)
        # more than an empty queue holds: 429 would tell the client to try again for ever
        most = min(self.serving.max_inputs, self.serving.max_waiting)
        if len(inputs) > most:
            raise Refusal(413, f"{len(inputs)} inputs; send at most {most} at a time")
        waiting = self.model.answers(work, inputs, asked.listed_thoughts())
        answers = await _unless_gone(request, waiting)
        vectors = [truncated(answer.vector, asked.dimensions) for answer in answers]
        tokens, cut = sum(answer.tokens for answer in answers), [n for n, a in enumerate(answers) if a.cut]
        self.counts.inputs.labels(work.role).inc(len(answers))
        self.counts.cut.labels(work.role).inc(len(cut))
        self.counts.tokens.inc(tokens)
        body = response(
            asked.model or self.names[0],
            [embedding(vector, asked.encoding_format) for vector in vectors],
            _thoughts(asked, answers),
            tokens,
            cut,
        )
        return JSONResponse(body, headers={CUT: str(len(cut))} if cut else None)

    async def search(self, request: Request) -> Response:
        """Answer POST /v1/search: server-sent events of `search.searching`, or `error` as the last one."""
        asked = decode_request(await self._body(request), SearchRequest)
        work = self._search_work(asked)  # refuses what is wrong before the stream begins
        if self.searches >= self.serving.max_searches:
            raise Refusal(429, f"{self.searches} searches are running; try again in 5 s", 5)
        self.searches += 1
        return Stream(self._events(asked, work), self._searched)

    def _searched(self) -> None:
        self.searches -= 1

    async def _events(self, asked: SearchRequest, work: Work) -> AsyncIterator[bytes]:
        assert self.collection is not None
        query = Query(query_id="-", text=asked.query, instruction=asked.instruction)
        how: Any = {"k": asked.k, "thoughts": asked.thoughts, "weight": asked.weight}
        try:
            async for name, data in searching(self.model, self.collection, query, work, **how):
                if name == "plain":
                    self.counts.inputs.labels("query").inc()
                    self.counts.cut.labels("query").inc(data["cut"])
                    self.counts.tokens.inc(data["tokens"])
                elif name == "thinking":
                    self.counts.tokens.inc(sum(data["tokens"]))
                yield event(name, data)
        except (InputError, BrokenVectorsError, QueueFullError) as error:
            yield event("error", {"message": str(error)})

    def _search_work(self, asked: SearchRequest) -> Work:
        if isinstance(asked.think, ThinkOptions) and (asked.think.with_query or asked.think.return_thoughts):
            raise InputError("thoughts are always returned, and mixed in by a weight; leave out the field")
        work = self._work(
            EmbeddingRequest(
                input=asked.query,
                input_type="query",
                instruction=asked.instruction,
                think=asked.think,
                thoughts=None if asked.thoughts is None else [*asked.thoughts],
            )
        )
        if asked.weight is not None and asked.thoughts is None and work.think is None:
            raise InputError("a weight is for thoughts; leave it out, or think")
        return work

    async def page(self, request: Request) -> Response:
        """Answer GET /: the page that searches. It needs no key, its requests do."""
        html, policy = page(keys=bool(self.serving.api_keys))
        return HTMLResponse(html, headers=policy)

    async def models(self, request: Request) -> Response:
        """Answer GET /v1/models: the one model, under each of its names."""
        return JSONResponse({"object": "list", "data": [self._model(name) for name in self.names]})

    async def model_of(self, request: Request) -> Response:
        """Answer GET /v1/models/{name}."""
        return JSONResponse(self._model(self._known(request.path_params["name"])))

    async def info(self, request: Request) -> Response:
        """Answer GET /info: what is served, its limits, and how it thinks by default."""
        serving = self.serving
        gate = None if serving.gate is None else msgspec.to_builtins(serving.gate)
        return JSONResponse(
            {
                "model_id": self.model.name,
                "model_sha": self.model.digest,
                "dimensions": self.model.dim,
                **self.model.about,
                "max_batch_tokens": serving.batch_tokens,
                "max_client_batch_size": serving.max_inputs,
                "max_waiting": serving.max_waiting,
                "max_body": serving.max_body,
                "default_input_type": serving.default_input_type,
                "think": None if self.think is None else asdict(self.think),
                "gate": gate,
                "token_ids": serving.token_ids,
                "thinks": self.model.thinks,
                "mixture": msgspec.to_builtins(self.model.mixture) if self.model.thinks else None,
                "searches": None if self.collection is None else self.collection.about,
                "max_searches": serving.max_searches,
                "version": __version__,
            }
        )

    async def openapi(self, request: Request) -> Response:
        """Answer GET /openapi.json."""
        return JSONResponse(
            openapi(__version__, keys=bool(self.serving.api_keys), searches=self.collection is not None)
        )

    async def health(self, request: Request) -> Response:
        """Answer GET /health: the server takes requests."""
        return JSONResponse({"status": "ok", "waiting": self.model.batcher.waiting})

    async def metrics(self, request: Request) -> Response:
        """Answer GET /metrics in Prometheus' text format."""
        return Response(generate_latest(self.counts.registry), media_type="text/plain; version=0.0.4")

    async def close(self) -> None:
        """Stop the threads."""
        await self.model.close()

    def refuse_stranger(self, request: Request) -> None:
        """Raise Refusal where keys are needed and the request has none of them."""
        keys = self.serving.api_keys
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        # every key is compared, in a time that tells nothing
        matches = sum(hmac.compare_digest(given, key.encode()) for key in keys)
        if keys and not matches:
            raise Refusal(401, "no valid API key; send it as Authorization: Bearer KEY")

    async def _body(self, request: Request) -> bytes:
        limit = self.serving.max_body
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise Refusal(413, f"the body is larger than {limit} bytes; send fewer texts at a time")
        return bytes(body)

    def _work(self, asked: EmbeddingRequest) -> Work:
        self._known(asked.model)
        if asked.dimensions is not None and asked.dimensions > self.model.dim:
            raise InputError(
                f"dimensions must be at most {self.model.dim}, the model's, got {asked.dimensions}"
            )
        about_queries = [
            name
            for name in ("think", "thoughts", "instruction")
            if getattr(asked, name) not in (None, False, "")
        ]
        role = asked.input_type or ("query" if about_queries else self.serving.default_input_type)
        if about_queries and role == "document":
            raise InputError(f'{about_queries[0]} is for queries; give input_type "query"')
        if role == "document":
            return Work("document")
        options = asked.think if isinstance(asked.think, ThinkOptions) else None
        with_query = options is not None and options.with_query
        if asked.thoughts is not None:
            if asked.think not in (None, False) and options != ThinkOptions(with_query=with_query):
                raise InputError("give thoughts or think, not both")
            return Work("query", with_query=with_query)
        think = self.think if asked.think is None else None
        if asked.think is True or options is not None:
            think = (options or ThinkOptions()).thinking(self.think)
        if think is not None and not self.model.thinks:
            raise InputError(f"{self.model.name} does not think; leave out think, or send thoughts")
        gate = self.serving.gate if think is not None and asked.think in (None, True) else None
        return Work("query", think and self.model.capped(think), gate, with_query)

    def _inputs(self, asked: EmbeddingRequest, work: Work) -> Any:
        inputs = asked.texts_or_ids()
        if not isinstance(inputs[0], str):
            if asked.instruction:
                raise InputError("an instruction is text before text; token ids are read as they are")
            if not self.serving.token_ids:
                raise InputError(
                    "input holds token ids, and ids of another tokenizer would be read as other words; send "
                    "texts (LangChain: check_embedding_ctx_length=False), or serve with --token-ids"
                )
            return inputs
        if work.role == "document" or not asked.instruction:
            return inputs
        return [Query(query_id="-", text=str(text), instruction=asked.instruction) for text in inputs]

    def _known(self, name: str) -> str:
        if name not in ("", *self.names):
            raise Refusal(404, f"unknown model {name!r}; this server has {self.names[0]!r}")
        return name

    def _model(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self.started,
            "owned_by": "o1-model",
            "root": self.model.digest,
            "dimensions": self.model.dim,
        }


def application(
    model: Embedder | ThinkingRetriever,
    serving: Serving | None = None,
    collection: Collection | None = None,
) -> Starlette:
    """Return the ASGI application; `serve` runs it, a test or a larger application may mount it.

    With a collection it searches, too. Raises InputError for one whose vectors another model made.
    """
    serving = serving or Serving()
    server = Server(model, serving, collection)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await server.close()

    routes = [
        Route("/v1/embeddings", _answering(server, server.embeddings), methods=["POST"]),
        Route("/v1/models", _answering(server, server.models)),
        Route("/v1/models/{name:path}", _answering(server, server.model_of)),
        Route("/info", _answering(server, server.info)),
        Route("/openapi.json", server.openapi),
        Route("/health", server.health),
        Route("/metrics", server.metrics),
    ]
    if collection is not None:
        routes += [
            Route("/", server.page),
            Route("/v1/search", _answering(server, server.search), methods=["POST"]),
        ]
    handlers: Any = {HTTPException: _http_error, 500: _server_error}
    pages = [
        Middleware(
            CORSMiddleware, allow_origins=serving.cors_origins, allow_methods=["*"], allow_headers=["*"],
            expose_headers=[CUT, "Retry-After"],
        )
    ] if serving.cors_origins else []  # fmt: skip
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers, middleware=pages)


def serve(
    model: Embedder | ThinkingRetriever,
    serving: Serving,
    *,
    host: str,
    port: int,
    drain_seconds: int = 30,
    collection: Collection | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what clients wait for, for at most `drain_seconds`."""
    config = uvicorn.Config(
        application(model, serving, collection),
        host=host,
        port=port,
        log_level="info",
        timeout_graceful_shutdown=drain_seconds,
    )
    uvicorn.Server(config).run()


def _answering(
    server: Server, endpoint: Callable[[Request], Awaitable[Response]]
) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    """Refuse strangers, turn refusals into answers, and count every answer."""

    async def answer(request: Request) -> Response:
        began = time.perf_counter()
        try:
            server.refuse_stranger(request)
            reply = await endpoint(request)
        except BrokenVectorsError as error:
            reply = JSONResponse(error_body(500, str(error)), 500)
        except InputError as error:
            reply = JSONResponse(error_body(422, str(error)), 422)
        except QueueFullError as error:
            refusal = Refusal(429, str(error), error.retry_after)
            reply = JSONResponse(error_body(429, str(error)), 429, refusal.headers)
        except Refusal as error:
            reply = JSONResponse(error_body(error.status, str(error)), error.status, error.headers)
        except (ClientLeftError, ClientDisconnect):
            reply = Response(status_code=499)
        # of the route, not of the path: that is the client's to choose
        path = getattr(request.scope.get("route"), "path", request.url.path)
        server.counts.requests.labels(path, str(reply.status_code)).inc()
        server.counts.seconds.observe(time.perf_counter() - began)
        return reply

    return answer


def _thoughts(asked: EmbeddingRequest, answers: list[Answer]) -> list[list[str]] | None:
    """Return the thoughts behind the answers, if they are asked for."""
    if not (isinstance(asked.think, ThinkOptions) and asked.think.return_thoughts):
        return None
    return [answer.thoughts for answer in answers]


async def _http_error(request: Request, error: HTTPException) -> Response:
    message = f"{request.method} {request.url.path}: {error.detail}"
    return JSONResponse(error_body(error.status_code, message), error.status_code, error.headers)


async def _server_error(request: Request, error: Exception) -> Response:
    # the traceback goes to the server's log, not to the client
    return JSONResponse(error_body(500, f"{type(error).__name__} in the model; see the server's log"), 500)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Await work, but cancel it when the client closes the connection."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeftError
        return task.result()
    finally:
        gone.cancel()
        task.cancel()


async def _disconnected(request: Request) -> None:
    # the body has been read, so that the next message is the end of the connection
    while (await request.receive())["type"] != "http.disconnect":
        pass
