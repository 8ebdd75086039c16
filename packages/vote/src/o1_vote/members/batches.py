"""Batches of texts of similar length, so that little is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

_CHARACTERS_A_TOKEN = 4


def by_length(lengths: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Yield batches of places in `lengths`, the shortest first.

    A batch, padded to its longest text, has at most `limit` tokens (or whatever `lengths` count), or is
    one text.
    """
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        if batch and lengths[place] * (len(batch) + 1) > limit:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def tokens_of(model: Any, texts: list[str]) -> list[int]:
    """Return how many tokens a sentence-transformers model reads of each text.

    Where it has no tokenizer that can be asked, four characters count as one token.
    """
    tokenizer, limit = getattr(model, "tokenizer", None), model.max_seq_length
    if not callable(tokenizer):
        return [-(-len(text) // _CHARACTERS_A_TOKEN) for text in texts]
    read = tokenizer(texts, truncation=limit is not None, max_length=limit, return_attention_mask=False)
    return [len(ids) for ids in read["input_ids"]]
