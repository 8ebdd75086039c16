"""From Example records to joint batches: the order of the examples, what is drawn of each, the collator."""

from __future__ import annotations

import hashlib
import random
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Literal, NamedTuple, TypeVar

import msgspec
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedTokenizerBase

from o1_model.batch import Batch, grouped, pad_token_id
from o1_model.layout import Layout, Row, document_ids, document_row, query_ids, query_row, text_ids
from o1_model.training.step import Judgements
from o1_records import Document, Example, InputError, Query
from o1_records.keys import itself, same_query, same_text
from o1_records.mixture import Reading

Item = TypeVar("Item")


class Visit(NamedTuple):
    """One example's turn in a training.

    `turn` counts its turns, so that each draws other documents; `again` is a copy that gives all processes
    equally many examples and does not count.
    """

    number: int
    turn: int = 0
    again: bool = False


@dataclass(frozen=True)
class Drawn:
    """An example as one step sees it: its documents in the order in which they are taken.

    `thought` says whether its thought is read, `counts` whether it is more than a copy (`Visit.again`).
    `visit` is the turn that it was drawn for.
    """

    example: Example
    thought: bool = True
    counts: bool = True
    visit: Visit | None = None


class Examples(Dataset[Drawn]):
    """Examples in memory, and what is drawn of them at each turn.

    What is drawn depends on seed, example and turn alone: neither on the batch nor on the process, and a
    resumed training draws the same.

    Args:
        examples: each checked by the reader.
        draw: "random" shuffles positives and negatives anew at each turn, so that the collator takes others;
            "first" leaves them in their order.
        thought_dropout: share of the turns in which the thought is left out.
        seed: of all draws.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        draw: Literal["random", "first"] = "random",
        thought_dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.records = list(examples)
        self._shuffles, self._dropout, self._seed = draw == "random", thought_dropout, seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, visit: Visit | int) -> Drawn:
        return self.drawn(visit if isinstance(visit, Visit) else Visit(visit))

    def drawn(self, visit: Visit, *, negatives: Sequence[Document] | None = None) -> Drawn:
        """Return what is drawn at a turn, of other negatives than the example's own where some are given."""
        number, turn, again = visit
        example = self.records[number]
        if negatives is not None:
            example = msgspec.structs.replace(example, negatives=tuple(negatives), teacher_scores=())
        draw = random.Random(f"{self._seed}\0{number}\0{turn}")
        thought = draw.random() >= self._dropout
        if self._shuffles:
            example = _shuffled_documents(example, draw)
        return Drawn(example, thought, counts=not again, visit=visit)


def _shuffled_documents(example: Example, draw: random.Random) -> Example:
    p, n = len(example.positives), len(example.negatives)
    first, then = draw.sample(range(p), p), draw.sample(range(n), n)
    scores = example.teacher_scores
    return msgspec.structs.replace(
        example,
        positives=tuple(example.positives[i] for i in first),
        negatives=tuple(example.negatives[i] for i in then),
        teacher_scores=scores and tuple(scores[i] for i in (*first, *(p + i for i in then))),
    )


# --- the collator -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JointBatch:
    """One training step's input, of one process.

    `queries` are groups of rows of similar length and `query_order` says which example each row is; the same
    holds for `documents` and for `reasoning`, the reasoning queries of layouts without a place for a thought
    (empty unless the collator adds them). `asked`, `query_rows` and `texts` (of thoughts, "" for none) are
    what the queries were made of, in the order of the examples. `thoughts` are thoughts that are read alone,
    for the mixture; not every example has one, and `thought_order` is None unless the collator reads them.
    """

    queries: Sequence[Batch]
    query_order: Int[Tensor, "queries"]
    documents: Sequence[Batch]
    document_order: Int[Tensor, "documents"]
    judgements: Judgements
    asked: Sequence[Query]
    query_rows: Sequence[Row]
    texts: Sequence[str]
    reasoning: Sequence[Batch] = ()
    reasoning_order: Int[Tensor, "queries"] | None = None
    thoughts: Sequence[Batch] = ()
    thought_order: Int[Tensor, "thoughts"] | None = None

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
        return [*self.queries, *self.documents, *self.thoughts, *self.reasoning]


