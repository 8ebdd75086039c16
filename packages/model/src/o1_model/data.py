"""From Example records to joint batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from o1_model.batch import Batch, by_length, collate
from o1_model.joint import JointBatch
from o1_model.layout import Layout, Row, document_row, query_row, text_ids
from o1_model.loss import other_positives
from o1_records import Document, Example, InputError, Query


def query_text(query: Query) -> str:
    """The text of a query with its instruction, when it has one, before it."""
    return f"{query.instruction} {query.text}" if query.instruction else query.text


@dataclass(frozen=True)
class JointCollator:
    """Tokenise and pad examples: each contributes its query, a positive and its hard negatives.

    `chunk_tokens` bounds the padded tokens of one forward pass; rows are grouped by length, so that
    little of it is padding.
    """

    tokenizer: PreTrainedTokenizerBase
    layout: Layout
    negatives: int = 0
    chunk_tokens: int = 2048

    def __call__(self, examples: Sequence[Example]) -> dict[str, JointBatch]:
        """Build the batch of one step, under the name that the trainer passes on."""
        documents, target = self._documents(examples)
        positives = [frozenset(d.doc_id for d in example.positives) for example in examples]
        queries = self._query_rows(examples)
        query_parts, query_order = self._groups(queries)
        document_parts, document_order = self._groups(self._document_rows(documents))
        return {
            "batch": JointBatch(
                queries=query_parts,
                query_order=query_order,
                documents=document_parts,
                document_order=document_order,
                target=torch.tensor(target),
                ignore=other_positives(positives, [d.doc_id for d in documents], target),
                has_thought=torch.tensor([example.thought is not None for example in examples]),
            )
        }

    def _documents(self, examples: Sequence[Example]) -> tuple[list[Document], list[int]]:
        # a document that several examples share is encoded once
        rows: dict[str, int] = {}
        documents: list[Document] = []
        target = []
        for example in examples:
            if not example.positives:
                raise InputError(f"query {example.query.query_id!r} has no positive document")
            for document in (example.positives[0], *example.negatives[: self.negatives]):
                if document.doc_id not in rows:
                    rows[document.doc_id] = len(documents)
                    documents.append(document)
            target.append(rows[example.positives[0].doc_id])
        return documents, target

    def _query_rows(self, examples: Sequence[Example]) -> list[Row]:
        texts = text_ids(self.tokenizer, [query_text(example.query) for example in examples])
        thoughts = iter(text_ids(self.tokenizer, [e.thought.text for e in examples if e.thought is not None]))
        return [
            query_row(self.layout, text, next(thoughts) if example.thought is not None else None)
            for text, example in zip(texts, examples, strict=True)
        ]

    def _document_rows(self, documents: Sequence[Document]) -> list[Row]:
        texts = text_ids(self.tokenizer, [document.full_text for document in documents])
        return [document_row(self.layout, text) for text in texts]

    def _groups(self, rows: Sequence[Row]) -> tuple[list[Batch], torch.Tensor]:
        groups = list(by_length([len(row.ids) for row in rows], self.chunk_tokens))
        pad_id = pad_token_id(self.tokenizer)
        parts = [collate([rows[index] for index in group], pad_id) for group in groups]
        return parts, torch.tensor([index for group in groups for index in group])


def pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id to pad with; masks come from lengths, so any id will do where there is none."""
    return 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
