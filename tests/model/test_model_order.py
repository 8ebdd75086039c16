"""Which examples share a batch: a function of seed and epoch, each example once, one dataset a batch."""

import pytest
from accelerate.data_loader import BatchSamplerShard, skip_first_batches
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from o1_model.training.data import ExampleOrder
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
    assert sorted(n for own in batches for n in own) == list(range(len(examples)))
    assert len(batches) == len(order)
    if same:
        assert all(len({examples[n].dataset for n in own}) == 1 for own in batches)


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
        together = [n for own in step for n in own]
        assert len({examples[n].dataset for n in together}) == 1
        # no more stand twice than are needed for equal slices
        assert len(together) - len(set(together)) < world
        seen += together
    assert set(seen) == set(range(len(examples)))


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
    loader = DataLoader(range(24), batch_sampler=order, collate_fn=list)
    assert list(skip_first_batches(loader, 4)) == list(loader)[4:]


def test_datasets_of_larger_groups_come_in_fewer_queries():
    """ReasonEmbed's batches: 8 queries of 16 documents, 64 of 2 (LeetCode) and 2 of 64 (Pony)."""
    examples = examples_of(("stack", None, 64), ("leetcode", 2, 128), ("pony", 64, 8))
    sizes = {}
    for own in ExampleOrder(examples, 8, same_dataset=True, group_size=16):
        sizes.setdefault(examples[own[0]].dataset, set()).add(len(own))
    assert sizes == {"stack": {8}, "leetcode": {64}, "pony": {2}}


def test_incomplete_batches_can_be_left_out():
    examples = examples_of(("a", None, 10), ("b", None, 7))
    order = ExampleOrder(examples, 2, world_size=2, same_dataset=True, drop_last=True)
    assert [len(own) for own in order] == [2] * 6 == [2] * len(order)
    with pytest.raises(InputError, match="no batch of 8 x 2 examples can be filled from 17"):
        ExampleOrder(examples, 8, world_size=2, same_dataset=True, drop_last=True)