@dataclass(frozen=True)
class JointCollator:
    """Tokenise and pad examples: each contributes its query, positives and hard negatives.

    An example has at most `group_size` documents, its own or `negatives` + 1: its first `positives` positives
    (0: all), then its negatives in their order. A document is its text: examples that share a text share one
    vector, and what is a positive of a query is never its negative, whatever ids documents have.

    `chunk_tokens` bounds the padded tokens of one forward pass. `excluded` knows what else is no negative of
    a query, among its own documents and among those of the batch. `reasoning_queries` adds Redapter's q': the
    example's reasoning query, else its query and thought, else its query. `mixture` is how thoughts are read
    for the mixture, if there is one.
    """

    tokenizer: PreTrainedTokenizerBase
    layout: Layout
    negatives: int = 0
    positives: int = 1
    chunk_tokens: int = 2048
    reasoning_queries: bool = False
    mixture: Reading | None = None
    excluded: Exclusions = field(default_factory=lambda: Exclusions())

    def __call__(self, items: Sequence[Drawn | Example]) -> dict[str, JointBatch]:
        """Build the batch of one step, under the name that the trainer passes on."""
        drawn = [item if isinstance(item, Drawn) else Drawn(item) for item in items]
        examples = [own.example for own in drawn]
        groups = [self._group(example) for example in examples]
        documents = list({document_key(d): d for group in groups for d in group.documents}.values())
        rows = self._query_rows(drawn)
        queries, query_order = self._batches(rows)
        texts = document_ids(self.layout, self.tokenizer, documents)
        document_parts, document_order = self._batches(
            [document_row(self.layout, text.ids, prompt=text.prompt) for text in texts]
        )
        reasoning: tuple[Sequence[Batch], Int[Tensor, "queries"] | None] = ((), None)
        if self.reasoning_queries:
            texts = query_ids(self.layout, self.tokenizer, [_reasoned(example) for example in examples])
            reasoning = self._batches(
                [query_row(self.layout, text.ids, prompt=text.prompt) for text in texts]
            )
        read = [own.example.thought if own.thought else None for own in drawn]
        batch = JointBatch(
            queries=queries,
            query_order=query_order,
            documents=document_parts,
            document_order=document_order,
            judgements=self._judgements(drawn, groups, documents, rows),
            asked=[example.query for example in examples],
            query_rows=rows,
            texts=["" if thought is None else thought.text for thought in read],
            reasoning=reasoning[0],
            reasoning_order=reasoning[1],
        )
        if self.mixture is not None:
            batch = with_thoughts(batch, self.mixture, self.layout, self.tokenizer, tokens=self.chunk_tokens)
        return {"batch": batch}

    def _query_rows(self, drawn: Sequence[Drawn]) -> list[Row]:
        texts = query_ids(self.layout, self.tokenizer, [own.example.query for own in drawn])
        kept = [own.example.thought if own.thought and self.layout.thinks else None for own in drawn]
        thoughts = text_ids(self.tokenizer, ["" if thought is None else thought.text for thought in kept])
        rows = [
            query_row(self.layout, text.ids, None if thought is None else ids, prompt=text.prompt)
            for text, thought, ids in zip(texts, kept, thoughts, strict=True)
        ]
        return [
            row if own.counts else replace(row, labels=range(0)) for row, own in zip(rows, drawn, strict=True)
        ]

    def _batches(self, rows: Sequence[Row]) -> tuple[list[Batch], Int[Tensor, "rows"]]:
        return grouped(rows, pad_token_id(self.tokenizer), tokens=self.chunk_tokens)

    def _group(self, example: Example) -> _Group:
        if not example.positives:
            raise InputError(f"query {example.query.query_id!r} has no positive document")
        size = example.group_size or self.negatives + 1
        scores = example.teacher_scores or [float("nan")] * (len(example.positives) + len(example.negatives))
        excluded = self.excluded.of(example)
        # of equal texts the first counts
        first: dict[int, tuple[Document, float]] = {}
        for document, score in zip((*example.positives, *example.negatives), scores, strict=True):
            first.setdefault(document_key(document), (document, score))
        n_positives = len({document_key(document) for document in example.positives})
        chosen = list(first.items())
        positives = chosen[:n_positives][: min(self.positives or size, size)]
        negatives = [(key, own) for key, own in chosen[n_positives:] if key not in excluded]
        kept = [own for _, own in [*positives, *negatives[: size - len(positives)]]]
        return _Group([d for d, _ in kept], len(positives), [score for _, score in kept], sorted(excluded))

    def _judgements(
        self,
        drawn: Sequence[Drawn],
        groups: Sequence[_Group],
        documents: Sequence[Document],
        rows: Sequence[Row],
    ) -> Judgements:
        keys = [document_key(document) for document in documents]
        place = {key: row for row, key in enumerate(keys)}
        most = max(len(group.excluded) for group in groups)
        return Judgements(
            document_keys=torch.tensor(keys),
            rows=_padded([[place[document_key(d)] for d in group.documents] for group in groups], -1),
            n_positives=torch.tensor([group.n_positives for group in groups]),
            excluded_keys=torch.tensor(
                [[*group.excluded, *group.excluded[:1] * (most - len(group.excluded))] for group in groups]
            ),
            has_thought=torch.tensor([row.first != row.last for row in rows]),
            mixes=torch.zeros(len(rows), dtype=torch.bool),
            counts=torch.tensor([own.counts for own in drawn]),
            teacher=_padded([group.teacher for group in groups], float("nan")),
        )


