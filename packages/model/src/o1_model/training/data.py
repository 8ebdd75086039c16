"""From Example records to joint batches: the order of the examples, and the collator that builds batches."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase

from o1_model.batch import Batch, grouped, pad_token_id
from o1_model.layout import Layout, Row, document_row, query_row, query_text, text_ids
from o1_model.training.step import Judgements
from o1_records import Document, Example, InputError, Query

Item = TypeVar("Item")


@dataclass(frozen=True)
class JointBatch:
    """One training step's input, of one process.

    `queries` are groups of rows of similar length and `query_order` says which example each row is; the same
    holds for `documents` and for `reasoning`, the reasoning queries of layouts without a place for a thought
    (empty unless the collator adds them). `asked` and `query_rows` are what the queries were made of, in
    the order of the examples.
    """

    queries: Sequence[Batch]
    query_order: Int[Tensor, "queries"]
    documents: Sequence[Batch]
    document_order: Int[Tensor, "documents"]
    judgements: Judgements
    asked: Sequence[Query]
    query_rows: Sequence[Row]
    reasoning: Sequence[Batch] = ()
    reasoning_order: Int[Tensor, "queries"] | None = None

    @property
    def query_ids(self) -> list[str]:
        """The query_ids, in the order of the examples."""
        return [query.query_id for query in self.asked]

    @property
    def n_labels(self) -> int:
        """The number of tokens that the thinking loss learns."""
        return sum(len(part.label_ids) for part in self.queries)

    @property
    def real_tokens(self) -> int:
        """The number of tokens that are not padding."""
        return sum(int(part.mask.sum()) for part in self._parts)

    @property
    def padded_tokens(self) -> int:
        """The number of tokens that the model sees, padding included."""
        return sum(part.mask.numel() for part in self._parts)

    @property
    def _parts(self) -> list[Batch]:
        return [*self.queries, *self.documents, *self.reasoning]


@dataclass(frozen=True)
class JointCollator:
    """Tokenise and pad examples: each contributes its query, positives and hard negatives.

    An example has at most `group_size` documents, its own or `negatives` + 1: all its positives first (the
    first `group_size` of them), then its negatives in their order. A document that examples share is
    encoded once. `chunk_tokens` bounds the padded tokens of one forward pass.

    `thought_dropout` is the share of thoughts left out (the reference layout's 0.1). It is drawn from `seed`
    and the query_ids of the batch, so that a resumed run leaves out the same ones. `reasoning_queries` adds
    Redapter's q': the example's reasoning query, else its query and thought, else its query.
    """

    tokenizer: PreTrainedTokenizerBase
    layout: Layout
    negatives: int = 0
    chunk_tokens: int = 2048
    thought_dropout: float = 0.0
    reasoning_queries: bool = False
    seed: int = 0

    def __call__(self, examples: Sequence[Example]) -> dict[str, JointBatch]:
        """Build the batch of one step, under the name that the trainer passes on."""
        groups = [_group(example, example.group_size or self.negatives + 1) for example in examples]
        documents = list({d.doc_id: d for group in groups for d in group.documents}.values())
        rows = self._query_rows(examples)
        queries, query_order = self._batches(rows)
        texts = text_ids(self.tokenizer, [document.full_text for document in documents])
        document_parts, document_order = self._batches([document_row(self.layout, ids) for ids in texts])
        reasoning: tuple[Sequence[Batch], Int[Tensor, "queries"] | None] = ((), None)
        if self.reasoning_queries:
            texts = text_ids(self.tokenizer, [query_text(self.layout, _reasoned(e)) for e in examples])
            reasoning = self._batches([query_row(self.layout, ids) for ids in texts])
        batch = JointBatch(
            queries=queries,
            query_order=query_order,
            documents=document_parts,
            document_order=document_order,
            judgements=_judgements(examples, groups, documents, rows),
            asked=[example.query for example in examples],
            query_rows=rows,
            reasoning=reasoning[0],
            reasoning_order=reasoning[1],
        )
        return {"batch": batch}

    def _query_rows(self, examples: Sequence[Example]) -> list[Row]:
        texts = text_ids(self.tokenizer, [query_text(self.layout, example.query) for example in examples])
        label = "\0".join([str(self.seed), *(example.query.query_id for example in examples)])
        draw = random.Random(label).random
        dropped = [draw() < self.thought_dropout or not self.layout.thinks for _ in examples]
        kept = [None if drop else e.thought for e, drop in zip(examples, dropped, strict=True)]
        thoughts = text_ids(self.tokenizer, ["" if thought is None else thought.text for thought in kept])
        return [
            query_row(self.layout, text, None if thought is None else ids)
            for text, thought, ids in zip(texts, kept, thoughts, strict=True)
        ]

    def _batches(self, rows: Sequence[Row]) -> tuple[list[Batch], Int[Tensor, "rows"]]:
        return grouped(rows, pad_token_id(self.tokenizer), tokens=self.chunk_tokens)


@dataclass(frozen=True)
class _Group:
    """An example's own documents in one step, positives first, and the teacher's scores of them."""

    documents: Sequence[Document]
    n_positives: int
    teacher: Sequence[float]


def _group(example: Example, size: int) -> _Group:
    if not example.positives:
        raise InputError(f"query {example.query.query_id!r} has no positive document")
    scores = example.teacher_scores or [float("nan")] * (len(example.positives) + len(example.negatives))
    # of duplicates the first counts, so that a positive is never also a negative
    first: dict[str, tuple[Document, float]] = {}
    for document, score in zip((*example.positives, *example.negatives), scores, strict=True):
        first.setdefault(document.doc_id, (document, score))
    own = list(first.values())[:size]
    known = {document.doc_id for document in example.positives}
    return _Group([d for d, _ in own], min(len(known), size), [score for _, score in own])


def _judgements(
    examples: Sequence[Example], groups: Sequence[_Group], documents: Sequence[Document], rows: Sequence[Row]
) -> Judgements:
    place = {document.doc_id: row for row, document in enumerate(documents)}
    known = [[digest64(document.doc_id) for document in example.positives] for example in examples]
    most = max(len(keys) for keys in known)
    return Judgements(
        document_keys=torch.tensor([digest64(document.doc_id) for document in documents]),
        rows=_padded([[place[document.doc_id] for document in group.documents] for group in groups], -1),
        n_positives=torch.tensor([group.n_positives for group in groups]),
        positive_keys=torch.tensor([keys + keys[:1] * (most - len(keys)) for keys in known]),
        has_thought=torch.tensor([row.first != row.last for row in rows]),
        teacher=_padded([group.teacher for group in groups], float("nan")),
    )


def _reasoned(example: Example) -> Query:
    thought = "" if example.thought is None else f" {example.thought.text}"
    text = example.reasoning_query or example.query.text + thought
    return msgspec.structs.replace(example.query, text=text)


def digest64(doc_id: str) -> int:
    """Return a signed 64-bit digest of an id, the same on every process."""
    return int.from_bytes(hashlib.sha256(doc_id.encode()).digest()[:8], "big", signed=True)


def _padded(lists: Sequence[Sequence[int | float]], fill: int | float) -> Tensor:
    width = max(len(own) for own in lists)
    return torch.tensor([[*own, *[fill] * (width - len(own))] for own in lists])


# --- the order of the examples ------------------------------------------------------------------------


class ExampleOrder(Sampler[list[int]]):
    """Batches of example numbers, the same on every process and after a resume.

    The order depends on seed and epoch alone.

    Yields the batches of single processes: `world_size` consecutive ones, of equal size, are one global
    batch, so that accelerate's `BatchSamplerShard` gives each process its slice (with
    `even_batches=False`, because batches differ in size) and the Trainer can skip batches on resume.

    Args:
        examples: what is ordered; only `dataset` and `group_size` are read.
        batch_size: examples of a process.
        world_size: processes.
        seed: of the order.
        same_dataset: a global batch holds examples of one dataset and group size, and batches of examples
            with a `group_size` of their own have as many *documents* as the others: with a `group_size`
            of 16 and a batch of 8, there are 2 examples of 64 documents, or 64 of 2, in a batch
            (ReasonEmbed).
        group_size: documents of an example without a `group_size` of its own.
        drop_last: leave out what does not fill a global batch. Otherwise it becomes a smaller batch, in
            which up to `world_size` - 1 examples are repeated so that all processes have equally many.

    Raises:
        InputError: no global batch can be filled.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        batch_size: int,
        *,
        world_size: int = 1,
        seed: int = 0,
        same_dataset: bool = False,
        group_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        self.epoch = 0
        self._seed, self._world, self._drop_last = seed, world_size, drop_last
        self._pools: dict[tuple[str, int], list[int]] = {}
        for number, example in enumerate(examples):
            key = (example.dataset, example.group_size or group_size) if same_dataset else ("", group_size)
            self._pools.setdefault(key, []).append(number)
        self._sizes = {
            key: world_size * max(1, batch_size * group_size // key[1]) for key in sorted(self._pools)
        }
        if len(self) == 0:
            raise InputError(
                f"no batch of {batch_size} x {world_size} examples can be filled from {len(examples)}; "
                "lower the batch size or keep the last batch"
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Count the batches of all processes in an epoch."""
        each = ((len(self._pools[key]), size) for key, size in self._sizes.items())
        batches = sum(count // size if self._drop_last else -(-count // size) for count, size in each)
        return batches * self._world

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of the epoch, process by process."""
        label = hashlib.sha256(f"{self._seed} {self.epoch}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(label[:8], "big") >> 1)
        batches: list[list[int]] = []
        for key, size in self._sizes.items():
            batches += self._global_batches(_shuffled(self._pools[key], generator), size)
        for batch in _shuffled(batches, generator):
            share = len(batch) // self._world
            yield from (batch[first : first + share] for first in range(0, len(batch), share))

    def _global_batches(self, pool: list[int], size: int) -> list[list[int]]:
        whole = len(pool) - len(pool) % size
        batches = [pool[first : first + size] for first in range(0, whole, size)]
        tail = pool[whole:]
        if not tail or self._drop_last:
            return batches
        missing = -len(tail) % self._world
        # from the beginning, again and again where the pool has fewer than there are processes
        again = pool * (-(-missing // len(pool)))
        return [*batches, tail + again[:missing]]


def _shuffled(items: Sequence[Item], generator: torch.Generator) -> list[Item]:
    return [items[place] for place in torch.randperm(len(items), generator=generator).tolist()]
