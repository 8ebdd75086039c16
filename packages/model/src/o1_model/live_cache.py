"""A key-value cache with room for the tokens to come."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


def spread(cache: DynamicCache, samples: int, room: int) -> None:
    """Repeat every row of a prefilled cache `samples` times, with room for `room` more columns.

    Layers of other kinds than plain attention (sliding windows) grow as transformers lets them.
    """
    layers: list[Any] = cache.layers
    for number, layer in enumerate(layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            layers[number] = RoomyLayer(layer, samples, room)
        else:
            layer.batch_repeat_interleave(samples)


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A layer that writes a step into its room, where DynamicLayer copies all it holds at each step."""

    def __init__(self, layer: DynamicLayer, samples: int, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        assert layer.keys is not None and layer.values is not None
        self._keys = _roomy(layer.keys, samples, room)
        self._values = _roomy(layer.values, samples, room)
        self._show(len(self._keys), layer.keys.shape[2])

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the states of a step in place."""
        rows, start = len(key_states), self.get_seq_length()
        stop = start + key_states.shape[2]
        self._keys[:rows, :, start:stop] = key_states
        self._values[:rows, :, start:stop] = value_states
        return self._show(rows, stop)

    def batch_select_indices(self, indices: Int[Tensor, "kept"]) -> None:
        """Keep these rows. One that keeps its place costs nothing."""
        length = self.get_seq_length()
        moved = (indices != torch.arange(len(indices), device=indices.device)).nonzero()[:, 0]
        source = indices[moved]
        self._keys[moved, :, :length] = self._keys[source, :, :length]
        self._values[moved, :, :length] = self._values[source, :, :length]
        self._show(len(indices), length)

    def _show(self, rows: int, length: int) -> tuple[Tensor, Tensor]:
        self.keys, self.values = self._keys[:rows, :, :length], self._values[:rows, :, :length]
        return self.keys, self.values


def filled(kept: Int[Tensor, "kept"]) -> Int[Tensor, "kept"]:
    """The kept rows (ascending) in an order in which most keep their place: the last fill the gaps."""
    count = len(kept)
    stay, move = kept[kept < count], kept[kept >= count]
    order = torch.empty_like(kept)
    order[stay] = stay
    gaps = torch.ones(count, dtype=torch.bool, device=kept.device)
    gaps[stay] = False
    order[gaps] = move
    return order


def _roomy(
    states: Float[Tensor, "rows heads seq size"], samples: int, room: int
) -> Float[Tensor, "more heads longer size"]:
    rows, heads, length, size = states.shape
    roomy = states.new_empty(rows * samples, heads, length + room, size)
    roomy[:, :, :length] = states.repeat_interleave(samples, dim=0)
    return roomy
