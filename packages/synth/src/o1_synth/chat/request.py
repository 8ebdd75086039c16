"""The body of a request for chat completions: our fields, as a server wants them, and the user's.

Servers differ in the fields that they accept: some refuse a seed, some `top_p` beside `temperature`, some
want `max_completion_tokens`, and many have fields of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from o1_records import InputError
from o1_synth.expert import Sampling
from o1_synth.template import Message

SAMPLING = ("temperature", "top_p", "max_tokens", "seed", "stop")
"""The fields that shape the answers; leaving one out is part of what a job was made from."""

FIELDS = (*SAMPLING, "n", "stream", "stream_options")
"""The fields that a request has beside `model` and `messages`."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """How a request is written.

    Args:
        omit: fields that are left out.
        rename: other names for fields, such as {"max_tokens": "max_completion_tokens"}.
        extra: further fields.
        chat_template_kwargs: for the chat template of the model, such as {"enable_thinking": False}.
        continues: the server continues a message of the assistant (vLLM and SGLang do), so that answers
            begin with the prefix of the template.
    """

    omit: Sequence[str] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    continues: bool = False

    def __post_init__(self) -> None:
        """Raise InputError for a field that requests do not have, and for one that is set twice."""
        for name in (*self.omit, *self.rename):
            if name not in FIELDS:
                raise InputError(f"requests have no field {name!r} of ours; there are {', '.join(FIELDS)}")
        ours = {"model", "messages"} | {self.rename.get(name, name) for name in FIELDS} - {*self.omit}
        if self.chat_template_kwargs:
            ours.add("chat_template_kwargs")
        for name in sorted(ours & self.extra.keys()):
            raise InputError(
                f"the extra body sets {name!r}, which has an option of its own; use that, or omit it"
            )

    def shape(self) -> dict[str, Any]:
        """Return what shapes the answers, for their source."""
        omitted = sorted(set(self.omit) & {*SAMPLING})
        found = {"omit": omitted, "extra": self.extra, "chat_template_kwargs": self.chat_template_kwargs}
        return {name: value for name, value in found.items() if value}

    def body(
        self,
        model: str,
        messages: Sequence[Message],
        sampling: Sampling,
        seed: int,
        *,
        count: int = 1,
        stream: bool = False,
        stop: Sequence[str] = (),
        prefix: str = "",
    ) -> dict[str, Any]:
        """Return the fields of one request for `count` answers."""
        ours: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": seed,
        }
        if stop:
            ours["stop"] = list(stop)
        if count > 1:
            ours["n"] = count
        if stream:
            ours.update(stream=True, stream_options={"include_usage": True})
        body: dict[str, Any] = {"model": model, "messages": list(messages)}
        body |= {self.rename.get(name, name): value for name, value in ours.items() if name not in self.omit}
        if self.chat_template_kwargs:
            body["chat_template_kwargs"] = dict(self.chat_template_kwargs)
        if prefix:
            body["messages"].append({"role": "assistant", "content": prefix})
            body.update(continue_final_message=True, add_generation_prompt=False)
        return body | dict(self.extra)