def with_thoughts(
    batch: JointBatch,
    reading: Reading,
    layout: Layout,
    tokenizer: PreTrainedTokenizerBase,
    *,
    tokens: int,
) -> JointBatch:
    """Return the batch with the thoughts of its `texts` read for the mixture.

    "joint" reads v_t, which is in the batch already; the others have rows of their own, of at most `tokens`
    padded tokens a part, made as a retriever makes them: of the thought alone, with the prompt of a query or
    of a document.
    """
    if reading == "joint":
        return replace(batch, judgements=replace(batch.judgements, mixes=batch.judgements.has_thought))
    places = [place for place, text in enumerate(batch.texts) if text.strip()]
    if reading == "query":
        asked = [msgspec.structs.replace(batch.asked[place], text=batch.texts[place]) for place in places]
        rows = [query_row(layout, t.ids, prompt=t.prompt) for t in query_ids(layout, tokenizer, asked)]
    else:
        texts = document_ids(layout, tokenizer, [batch.texts[place] for place in places])
        rows = [document_row(layout, text.ids, prompt=text.prompt) for text in texts]
    thoughts, order = grouped(rows, pad_token_id(tokenizer), tokens=tokens)
    mixes = torch.zeros(len(batch.texts), dtype=torch.bool)
    mixes[places] = True
    return replace(
        batch,
        thoughts=thoughts,
        thought_order=torch.tensor([places[row] for row in order.tolist()], dtype=torch.long),
        judgements=replace(batch.judgements, mixes=mixes),
    )


@dataclass(frozen=True)
class _Group:
    """An example's own documents in one step, positives first, and the teacher's scores of them.

    `excluded` are the keys of the documents that are no negatives of its query, present or not.
    """

    documents: Sequence[Document]
    n_positives: int
    teacher: Sequence[float]
    excluded: list[int]


