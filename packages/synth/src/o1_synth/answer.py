"""What a model said: its answer, without its reasoning and without the control tokens of its chat format.

Servers differ in what they leave in the text of a message: reasoning between tags, the channels of gpt-oss,
the token that ends a turn.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ENDS = {
    "stop": "stop",
    "length": "length",
    # other names of the same two ends
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "max_tokens": "length",
}

# tags that open the reasoning, and what closes it
_TAGS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<reasoning>": "</reasoning>",
    "<seed:think>": "</seed:think>",
    "[THINK]": "[/THINK]",
    "◁think▷": "◁/think▷",
}
_QUOTES = "`'\""  # around a tag that is spoken of
# harmony, the format of gpt-oss: <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>...
_CHANNEL = re.compile(
    r"(?:<\|start\|>assistant)?<\|channel\|>\s*(\w+)[^<]*<\|message\|>(.*?)(?=<\|(?:end|start|channel|return|call)\|>|\Z)",
    re.DOTALL,
)
# the same where a server removed the control tokens
_CHANNELS_IN_WORDS = re.compile(
    r"analysis(?:\s(.*)assistantfinal|(?=[A-Z])(.*?)(?:assistantfinal|\Z))(.*)", re.DOTALL
)
_END_OF_TURN = re.compile(
    r"\s*(?:</s>|<\|(?:im_end|eot_id|eom_id|end_of_text|endoftext|end|return|END_OF_TURN_TOKEN)\|>|<end_of_turn>"
    r"|<｜end▁of▁sentence｜>|<eos>)\s*\Z"
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer of a model. `text` is stripped, without reasoning, and may be empty.

    `finish_reason` is `stop`, `length`, or the server's word for whatever else ended it. `prompt_tokens` are
    those of the request, `completion_tokens` those of this answer; where only their sum over several answers
    is known, an equal share of it. `counted` says whether the tokens are known. `model` is the name that the
    server reports.
    """

    text: str
    reasoning: str = ""
    refusal: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    counted: bool = True
    model: str = ""

    @property
    def whole(self) -> bool:
        """Whether the model ended it, or its limit of tokens did; anything else broke it off."""
        return self.finish_reason in ("stop", "length")


def known_end(finish_reason: str | None) -> str:
    """Return `stop` or `length` for the names that servers have for these, anything else as it is."""
    return _ENDS.get((finish_reason or "").lower(), finish_reason or "")


def split_reasoning(content: str) -> tuple[str, str]:
    """Return (answer, reasoning) of the text of a message.

    Reasoning is a block in tags that opens the message, or what gpt-oss says in other channels than `final`.
    Without the closing tag, everything after the opening one is reasoning; without the opening tag, which
    some chat templates put into the prompt, everything before the closing one is, unless that is in
    quotes. A token that ends a turn is removed from the end.
    """
    content = content.strip()
    while (shorter := _END_OF_TURN.sub("", content)) != content:
        content = shorter
    if content.startswith(("<|channel|>", "<|start|>assistant<|channel|>")):
        channels = _CHANNEL.findall(content)
        said = [
            [text.strip() for name, text in channels if (name == "final") is final] for final in (True, False)
        ]
        return "\n".join(said[0]), "\n".join(said[1])
    if found := _CHANNELS_IN_WORDS.fullmatch(content):
        return found[3].strip(), (found[1] or found[2]).strip()
    for opening, closing in _TAGS.items():
        if content.startswith(opening):
            reasoning, _, answer = content.removeprefix(opening).partition(closing)
            return answer.strip(), reasoning.strip()
        if closing not in content:
            continue
        found = re.search(rf"(?<![{_QUOTES}]){re.escape(closing)}(?![{_QUOTES}])", content)
        if found and opening not in content[: found.start()]:
            return content[found.end() :].strip(), content[: found.start()].strip()
    return content, ""
