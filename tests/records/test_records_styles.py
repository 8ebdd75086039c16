"""A style says what is asked for, and what is kept of an answer."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

import o1_records.styles
from o1_records.styles import DOCUMENT_STYLES, QUERY_STYLES, TEXT, Style

STYLES = {f"{kind} {name}": style for kind, group in (("query", QUERY_STYLES), ("document", DOCUMENT_STYLES))
          for name, style in group.items()}  # fmt: skip
CODE, KEYWORDS, PASSAGE = QUERY_STYLES["snippet"], QUERY_STYLES["keywords"], QUERY_STYLES["passage"]
every_style = pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)


def test_the_example_of_the_module_runs():
    assert doctest.testmod(o1_records.styles).failed == 0


@every_style
def test_a_style_asks_about_one_text_once(style: Style):
    assert style.instruction.count(TEXT) == 1
    asked = style.ask("what {text} means in str.format")
    assert asked.count("what {text} means in str.format") == 1
    assert asked == style.instruction.replace(TEXT, "what {text} means in str.format")


@every_style
def test_stops_belong_to_an_answer_that_was_begun(style: Style):
    assert bool(style.prefix) == bool(style.stop)
    assert style.max_tokens > 0


def test_only_code_avoids_what_opens_docstrings_and_comments():
    for style in STYLES.values():
        assert style.avoid == (('"""', "'''", "#") if style.form == "code" else ())


@pytest.mark.parametrize(
    ("answer", "continued", "kept"),
    [
        ("zipfile.ZipFile(path)", False, "zipfile.ZipFile(path)"),
        ("zipfile.ZipFile(path)\n", True, "zipfile.ZipFile(path)"),
        ("```python\nzipfile.ZipFile(path)\n```", False, "zipfile.ZipFile(path)"),
        ("```\nzipfile.ZipFile(path)\n```", False, "zipfile.ZipFile(path)"),
        ("~~~py\nzipfile.ZipFile(path)\n~~~", False, "zipfile.ZipFile(path)"),
        ("Here it is:\n```python\n    a\n  b\n```\nor\n```python\nc\n```", False, "    a\n  b"),
        ("a\n```\nThis opens it.\n```python\nb\n```", True, "a"),  # a server that ignores `stop`
        ("```python\ndef f(x):\n    return x[", False, "def f(x):\n    return x["),  # cut by max_tokens
        ("print('```')", False, "print('```')"),
        ("```python\n```", False, ""),
        ("", False, ""),
    ],
)
def test_of_code_the_first_block_is_kept(answer, continued, kept):
    assert CODE.clean(answer, continued=continued) == kept


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("zip, archive, extract", "zip, archive, extract"),
        ("Keywords: zip, archive.", "zip, archive"),
        ("1. zip\n2. archive,\n\n3) extract", "zip, archive, extract"),
        ("- zip\n* archive\n", "zip, archive"),
        ("**Keywords:** zip", "zip"),
        (" \n", ""),
        ("Keywords:\n- tide\n- moon", "tide, moon"),
        ("Here are ten keywords:\n1. tide\n2. moon", "tide, moon"),
    ],
)
def test_keywords_become_one_line(answer, kept):
    assert KEYWORDS.clean(answer) == kept


def test_a_label_before_a_text_goes():
    assert PASSAGE.clean("Answer: Zinc shortens colds.") == "Zinc shortens colds."
    assert PASSAGE.clean("The answer: zinc shortens colds.") == "The answer: zinc shortens colds."
    assert DOCUMENT_STYLES["question"].clean('Question: "How?"') == "How?"


@given(st.text(), st.booleans())
def test_code_is_kept_as_it_was_written(answer, continued):
    assert CODE.clean(answer, continued=continued) in answer


@given(st.text(st.characters(exclude_characters="`~\r"), min_size=1))
def test_code_between_fences_is_all_of_it_whatever_is_around(code):
    kept = code.strip("\n").rstrip()
    for answer, continued in ((f"```python\n{code}\n```", False), (f"So:\n```\n{code}\n```\nDone.", False),
                              (f"{code}\n```\nDone.", True), (f"{code}\n", True)):  # fmt: skip
        assert CODE.clean(answer, continued=continued) == kept
