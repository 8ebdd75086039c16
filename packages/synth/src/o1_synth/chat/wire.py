"""What an OpenAI-compatible server answers, checked: a whole chat completion, or a stream of events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

import msgspec

from o1_synth.expert import Answer, split_reasoning

StructT = TypeVar("StructT", bound=msgspec.Struct)


def parse_answers(body: bytes) -> list[Answer]:
    """Return the choices of a chat completion, in order of their index.

    Raises ValueError for anything else: HTML, truncated JSON, a completion without a choice.
    """
    completion = _decoded(body, _Completion)
    ordered = sorted(completion.choices, key=lambda choice: choice.index)  # servers that give none send 0
    choices = [(choice.message, choice.finish_reason or "") for choice in ordered]
    return _answers(choices, completion.usage or _Usage(), completion.model or "")


class StreamedAnswers:
    """Collects the server-sent events of one request: `feed` what arrived, then take `answers`."""

    def __init__(self) -> None:
        self._rest = b""
        self._choices: dict[int, _Parts] = {}
        self._usage = _Usage()
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
            raise ValueError(f"the server reports an error: {msgspec.json.encode(chunk.error).decode()}")
        self._usage = chunk.usage or self._usage
        self._model = chunk.model or self._model
        brought = [self._choices.setdefault(choice.index, _Parts()).add(choice) for choice in chunk.choices]
        return any(brought)


def _answers(choices: Sequence[tuple[_Message, str]], usage: _Usage, model: str) -> list[Answer]:
    if not choices:
        raise ValueError("no choice")
    answers = []
    for message, finish_reason in choices:
        text, thinking = split_reasoning(message.content or "")
        answer = Answer(
            text=text,
            reasoning=(message.reasoning_content or message.reasoning or thinking).strip(),
            refusal=message.refusal or "",
            finish_reason=finish_reason,
            prompt_tokens=usage.prompt_tokens or 0,
            completion_tokens=(usage.completion_tokens or 0) // len(choices),
            model=model,
        )
        answers.append(answer)
    return answers


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
        delta = choice.delta
        self.finish_reason = choice.finish_reason or self.finish_reason
        brought = False
        for parts, text in (
            (self.content, delta.content),
            (self.reasoning, delta.reasoning_content or delta.reasoning),
            (self.refusal, delta.refusal),
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


class _Message(msgspec.Struct):
    """What a choice says. Servers have two names for the reasoning of a model."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None


class _Usage(msgspec.Struct):
    """The tokens of a request, of all its choices together."""

    prompt_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None
    completion_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    index: int = 0
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None
    model: str | None = None


class _StreamedChoice(msgspec.Struct):
    delta: _Message = msgspec.field(default_factory=_Message)
    index: int = 0
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_StreamedChoice] = []
    usage: _Usage | None = None
    model: str | None = None
    error: object = None
