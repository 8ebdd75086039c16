"""An OpenAI-compatible server: POST /v1/embeddings, /v1/models, /health, /metrics.

Requests of many clients share batches (`batcher.py`); the model runs on one thread, so that a long
batch never blocks the answers to others. Needs the `[serve]` extra (Starlette, uvicorn,
prometheus-client).
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from o1_model.embedder import Embedder
from o1_model.encoding.encode import Vectors
from o1_model.layout import document_row, prompt_row, query_row, query_text, text_ids
from o1_model.serving.batcher import Batcher, QueueFullError
from o1_model.serving.settings import Serving
from o1_model.serving.wire import (
    EmbeddingRequest,
    ThinkOptions,
    decode_request,
    embedding,
    error_body,
    response,
)
from o1_model.thinking.aggregate import aggregate, stacked, truncated
from o1_records import InputError, MissingExtraError

try:
    import uvicorn
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
except ModuleNotFoundError as error:
    raise MissingExtraError("o1-model", "serve", "the server") from error

Result = TypeVar("Result")
SIZES = [2**power for power in range(11)]


class ClientLeftError(Exception):
    """The client has closed the connection."""


class Refusal(Exception):  # noqa: N818  it is an answer, not a fault
    """An answer with an error status."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}


@dataclass(frozen=True)
class Work:
    """What the inputs of one batch have in common."""

    role: Literal["query", "document"]
    think: ThinkOptions | None = None


@dataclass(frozen=True)
class Answer:
    """The vector of one input, the thoughts behind it, and the tokens that both took."""

    vector: Vectors
    thoughts: list[str]
    tokens: int


class ModelAnswers:
    """Answers batches with an Embedder. Only one thread may call it."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    def __call__(self, work: Work, items: Sequence[tuple[int, ...]]) -> list[Answer]:
        """Return vectors of texts given as token ids; a query's thoughts depend on its own ids alone."""
        embedder, layout = self.embedder, self.embedder.layout
        if work.think is not None:
            return self._think(work.think, items)
        build = query_row if work.role == "query" else document_row
        rows = [build(layout, ids) for ids in items]
        vectors = embedder.read(rows)
        return [Answer(vector, [], len(row.ids)) for vector, row in zip(vectors, rows, strict=True)]

    def cost(self, work: Work, ids: tuple[int, ...]) -> int:
        """Return the number of tokens of an input in a batch, thoughts included."""
        layout = self.embedder.layout
        if work.role == "document":
            return min(len(ids), layout.document_length) + 3
        prompt = min(len(ids), layout.query_length) + 4
        if work.think is None:
            return prompt
        kept = min(work.think.max_tokens, layout.thought_length)
        return work.think.samples * (prompt + kept + 2)

    def check_ids(self, items: Sequence[Sequence[int]]) -> None:
        """Raise InputError for ids that the vocabulary lacks and for control tokens."""
        size = len(self.embedder.tokenizer)
        control = set(self.embedder.layout.control_ids)
        for number, ids in enumerate(items):
            for token in ids:
                if token >= size or token in control:
                    what = "a control token" if token in control else f"outside the vocabulary of {size}"
                    raise InputError(f"input[{number}]: token id {token} is {what}")

    def _think(self, options: ThinkOptions, items: Sequence[tuple[int, ...]]) -> list[Answer]:
        embedder = self.embedder
        prompts = [prompt_row(embedder.layout, ids) for ids in items]
        names = [hashlib.sha256(repr(ids).encode()).hexdigest()[:16] for ids in items]
        v_q, traces = embedder.decode_rows(prompts, names, options.thinking())
        vectors = aggregate(v_q, stacked(traces), with_query=options.with_query)
        return [
            Answer(
                vector,
                [embedder.text_of(trace) for trace in row],
                len(prompt.ids) + sum(len(trace.token_ids) + 2 for trace in row),
            )
            for vector, prompt, row in zip(vectors, prompts, traces, strict=True)
        ]


