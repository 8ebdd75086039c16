"""The order of training examples: the same on every process and after a resume."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch.utils.data import Sampler

from o1_records import Example, InputError

Item = TypeVar("Item")


class ExampleOrder(Sampler[list[int]]):
    """Batches of example numbers; a function of seed and epoch alone.

    Yields the batches of single processes: `world_size` consecutive ones, of equal size, are one global
    batch, so that accelerate's `BatchSamplerShard` gives each process its slice (with
    `even_batches=False`, because batches differ in size) and the Trainer can skip batches on resume.

    Args:
        examples: what is ordered; only `dataset` and `group_size` are read.
        batch_size: examples of a process.
        world_size: processes.
        seed: of the order.
        same_dataset: a global batch holds examples of one dataset and group size, and those that bring
            their own `group_size` stand in batches of as many *documents* as the others: with a
            `group_size` of 16 and a batch of 8, examples of 64 documents come in twos and of 2 in 64s
            (ReasonEmbed).
        group_size: documents of an example that does not say how many.
        drop_last: leave out what does not fill a global batch. Otherwise it is a smaller batch, in
            which up to `world_size` - 1 examples stand twice so that all processes have as many.

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
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches of all processes in an epoch."""
        each = ((len(self._pools[key]), size) for key, size in self._sizes.items())
        batches = sum(count // size if self._drop_last else -(-count // size) for count, size in each)
        return batches * self._world

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of the epoch, process by process."""
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
