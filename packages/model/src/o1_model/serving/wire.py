"""What a client of the server may send, and what it gets: OpenAI's embeddings with thoughts."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from o1_model.encoding.encode import Vectors
from o1_model.thinking.settings import Thinking
from o1_records import InputError

REFUSALS = {
    401: "No valid API key",
    404: "A model that this server does not have",
    413: "A body, or a list of inputs, that is too large",
    422: "A field that is wrong",
    429: "The queue is full; Retry-After says when to come back",
    500: "The model failed",
}

Positive = Annotated[int, Meta(ge=1)]
Whole = Annotated[int, Meta(ge=0)]


class ThinkOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to think about the queries of a request; what is left out is as the server thinks by default."""

    samples: Annotated[int, Meta(ge=1, le=64)] | None = None
    max_tokens: Positive | None = None
    temperature: Annotated[float, Meta(ge=0)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    seed: int | None = None
    with_query: bool = False
    return_thoughts: bool = False

    def thinking(self, default: Thinking | None) -> Thinking:
        """Return how to think, without what only concerns the answer."""
        names = ("samples", "max_tokens", "temperature", "top_p", "seed")
        own = {name: value for name in names if (value := getattr(self, name)) is not None}
        return replace(default or Thinking(), **own)


class EmbeddingRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A body of POST /v1/embeddings.

    `input` is a text, a list of texts or, where the server allows them, the token ids of one text or a list
    of such lists. `instruction` is for queries, instead of the checkpoint's. `think` is true, false or how;
    `thoughts` are texts to embed the query with: a list, or a list for each input.
    """

    input: str | list[str | Whole | list[Whole]]
    model: str = ""
    encoding_format: Literal["float", "base64"] | None = None  # some clients send null
    dimensions: Positive | None = None
    user: str | None = None
    input_type: Literal["query", "document"] | None = None
    instruction: str | None = None
    think: bool | ThinkOptions | None = None
    thoughts: list[str | list[str]] | None = None

    def listed_thoughts(self) -> list[list[str]] | None:
        """Return the thoughts of each input. Raises InputError for a mixture."""
        if self.thoughts is None:
            return None
        texts = [each for each in self.thoughts if isinstance(each, str)]
        lists = [each for each in self.thoughts if isinstance(each, list)]
        if texts and lists:
            raise InputError("thoughts mix texts and lists; give a list of texts for each input")
        if lists or (not self.thoughts and isinstance(self.input, list)):
            return lists
        return [texts]

    def texts_or_ids(self) -> list[str] | list[list[int]]:
        """Return the inputs, all texts or all token ids. Raises InputError for a mixture or for none."""
        if isinstance(self.input, str):
            return [self.input]
        if not self.input:
            raise InputError("input is an empty list; give at least one text")
        kinds = {type(item) for item in self.input}
        if len(kinds) > 1:
            names = " and ".join(sorted(kind.__name__ for kind in kinds))
            raise InputError(f"input mixes {names}; give texts, or token ids, in one request")
        if int in kinds:
            return [[item for item in self.input if isinstance(item, int)]]
        if list in kinds:
            return [item for item in self.input if isinstance(item, list)]
        return [item for item in self.input if isinstance(item, str)]


Asked = Annotated[str, Meta(min_length=1, max_length=10_000)]


class SearchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A body of POST /v1/search: what is searched for, how many documents are wanted, and how to think.

    `think`, `instruction` and `thoughts` are as in EmbeddingRequest; `weight` is the share of the thoughts
    in the query, by default the server's.
    """

    query: Annotated[str, Meta(pattern=r"\S", max_length=10_000)]
    k: Annotated[int, Meta(ge=1, le=100)] = 10
    instruction: Annotated[str, Meta(max_length=10_000)] = ""
    think: bool | ThinkOptions | None = None
    thoughts: Annotated[list[Asked], Meta(min_length=1, max_length=64)] | None = None
    weight: Annotated[float, Meta(ge=0, le=1)] | None = None


Body = TypeVar("Body", EmbeddingRequest, SearchRequest)


def decode_request(body: bytes, kind: type[Body]) -> Body:
    """Parse a body. Raises InputError, saying what is wrong and where."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InputError(f"body: {error}") from error


def embedding(vector: Vectors, encoding_format: str | None) -> list[float] | str:
    """Return a vector as OpenAI sends it: numbers, or base64 of little-endian float32."""
    if encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    numbers: list[float] = vector.astype(np.float32).tolist()
    return numbers


def response(
    model: str,
    vectors: Sequence[list[float] | str],
    thoughts: Sequence[list[str]] | None,
    tokens: int,
    cut: Sequence[int] = (),
) -> dict[str, Any]:
    """Return the body of an answer; `thoughts` go with the vectors if they were asked for.

    `cut` are the places of inputs that were longer than is read.
    """
    data: list[dict[str, Any]] = [
        {"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)
    ]
    for entry, own in zip(data, thoughts or [], strict=False):
        entry["thoughts"] = own
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    body = {"object": "list", "data": data, "model": model, "usage": usage}
    return {**body, "truncated": list(cut)} if cut else body


def error_body(status: int, message: str) -> dict[str, Any]:
    """Return an error in the form that OpenAI's clients show."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "code": status}}


def event(name: str, data: dict[str, Any]) -> bytes:
    """Return one server-sent event."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(data))


def openapi(version: str, *, keys: bool, searches: bool) -> dict[str, Any]:
    """Return the server's interface as an OpenAPI document; with `keys` it asks for one."""
    _, components = msgspec.json.schema_components(
        [EmbeddingRequest, SearchRequest], ref_template="#/components/schemas/{name}"
    )
    for name in ("EmbeddingRequest", "SearchRequest", "ThinkOptions"):
        components[name].pop("title", None)

    def body(kind: str) -> dict[str, Any]:
        return {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind}"}}},
        }

    one = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}

    def answers(what: str, *refusals: int) -> dict[str, Any]:
        found = {str(code): {"description": REFUSALS[code]} for code in refusals}
        return {"responses": {"200": {"description": what}, **found}}

    paths: dict[str, Any] = {
        "/v1/embeddings": {
            "post": {
                "summary": "Vectors of texts",
                "requestBody": body("EmbeddingRequest"),
                **answers("The vectors, in the order of the inputs", *REFUSALS),
            }
        },
        "/v1/models": {"get": answers("The one model")},
        "/v1/models/{model}": {"get": {"parameters": [one], **answers("The model", 404)}},
        "/info": {"get": answers("The checkpoint, its limits and how it thinks by default")},
        "/health": {"get": answers("The server takes requests")},
        "/metrics": {"get": answers("Counters for Prometheus")},
    }
    if searches:
        paths["/v1/search"] = {
            "post": {
                "summary": "Documents without and with thoughts, as server-sent events",
                "requestBody": body("SearchRequest"),
                **answers("Events: plain, thought (any number of times), thinking, error", *REFUSALS),
            }
        }
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "o1-model", "version": version},
        "paths": paths,
        "components": {"schemas": components},
    }
    if keys:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document
