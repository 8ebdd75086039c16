import ast
import gc
import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o1_bench.datasets.functions import Function, functions_in, normalised
from o1_bench.datasets.selection import NearCopies, shingles

SOURCE = '''
import sys
raise SystemExit("never run")

@decorate(
    "twice")
def outer(x):
    """Open the outer door.  Then close it.

    With é and more.
    """
    def inner():
        """Inner words."""
        return x
    class Local:
        "Local words."
        y = 1
    return inner, Local

def bare(x): return x

def stub(x):
    """Only promise something here."""
    raise NotImplementedError

class Box:
    """A box."""

    if sys.platform == "win32":
        async def size(self):
            "é is the size of the box, e.g. 3 units. Not more"; return 3
    else:
        def size(self):
            r"""Return the size, i.e. \\d."""
            return 4

    try:
        @property
        def lid(self):
            """Open the lid

            and look inside."""
            # a comment stays
            return """not a docstring"""
    finally:
        pass
'''


@pytest.fixture
def functions(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(SOURCE, encoding="utf-8")
    return {function.name: function for function in functions_in(path, "module")}


def test_documented_functions_and_methods_are_found_under_their_names(functions):
    assert list(functions) == [
        "module.outer",
        "module.Box.size",
        "module.Box.size#2",
        "module.Box.lid",
    ]


def test_a_source_has_its_decorators_and_no_docstring_not_even_inside(functions):
    assert functions["module.outer"].source == (
        '@decorate(\n    "twice")\ndef outer(x):\n    def inner():\n        return x\n'
        "    class Local:\n        y = 1\n    return inner, Local"
    )


def test_a_source_keeps_comments_and_strings_and_loses_its_margin(functions):
    assert functions["module.Box.lid"].source == (
        '@property\ndef lid(self):\n    # a comment stays\n    return """not a docstring"""'
    )


def test_code_behind_a_docstring_on_its_line_stays(functions):
    source = functions["module.Box.size"].source
    assert source.startswith("async def size(self):\n")
    assert source.endswith("; return 3")
    assert "box" not in source


@pytest.mark.parametrize(
    ("docstring", "sentence", "rest"),
    [
        ("Open it.  Then close it.", "Open it.", "Then close it."),
        ("Open it\nnow. Then\n\n  go", "Open it now.", "Then\n\n  go"),
        ("Open the lid\n\nand look", "Open the lid", "and look"),
        ("Use x, e.g. 3.5 units! More", "Use x, e.g. 3.5 units!", "More"),
        ("Open os.path", "Open os.path", ""),
    ],
)
def test_a_docstring_is_its_first_sentence_and_a_rest(docstring, sentence, rest):
    enough = " which is told in as many words as a thought must have at least"
    function = Function("f", "", docstring + (enough if rest else ""))
    assert function.sentence == sentence
    assert function.rest == (rest + enough if rest else "")


def test_a_rest_of_a_few_words_is_no_thought():
    assert Function("f", "", "Open it. See also close().").rest == ""


@pytest.mark.parametrize(
    "sentence",
    ["open(file, mode) -> file", "x = y + 1", ">>> f(1)", ":param x: the value of x", "Open it."],
)
def test_signatures_grammar_doctests_and_stumps_are_no_queries(sentence):
    assert not Function("f", "", sentence).can_be_query
    assert Function("f", "", "Open a file for reading.").can_be_query


def test_queries_are_equal_whatever_their_case_and_punctuation():
    assert normalised("Return the `Path`.") == normalised("return the path") == "return the path"


def test_the_lines_of_a_source_end_as_python_sees_them(tmp_path):
    path = tmp_path / "odd.py"
    path.write_bytes(b'def f():\r\n    "Open the lid."\r\n    a = "x\x0cy\xc2\x85z"\r    return a\n')
    (function,) = functions_in(path, "odd")
    assert function.source == 'def f():\n    a = "x\x0cy\x85z"\n    return a'


@pytest.mark.parametrize("was_running", [True, False])
def test_reading_a_file_leaves_the_garbage_collector_as_it_was(tmp_path, was_running):
    (tmp_path / "broken.py").write_text("def f(:\n")
    try:
        if not was_running:
            gc.disable()
        with pytest.raises(SyntaxError):
            functions_in(tmp_path / "broken.py", "broken")
        assert gc.isenabled() == was_running
    finally:
        gc.enable()


def test_documents_without_docstrings_are_still_python():
    import textwrap
    from pathlib import Path

    for function in functions_in(Path(textwrap.__file__), "textwrap"):
        tree = ast.parse(function.source)
        assert ast.get_docstring(tree.body[0]) is None
        code = inspect.getattr_static(textwrap, function.name.split(".")[1])
        assert code is not None


@pytest.mark.parametrize(
    "content", [b"def f(:\n", b"# coding: nothing-known\n", b"x = '\xff'\n", b"x = 1\0\n"]
)
def test_a_file_that_is_not_python_raises_what_the_docstring_says(tmp_path, content):
    path = tmp_path / "broken.py"
    path.write_bytes(content)
    with pytest.raises((SyntaxError, ValueError)):
        functions_in(path, "broken")


def test_a_docstring_that_is_no_text_is_left_out(tmp_path):
    path = tmp_path / "odd.py"
    path.write_text('def f():\n    "Half a \\ud800 pair in here."\n    return 1\n')
    assert functions_in(path, "odd") == []


words = st.text(alphabet="ab ", max_size=30)


@given(st.lists(words, max_size=6), words)
def test_the_index_of_near_copies_agrees_with_jaccard_over_all_pairs(kept, text):
    def jaccard(other):
        one, two = shingles(text), shingles(other)
        return len(one & two) / len(one | two) if one | two else 0.0

    assert (text in NearCopies(kept)) == any(jaccard(other) >= 0.5 for other in kept)


def test_one_changed_word_in_ten_is_a_near_copy_and_one_in_four_is_not():
    text = [f"word{n}" for n in range(60)]
    tenth = [f"new{n}" if n % 10 == 5 else word for n, word in enumerate(text)]
    fourth = [f"new{n}" if n % 4 == 2 else word for n, word in enumerate(text)]
    copies = NearCopies([" ".join(text)])
    assert " ".join(tenth) in copies
    assert " ".join(fourth) not in copies
