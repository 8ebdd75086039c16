"""BM25 as a member of the committee: lexical, with statistics of the whole corpus."""

from __future__ import annotations

import importlib.metadata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from o1_records import Document, InputError, MissingExtraError, quoted
from o1_vote.members.protocol import Pair, refuse_unknown

LANGUAGES = (
    *("danish", "dutch", "english", "french", "german", "italian"),
    *("norwegian", "portuguese", "russian", "spanish", "swedish", "turkish"),
)
"""Languages that have both a stemmer and stop words."""


class BM25Member:
    """Score a text as a BM25 query against documents of a corpus.

    The inverse document frequencies are those of the corpus, never of the few candidates of an election: over
    three texts a term in two of them has idf <= 0 in the classic formula, and the better match gets the lower
    score.

    Args:
        documents: the corpus; not read where `saved` exists.
        name: the name on its ballots.
        language: of the stemmer and the stop words, one of `LANGUAGES`.
        split_identifiers: break `snake_case` and `camelCase` words of code.
        saved: a folder that keeps the index and from which it is memory-mapped. Give another folder for
            another corpus or other options.
    """

    def __init__(
        self,
        documents: Iterable[Document],
        *,
        name: str = "bm25",
        language: str = "english",
        split_identifiers: bool = False,
        saved: Path | None = None,
    ) -> None:
        if language not in LANGUAGES:
            raise InputError(f"BM25: language {quoted(language)} is none of {', '.join(LANGUAGES)}")
        try:  # here, so that `import o1_vote` stays light
            from o1_records.bm25 import BM25
        except MissingExtraError as error:
            raise InputError("BM25 needs bm25s and PyStemmer: pip install o1-vote") from error

        self.name = name
        version = importlib.metadata.version("bm25s")
        self.fingerprint = f"bm25s {version} {language} split_identifiers={split_identifiers}"
        if saved is None or not saved.exists():
            self._bm25 = BM25(documents, language=language, split_identifiers=split_identifiers)
            if saved is not None:
                self._bm25.save(saved)
        if saved is not None:
            self._bm25 = BM25.load(saved)
        self._known = frozenset(self._bm25.doc_ids)

    def similarities(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """Return BM25 of each (text, doc_id): float32 [pairs], 0 where no term is shared."""
        refuse_unknown(self.name, pairs, self._known)
        places: defaultdict[str, list[int]] = defaultdict(list)
        for place, (text, _) in enumerate(pairs):
            places[text].append(place)
        result = np.zeros(len(pairs), dtype=np.float32)
        for text, mentions in places.items():
            scores = self._bm25.scores(text)
            for place in mentions:
                result[place] = scores[self._bm25.row(pairs[place][1])]
        return result

    @property
    def doc_ids(self) -> list[str]:
        """The documents in the order of `corpus_scores`."""
        return self._bm25.doc_ids

    def row(self, doc_id: str) -> int:
        """Return the position of a document in `doc_ids`. Raises KeyError when it is not in the corpus."""
        return self._bm25.row(doc_id)

    def corpus_scores(self, texts: Sequence[str]) -> Iterator[NDArray[np.float32]]:
        """Yield for each text BM25 of all documents: float32 [documents]."""
        for text in texts:
            yield self._bm25.scores(text)
