"""The docstring expert: distinct candidates, most useful first, and then no more."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o1_records import InputError, Query, Source, Thought, read_jsonl
from o1_synth import DocstringExpert, think
from o1_synth.docstring import candidates

TEXT = """Members are read one after another, so memory stays small.

The archive may be a path or a file object. It must be seekable, because the directory of a zip
file stands at its end.

Args:
    path: Where the archive is, as a string or anything path-like that open() understands.
    mode: How to open it; only reading is supported, and anything else is an error.
Returns:
    An open archive.
"""


def test_the_whole_text_comes_first_then_the_first_paragraph_then_the_longest():
    found = list(candidates(TEXT, max_words=40))
    assert found[0].startswith("Members are read") and len(found[0].split()) == 40
    assert found[1] == "Members are read one after another, so memory stays small."
    assert found[2].startswith("Args: path:")
    assert found[3].startswith("The archive may be a path")
    assert found[4] == "Returns: An open archive."
    assert "Returns" not in found[2]


@pytest.mark.parametrize(
    "text",
    [
        "First.\n\nParameters\n----------\nx : int\n    A number of things.\n\nReturns\n-------\nBool.",
        "First.\n:param x: A number of things.\n:returns: Bool.",
        "First.\n\nParameters:\n  x: A number of things.\nReturns:\n  Bool.",
    ],
)
def test_sections_of_the_three_common_styles_are_found(text):
    found = list(candidates(text))
    assert found[1] == "First."
    assert any("A number of things" in c and "Bool" not in c for c in found)
    assert any("Bool" in c and "number" not in c for c in found)
    assert not any("---" in c for c in found[1:])


def test_a_heading_alone_is_no_candidate():
    found = list(candidates("Do it.\n\nNote well:\n\n    - This may take a long time."))
    assert found[1:] == ["Do it.", "- This may take a long time."]


def bag(text):
    return set(re.findall(r"\w+", text.casefold()))


@given(st.text(alphabet="abc .\n:-A", max_size=80), st.integers(1, 10))
def test_candidates_are_short_visible_and_distinct(text, max_words):
    found = list(candidates(text, max_words=max_words))
    assert found == list(candidates(text, max_words=max_words))
    if bag(" ".join(text.split()[:max_words])):
        assert found
    for place, candidate in enumerate(found):
        assert 1 <= len(candidate.split()) <= max_words
        for other in found[:place]:
            assert len(bag(candidate) & bag(other)) < 0.8 * len(bag(candidate) | bag(other))


def test_samples_beyond_the_candidates_are_exhausted_and_no_failure(tmp_path):
    asked = [Query(query_id=name, text="open a zip file") for name in ("long", "short", "none")]
    expert = DocstringExpert({"long": TEXT, "short": "Only this."})
    out = tmp_path / "t.jsonl"
    summary = think(asked, expert, out=out, samples=3)
    assert (summary.thoughts, summary.exhausted, summary.failed) == (4, 5, 0)
    thoughts = list(read_jsonl(out, Thought))
    assert [t.thought_id for t in thoughts] == ["long#0", "long#1", "long#2", "short#0"]
    assert thoughts[3].text == "Only this."
    assert thoughts[0].source == expert.source
    assert think(asked, expert, out=out, samples=3).asked == 0


def test_changed_docstrings_are_another_source(tmp_path):
    out = tmp_path / "t.jsonl"
    asked = [Query(query_id="a", text="t")]
    think(asked, DocstringExpert({"a": "One."}), out=out)
    with pytest.raises(InputError, match="revision"):
        think(asked, DocstringExpert({"a": "Two."}), out=out)


def test_several_thoughts_of_one_query_are_read_as_its_paragraphs():
    def record(name, text):
        source = Source(model="people")
        return Thought(query_id="a", thought_id=name, text=text, source=source)

    joined = DocstringExpert.of_records([record("1", "One."), record("2", "Two.")])
    assert joined.source == DocstringExpert({"a": "One.\n\nTwo."}).source
