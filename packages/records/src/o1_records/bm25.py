"""BM25 with statistics of a whole corpus. Needs the `[bm25]` extra (bm25s, PyStemmer).

It lives beside the records because committees, benchmarks and hybrid search all need it and
packages import no other sibling (docs/decisions/0002).
"""

from __future__ import annotations

import itertools
import math
import shutil
import tempfile
import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import msgspec

from o1_records.files import InputError, InputWarning, MissingExtraError, quoted, sha256_file, sync_folder
from o1_records.kit.text import TOKENIZERS, share_read, split_identifiers
from o1_records.ranking import rank
from o1_records.types import Document, Hit, Query

try:
    import bm25s
    import numpy as np
    import Stemmer
    from numpy.typing import NDArray
except ModuleNotFoundError as error:
    raise MissingExtraError("o1-records", "bm25", "BM25") from error

LANGUAGES = (*Stemmer.algorithms(), "none")
"""What `language` can be: the languages of PyStemmer, or none."""

_SETTINGS, _DIGESTS = "o1.json", "sha256.json"
_STOP_WORDS = {
    **{name: name for name in ("danish", "dutch", "english", "french", "german", "italian", "norwegian")},
    **{name: name for name in ("portuguese", "russian", "spanish", "swedish", "turkish")},
    "porter": "english",
    "dutch_porter": "dutch",
}
"""The languages that bm25s has stop words for; the others keep all their words."""
_UNKNOWN = -2
_RUNS = 4  # runs of rows for each hit that is asked for
_AT_A_TIME = 2**22  # terms that are sorted together
_LEAST_READ = 0.5  # of the characters of a corpus; below that its user is warned