class Exclusions:
    """Tell which documents are no negatives of a query, wherever they stand: for the collator and the miner.

    They are the positives of every example whose query asks the same (`same_query`), and the document that is
    the query itself: by a text equal to the query's (`same_text`), under its title or without, or by its
    doc_id, unless a document of the example has that (`itself`: where queries and documents are numbered
    apart, document 17 may well be a negative of query 17).

    Args:
        examples: what is trained on.
        corpus: further documents that may become negatives.
    """

    def __init__(self, examples: Sequence[Example] = (), corpus: Iterable[Document] = ()) -> None:
        asked = Counter(same_query(example.query) for example in examples)
        self._shared: dict[str, set[int]] = {query: set() for query, count in asked.items() if count > 1}
        named: dict[str, set[int]] = {example.query.query_id: set() for example in examples}
        worded: dict[str, set[int]] = {same_text(example.query.text): set() for example in examples}
        for example in examples:
            if (shared := self._shared.get(same_query(example.query))) is not None:
                shared |= {document_key(document) for document in example.positives}
        own = (document for e in examples for document in (*e.positives, *e.negatives))
        seen: set[tuple[str, str]] = set()
        for document in chain(corpus, own):
            if (found := named.get(document.doc_id)) is not None:
                found.add(document_key(document))
            if (document.title, document.text) in seen:
                continue
            seen.add((document.title, document.text))
            for text in {document.text, document.full_text}:
                if (found := worded.get(same_text(text))) is not None:
                    found.add(document_key(document))
        self._named = {query_id: found for query_id, found in named.items() if found}
        self._worded = {text: found for text, found in worded.items() if found}

    def of(self, example: Example) -> frozenset[int]:
        """Return the keys of the documents that are no negatives of the example's query."""
        query = example.query
        keys = {document_key(document) for document in example.positives}
        keys |= self._shared.get(same_query(query), frozenset())
        keys |= self._worded.get(same_text(query.text), frozenset())
        given = {document.doc_id for document in (*example.positives, *example.negatives)}
        for doc_id in itself(query.query_id, given):
            keys |= self._named.get(doc_id, frozenset())
        return frozenset(keys)

    def check(self, examples: Sequence[Example]) -> list[str]:
        """Return what the user should know about examples whose own negatives are none."""
        counts = [self._among_negatives(example) for example in examples]
        if not any(counts):
            return []
        return [
            f"{sum(counts):,} negatives of {sum(map(bool, counts)):,} examples are known positives of their "
            "query or the query itself: they are left out"
        ]

    def _among_negatives(self, example: Example) -> int:
        excluded = self.of(example)
        return sum(document_key(document) in excluded for document in example.negatives)


def document_key(document: Document) -> int:
    """Return a signed 64-bit digest of a document's text, the same on every process.

    Of its text, not of its doc_id: two data sets may use one id for two documents, or two ids for one.
    """
    return digest64(document.full_text)


