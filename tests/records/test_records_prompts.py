"""The place of an instruction in a prompt."""

import pytest

from o1_records.kit.prompts import with_instruction


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("task: {instruction} | query: ", "task: Find code. | query: "),
        ("Instruct: Given a question, find a passage\nQuery:", "Instruct: Find code.\nQuery:"),
        ("Instruct: one\ntwo\nQuery: ", "Instruct: Find code.\nQuery: "),
        ("query: ", None),
        ("", None),
    ],
)
def test_an_instruction_stands_where_the_prompt_says(prompt, read):
    assert with_instruction(prompt, "Find code.") == read
