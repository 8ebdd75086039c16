"""What an OpenAI-compatible server answers, checked: a whole chat completion, or a stream of events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

import msgspec

from o1_records import quoted
from o1_synth.answer import Answer, known_end, split_reasoning

StructT = TypeVar("StructT", bound=msgspec.Struct)


def parse_answers(body: bytes) -> list[Answer]:
    """Return the choices of a chat completion, in order of their index.

    Raises ValueError for anything else: HTML, truncated JSON, a completion without a choice.
    """
    completion = _decoded(body, _Completion)
    if completion.error is not None:
        raise ValueError(f"the server reports an error: {_sentence(completion.error)}")
    ordered = sorted(completion.choices, key=lambda choice: choice.index)  # servers that give none send 0
    choices = [(choice.message or _Message(), choice.finish_reason or "") for choice in ordered]
    return _answers(choices, completion.usage, completion.model or "")


def error_of(body: bytes) -> str:
    """Return the sentence in the body of an error, or its beginning where none is found."""
    try:
        return _sentence(msgspec.json.decode(body))
    except (ValueError, RecursionError):
        return quoted(body.decode(errors="replace"), 200)


def _sentence(error: object) -> str:
    """Return the message in an error object, however deep the server puts it."""
    found = error
    while isinstance(found, dict):
        found = next((found[name] for name in ("error", "message", "detail", "msg") if found.get(name)), None)
    if isinstance(found, str):
        return quoted(found, 300)
    return quoted(msgspec.json.encode(error).decode(), 300)


class StreamedAnswers:
    """Collects the server-sent events of one request: `feed` what arrived, then take `answers`."""

    def __init__(self) -> None:
        self._rest = b""
        self._choices: dict[int, _Parts] = {}
        self._usage: _Usage | None = None
        self._model = ""
        self._done = False

    def feed(self, received: bytes) -> bool:
        """Take bytes; return whether they brought a token. Comments and empty deltas do not count.

        Raises ValueError for what is not an event of a completion, and for an error that the server sends.
        """
        *lines, self._rest = (self._rest + received).split(b"\n")
        brought = [self._event(line[5:].strip()) for line in lines if line.startswith(b"data:")]
        return any(brought)

    def answers(self) -> list[Answer]:
        """Return the choices in order. Raises ValueError where the stream ended before they did."""
        if self._rest.startswith(b"data:"):
            self._event(self._rest[5:].strip())
        if not all(parts.finish_reason or self._done for parts in self._choices.values()):
            raise ValueError("the stream ended in the middle of an answer")
        choices = [(parts.message(), parts.finish_reason) for _, parts in sorted(self._choices.items())]
        return _answers(choices, self._usage, self._model)

    def _event(self, data: bytes) -> bool:
        if data == b"[DONE]":
            self._done = True
            return False
        chunk = _decoded(data, _Chunk)
        if chunk.error is not None:
            raise ValueError(f"the server reports an error: {_sentence(chunk.error)}")
        self._usage = chunk.usage or self._usage
        self._model = chunk.model or self._model
        brought = [
            self._choices.setdefault(choice.index, _Parts()).add(choice) for choice in chunk.choices or ()
        ]
        return any(brought)


def _answers(choices: Sequence[tuple[_Message, str]], usage: _Usage | None, model: str) -> list[Answer]:
    if not choices:
        raise ValueError("no choice")
    counted = usage is not None and usage.completion_tokens is not None
    usage = usage or _Usage()
    share, rest = divmod(usage.completion_tokens or 0, len(choices))
    answers = []
    for place, (message, finish_reason) in enumerate(choices):
        content, thinking, refusal = _said(message.content)
        text, more = split_reasoning(content)
        answer = Answer(
            text=text,
            reasoning=(message.reasoning_content or message.reasoning or thinking or more).strip(),
            refusal=message.refusal or refusal,
            finish_reason=known_end(finish_reason),
            prompt_tokens=usage.prompt_tokens or 0,
            completion_tokens=share + (place < rest),
            counted=counted,
            model=model,
        )
        answers.append(answer)
    return answers


def _said(content: str | list[_Part] | None) -> tuple[str, str, str]:
    """Return text, reasoning and refusal of the content of a message: a text, or a list of parts."""
    if not isinstance(content, list):
        return content or "", "", ""
    text = "".join(part.text or "" for part in content if part.type in ("text", "output_text"))
    thinking = "".join(_said(part.thinking)[0] for part in content)
    refusal = "".join(part.refusal or "" for part in content)
    return text, thinking, refusal


def _decoded(data: bytes, kind: type[StructT]) -> StructT:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError(str(error)) from error


@dataclass
class _Parts:
    """One choice of a stream, as far as it has come."""

    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    finish_reason: str = ""

    def add(self, choice: _StreamedChoice) -> bool:
        """Take a delta; return whether it brought a token."""
        delta = choice.delta or _Message()
        content, thinking, refusal = _said(delta.content)
        self.finish_reason = choice.finish_reason or self.finish_reason
        brought = False
        for parts, text in (
            (self.content, content),
            (self.reasoning, delta.reasoning_content or delta.reasoning or thinking),
            (self.refusal, delta.refusal or refusal),
        ):
            if text:
                parts.append(text)
                brought = True
        return brought

    def message(self) -> _Message:
        return _Message(
            content="".join(self.content),
            reasoning="".join(self.reasoning),
            refusal="".join(self.refusal),
        )


class _Part(msgspec.Struct):
    """A part of what a choice says, where the server sends a list of them."""

    type: str = "text"
    text: str | None = None
    thinking: str | list[_Part] | None = None
    refusal: str | None = None


class _Message(msgspec.Struct):
    """What a choice says. Servers have two names for the reasoning of a model."""

    content: str | list[_Part] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None


class _Usage(msgspec.Struct):
    """The tokens of a request, of all its choices together."""

    prompt_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None
    completion_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    index: int = 0
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    model: str | None = None
    error: object = None


class _StreamedChoice(msgspec.Struct):
    delta: _Message | None = None
    index: int = 0
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_StreamedChoice] | None = None
    usage: _Usage | None = None
    model: str | None = None
    error: object = None