def digest64(text: str) -> int:
    """Return a signed 64-bit digest, the same on every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


def _reasoned(example: Example) -> Query:
    thought = "" if example.thought is None else f" {example.thought.text}"
    text = example.reasoning_query or example.query.text + thought
    return msgspec.structs.replace(example.query, text=text)


def _padded(lists: Sequence[Sequence[int | float]], fill: int | float) -> Tensor:
    width = max(len(own) for own in lists)
    return torch.tensor([[*own, *[fill] * (width - len(own))] for own in lists])


# --- the order of the examples ------------------------------------------------------------------------


class ExampleOrder(Sampler[list[Visit]]):
    """Batches of turns (`Visit`), the same on every process and after a resume.

    The order depends on seed and epoch alone.

    Yields the batches of single processes: `world_size` consecutive ones, of equal size, are one global
    batch, so that accelerate's `BatchSamplerShard` gives each process its slice (with
    `even_batches=False`, because batches differ in size) and the Trainer can skip batches on resume.
    A query that several examples ask stands in different batches as far as possible.

    Args:
        examples: what is ordered; only `query`, `dataset`, `group_size` and `batch_size` are read.
        batch_size: examples of a process.
        world_size: processes.
        seed: of the order.
        same_dataset: a global batch holds examples of one dataset, group size and batch size. Examples with
            a `batch_size` of their own have that many in the batch of a process, times `batch_size_scale`;
            those with a `group_size` alone have as many *documents* as the others: with a `group_size` of 16
            and a batch of 8, there are 2 examples of 64 documents, or 64 of 2, in a batch (ReasonEmbed).
        group_size: documents of an example without a `group_size` of its own.
        batch_size_scale: what the examples' own `batch_size` is multiplied by.
        weights: by dataset, how many turns each of its examples has in an epoch; 1 for others. With 0.5 half
            of them have a turn, the others in the next epoch.
        drop_last: leave out what does not fill a global batch. Otherwise it becomes a smaller batch, in
            which up to `world_size` - 1 examples are repeated so that all processes have equally many. The
            repeated ones do not count: loss and gradient are those of one process.

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
        batch_size_scale: int = 1,
        weights: Mapping[str, float] | None = None,
        drop_last: bool = False,
    ) -> None:
        self.epoch = 0
        self._seed, self._world, self._drop_last = seed, world_size, drop_last
        self._weights = weights or {}
        # the examples that share a batch, by dataset
        self._pools: dict[tuple[str, int, int], dict[str, list[int]]] = {}
        asked = Counter(same_query(example.query) for example in examples)
        self._repeated: dict[int, str] = {}
        for number, example in enumerate(examples):
            own = (example.dataset, example.group_size or group_size, example.batch_size or 0)
            pool = self._pools.setdefault(own if same_dataset else ("", group_size, 0), {})
            pool.setdefault(example.dataset, []).append(number)
            if asked[same_query(example.query)] > 1:
                self._repeated[number] = same_query(example.query)
        self._sizes = {
            key: world_size * (key[2] * batch_size_scale or max(1, batch_size * group_size // key[1]))
            for key in sorted(self._pools)
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
        each = (
            (sum(self._turns(*own) for own in self._pools[key].items()), size)
            for key, size in self._sizes.items()
        )
        batches = sum(count // size if self._drop_last else -(-count // size) for count, size in each)
        return batches * self._world

    def __iter__(self) -> Iterator[list[Visit]]:
        """Yield the batches of the epoch, process by process."""
        label = hashlib.sha256(f"{self._seed} {self.epoch}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(label[:8], "big") >> 1)
        batches: list[list[Visit]] = []
        for key, size in self._sizes.items():
            visits = [
                visit
                for dataset, numbers in self._pools[key].items()
                for visit in self._visits(dataset, numbers)
            ]
            batches += self._global_batches(_shuffled(visits, generator), size)
        for batch in _shuffled(batches, generator):
            share = len(batch) // self._world
            yield from (batch[first : first + share] for first in range(0, len(batch), share))

    def _turns(self, dataset: str, numbers: Sequence[int]) -> int:
        return max(1, round(self._weights.get(dataset, 1.0) * len(numbers)))

    def _visits(self, dataset: str, numbers: Sequence[int]) -> list[Visit]:
        whole, rest = divmod(self._turns(dataset, numbers), len(numbers))
        turns = self.epoch * (whole + (rest > 0))
        visits = [Visit(number, turns + copy) for copy in range(whole) for number in numbers]
        # what is left over goes round, so that all have had a turn before one has a second
        label = hashlib.sha256(f"{self._seed} {dataset}".encode()).digest()
        fixed = _shuffled(numbers, torch.Generator().manual_seed(int.from_bytes(label[:8], "big") >> 1))
        start = self.epoch * rest
        return visits + [
            Visit(fixed[place % len(fixed)], turns + whole) for place in range(start, start + rest)
        ]

    def _global_batches(self, pool: Sequence[Visit], size: int) -> list[list[Visit]]:
        batches = list(self._filled(pool, size))
        if not batches or len(batches[-1]) == size:
            return batches
        tail = batches.pop()
        if self._drop_last:
            return batches
        copies = -len(tail) % self._world
        # from the batch itself, so that no document enters that one process would not have
        again = [visit._replace(again=True) for visit in tail * -(-copies // len(tail))]
        return [*batches, tail + again[:copies]]

    def _filled(self, pool: Sequence[Visit], size: int) -> Iterator[list[Visit]]:
        """Yield batches of `size`, the last one smaller, with repeated queries in different ones."""
        rest, later = deque(pool), deque[Visit]()
        while rest or later:
            batch: list[Visit] = []
            asked: set[str] = set()
            waiting: deque[Visit] = deque()
            while (later or rest) and len(batch) < size and len(waiting) <= 8 * size:
                visit = (later or rest).popleft()
                query = self._repeated.get(visit.number)
                if query in asked:
                    waiting.append(visit)
                    continue
                batch.append(visit)
                if query is not None:
                    asked.add(query)
            while waiting and len(batch) < size:
                batch.append(waiting.popleft())
            later.extendleft(reversed(waiting))
            yield batch


def _shuffled(items: Sequence[Item], generator: torch.Generator) -> list[Item]:
    return [items[place] for place in torch.randperm(len(items), generator=generator).tolist()]
