"""Which examples share a batch: a function of seed and epoch, each example once, one dataset a batch."""

from collections import Counter

import pytest
from accelerate.data_loader import BatchSamplerShard, skip_first_batches
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from torch.utils.data import DataLoader

from o1_model.training.data import ExampleOrder, Examples
from o1_records import Example, InputError, Query


def examples_of(*datasets):
    """Examples of (dataset, group size, how many)."""
    return [
        Example(query=Query(query_id=f"{name}{n}", text="x"), positives=(), dataset=name, group_size=group)
        for name, group, count in datasets
        for n in range(count)
    ]


COUNTS = st.lists(st.integers(1, 40), min_size=1, max_size=4)


@given(COUNTS, st.integers(1, 9), st.integers(0, 5), st.booleans())
def test_on_one_process_every_example_stands_once_an_epoch(counts, batch, epoch, same):
    examples = examples_of(*((f"d{n}", None, count) for n, count in enumerate(counts)))
    order = ExampleOrder(examples, batch, same_dataset=same)
    order.set_epoch(epoch)
    batches = list(order)
    assert sorted(v.number for own in batches for v in own) == list(range(len(examples)))
    assert {(v.turn, v.again) for own in batches for v in own} == {(epoch, False)}
    assert len(batches) == len(order)
    if same:
        assert all(len({examples[v.number].dataset for v in own}) == 1 for own in batches)


@given(COUNTS, st.integers(1, 9), st.integers(2, 4))
def test_processes_get_slices_of_equal_size_of_one_global_batch(counts, batch, world):
    examples = examples_of(*((f"d{n}", None, count) for n, count in enumerate(counts)))
    order = ExampleOrder(examples, batch, world_size=world, same_dataset=True)
    shards = [
        list(BatchSamplerShard(order, num_processes=world, process_index=rank, even_batches=False))
        for rank in range(world)
    ]
    assert len({len(shard) for shard in shards}) == 1
    seen = []
    for step in zip(*shards, strict=True):
        assert len({len(own) for own in step}) == 1
        together = [v for own in step for v in own]
        assert len({examples[v.number].dataset for v in together}) == 1
        copies = [v for v in together if v.again]
        # no more stand twice than are needed for equal slices, and only what the batch has anyway
        assert len(copies) < world
        assert {v.number for v in copies} <= {v.number for v in together if not v.again}
        seen += [v.number for v in together if not v.again]
    assert sorted(seen) == list(range(len(examples)))


