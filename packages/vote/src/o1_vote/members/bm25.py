"""BM25 as a member of the committee: lexical, with statistics of the whole corpus."""

from __future__ import annotations

import importlib.metadata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from o1_records import Document, InputError, MissingExtraError
from o1_vote.members.protocol import Documents, Found, Pair, best_first, documents_by_id, refuse_unknown


class BM25Member:
    """Score a text as a BM25 query against documents of a corpus.

    A word counts once however often a text has it: a thought that repeats its query adds nothing. The
    inverse document frequencies are those of the corpus, never of the few candidates of an election: over
    three texts a term in two of them has idf <= 0 in the classic formula, and the better match gets the
    lower score. Instructions are not read.

    Args:
        documents: the corpus.
        name: the name on its ballots.
        language: of the stemmer and the stop words, one of PyStemmer's or "none".
        split_identifiers: break `snake_case` and `camelCase` words of code.
        tokenizer: how a text becomes terms: "words", "characters", "code" (`o1_records.bm25`), or a function.
        saved: a folder that keeps the index and from which it is memory-mapped. Give another folder for
            another corpus.

    Raises InputError where the index in `saved` was made with other options or of other documents.
    """

    def __init__(
        self,
        documents: Documents,
        *,
        name: str = "bm25",
        language: str = "english",
        split_identifiers: bool = False,
        tokenizer: str | Callable[[str], Sequence[str]] = "words",
        saved: Path | None = None,
    ) -> None:
        try:  # here, so that `import o1_vote` stays light
            from o1_records.bm25 import BM25
        except MissingExtraError as error:
            raise InputError("BM25 needs bm25s and PyStemmer: pip install o1-vote") from error

        self.name = name
        self.documents: Mapping[str, Document]
        self.documents = documents if isinstance(documents, Mapping) else documents_by_id(documents)
        version = importlib.metadata.version("bm25s")
        said = tokenizer if isinstance(tokenizer, str) else f"{tokenizer.__module__}.{tokenizer.__qualname__}"
        self.fingerprint = f"bm25s {version} {language} split_identifiers={split_identifiers} {said} once"
        self.about = {"model": f"BM25, language {language}, tokenizer {said}", "instructions": "not read"}
        if saved is None or not saved.exists():
            self._bm25 = BM25(
                self.documents.values(),
                language=language,
                split_identifiers=split_identifiers,
                tokenizer=tokenizer,
            )
            if saved is not None:
                self._bm25.save(saved)
        if saved is not None:
            self._bm25 = BM25.load(saved)
            wanted = {"language": language, "split_identifiers": split_identifiers, "tokenizer": said}
            held = {option: self._bm25.settings[option] for option in wanted}
            if held != wanted:
                raise InputError(
                    f"{saved}: the index was made with {held}, not with {wanted}; name another folder"
                )
            if self._bm25.doc_ids != list(self.documents):
                raise InputError(f"{saved}: the index is of other documents; name another folder")

        self._known = frozenset(self._bm25.doc_ids)

    def similarities(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """Return BM25 of each (text, doc_id): float32 [pairs], 0 where no term is shared."""
        refuse_unknown(self.name, pairs, self._known)
        places: defaultdict[str, list[int]] = defaultdict(list)
        for place, (text, _) in enumerate(pairs):
            places[text].append(place)
        result = np.zeros(len(pairs), dtype=np.float32)
        for text, mentions in places.items():
            result[mentions] = self._bm25.scores_of(text, [pairs[place][1] for place in mentions], once=True)
        return result

    def search(self, texts: Sequence[str], k: int) -> Iterator[Found]:
        """Yield for each text the k best of the documents that share a term with it."""
        from o1_records.bm25 import rows_of_best

        names = self._bm25.doc_ids
        for text in texts:
            scores = self._bm25.scores(text, once=True)
            rows = rows_of_best(scores, k)
            yield best_first([names[row] for row in rows.tolist()], scores[rows], k)
