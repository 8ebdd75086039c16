"""Requests to OpenAI-compatible servers: an address that names the model, and a post that is tried again."""

from __future__ import annotations

import http.client
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import msgspec

from o1_records.files import InputError, quoted

KEY = "OPENAI_API_KEY"
"""The environment variable with the key that is sent, if it is set."""

_PASSING = (408, 429, 500, 502, 503, 504)
_LONGEST_WAIT = 60.0

Body = TypeVar("Body")


class _Stays(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Return None: a redirect is an error, and the key goes to no other host."""


opener = urllib.request.build_opener(_Stays)
"""Opens requests and follows no redirect: for it, a redirect is an error."""


class Address(NamedTuple):
    """Where a server is, and what it calls the model."""

    url: str
    model: str


def is_address(name: object) -> bool:
    """Return whether a model's name is the address of a server."""
    return str(name).startswith(("http://", "https://"))


def address(name: str) -> Address:
    """Return the parts of `http://HOST/v1#MODEL`. Raises InputError where one is missing."""
    try:
        parts = urlsplit(name)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error
    if not parts.fragment or not parts.netloc:
        raise InputError(f"{name}: name the model behind the address, as in http://localhost:8000/v1#MODEL")
    return Address(parts._replace(fragment="").geturl().rstrip("/"), parts.fragment)


def post(
    url: str,
    body: Any,
    answer: type[Body],
    *,
    tries: int = 5,
    timeout: float = 600.0,
    wait: float = 0.5,
) -> Body:
    """Post JSON and return what the server answers, decoded as `answer`.

    A server that is busy or cannot be reached is asked again, up to `tries` times in all: after `wait`
    seconds and then twice as long each time, or when it says (Retry-After).

    Raises:
        InputError: the server refuses, cannot be reached, or answers something else.
    """
    request = urllib.request.Request(url, msgspec.json.encode(body), headers())
    for attempt in range(tries):
        pause = wait * 2**attempt
        try:
            with opener.open(request, timeout=timeout) as response:
                content = response.read()
            return msgspec.json.decode(content, type=answer)
        except urllib.error.HTTPError as error:
            message = f"status {error.code}: {quoted(error.read(500).decode(errors='replace'))}"
            if moved := error.headers.get("Location"):
                message = (
                    f"status {error.code}: it redirects to {quoted(moved)}; give that address if it is right"
                )
            again = error.code in _PASSING
            pause = _retry_after(error, pause)
        except (msgspec.MsgspecError, UnicodeError) as error:
            message, again = f"{error}; is it an OpenAI-compatible server?", False
        except (OSError, http.client.HTTPException) as error:  # the latter: it broke off
            message, again = str(error), True
        if not again or attempt == tries - 1:
            break
        time.sleep(min(pause, _LONGEST_WAIT))
    raise InputError(f"{url}: {message}")


class _Embedding(msgspec.Struct):
    index: int
    embedding: list[float]


class _Embeddings(msgspec.Struct):
    data: list[_Embedding]
    model: str = ""


def embeddings(where: Address, texts: Sequence[str], *, batch: int = 32) -> tuple[list[list[float]], str]:
    """Return a vector of each text, in their order, and what the server calls its model.

    An empty text is sent as a space, since servers refuse it. The server decides what is cut.

    Raises:
        InputError: the server refuses, cannot be reached, or answers other vectors than were asked for, zero
            or not finite ones among them.
    """
    rows: list[list[float]] = []
    name = where.model
    for start in range(0, len(texts), batch):
        part = [text or " " for text in texts[start : start + batch]]
        body = {"model": where.model, "input": part, "encoding_format": "float"}
        answer = post(f"{where.url}/embeddings", body, _Embeddings)
        own = [each.embedding for each in sorted(answer.data, key=lambda each: each.index)]
        if len(own) != len(part) or len({len(row) for row in (*own, *rows[:1])}) != 1:
            raise InputError(f"{where.url}: {len(own)} vectors for {len(part)} texts, or of several lengths")
        for text, row in zip(part, own, strict=True):
            if not any(row) or not all(map(math.isfinite, row)):
                raise InputError(f"{where.url}: the vector of {quoted(text)} is zero or not finite")
        rows += own
        name = answer.model or name
    return rows, name


def headers() -> dict[str, str]:
    """Return the headers of a request with a JSON body; they hold the key, if one is set."""
    key = os.environ.get(KEY)
    return {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}


def _retry_after(error: urllib.error.HTTPError, pause: float) -> float:
    try:
        return max(pause, float(error.headers.get("Retry-After", "")))
    except ValueError:  # it may be a date
        return pause
