"""Texts become token ids: as ordinary text only, cut before that costs time, by any number of threads."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from o1_records import InputError, quoted

if TYPE_CHECKING:  # it takes seconds, and layouts are known without it
    from transformers import PreTrainedTokenizerBase

LETTERS = 8  # of a text are looked at first for each token that is wanted; more if they are not enough
MARGIN = 32  # tokens before a cut that are not used: there, what follows can change them


class TextTokenizer:
    """A tokenizer that reads any text as ordinary text: what spells a control or a special token stays text.

    It is a copy, so that nothing that happens to the original meanwhile changes what it returns, and any
    number of threads may use it. (How transformers' tokenizers split, cut and pad is state that every call
    may set.) `decode` is the way back.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._own: Any = copy.deepcopy(tokenizer)
        self._fast: Any = getattr(self._own, "backend_tokenizer", None)
        self._lock = threading.Lock()
        if self._fast is not None:
            self._fast.encode_special_tokens = True
            self._fast.no_truncation()
            self._fast.no_padding()

    def __call__(self, texts: Sequence[str], most: int | None = None) -> list[list[int]]:
        """Return the token ids of each text, without any that the tokenizer adds.

        With `most`, of a longer text only the first `most` + 1, which costs no more however long the text is.
        Raises InputError for a text that is not valid Unicode.
        """
        if most is None:
            return self._ids(texts)
        found: list[list[int]] = [[] for _ in texts]
        waiting, letters = list(range(len(texts))), LETTERS * (most + MARGIN)
        while waiting:
            heads = [_head(texts[number], letters) for number in waiting]
            short = []
            for number, head, ids in zip(waiting, heads, self._ids(heads), strict=True):
                if len(head) == len(texts[number]) or len(ids) > most + MARGIN:
                    found[number] = ids[: most + 1]
                else:
                    short.append(number)
            waiting, letters = short, 8 * letters
        return found

    def decode(self, ids: Sequence[int], *, control: bool = False) -> str:
        """Return the text of token ids, without special tokens unless `control` ones are to be seen."""
        return str(self._own.decode(list(ids), skip_special_tokens=not control))

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        try:
            if self._fast is not None:
                encoded = self._fast.encode_batch_fast(list(texts), add_special_tokens=False)
                return [encoding.ids for encoding in encoded]
            with self._lock:  # a tokenizer in Python is no faster in two threads, and perhaps not safe
                ids: list[list[int]] = self._own(
                    list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False
                )["input_ids"]
                return ids
        except TypeError as error:
            lone = [text for text in texts if any("\ud800" <= letter <= "\udfff" for letter in text)]
            if not lone:
                raise
            raise InputError(
                f"{quoted(lone[0])}: not valid Unicode: a lone surrogate (half of a pair); correct the text"
            ) from error


def _head(text: str, letters: int) -> str:
    """Return the beginning of a text, up to a white space if there is one: words are not cut in two."""
    if len(text) <= letters:
        return text
    end = max(text.rfind(space, letters // 2, letters) for space in " \n\t")
    return text[: end if end > 0 else letters]


_copies: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, TextTokenizer]] = WeakKeyDictionary()
_copying = threading.Lock()


def text_tokenizer(tokenizer: PreTrainedTokenizerBase) -> TextTokenizer:
    """Return the one TextTokenizer of a tokenizer; a new one if tokens were added to it since."""
    with _copying:
        size, own = _copies.get(tokenizer, (0, None))
        if own is None or size != len(tokenizer):
            own = TextTokenizer(tokenizer)
            _copies[tokenizer] = (len(tokenizer), own)
        return own


def forget(tokenizer: PreTrainedTokenizerBase) -> None:
    """Drop the copy of a tokenizer that was changed without a change of its size."""
    with _copying:
        _copies.pop(tokenizer, None)
