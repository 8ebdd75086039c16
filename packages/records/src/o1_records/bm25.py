"""BM25 with statistics of a whole corpus. Needs the `[bm25]` extra (bm25s, PyStemmer).

It lives beside the records because committees, benchmarks and hybrid search all need it and
packages import no other sibling (docs/decisions/0002).
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import msgspec

from o1_records.files import InputError, MissingExtraError, quoted, sha256_file, sync_folder
from o1_records.ranking import rank
from o1_records.types import Document, Hit, Query

try:
    import bm25s
    import numpy as np
    import Stemmer
    from numpy.typing import NDArray
except ModuleNotFoundError as error:
    raise MissingExtraError("o1-records", "bm25", "BM25") from error

_SETTINGS, _DIGESTS = "o1.json", "sha256.json"
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class BM25:
    """Lucene's BM25 over a fixed corpus (Kamphuis et al. 2020, the `lucene` variant).

    The defaults k1 0.9, b 0.4 are Anserini's, with the Snowball stemmer and stop words of
    `language`. `split_identifiers` breaks `snake_case` and `camelCase` words for code.
    """

    def __init__(
        self,
        documents: Iterable[Document],
        *,
        k1: float = 0.9,
        b: float = 0.4,
        language: str = "english",
        split_identifiers: bool = False,
    ) -> None:
        if language not in Stemmer.algorithms():
            raise InputError(f"no stemmer for {language!r}; there are {', '.join(Stemmer.algorithms())}")
        self._language = language
        self._stemmer = Stemmer.Stemmer(language)
        self._split = split_identifiers
        self.doc_ids: list[str] = []
        texts = []
        for document in documents:
            self.doc_ids.append(document.doc_id)
            texts.append(document.full_text)
        if not texts:
            raise InputError("BM25 needs at least one document; the corpus is empty")
        self._rows = {doc_id: row for row, doc_id in enumerate(self.doc_ids)}
        if len(self._rows) != len(self.doc_ids):
            raise InputError("BM25: the corpus has a duplicate doc_id; keep one of them")
        self._index = bm25s.BM25(k1=k1, b=b, method="lucene")
        terms = self.tokenize(texts)
        if not any(terms):
            raise InputError(f"BM25: none of the {len(texts)} documents has a term to index")
        self._index.index(terms, show_progress=False)

    def save(self, folder: str | Path) -> None:
        """Write the index to a new folder, which appears whole or not at all.

        Where another process was faster, its folder stays.
        """
        folder = Path(folder)
        partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".partial", dir=folder.parent))
        self._index.save(partial, show_progress=False)
        settings = {"language": self._language, "split": self._split, "doc_ids": self.doc_ids}
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
        settings = msgspec.json.decode((folder / _SETTINGS).read_bytes())
        self = cls.__new__(cls)
        self._language, self._split = settings["language"], settings["split"]
        self._stemmer = Stemmer.Stemmer(self._language)
        self.doc_ids = settings["doc_ids"]
        self._rows = {doc_id: row for row, doc_id in enumerate(self.doc_ids)}
        self._index = bm25s.BM25.load(folder, mmap=True, show_progress=False)
        return self

    @property
    def nbytes(self) -> int:
        """The size of the index in bytes, without its vocabulary."""
        return sum(part.nbytes for part in self._index.scores.values() if isinstance(part, np.ndarray))

    def tokenize(self, texts: list[str]) -> list[list[str]]:
        """Terms of each text as they are counted."""
        if self._split:
            texts = [_CAMEL.sub(" ", text).replace("_", " ") for text in texts]
        terms: list[list[str]] = bm25s.tokenize(
            texts,
            stopwords=self._language,
            stemmer=self._stemmer,
            return_ids=False,
            show_progress=False,
        )
        return terms

    def scores(self, text: str) -> NDArray[np.float32]:
        """Score of every document for a text, in the order of `doc_ids`: float32 [documents]."""
        return self._scores(self.tokenize([text])[0])

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
        # every document that ties with the k-th takes part, so that doc_id decides
        least = np.partition(scores, -k)[-k] if 0 < k < len(scores) else 0.0
        rows = np.flatnonzero((scores >= least) & (scores > 0.0))
        return {self.doc_ids[row]: float(scores[row]) for row in rows}

    def _scores(self, terms: list[str]) -> NDArray[np.float32]:
        known: Any = self._index.get_tokens_ids(terms)
        if not known:
            return np.zeros(len(self.doc_ids), dtype=np.float32)
        scores: NDArray[np.float32] = self._index.get_scores_from_ids(known)
        return scores