class Counts:
    """The server's counters for Prometheus."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "o1_requests", "Requests answered", ["path", "status"], registry=self.registry
        )
        self.inputs = Counter("o1_inputs", "Texts embedded", ["input_type"], registry=self.registry)
        self.tokens = Counter("o1_tokens", "Tokens read and thought", registry=self.registry)
        self.seconds = Histogram("o1_request_seconds", "Time to an answer", registry=self.registry)
        self.batches = Histogram("o1_batch_inputs", "Texts of a batch", buckets=SIZES, registry=self.registry)
        gauge = Gauge("o1_inputs_waiting", "Texts in the queue", registry=self.registry)
        gauge.set_function(waiting)


class Server:
    """The state behind the routes: the batcher, a tokenizer of its own and the counters."""

    def __init__(self, embedder: Embedder, serving: Serving) -> None:
        self.embedder = embedder
        self.serving = serving
        self.model = ModelAnswers(embedder)
        # a fast tokenizer cannot be used by two threads at once; the model's thread has the other
        self.tokenizer = copy.deepcopy(embedder.tokenizer)
        self.tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")
        self.batcher: Batcher[Work, tuple[int, ...], Answer] = Batcher(
            self._run, self.model.cost, batch_tokens=serving.batch_tokens, max_waiting=serving.max_waiting
        )
        self.counts = Counts(lambda: self.batcher.waiting)
        self.started = int(time.time())

    async def embeddings(self, request: Request) -> Response:
        """Answer POST /v1/embeddings."""
        asked = decode_request(await self._body(request))
        work = self._work(asked)
        inputs = asked.texts_or_ids()
        # more than an empty queue holds: 429 would tell the client to try again for ever
        most = min(self.serving.max_inputs, self.serving.max_waiting)
        if len(inputs) > most:
            raise Refusal(413, f"{len(inputs)} inputs; send at most {most} at a time")
        answers = await _unless_gone(request, self._answers(inputs, work))
        vectors = [truncated(answer.vector, asked.dimensions) for answer in answers]
        tokens = sum(answer.tokens for answer in answers)
        self.counts.inputs.labels(work.role).inc(len(answers))
        self.counts.tokens.inc(tokens)
        wanted = work.think is not None and work.think.return_thoughts
        body = response(
            self.embedder.name,
            [embedding(vector, asked.encoding_format) for vector in vectors],
            [answer.thoughts for answer in answers] if wanted else None,
            tokens,
        )
        return JSONResponse(body)

    async def models(self, request: Request) -> Response:
        """Answer GET /v1/models: the one model, with its dimensions and layout."""
        layout = self.embedder.layout
        entry = {
            "id": self.embedder.name,
            "object": "model",
            "created": self.started,
            "owned_by": "o1-model",
            "root": self.embedder.digest,
            "dimensions": self.embedder.dim,
            "layout": layout.name,
        }
        return JSONResponse({"object": "list", "data": [entry]})

    async def health(self, request: Request) -> Response:
        """Answer GET /health: the server takes requests."""
        return JSONResponse({"status": "ok", "waiting": self.batcher.waiting})

    async def metrics(self, request: Request) -> Response:
        """Answer GET /metrics in Prometheus' text format."""
        return Response(generate_latest(self.counts.registry), media_type="text/plain; version=0.0.4")

    async def close(self) -> None:
        """Stop the threads."""
        await self.batcher.close()
        self.tokenizing.shutdown(wait=False, cancel_futures=True)

    def _run(self, work: Work, items: Sequence[tuple[int, ...]]) -> list[Answer]:
        self.counts.batches.observe(len(items))
        return self.model(work, items)

    async def _body(self, request: Request) -> bytes:
        limit = self.serving.max_body
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise Refusal(413, f"the body is larger than {limit} bytes; send fewer texts at a time")
        return bytes(body)

    def _work(self, asked: EmbeddingRequest) -> Work:
        if asked.model not in ("", self.embedder.name):
            raise Refusal(404, f"unknown model {asked.model!r}; this server has {self.embedder.name!r}")
        if asked.dimensions is not None and asked.dimensions > self.embedder.dim:
            raise InputError(
                f"dimensions must be at most {self.embedder.dim}, the model's, got {asked.dimensions}"
            )
        role = asked.input_type or ("query" if asked.think else self.serving.default_input_type)
        if asked.think and role == "document":
            raise InputError('think is for queries; give input_type "query"')
        return Work(role, asked.think)

    async def _answers(self, inputs: list[str] | list[list[int]], work: Work) -> list[Answer]:
        with self.batcher.room(len(inputs)):  # inputs that wait for the tokenizer count as waiting
            ids = await self._token_ids(inputs, work)
        return await self.batcher.answer(work, ids)

    async def _token_ids(self, inputs: list[str] | list[list[int]], work: Work) -> list[tuple[int, ...]]:
        if isinstance(inputs[0], str):
            texts = [str(text) for text in inputs]
            if work.role == "query":
                texts = [query_text(self.embedder.layout, text) for text in texts]
            loop = asyncio.get_running_loop()
            every = await loop.run_in_executor(self.tokenizing, text_ids, self.tokenizer, texts)
        else:
            every = [list(ids) for ids in inputs]
            self.model.check_ids(every)
        return [tuple(ids) for ids in every]


def application(embedder: Embedder, serving: Serving | None = None) -> Starlette:
    """Return the ASGI application; `serve` runs it, a test or a larger application may mount it."""
    server = Server(embedder, serving or Serving())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await server.close()

    routes = [
        Route("/v1/embeddings", _answering(server, server.embeddings), methods=["POST"]),
        Route("/v1/models", server.models),
        Route("/health", server.health),
        Route("/metrics", server.metrics),
    ]
    handlers: Any = {HTTPException: _http_error, 500: _server_error}
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)


def serve(embedder: Embedder, serving: Serving, *, host: str, port: int, drain_seconds: int = 30) -> None:
    """Serve until SIGTERM or SIGINT, then finish what clients wait for, for at most `drain_seconds`."""
    config = uvicorn.Config(
        application(embedder, serving),
        host=host,
        port=port,
        log_level="info",
        timeout_graceful_shutdown=drain_seconds,
    )
    uvicorn.Server(config).run()


def _answering(
    server: Server, endpoint: Callable[[Request], Awaitable[Response]]
) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    """Turn refusals into answers, and count every answer."""

    async def answer(request: Request) -> Response:
        began = time.perf_counter()
        try:
            reply = await endpoint(request)
        except InputError as error:
            reply = JSONResponse(error_body(422, str(error)), 422)
        except QueueFullError as error:
            refusal = Refusal(429, str(error), error.retry_after)
            reply = JSONResponse(error_body(429, str(error)), 429, refusal.headers)
        except Refusal as error:
            reply = JSONResponse(error_body(error.status, str(error)), error.status, error.headers)
        except (ClientLeftError, ClientDisconnect):
            reply = Response(status_code=499)
        server.counts.requests.labels(request.url.path, str(reply.status_code)).inc()
        server.counts.seconds.observe(time.perf_counter() - began)
        return reply

    return answer


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
