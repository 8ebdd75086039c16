"""Thoughts as records: from traces to Thought, and from what a caller brings to token ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace
from transformers import PreTrainedTokenizerBase

from o1_model.layout import text_ids
from o1_model.think import Trace
from o1_records import InputError, Query, Source, Thought, quoted

Brought = str | Thought


def vocabulary_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Names what each token id means: ids are only used with the vocabulary that made them."""
    lines = "".join(f"{number} {token}\n" for token, number in sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def trace_text(tokenizer: PreTrainedTokenizerBase, trace: Trace) -> str:
    """What a thought says, without white space around it."""
    return str(tokenizer.decode(list(trace.token_ids), skip_special_tokens=True)).strip()


def record(query: Query, sample: int, text: str, trace: Trace, source: Source) -> Thought:
    """One thought; `source` says what all thoughts of this run have in common."""
    own = replace(
        source,
        finish_reason="stop" if trace.finished else "length",
        completion_tokens=len(trace.token_ids),
    )
    return Thought(
        query_id=query.query_id,
        thought_id=f"{query.query_id}#{sample}",
        text=text,
        source=own,
        token_ids=trace.token_ids,
    )


def thought_ids(
    tokenizer: PreTrainedTokenizerBase, vocabulary: str, thoughts: Sequence[Brought]
) -> list[list[int]]:
    """Token ids of thoughts: their own where this vocabulary made them, else those of the text.

    A text tokenised again can give other ids than the model chose.
    """
    known = [
        not isinstance(t, str) and bool(t.token_ids) and t.source.tokenizer == vocabulary for t in thoughts
    ]
    texts = [t if isinstance(t, str) else t.text for t, own in zip(thoughts, known, strict=True) if not own]
    tokenised = iter(text_ids(tokenizer, texts))
    return [
        list(t.token_ids) if own and isinstance(t, Thought) else next(tokenised)
        for t, own in zip(thoughts, known, strict=True)
    ]


def by_query(
    queries: Sequence[Query], thoughts: Sequence[Sequence[Brought]] | Sequence[Brought]
) -> list[list[Brought]]:
    """The thoughts of each query: given as lists in the order of the queries, or as records in any order.

    Raises InputError for another number of lists, for a string in the place of a list, and for a
    record of another query.
    """
    records = [t for t in thoughts if isinstance(t, Thought)]
    if len(records) == len(thoughts):
        lists: dict[str, list[Brought]] = {query.query_id: [] for query in queries}
        for thought in records:
            _own(lists, thought).append(thought)
        return [lists[query.query_id] for query in queries]
    if len(thoughts) != len(queries):
        raise InputError(f"{len(queries)} queries but thoughts for {len(thoughts)}")
    own = [list(each) for each in thoughts if isinstance(each, Iterable) and not isinstance(each, str)]
    if len(own) != len(queries):
        raise InputError("give each query a list of thoughts, not a string; an empty list where it has none")
    for query, row in zip(queries, own, strict=True):
        for each in row:
            if isinstance(each, Thought):
                _own({query.query_id: row}, each)
    return own


def _own(lists: Mapping[str, list[Brought]], thought: Thought) -> list[Brought]:
    if thought.query_id not in lists:
        raise InputError(
            f"thought {quoted(thought.thought_id)} belongs to query {quoted(thought.query_id)}, "
            f"not to {quoted(next(iter(lists), None))}"
        )
    return lists[thought.query_id]
