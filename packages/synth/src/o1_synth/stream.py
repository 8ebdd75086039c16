"""An answer that comes token by token: server-sent events of a chat completion."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from o1_synth.wire import Answer, Message, Usage, answer_of


class StreamedAnswers:
    """Collects the events of one request; `feed` what arrived, then take `answers`."""

    def __init__(self) -> None:
        self._rest = b""
        self._choices: dict[int, _Parts] = {}
        self._usage = Usage()
        self._model = ""
        self._done = False

    def feed(self, received: bytes) -> bool:
        """Take bytes; returns whether they brought a token. Comments and empty deltas are none.

        Raises ValueError for what is no event of a completion, and for an error the server sends.
        """
        *lines, self._rest = (self._rest + received).split(b"\n")
        brought = [self._event(line[5:].strip()) for line in lines if line.startswith(b"data:")]
        return any(brought)

    def answers(self) -> list[Answer]:
        """The choices in order. Raises ValueError where the stream ended before they did."""
        if self._rest.startswith(b"data:"):
            self._event(self._rest[5:].strip())
        if not self._choices:
            raise ValueError("no choice")
        for parts in self._choices.values():
            if not parts.finish_reason and not self._done:
                raise ValueError("the stream ended before its answer did")
        return [
            answer_of(parts.message(), parts.finish_reason, self._usage, self._model)
            for _, parts in sorted(self._choices.items())
        ]

    def _event(self, data: bytes) -> bool:
        if data == b"[DONE]":
            self._done = True
            return False
        try:
            chunk = msgspec.json.decode(data, type=_Chunk)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise ValueError(str(error)) from error
        if chunk.error is not None:
            raise ValueError(f"the server says in the stream: {msgspec.json.encode(chunk.error).decode()}")
        self._usage = chunk.usage or self._usage
        self._model = chunk.model or self._model
        brought = [self._choices.setdefault(choice.index, _Parts()).add(choice) for choice in chunk.choices]
        return any(brought)


@dataclass
class _Parts:
    """One choice as far as it came."""

    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    finish_reason: str = ""

    def add(self, choice: _Choice) -> bool:
        delta = choice.delta
        self.finish_reason = choice.finish_reason or self.finish_reason
        came = False
        for parts, text in (
            (self.content, delta.content),
            (self.reasoning, delta.reasoning_content or delta.reasoning),
            (self.refusal, delta.refusal),
        ):
            if text:
                parts.append(text)
                came = True
        return came

    def message(self) -> Message:
        return Message(
            content="".join(self.content),
            reasoning="".join(self.reasoning),
            refusal="".join(self.refusal),
        )


class _Choice(msgspec.Struct):
    delta: Message = msgspec.field(default_factory=Message)
    index: int = 0
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: Usage | None = None
    model: str | None = None
    error: object = None
