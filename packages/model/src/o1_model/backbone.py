"""A causal language model from transformers, used for its states and logits, with trainable control rows."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from o1_model.batch import Batch, prefix_mask
from o1_model.layout import Layout
from o1_records import InputError, MissingExtraError
from o1_records.kit.models import loading

DECODERS_OF_ENCODERS = frozenset({"bert", "roberta", "electra", "xlm-roberta"})
# their position table starts with the rows of padding
_FIRST_POSITION_AFTER_PADDING = frozenset({"roberta", "xlm-roberta"})


class Backbone(nn.Module):
    """A causal LM whose control tokens have their embeddings in a small parameter of their own.

    `control_rows` [controls, dim] replaces the rows of `control_ids` wherever those tokens occur, so that
    they can train while the embedding matrix stays frozen; `merge_control_rows` writes them into it. A hook
    on the model's embeddings does so, also when `lm` is called directly.
    `logit_scale` is what the model multiplies its head's output with; `checkpoint.fit` measures it.
    """

    control_ids: Tensor

    def __init__(self, lm: PreTrainedModel, control_ids: Sequence[int]) -> None:
        super().__init__()
        self.lm = lm
        self.logit_scale = 1.0
        self.register_buffer("control_ids", torch.tensor(control_ids, dtype=torch.long), persistent=False)
        matrix = embedding_matrix(lm)
        rows = matrix.detach()[list(control_ids)]
        self.control_rows = nn.Parameter(rows.clone())
        self.control_ids = self.control_ids.to(matrix.device)
        lm.get_input_embeddings().register_forward_hook(self._with_control_rows)

    @property
    def config(self) -> Any:
        """The transformers configuration of the language model, also inside a model of several modalities."""
        return self.lm.config.get_text_config()

    @property
    def dim(self) -> int:
        """The length of a state, and so of a vector."""
        return int(self.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """The device of the weights; of several, that which takes token ids."""
        return self.control_rows.device

    @property
    def positions(self) -> int | None:
        """The number of tokens that a row may have, if the model bounds it."""
        most = getattr(self.config, "max_position_embeddings", None)
        return None if most is None else int(most) - self._first_position

    @cached_property
    def window(self) -> int | None:
        """The number of tokens that its layers of local attention look back, if it has any."""
        layers: list[Any] = DynamicCache(config=self.lm.config).layers
        windows = (layer.sliding_window for layer in layers if getattr(layer, "is_sliding", False))
        return min(windows, default=None)

    @cached_property
    def recurrent(self) -> bool:
        """Whether some of its layers carry a state from token to token: linear attention, Mamba."""
        layers: list[Any] = DynamicCache(config=self.lm.config).layers
        return any(hasattr(layer, "recurrent_states") for layer in layers)

    def hidden(
        self,
        inputs: Int[Tensor, "batch seq"] | Float[Tensor, "batch seq dim"],
        mask: Tensor | None,
        positions: Int[Tensor, "batch seq"],
        cache: Any = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """Return the states of the last layer; `cache` grows in place.

        `inputs` are token ids, or embeddings (`soft_tokens`). `mask` is [batch, total] over the cached tokens
        and these, for causal attention, or [batch, 1, seq, total] and says which token attends to which; None
        is causal attention.
        """
        if mask is None and self.config.model_type in DECODERS_OF_ENCODERS:
            mask = torch.ones_like(positions)  # they warn of padding they are not told of
        given: dict[str, Any] = {"attention_mask": self._readable(mask), "use_cache": cache is not None}
        if self._takes_positions:
            given["position_ids"] = positions + self._first_position
        if cache is not None:
            given["past_key_values"] = cache
        # token ids wherever there are any: some models look them up in every layer
        given["inputs_embeds" if inputs.is_floating_point() else "input_ids"] = inputs
        states: Tensor = self._body(**given).last_hidden_state
        return states

    def encode(self, batch: Batch, layout: Layout, cache: Any = None) -> Float[Tensor, "batch seq dim"]:
        """Return the states of whole rows under the attention of the layout."""
        mask = prefix_mask(batch) if layout.attention == "prefix" else batch.mask
        return self.hidden(batch.input_ids, mask, batch.positions, cache)

    def logits(self, states: Float[Tensor, "n dim"]) -> Float[Tensor, "n vocab"]:
        """Return the next-token logits of single states."""
        scores: Tensor = self.head(states)
        return scores if self.softcap is None else self.softcap * torch.tanh(scores / self.softcap)

    def soft_tokens(self, states: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
        """Return the mean of all token embeddings, each weighted by how probable it is after the state.

        (LaSER, arXiv 2603.01425, equation 4.) Control tokens have no part in it, as in written thoughts.
        """
        matrix = embedding_matrix(self.lm)
        logits = self.logits(states).to(torch.promote_types(states.dtype, torch.float32))
        logits = logits.index_fill(1, self.control_ids.to(logits.device), float("-inf"))
        mean = (logits.softmax(dim=1).to(matrix) @ matrix).to(matrix.dtype)
        return mean * self._embedding_scale(mean)

    @torch.no_grad()
    def merge_control_rows(self) -> None:
        """Write the control rows into the embedding matrix, so that the plain model computes the same."""
        embedding_matrix(self.lm)[self.control_ids] = self.control_rows.to(embedding_matrix(self.lm).dtype)

    @contextmanager
    def merged_control_rows(self) -> Iterator[Tensor]:
        """Keep the control rows in the matrix inside the context; yields the rows that were there before.

        A tied head computes logits with those, so training needs them back after saving.
        """
        matrix = embedding_matrix(self.lm).detach()
        before = matrix[self.control_ids].clone()
        self.merge_control_rows()
        try:
            yield before
        finally:
            matrix[self.control_ids] = before

    @property
    def head(self) -> nn.Module:
        """The module that turns states into logits, before any softcap."""
        lm: Any = self.lm
        heads: dict[str, Any] = {
            "electra": lambda: nn.Sequential(lm.generator_predictions, lm.generator_lm_head),
            "modernbert-decoder": lambda: nn.Sequential(lm.lm_head, lm.decoder),
        }
        names = [name for name in ("lm_head", "cls") if hasattr(lm, name)]
        found = heads.get(
            self.config.model_type, lambda: getattr(lm, names[0]) if names else lm.get_output_embeddings()
        )()
        head: nn.Module = found if self.logit_scale == 1 else nn.Sequential(found, _Times(self.logit_scale))
        return head

    @property
    def softcap(self) -> float | None:
        """The bound that some models (Gemma 2) put on their logits."""
        bound: float | None = getattr(self.config, "final_logit_softcapping", None)
        return getattr(self.config, "logits_soft_cap", None) if bound is None else bound

    def _with_control_rows(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Return the embeddings of token ids with the control rows in their places (a forward hook)."""
        is_control = torch.eq(args[0][..., None], self.control_ids)
        *places, which = is_control.nonzero(as_tuple=True)
        rows = self.control_rows[which].to(output.dtype) * self._embedding_scale(output)
        return output.index_put(tuple(places), rows)

    def _embedding_scale(self, like: Tensor) -> Tensor:
        """Return what the embedding module multiplies its rows with, in the dtype of the weights."""
        scale = getattr(self.lm.get_input_embeddings(), "scalar_embed_scale", 1.0)
        return torch.tensor(float(scale), dtype=like.dtype, device=like.device)

    def _readable(self, mask: Tensor | None) -> Tensor | None:
        if mask is None or mask.dim() == 2 or self.config._attn_implementation != "eager":
            return mask
        # eager attention (Gemma 2's own choice) adds the mask to the scores
        dtype = self.control_rows.dtype if self.lm.dtype is None else self.lm.dtype
        hidden = torch.full_like(mask, torch.finfo(dtype).min, dtype=dtype)
        return hidden.masked_fill(mask, 0.0)

    @cached_property
    def _body(self) -> nn.Module:
        """The model below the head."""
        body: nn.Module = self.lm.base_model
        return self.lm.get_decoder() if body is self.lm else body  # type: ignore[no-untyped-call]

    @cached_property
    def _takes_positions(self) -> bool:
        names = inspect.signature(self._body.forward).parameters
        return "position_ids" in names or "kwargs" in names

    @property
    def _first_position(self) -> int:
        config = self.config
        return int(config.pad_token_id) + 1 if config.model_type in _FIRST_POSITION_AFTER_PADDING else 0