class BM25:
    """Lucene's BM25 over a fixed corpus (Kamphuis et al. 2020, the `lucene` variant).

    The defaults k1 0.9, b 0.4 are Anserini's, with the Snowball stemmer of `language` and, where bm25s has
    them, its stop words. Warns where the terms have less than half of the characters of the corpus.

    Args:
        documents: the corpus.
        k1: how soon a repeated term stops to count.
        b: how much long documents are held back.
        language: one of `LANGUAGES`; "none" has neither stemmer nor stop words.
        split_identifiers: break `snake_case` and `camelCase` words of code before anything else.
        tokenizer: one of `o1_records.kit.text.TOKENIZERS` ("words", "characters", "code"), or a function
            from a text to its terms.
    """

    def __init__(
        self,
        documents: Iterable[Document],
        *,
        k1: float = 0.9,
        b: float = 0.4,
        language: str = "english",
        split_identifiers: bool = False,
        tokenizer: str | Callable[[str], Sequence[str]] = "words",
    ) -> None:
        self._configure(language, split_identifiers, tokenizer)
        self.doc_ids: list[str] = []
        vocabulary: dict[str, int] = {}
        numbers: dict[str, int] = {}  # of the stem of each word; -1 where it is a stop word
        counted = _Counted()

        def texts() -> Iterator[str]:
            for document in documents:
                if not isinstance(document.doc_id, str):
                    raise InputError(
                        f"BM25: doc_id {quoted(document.doc_id)} is not text; write it in quotes"
                    )
                self.doc_ids.append(document.doc_id)
                yield document.full_text

        def read(text: str) -> Sequence[str]:
            found = self._read(text)
            own = list(map(numbers.get, found, itertools.repeat(_UNKNOWN)))
            if _UNKNOWN in own:
                for word in found:
                    if word not in numbers:
                        stems = self._stemmed([[word]])[0]
                        numbers[word] = vocabulary.setdefault(stems[0], len(vocabulary)) if stems else -1
                own = [numbers[word] for word in found]
            counted.add([number for number in own if number >= 0])
            return found

        written, again = itertools.tee(texts())
        share = share_read(written, map(read, again))
        if not self.doc_ids:
            raise InputError("BM25 needs at least one document; the corpus is empty")
        self._rows = {doc_id: row for row, doc_id in enumerate(self.doc_ids)}
        if len(self._rows) != len(self.doc_ids):
            raise InputError("BM25: the corpus has a duplicate doc_id; keep one of them")
        self._index = _Index(k1=k1, b=b, method="lucene")
        if share < _LEAST_READ:
            warnings.warn(
                f"BM25 reads {share:.0%} of the characters of the corpus; "
                f"another tokenizer may read more: {', '.join(TOKENIZERS)}",
                InputWarning,
                stacklevel=2,
            )
        if not vocabulary:
            raise InputError(f"BM25: none of the {len(self.doc_ids)} documents has a term to index")
        self._index.index(bm25s.tokenization.Tokenized(counted, vocabulary), show_progress=False)

    def _configure(self, language: str, split: bool, tokenizer: str | Callable[[str], Sequence[str]]) -> None:
        if language not in LANGUAGES:
            raise InputError(f"no stemmer for {language!r}; there are {', '.join(LANGUAGES)}")
        if isinstance(tokenizer, str) and tokenizer not in TOKENIZERS:
            raise InputError(f"no tokenizer {tokenizer!r}; there are {', '.join(TOKENIZERS)}")
        self._language, self._split = language, split
        self._tokenizer = tokenizer
        self._terms = TOKENIZERS[tokenizer] if isinstance(tokenizer, str) else tokenizer
        self._stemmer = None if language == "none" else Stemmer.Stemmer(language)
        stop_words = bm25s.tokenization._infer_stopwords(_STOP_WORDS.get(language))
        self._stop_words = frozenset(stop_words)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that it was made with, as JSON can hold them."""
        named = self._tokenizer if isinstance(self._tokenizer, str) else ""
        own = {"language": self._language, "split_identifiers": self._split, "tokenizer": named}
        return {"k1": self._index.k1, "b": self._index.b, **own}

    def save(self, folder: str | Path) -> None:
        """Write the index to a new folder, which appears whole or not at all.

        Where another process was faster, its folder stays. Raises InputError for a tokenizer that is a
        function.
        """
        folder = Path(folder)
        if not isinstance(self._tokenizer, str):
            raise InputError(f"{folder}: an index with a tokenizer of your own cannot be saved")
        partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".partial", dir=folder.parent))
        self._index.save(partial, show_progress=False)
        settings = {"settings": self.settings, "doc_ids": self.doc_ids}
        (partial / _SETTINGS).write_bytes(msgspec.json.encode(settings))
        digests = {path.name: sha256_file(path) for path in sorted(partial.iterdir())}
        (partial / _DIGESTS).write_bytes(msgspec.json.encode(digests))
        partial.chmod(0o755)  # mkdtemp makes it for its owner alone
        try:
            partial.rename(folder)
        except OSError:
            shutil.rmtree(partial)
            if not folder.is_dir():
                raise
        sync_folder(folder.parent)

    @classmethod
    def load(cls, folder: str | Path) -> BM25:
        """Open a saved index, mapped from the disk. Raises InputError where a file is damaged."""
        folder = Path(folder)
        try:
            digests = msgspec.json.decode((folder / _DIGESTS).read_bytes(), type=dict[str, str])
            damaged = [name for name, digest in digests.items() if sha256_file(folder / name) != digest]
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeError) as error:
            raise InputError(f"{folder}: not a whole BM25 index ({error}); remove it") from error
        if damaged or _SETTINGS not in digests:
            raise InputError(f"{folder}: {quoted(damaged)} is damaged; remove the folder")
        saved = msgspec.json.decode((folder / _SETTINGS).read_bytes())
        if "settings" not in saved:
            raise InputError(f"{folder}: an older version wrote it; remove the folder")
        settings = saved["settings"]
        self = cls.__new__(cls)
        self._configure(settings["language"], settings["split_identifiers"], settings["tokenizer"])
        self.doc_ids = saved["doc_ids"]
        self._rows = {doc_id: row for row, doc_id in enumerate(self.doc_ids)}
        self._index = bm25s.BM25.load(folder, mmap=True, show_progress=False)
        return self

    @property
    def nbytes(self) -> int:
        """The size of the index in bytes, without its vocabulary."""
        return sum(part.nbytes for part in self._index.scores.values() if isinstance(part, np.ndarray))

    def tokenize(self, texts: list[str]) -> list[list[str]]:
        """Return the terms of each text as they are counted."""
        return self._stemmed([self._read(text) for text in texts])

    def scores(self, text: str, *, once: bool = False) -> NDArray[np.float32]:
        """Return the score of every document for a text, in the order of `doc_ids`: float32 [documents].

        With `once` a term that the text repeats counts once.
        """
        scores = np.zeros(len(self.doc_ids), dtype=np.float32)
        for rows, own in self._postings(text, once):
            np.add.at(scores, rows, own)
        return scores

    def scores_of(self, text: str, doc_ids: Sequence[str], *, once: bool = False) -> NDArray[np.float32]:
        """Return what `scores` says of some documents: float32 [doc_ids]; others cost nothing.

        Raises KeyError for a document that is not in the corpus.
        """
        wanted = np.array([self._rows[doc_id] for doc_id in doc_ids], dtype=np.int64)
        scores = np.zeros(len(wanted), dtype=np.float32)
        for rows, own in self._postings(text, once):
            places = np.minimum(np.searchsorted(rows, wanted), len(rows) - 1)
            scores += np.where(rows[places] == wanted, own[places], np.float32(0))
        return scores

    def row(self, doc_id: str) -> int:
        """Return the position of a document in `scores`. Raises KeyError when it is not in the corpus."""
        return self._rows[doc_id]

    def search(
        self,
        queries: Iterable[Query],
        k: int,
        *,
        excluded: Mapping[str, Set[str]] | None = None,
    ) -> Iterator[Hit]:
        """Yield the k best documents of each query that share a term with it, best first.

        `excluded` maps a query_id to documents that never come back for it.
        """
        for query in queries:
            scores = self.scores(query.text)
            for doc_id in (excluded or {}).get(query.query_id, ()):
                if doc_id in self._rows:
                    scores[self._rows[doc_id]] = 0.0
            yield from rank(query.query_id, self._candidates(scores, k), k)

    def _candidates(self, scores: NDArray[np.float32], k: int) -> dict[str, float]:
        rows = rows_of_best(scores, k)
        return dict(zip([self.doc_ids[row] for row in rows.tolist()], scores[rows].tolist(), strict=True))

    def _read(self, text: str) -> Sequence[str]:
        return self._terms(split_identifiers(text) if self._split else text)

    def _stemmed(self, texts: Sequence[Sequence[str]]) -> list[list[str]]:
        kept = [[term for term in terms if term not in self._stop_words] for terms in texts]
        if self._stemmer is None:
            return kept
        distinct = list({term for terms in kept for term in terms})
        stems = dict(zip(distinct, self._stemmer.stemWords(distinct), strict=True))
        return [[stems[term] for term in terms] for terms in kept]

    def _postings(self, text: str, once: bool) -> Iterator[tuple[NDArray[np.int32], NDArray[np.float32]]]:
        """Yield, for each term of a text, the rows of the documents with it and what it adds to each."""
        known = self._index.get_tokens_ids(self.tokenize([text])[0])
        known = list(dict.fromkeys(known)) if once else known
        held = self._index.scores
        for term in known:
            start, end = held["indptr"][term], held["indptr"][term + 1]
            if start < end:
                yield held["indices"][start:end], held["data"][start:end]


def rows_of_best(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the rows of the k best scores above 0, ascending, and of all that tie with the last of them."""
    if not 0 < k < len(scores):
        return np.flatnonzero(scores > 0.0)
    # the best of k runs of rows score no more than the k best rows: few are left to choose from
    width = len(scores) // (_RUNS * k)
    runs = scores[: len(scores) // width * width].reshape(-1, width).max(axis=1) if width > 1 else scores
    rows = np.flatnonzero((scores >= np.partition(runs, -k)[-k]) & (scores > 0.0))
    if width > 1 and len(rows) > k:
        rows = rows[scores[rows] >= np.partition(scores[rows], -k)[-k]]
    return rows


class _Counted:
    """How often each document has each term, counted a few million terms at a time."""

    def __init__(self) -> None:
        self._lengths, self._terms = array("q"), array("i")
        self._done = 0  # documents whose terms are counted
        # (term << 32 | row, ascending; how often the document has the term), part by part
        self._parts: list[tuple[NDArray[np.int64], NDArray[np.int32]]] = []

    def add(self, terms: list[int]) -> None:
        """Take the next document."""
        self._lengths.append(len(terms))
        self._terms.fromlist(terms)
        if len(self._terms) >= _AT_A_TIME:
            self._count()

    def _count(self) -> None:
        lengths = np.array(self._lengths[self._done :], dtype=np.int64)
        rows = np.arange(self._done, self._done + len(lengths), dtype=np.int64)
        keys = (np.array(self._terms, dtype=np.int64) << 32) | np.repeat(rows, lengths)
        keys.sort()
        starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
        times = np.diff(np.append(starts, len(keys)))
        self._parts.append((keys[starts], times.astype(np.int32)))
        self._done, self._terms = len(self._lengths), array("i")

    def postings(self, terms: int, k1: float, b: float) -> dict[str, Any]:
        """Return bm25s's matrix: what each term adds to the documents that have it, by term, then row.

        What was counted is given up on the way, so that it is not held twice.
        """
        self._count()
        documents, having = len(self._lengths), np.zeros(terms, dtype=np.int64)
        for keys, _ in self._parts:
            having += np.bincount(keys >> 32, minlength=terms)
        rarity = np.array([math.log(1 + (documents - n + 0.5) / (n + 0.5)) for n in having.tolist()])
        lengths = np.array(self._lengths, dtype=np.float64)
        held_back = k1 * ((1 - b) + b * lengths / lengths.mean())
        starts = np.append(0, np.cumsum(having))
        data = np.empty(starts[-1], dtype=np.float32)
        indices = np.empty(starts[-1], dtype=np.int32)
        free = starts[:-1].copy()
        self._parts.reverse()
        while self._parts:
            keys, times = self._parts.pop()
            own = np.bincount(keys >> 32, minlength=terms)
            # the places of a term's documents in this part follow those of the parts before
            places = np.repeat(free - (np.cumsum(own) - own), own) + np.arange(len(keys))
            term, row = keys >> 32, keys & 0xFFFFFFFF
            indices[places] = row
            data[places] = rarity.astype(np.float32)[term] * (times / (held_back[row] + times))
            free += own
        return {"data": data, "indices": indices, "indptr": starts, "num_docs": documents}


class _Index(bm25s.BM25):  # type: ignore[misc]
    """bm25s's index, with the same matrix made by sorting numbers instead of counting in Python."""

    def build_index_from_ids(
        self, unique_token_ids: Sequence[int], corpus_token_ids: _Counted, **_: Any
    ) -> dict[str, Any]:
        self.nonoccurrence_array = None
        return corpus_token_ids.postings(len(unique_token_ids), self.k1, self.b)
