"""What a client of the server may send, and what it gets: OpenAI's embeddings with thoughts."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from o1_model.encoding.encode import Vectors
from o1_model.thinking.settings import Thinking
from o1_records import InputError

Positive = Annotated[int, Meta(ge=1)]
Whole = Annotated[int, Meta(ge=0)]


class ThinkOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to think about the queries of a request; the fields are those of Thinking."""

    samples: Annotated[int, Meta(ge=1, le=64)] = Thinking.samples
    max_tokens: Positive = Thinking.max_tokens
    temperature: Annotated[float, Meta(ge=0)] = Thinking.temperature
    top_p: Annotated[float, Meta(gt=0, le=1)] = Thinking.top_p
    seed: int = Thinking.seed
    with_query: bool = False
    return_thoughts: bool = False

    def thinking(self) -> Thinking:
        """Return how to think, without what only concerns the answer."""
        return Thinking(
            samples=self.samples,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
        )


class EmbeddingRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A body of POST /v1/embeddings.

    `input` is a text, a list of texts, the token ids of one text or a list of such lists.
    """

    input: str | list[str | Whole | list[Whole]]
    model: str = ""
    encoding_format: Literal["float", "base64"] | None = None  # some clients send null
    dimensions: Positive | None = None
    user: str | None = None
    input_type: Literal["query", "document"] | None = None
    think: ThinkOptions | None = None

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


def decode_request(body: bytes) -> EmbeddingRequest:
    """Parse a body. Raises InputError, saying what is wrong and where."""
    try:
        return msgspec.json.decode(body, type=EmbeddingRequest)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InputError(f"body: {error}") from error


def embedding(vector: Vectors, encoding_format: str | None) -> list[float] | str:
    """Return a vector as OpenAI sends it: numbers, or base64 of little-endian float32."""
    if encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    numbers: list[float] = vector.astype(np.float32).tolist()
    return numbers


def response(
    model: str, vectors: Sequence[list[float] | str], thoughts: Sequence[list[str]] | None, tokens: int
) -> dict[str, Any]:
    """Return the body of an answer; `thoughts` go with the vectors if they were asked for."""
    data: list[dict[str, Any]] = [
        {"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)
    ]
    for entry, own in zip(data, thoughts or [], strict=False):
        entry["thoughts"] = own
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def error_body(status: int, message: str) -> dict[str, Any]:
    """Return an error in the form that OpenAI's clients show."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "code": status}}