class _Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, logits: Tensor) -> Tensor:
        return logits * self.factor


class Loading(TypedDict, total=False):
    """How a model is loaded: transformers' names, but for `quantization` (its `quantization_config`).

    `dtype` is that of the weights and the computation, "auto" that in which the weights are stored.
    """

    dtype: torch.dtype | str
    attn_implementation: str | None
    device_map: Any
    quantization: Any
    trust_remote_code: bool


def load_lm(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    gguf_file: str | None = None,
    dtype: torch.dtype | str = torch.float32,
    attn_implementation: str | None = None,
    device_map: Any = None,
    quantization: Any = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Load a causal LM from a folder or a hub id, from safetensors only; remote code runs only if asked for.

    BERT-family encoders are loaded as decoders. `quantization` is a transformers quantisation config.
    `gguf_file` is a file of llama.cpp in the folder; its weights are unpacked to `dtype`. Raises InputError
    when the model cannot be loaded, MissingExtraError for a GGUF file without the package that reads it.
    """
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    if gguf_file is not None:
        _need_gguf()
        options["gguf_file"] = gguf_file
    with _loading(name_or_path, "a causal language model"):
        config = AutoConfig.from_pretrained(name_or_path, **options)
        if config.model_type in DECODERS_OF_ENCODERS:
            config.is_decoder = True
        if gguf_file is not None:
            if quantization is not None:
                raise InputError("a GGUF file is quantised already; leave out quantization")
            from transformers import GgufConfig

            quantization = GgufConfig(dequantize=True)
        if quantization is not None:
            options["quantization_config"] = quantization
        if attn_implementation is not None:
            options["attn_implementation"] = attn_implementation
        return AutoModelForCausalLM.from_pretrained(
            name_or_path, config=config, dtype=dtype_of(dtype), use_safetensors=True, device_map=device_map,
            **options,
        )  # fmt: skip


def dtype_of(name: torch.dtype | str) -> torch.dtype | str:
    """Return the dtype of that name, or "auto". Raises InputError for others."""
    if isinstance(name, torch.dtype) or name == "auto":
        return name
    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(f"unknown dtype {name!r}; give auto, float32, bfloat16 or float16")
    return dtype


def load_tokenizer(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    gguf_file: str | None = None,
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder or a hub id, unchanged; of a GGUF file if the folder has no other."""
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    if gguf_file is not None and not (Path(name_or_path) / "tokenizer.json").exists():
        _need_gguf()
        options["gguf_file"] = gguf_file
    with _loading(name_or_path, "a tokenizer"):
        return AutoTokenizer.from_pretrained(name_or_path, use_fast=True, **options)


def _need_gguf() -> None:
    if find_spec("gguf") is None:
        raise MissingExtraError("o1-model", "gguf", "gguf_file")


@contextmanager
def _loading(name: str | Path, kind: str) -> Iterator[None]:
    with loading(name, kind):
        try:
            yield
        except ValueError as error:
            if "trust_remote_code" not in str(error):
                raise
            raise InputError(
                f"{str(name)!r} cannot be loaded as {kind} without its own code, which only "
                "trust_remote_code=True lets run"
            ) from error


@torch.no_grad()
def grow_vocabulary(lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make room for the tokenizer's new tokens; a vocabulary that was padded to be larger keeps its size.

    New rows are initialised to the mean embedding, so that they stay in distribution.
    """
    old = len(embedding_matrix(lm))
    if len(tokenizer) > old:
        mean = embedding_matrix(lm).mean(dim=0)
        lm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        embedding_matrix(lm)[old:] = mean
        head: Any = lm.get_output_embeddings()  # type: ignore[no-untyped-call]
        if head is not None and head.weight is not embedding_matrix(lm):
            # an adapter does not save these rows, so they must be the same wherever its base is loaded
            head.weight[old:] = head.weight[:old].mean(dim=0)


def embedding_matrix(lm: PreTrainedModel) -> Float[Tensor, "vocab dim"]:
    """Return the input embeddings of a language model."""
    weight: Any = lm.get_input_embeddings().weight
    matrix: Tensor = weight
    return matrix
