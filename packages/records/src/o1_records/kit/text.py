"""Words of texts in any script, and how alike two texts are: shingles (runs of words) in common.

Case and punctuation do not count. In scripts that are written without spaces (Chinese, Japanese, Thai, Lao,
Khmer, Burmese) every character is a word. Broder (1997) calls runs of words shingles and their shared part
the resemblance of two texts.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Set
from typing import NamedTuple

_WORD = re.compile(r"\w+")
SHINGLE = 3
"""Words of a shingle, unless said otherwise."""


def words(text: str) -> list[str]:
    """Return the words of a text, case folded, without punctuation."""
    text = _composed(text.casefold())
    return (_WORD if _is_plain(text) else _patterns().word).findall(text)


def is_unspaced(word: str) -> bool:
    """Return whether a word is a character of a script without spaces."""
    return not word.isascii() and _patterns().cluster.match(word) is not None


def shingles(text: str, size: int = SHINGLE) -> frozenset[str]:
    """Return the distinct runs of `size` words; a shorter text is one run, a text without words none."""
    return runs(words(text), size)


def runs(found: list[str], size: int) -> frozenset[str]:
    """Return the distinct runs of `size` words of a list; a shorter list is one run, an empty one none."""
    if 0 < len(found) < size:
        return frozenset([" ".join(found)])
    return frozenset(map(" ".join, zip(*(found[start:] for start in range(size)), strict=False)))


def jaccard(one: Set[str], other: Set[str]) -> float:
    """Return shared shingles over all shingles of both; 1 for two texts without words."""
    together = len(one | other)
    return len(one & other) / together if together else 1.0


def contained(part: Set[str], whole: Set[str]) -> float:
    """Return the share of the shingles of `part` that `whole` has too; 0 where `part` has none."""
    return len(part & whole) / len(part) if part else 0.0


# --- terms for search -----------------------------------------------------------------------------------


def split_identifiers(text: str) -> str:
    """Return a text of code with `snake_case` and `camelCase` written as several words."""
    return _CAMEL.sub(" ", text).replace("_", " ")


def _words(text: str) -> list[str]:
    text = _composed(text.lower())
    if _is_plain(text):
        return _SEARCHED.findall(text)
    return [term for found in _patterns().searched.findall(text) for term in _pairs(found)]


def _characters(text: str) -> list[str]:
    text = _composed(text.lower())
    if _is_plain(text):
        return _SEARCHED.findall(text)
    return [term for found in _patterns().searched.findall(text) for term in _clusters(found)]


def _code(text: str) -> list[str]:
    text = _composed(split_identifiers(text).lower())
    if _is_plain(text):
        return _CODE.findall(text)
    return [term for found in _patterns().code.findall(text) for term in _pairs(found)]


TOKENIZERS: dict[str, Callable[[str], list[str]]] = {
    "words": _words,
    "characters": _characters,
    "code": _code,
}
"""How a text becomes terms for search, before stop words and stemmer.

words: runs of two letters or digits and more, as in scikit-learn and bm25s; where a script has no spaces,
    overlapping pairs of characters, as in Lucene's CJKAnalyzer.
characters: the same, with single characters where a script has no spaces.
code: the parts of identifiers, single letters, operators, C++ and C# too; else as `words`.
"""


_SPACES = bytes(code for code in range(128) if chr(code).isspace())


def share_read(texts: Iterable[str], terms: Iterable[Iterable[str]]) -> float:
    """Return the share of the characters of texts, white space aside, that is in their terms."""
    there = read = 0
    for text, found in zip(texts, terms, strict=True):
        plain = text.isascii()
        there += len(text.encode().translate(None, _SPACES) if plain else "".join(text.split()))
        read += len("".join(found))
    return min(1.0, read / there) if there else 1.0


# --- scripts --------------------------------------------------------------------------------------------

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3021-\u3029\u3031-\u3035\u303b\u303c\u3040-\u30ff"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
"""Thai and Lao, Burmese, Khmer, Japanese kana, Chinese characters."""
_JOINERS = "\u200c\u200d"  # inside words of Persian and of Indic scripts
_MARKED = ((0x300, 0x3100), (0xA600, 0xAC00), (0xFB00, 0xFF00))
"""Where Unicode has marks: the vowel signs of Indic scripts, say, which are no word characters of `re`. Marks
of ancient scripts beyond are left out: a pattern with many characters above U+FFFF is ten times as slow."""
_OPERATOR = r"[a-z]\+\+|[a-z]#|[=!<>+*/%&|^~:?-]{2,}"
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SEARCHED = re.compile(r"\w\w+")
_CODE = re.compile(rf"{_OPERATOR}|\w+")


class _Patterns(NamedTuple):
    special: re.Pattern[str]
    word: re.Pattern[str]
    searched: re.Pattern[str]
    code: re.Pattern[str]
    cluster: re.Pattern[str]


@functools.cache
def _patterns() -> _Patterns:
    """Return the patterns for texts with marks or without spaces, and `special`, which finds these."""
    codes = itertools.chain.from_iterable(itertools.starmap(range, _MARKED))
    marks = _JOINERS + "".join(chr(code) for code in codes if unicodedata.category(chr(code))[0] == "M")
    letter = f"(?:(?![{_UNSPACED}])[\\w{marks}])"
    unspaced = f"(?:(?=[\\w{marks}])[{_UNSPACED}])"
    return _Patterns(
        special=re.compile(f"[{_UNSPACED}{marks}]"),
        word=re.compile(f"{unspaced}[{marks}]*|{letter}+"),
        searched=re.compile(f"{unspaced}+|{letter}{{2,}}"),
        code=re.compile(f"{_OPERATOR}|{unspaced}+|{letter}+"),
        cluster=re.compile(f"[{_UNSPACED}][{marks}]*"),
    )


def _is_plain(text: str) -> bool:
    return text.isascii() or _patterns().special.search(text) is None


def _clusters(term: str) -> list[str]:
    """Return the characters of a term without spaces, each with its marks; another term as it is."""
    return _patterns().cluster.findall(term) or [term]


def _pairs(term: str) -> list[str]:
    clusters = _clusters(term)
    return [one + other for one, other in itertools.pairwise(clusters)] or clusters


def _composed(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)
