"""Words of any script, terms for search, and what BM25 makes of them."""

import re
import warnings

import bm25s
import pytest
import Stemmer
from hypothesis import given
from hypothesis import strategies as st

from o1_records import Document, InputError, InputWarning, Query
from o1_records.bm25 import BM25, LANGUAGES
from o1_records.kit.text import TOKENIZERS, is_unspaced, jaccard, share_read, shingles, words

# the small letter of U+0130 has a mark
LATIN = st.text(
    st.characters(max_codepoint=0x24F, exclude_categories=["Cs", "M"], exclude_characters="\u0130"),
    max_size=60,
)


@given(st.text(st.characters(max_codepoint=0x7F), max_size=60))
def test_words_of_ascii_are_runs_of_word_characters(text):
    assert words(text) == re.findall(r"\w+", text.casefold())


@given(LATIN)
def test_terms_of_latin_text_are_those_of_bm25s(text):
    expected = bm25s.tokenize([text], stopwords=None, return_ids=False, show_progress=False)[0]
    assert TOKENIZERS["words"](text) == expected == TOKENIZERS["characters"](text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("हिमालय की चोटी", ["हिमालय", "की", "चोटी"]),
        ("كتابٌ جديد", ["كتابٌ", "جديد"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("cafe\u0301 cr\u00e8me", ["caf\u00e9", "cr\u00e8me"]),
        ("压缩包Python文件", ["压", "缩", "包", "python", "文", "件"]),
        ("がんばる・日本", ["が", "ん", "ば", "る", "日", "本"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("한국어 문장", ["한국어", "문장"]),
    ],
)
def test_words_keep_their_marks_and_stand_alone_where_there_are_no_spaces(text, expected):
    assert words(text) == expected


def test_sentences_without_spaces_can_be_alike():
    one, other = "如何用一条命令列出压缩包里的全部文件", "如何用一条命令列出压缩包里的所有文件"
    assert 0.5 < jaccard(shingles(one), shingles(other)) < 1
    assert jaccard(shingles(one), shingles("今天天气很好，我们去公园散步")) == 0


@pytest.mark.parametrize(
    ("tokenizer", "text", "expected"),
    [
        ("words", "C++ or R? x == y", ["or"]),
        ("code", "C++ or R? x == y", ["c++", "or", "r", "x", "==", "y"]),
        ("code", "F# readZip snake_case a->b", ["f#", "read", "zip", "snake", "case", "a", "->", "b"]),
        ("words", "readZipFile snake_case", ["readzipfile", "snake_case"]),
        ("words", "压缩包 a文件", ["压缩", "缩包", "文件"]),
        ("characters", "压缩包 ab文件", ["压", "缩", "包", "ab", "文", "件"]),
        ("words", "包", ["包"]),
        ("code", "压缩包 x文", ["压缩", "缩包", "x", "文"]),
    ],
)  # fmt: skip
def test_terms_for_search(tokenizer, text, expected):
    assert TOKENIZERS[tokenizer](text) == expected


def corpus(*texts):
    return [Document(doc_id=f"d{number}", text=text) for number, text in enumerate(texts)]


def found(index, text):
    return [hit.doc_id for hit in index.search([Query(query_id="q", text=text)], 10)]


def test_a_chinese_clause_is_found_by_a_part_of_it():
    index = BM25(corpus("如何用一条命令列出压缩包里的文件", "今天天气很好"), language="none")
    assert found(index, "压缩包") == ["d0"]
    assert found(index, "天气") == ["d1"]


def test_code_tells_languages_of_one_letter_apart():
    texts = corpus("sort a vector in C", "sort a vector in C++", "sort a vector in C#", "sort a vector in R")
    index = BM25(texts, tokenizer="code")
    assert [found(index, query)[0] for query in ("C?", "C++?", "C#?", "R?")] == ["d0", "d1", "d2", "d3"]
    assert found(BM25(texts), "C++ or R?") == []


def test_every_language_of_pystemmer_and_none_can_be_chosen():
    assert (*Stemmer.algorithms(), "none") == LANGUAGES
    for language in LANGUAGES:
        assert found(BM25(corpus("alpha beta", "gamma"), language=language), "gamma") == ["d1"]
    assert found(BM25(corpus("the cats", "dogs"), language="none"), "the cats") == ["d0"]
    assert found(BM25(corpus("the cats", "dogs"), language="none"), "cat") == []
    with pytest.raises(InputError, match="no tokenizer 'trigrams'; there are words, characters, code"):
        BM25(corpus("x"), tokenizer="trigrams")


def test_a_tokenizer_of_ones_own_is_used_and_cannot_be_saved(tmp_path):
    index = BM25(corpus("a.b c", "b"), tokenizer=lambda text: text.split("."), language="none")
    assert found(index, "b c") == ["d0"]
    with pytest.raises(InputError, match="a tokenizer of your own cannot be saved"):
        index.save(tmp_path / "index")


@given(st.text(st.sampled_from("ab \t\n\x0b\x1c\x1f\x7f\x00\u00a0\u3000\u00e9")))
def test_the_share_that_is_read_is_of_what_is_no_white_space(text):
    expected = 3 / len("".join(text.split())) if text.split() else 1
    assert share_read([text], [["a", "bc"]]) == min(1, expected)


def test_a_corpus_of_which_little_is_read_is_told():
    with pytest.warns(InputWarning, match="reads 38% of the characters of the corpus; another tokenizer"):
        BM25(corpus("x == y", "(a) <= ok [yes]", "b c yes"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BM25(corpus("x == y", "(a) <= ok [yes]", "b c yes"), tokenizer="code")


def test_scores_of_some_documents_are_those_of_all(tmp_path):
    index = BM25(corpus(*[f"word{number % 7} word{number % 5} common" for number in range(60)]))
    index.save(tmp_path / "index")
    for each in (index, BM25.load(tmp_path / "index")):
        for text in ("word1 common", "word4 word4 word2", "unknown", ""):
            some = [f"d{number}" for number in (59, 0, 7, 7)]
            rows = [each.row(name) for name in some]
            assert (each.scores_of(text, some) == each.scores(text)[rows]).all()
    with pytest.raises(KeyError):
        index.scores_of("word1", ["nobody"])


def test_a_repeated_term_of_a_text_counts_once_on_request():
    corpus = [Document(doc_id=name, text=text) for name, text in (("a", "ant bee"), ("b", "bee cat"))]
    bm25 = BM25(corpus)
    assert bm25.scores("ant ant bee bee bee", once=True).tolist() == bm25.scores("ant bee").tolist()
    assert (
        bm25.scores_of("bee ant bee", ["b", "a"], once=True).tolist() == bm25.scores("ant bee").tolist()[::-1]
    )
    assert bm25.scores("ant ant").tolist() == (2 * bm25.scores("ant")).tolist()


def test_a_word_of_a_script_without_spaces_is_one():
    assert [is_unspaced(word) for word in ("名", "か", "ไ", "word", "हिन्दी", "naïve", "1")] == [
        True, True, True, False, False, False, False,
    ]  # fmt: skip


def test_a_saved_index_knows_its_settings(tmp_path):
    options = {"k1": 1.2, "language": "german", "split_identifiers": True, "tokenizer": "code"}
    index = BM25(corpus("readZip of a file"), **options)
    index.save(tmp_path / "index")
    assert BM25.load(tmp_path / "index").settings == index.settings == {"b": 0.4, **options}


def test_an_id_that_is_no_text_is_refused():
    with pytest.raises(InputError, match="doc_id 1 is not text"):
        BM25([Document(doc_id=1, text="x")])
