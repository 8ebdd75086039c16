r"""Styles of thoughts: what a model is asked to write, how its answer begins and ends, what is kept of it.

Data, so that every package asks for the same kind of thought:

>>> style = QUERY_STYLES["snippet"]
>>> print(style.ask("open a zip file"))
Write one short line of Python that does this: open a zip file
Code only.
>>> style.clean("Sure!\n```python\nzipfile.ZipFile(path)\n```\nThis opens it.")
'zipfile.ZipFile(path)'

A model whose answer can be begun for it writes on after `style.prefix`, until one of `style.stop`. Elsewhere
it is asked without the prefix and without those stops, and `clean` finds the code in its answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

TEXT = "{text}"
"""Stands in `Style.instruction` for the query or the document."""

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[^`\n]*$", re.MULTILINE)
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")
_LABEL = re.compile(r"^\W*(?:keywords?|answer|question|comment)\W*:[\s*,]*", re.IGNORECASE)
_QUOTED = re.compile(r"""(["'“])([^"“”]*)["'”]""")


@dataclass(frozen=True, kw_only=True)
class Style:
    """What is asked for.

    Args:
        instruction: the message to the model, with `{text}` in it.
        prefix: how the answer begins, where the model can be made to continue it.
        stop: where an answer that began with `prefix` ends.
        max_tokens: tokens that are enough for it.
        form: what `clean` keeps: all of the answer, its code, or its lines as one line of keywords.
        avoid: tokens with any of these in their text are not chosen, where tokens can be banned.
    """

    instruction: str
    prefix: str = ""
    stop: tuple[str, ...] = ()
    max_tokens: int = 64
    form: Literal["text", "code", "keywords"] = "text"
    avoid: tuple[str, ...] = ()

    def ask(self, text: str) -> str:
        """Return the message that asks for a thought about a text."""
        return self.instruction.replace(TEXT, text)

    def clean(self, answer: str, *, continued: bool = False) -> str:
        """Return what an answer is worth keeping, perhaps nothing; `continued` if it went on after `prefix`.

        Of code, the first block between fences, and all of it where there is none. Of keywords, one line
        without bullets. A label such as "Answer:", and quotes around everything, go.
        """
        if self.form == "code":
            return _code(answer, inside=continued)
        if self.form == "keywords":
            lines = (_BULLET.sub("", line).strip().rstrip(",.") for line in answer.splitlines())
            said = [line for line in lines if line]
            # "Here are ten keywords:" announces the others
            kept = said[1:] if len(said) > 1 and said[0].endswith(":") else said
            return _LABEL.sub("", ", ".join(kept))
        text = _LABEL.sub("", answer.strip())
        whole = _QUOTED.fullmatch(text)
        return whole[2].strip() if whole else text


def _code(answer: str, *, inside: bool) -> str:
    """Return the first block of code in an answer that begins before its fence, or `inside` the block."""
    start = 0
    if not inside and (opening := _FENCE.search(answer)):
        start = opening.end()
    closing = _FENCE.search(answer, start)
    return answer[start : closing.start() if closing else None].strip("\n").rstrip()


# without a docstring and comments, on which small models spend their tokens
_PYTHON = {
    "prefix": "```python\n",
    "stop": ("```",),
    "form": "code",
    "avoid": ('"""', "'''", "#"),
}

QUERY_STYLES: Mapping[str, Style] = MappingProxyType(
    {
        "snippet": Style(
            instruction="Write one short line of Python that does this: {text}\nCode only.",
            max_tokens=48,
            **_PYTHON,  # type: ignore[arg-type]
        ),
        "function": Style(
            instruction="Write a short Python function or snippet that does this: {text}\n"
            "Code only, without comments and docstring.",
            max_tokens=64,
            **_PYTHON,  # type: ignore[arg-type]
        ),
        "passage": Style(
            instruction="Write a short passage of a scientific abstract that supports or refutes this claim: "
            "{text}",
            max_tokens=128,
        ),
        "keywords": Style(
            instruction="List ten keywords for a search engine that would find documents about this: {text}\n"
            "Keywords only, separated by commas.",
            max_tokens=32,
            form="keywords",
        ),
    }
)
"""Thoughts about queries: code for a collection of code, a passage for one of texts, keywords for BM25."""

DOCUMENT_STYLES: Mapping[str, Style] = MappingProxyType(
    {
        "comment": Style(
            instruction="{text}\n\nSay in one short sentence what this code does. The sentence only.",
            max_tokens=32,
        ),
        "question": Style(
            instruction="{text}\n\nWrite one short question that this text answers. The question only.",
            max_tokens=48,
        ),
        "keywords": Style(
            instruction="{text}\n\nList ten keywords under which people would search for this text, other "
            "words than its own where you know them. Keywords only, separated by commas.",
            max_tokens=32,
            form="keywords",
        ),
    }
)
"""Thoughts about documents, written once: a comment on code, a question or keywords for texts."""