@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 3))
def test_what_counts_is_the_same_on_any_number_of_processes(count, batch, epoch):
    examples = examples_of(("a", None, count))

    def steps(world):
        order = ExampleOrder(examples, 4 * batch // world, world_size=world)
        order.set_epoch(epoch)
        own = list(order)
        return [
            [v for part in own[first : first + world] for v in part if not v.again]
            for first in range(0, len(own), world)
        ]

    assert steps(1) == steps(2) == steps(4)


def test_the_global_batches_are_the_same_for_any_number_of_processes():
    examples = examples_of(("a", None, 24), ("b", None, 16))

    def steps(world):
        batches = list(ExampleOrder(examples, 8 // world, world_size=world, same_dataset=True))
        slices = [batches[first : first + world] for first in range(0, len(batches), world)]
        return [[n for own in step for n in own] for step in slices]

    assert steps(1) == steps(2) == steps(4)


def test_the_order_belongs_to_seed_and_epoch():
    examples = examples_of(("a", None, 30))

    def order_of(seed, epoch):
        order = ExampleOrder(examples, 4, seed=seed)
        order.set_epoch(epoch)
        return list(order)

    assert order_of(0, 0) == order_of(0, 0)
    assert order_of(0, 0) != order_of(0, 1)
    assert order_of(0, 1) != order_of(1, 0)


def test_a_resumed_epoch_goes_on_where_it_was():
    examples = examples_of(("a", None, 12), ("b", 4, 12))
    order = ExampleOrder(examples, 4, same_dataset=True, group_size=2)
    order.set_epoch(3)
    loader = DataLoader(Examples(examples), batch_sampler=order, collate_fn=list)
    assert list(skip_first_batches(loader, 4)) == list(loader)[4:]


def test_datasets_of_larger_groups_come_in_fewer_queries():
    """ReasonEmbed's batches: 8 queries of 16 documents, 64 of 2 (LeetCode) and 2 of 64 (Pony)."""
    examples = examples_of(("stack", None, 64), ("leetcode", 2, 128), ("pony", 64, 8))
    sizes = {}
    for own in ExampleOrder(examples, 8, same_dataset=True, group_size=16):
        sizes.setdefault(examples[own[0].number].dataset, set()).add(len(own))
    assert sizes == {"stack": {8}, "leetcode": {64}, "pony": {2}}


def test_a_dataset_may_ask_for_its_own_batch_size():
    """The `batch_size` of ReasonEmbed's rows is that of one of its 8 GPUs."""
    examples = examples_of(("stack", None, 64), ("leetcode", 2, 512))
    examples = [replace(e, batch_size=64) if e.dataset == "leetcode" else e for e in examples]

    def sizes(world, batch, scale):
        order = ExampleOrder(
            examples, batch, world_size=world, same_dataset=True, group_size=16, batch_size_scale=scale
        )
        return {(examples[own[0].number].dataset, len(own)) for own in order}

    assert sizes(8, 8, 1) == {("stack", 8), ("leetcode", 64)}
    assert sizes(1, 64, 8) == {("stack", 64), ("leetcode", 512)}


def test_weights_say_how_many_turns_a_dataset_has():
    examples = examples_of(("a", None, 10), ("b", None, 10), ("c", None, 10))
    order = ExampleOrder(examples, 4, weights={"a": 2.5, "b": 0.5})
    seen = []
    for epoch in range(4):
        order.set_epoch(epoch)
        visits = [v for own in order for v in own]
        assert len(list(order)) == len(order) == 10
        counts = Counter(examples[v.number].dataset for v in visits)
        assert counts == {"a": 25, "b": 5, "c": 10}
        seen += visits
    # no turn comes twice, so that each draws other documents
    assert len({(v.number, v.turn) for v in seen}) == len(seen)
    assert {v.number for v in seen} == set(range(30))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(1, 8))
def test_a_query_that_several_examples_ask_is_spread_over_the_batches(texts, batch):
    examples = [
        Example(query=Query(query_id=str(n), text=f"query {text}"), positives=())
        for n, text in enumerate(texts)
    ]
    batches = [[v.number for v in own] for own in ExampleOrder(examples, batch)]
    assert sorted(n for own in batches for n in own) == list(range(len(texts)))
    sizes = sorted(len(own) for own in batches)
    assert sizes[1:] == [batch] * (len(batches) - 1)


def test_one_query_stands_twice_in_a_batch_only_where_it_must():
    examples = [
        Example(query=Query(query_id=str(n), text=f"query {n % 20}"), positives=()) for n in range(60)
    ]
    for seed in range(20):
        batches = list(ExampleOrder(examples, 10, seed=seed))
        twice = [own for own in batches if len({examples[v.number].query.text for v in own}) < len(own)]
        # what waits longest may meet itself at the end
        assert len(twice) <= 1


def test_incomplete_batches_can_be_left_out():
    examples = examples_of(("a", None, 10), ("b", None, 7))
    order = ExampleOrder(examples, 2, world_size=2, same_dataset=True, drop_last=True)
    assert [len(own) for own in order] == [2] * 6 == [2] * len(order)
    with pytest.raises(InputError, match="no batch of 8 x 2 examples can be filled from 17"):
        ExampleOrder(examples, 8, world_size=2, same_dataset=True, drop_last=True)
