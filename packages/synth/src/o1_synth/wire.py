"""What an OpenAI-compatible server says, checked: its list of models and its answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from o1_records import InputError

KEY_NAMES = ("O1_API_KEY", "OPENAI_API_KEY")
_LISTING_TIMEOUT = 30.0
_OPEN, _CLOSE = "<think>", "</think>"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One choice of a chat completion. `text` is stripped, without reasoning, and may be empty.

    Token counts are those of the whole request. `model` is what the server says that answered.
    """

    text: str
    reasoning: str = ""
    refusal: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    model: str = ""


def parse_answers(body: bytes) -> list[Answer]:
    """Read a chat completion. Raises ValueError for what is none: HTML, cut JSON, no choice."""
    try:
        completion = msgspec.json.decode(body, type=_Completion)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if not completion.choices:
        raise ValueError("no choice")
    usage = completion.usage or Usage()
    choices = sorted(completion.choices, key=lambda choice: choice.index)
    return [
        answer_of(choice.message, choice.finish_reason or "", usage, completion.model or "")
        for choice in choices
    ]


def answer_of(message: Message, finish_reason: str, usage: Usage, model: str) -> Answer:
    """The answer of a whole message, its reasoning apart."""
    text, thinking = separated(message.content or "")
    return Answer(
        text=text,
        reasoning=(message.reasoning_content or message.reasoning or thinking).strip(),
        refusal=message.refusal or "",
        finish_reason=finish_reason,
        prompt_tokens=usage.prompt_tokens or 0,
        completion_tokens=usage.completion_tokens or 0,
        model=model,
    )


def separated(content: str) -> tuple[str, str]:
    """Split (answer, reasoning) of a model that thinks aloud between `<think>` and `</think>`.

    Without an end all after the beginning is reasoning; without a beginning (templates that end
    in `<think>`) all before the end is. Only a block that opens the content counts.
    """
    content = content.strip()
    if not content.startswith(_OPEN):
        before, found, after = content.partition(_CLOSE)
        return (after.strip(), before.strip()) if found and _OPEN not in before else (content, "")
    reasoning, _, answer = content.removeprefix(_OPEN).partition(_CLOSE)
    return answer.strip(), reasoning.strip()


def model_root(base_url: str, model: str, headers: Mapping[str, str]) -> str:
    """What the server says stands behind a model's name, where it says so and it differs.

    Raises InputError, naming the address, the model and the models there are, when the server
    does not answer, does not list models, or does not list this one.
    """
    cards = {card.id: card for card in _listed(base_url, model, headers)}
    if model not in cards:
        named = ", ".join(sorted(cards)[:10]) or "none"
        more = f" and {len(cards) - 10} more" if len(cards) > 10 else ""
        raise InputError(f"{base_url} does not serve model {model!r}; it serves {named}{more}")
    root = cards[model].root or ""
    return "" if root == model else root


def said(error: Exception) -> str:
    """An error's type and, where there is one, its message."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _listed(base_url: str, model: str, headers: Mapping[str, str]) -> list[_Card]:
    import http.client
    import urllib.error
    import urllib.request

    class NoRedirects(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            """None: a redirect is an error, and the key goes to no other host."""

    url, asked = f"{base_url}/models", f"asked for model {model!r}"
    if not base_url.startswith(("http://", "https://")):
        raise InputError(f"--base-url {base_url!r}: begin it with http:// or https://; {asked}")
    try:
        request = urllib.request.Request(url, headers=dict(headers))
        with urllib.request.build_opener(NoRedirects).open(request, timeout=_LISTING_TIMEOUT) as response:
            return msgspec.json.decode(response.read(), type=_Cards).data
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            said_no = f"{url} answers {error.code}, {asked}; put the key into {KEY_NAMES[0]}"
            raise InputError(said_no) from error
        elsewhere = error.headers.get("location")
        problem: Exception = ValueError(
            f"status {error.code}" + (f", which redirects to {elsewhere}" if elsewhere else "")
        )
    except (OSError, http.client.HTTPException) as error:
        raise InputError(
            f"no server answers at {base_url} ({said(error)}), {asked}; start it or correct the address"
        ) from error
    except (ValueError, RecursionError) as error:
        problem = error
    raise InputError(
        f"{url} does not list models ({problem}), {asked}; an OpenAI-compatible address mostly ends in /v1"
    ) from problem


class Message(msgspec.Struct):
    """What a choice says; reasoning models use one of two names for their reasoning."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None


class Usage(msgspec.Struct):
    """Tokens of a request, all its choices together."""

    prompt_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None
    completion_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None


class _Choice(msgspec.Struct):
    message: Message
    index: int = 0
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: Usage | None = None
    model: str | None = None


class _Card(msgspec.Struct):
    id: str
    root: str | None = None


class _Cards(msgspec.Struct):
    data: list[_Card]
