"""Work in batches of a token budget; where memory runs out, the budget is halved and the work goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from o1_model.batch import by_length


def within_memory(lengths: Sequence[int], tokens: int, run: Callable[[list[int]], None]) -> int:
    """Run every index in groups of similar length; returns the budget that fitted.

    A group that runs out of memory is split and run again, so `run` keeps what it makes only when it
    ends. Raises what `run` raises: every other error, and out of memory on a single index.
    """
    waiting = set(range(len(lengths)))
    while waiting:
        order = sorted(waiting)
        for places in by_length([lengths[index] for index in order], tokens):
            group = [order[place] for place in places]
            if not _fits(run, group):
                tokens = max(lengths[index] for index in group) * len(group) // 2
                break
            waiting.difference_update(group)
    return tokens


def _fits(run: Callable[[list[int]], None], group: list[int]) -> bool:
    try:
        run(group)
    except RuntimeError as error:
        if len(group) == 1 or not out_of_memory(error):
            raise
    else:
        return True
    # after the handler, whose traceback still holds the tensors
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False


def out_of_memory(error: RuntimeError) -> bool:
    """Whether a device or the CPU allocator had no memory left."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    # the CPU allocator has no type of its own; these are its messages on Linux and elsewhere
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)
