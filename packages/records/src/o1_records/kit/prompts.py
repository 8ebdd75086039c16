"""Where the instruction of a query goes in an embedding model's prompt."""

from __future__ import annotations

import re

PLACE = "{instruction}"
"""Stands in a prompt for the instruction."""

_TASK = re.compile(r"(\s*instruct:\s*).*?(\s*\n\s*query:\s*)", re.IGNORECASE | re.DOTALL)


def with_instruction(prompt: str, instruction: str) -> str | None:
    """Return a prompt with an instruction in its place, or None if it has no place for one.

    The place is `PLACE`, or the task of a prompt of the form "Instruct: TASK, new line, Query: ".
    """
    if PLACE in prompt:
        return prompt.replace(PLACE, instruction)
    if task := _TASK.fullmatch(prompt):
        return f"{task[1]}{instruction}{task[2]}"
    return None
