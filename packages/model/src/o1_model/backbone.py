"""A causal language model from transformers, used for its states and logits, with trainable control rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from o1_model.batch import Batch, prefix_mask
from o1_model.layout import Layout
from o1_records import InputError
from o1_records.kit.models import loading

DECODERS_OF_ENCODERS = frozenset({"bert", "roberta", "electra", "xlm-roberta"})
# their position table starts with the rows of padding
_FIRST_POSITION_AFTER_PADDING = frozenset({"roberta", "xlm-roberta"})


class Backbone(nn.Module):
    """A causal LM whose control tokens have their embeddings in a small parameter of their own.

    `control_rows` [controls, dim] replaces the rows of `control_ids` wherever those tokens occur, so that
    they can train while the embedding matrix stays frozen; `merge_control_rows` writes them into it.
    """

    control_ids: Tensor

    def __init__(self, lm: PreTrainedModel, control_ids: Sequence[int]) -> None:
        super().__init__()
        self.lm = lm
        self.register_buffer("control_ids", torch.tensor(control_ids, dtype=torch.long), persistent=False)
        rows = embedding_matrix(lm).detach()[list(control_ids)]
        self.control_rows = nn.Parameter(rows.clone())

    @property
    def config(self) -> Any:
        """The transformers configuration."""
        return self.lm.config

    @property
    def dim(self) -> int:
        """The length of a state, and so of a vector."""
        return int(self.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.control_rows.device

    def hidden(
        self,
        input_ids: Int[Tensor, "batch seq"],
        mask: Tensor | None,
        positions: Int[Tensor, "batch seq"],
        cache: Any = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """Return the states of the last layer; `cache` grows in place.

        `mask` is [batch, total] over the cached tokens and these, for causal attention, or
        [batch, 1, seq, total] and says which token attends to which; None is causal attention.
        """
        embedded = self.embed(input_ids)
        output = self.lm.base_model(
            inputs_embeds=embedded,
            attention_mask=self._readable(mask, embedded.dtype),
            position_ids=positions + self._first_position,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        states: Tensor = output.last_hidden_state
        return states

    def encode(self, batch: Batch, layout: Layout, cache: Any = None) -> Float[Tensor, "batch seq dim"]:
        """Return the states of whole rows under the attention of the layout."""
        mask = prefix_mask(batch) if layout.attention == "prefix" else batch.mask
        return self.hidden(batch.input_ids, mask, batch.positions, cache)

    def embed(self, input_ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq dim"]:
        """Return the token embeddings, with the control rows in their places."""
        vectors: Tensor = self.lm.get_input_embeddings()(input_ids)
        is_control = torch.eq(input_ids[..., None], self.control_ids)
        batch, seq, which = is_control.nonzero(as_tuple=True)
        # the scale in the dtype of the weights, as the embedding module has it
        scale = torch.tensor(self._embed_scale, dtype=vectors.dtype, device=vectors.device)
        return vectors.index_put((batch, seq), self.control_rows[which].to(vectors.dtype) * scale)

    def logits(self, states: Float[Tensor, "n dim"]) -> Float[Tensor, "n vocab"]:
        """Return the next-token logits of single states."""
        scores: Tensor = self.head(states)
        return scores if self.softcap is None else self.softcap * torch.tanh(scores / self.softcap)

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

    def _readable(self, mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        if mask is None or mask.dim() == 2 or self.config._attn_implementation != "eager":
            return mask
        # eager attention (Gemma 2's own choice) adds the mask to the scores
        hidden = torch.full_like(mask, torch.finfo(dtype).min, dtype=dtype)
        return hidden.masked_fill(mask, 0.0)

    @property
    def head(self) -> nn.Module:
        """The module that turns states into logits, before any softcap."""
        lm: Any = self.lm
        heads: dict[str, Any] = {
            "bert": lambda: lm.cls,
            "electra": lambda: nn.Sequential(lm.generator_predictions, lm.generator_lm_head),
        }
        head: nn.Module = heads.get(self.config.model_type, lambda: lm.lm_head)()
        return head

    @property
    def softcap(self) -> float | None:
        """The bound that some models (Gemma 2) put on their logits."""
        bound: float | None = getattr(self.config, "final_logit_softcapping", None)
        return bound

    @property
    def _first_position(self) -> int:
        config = self.config
        return int(config.pad_token_id) + 1 if config.model_type in _FIRST_POSITION_AFTER_PADDING else 0

    @property
    def _embed_scale(self) -> float:
        return float(getattr(self.lm.get_input_embeddings(), "scalar_embed_scale", 1.0))


def load_lm(
    name_or_path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    quantization: Any = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Load a causal LM from a folder or a hub id, from safetensors only; remote code runs only if asked for.

    BERT-family encoders are loaded as decoders. `quantization` is a transformers quantisation config
    (4-bit weights under LoRA; never run so far). Raises InputError when the model cannot be loaded.
    """
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    with _loading(name_or_path, "a causal language model"):
        config = AutoConfig.from_pretrained(name_or_path, **options)
        if config.model_type in DECODERS_OF_ENCODERS:
            config.is_decoder = True
        if quantization is not None:
            options["quantization_config"] = quantization
        return AutoModelForCausalLM.from_pretrained(
            name_or_path, config=config, dtype=dtype, use_safetensors=True, **options
        )


def load_tokenizer(
    name_or_path: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder or a hub id, unchanged."""
    with _loading(name_or_path, "a tokenizer"):
        return AutoTokenizer.from_pretrained(
            name_or_path, revision=revision, trust_remote_code=trust_remote_code, use_fast=True
        )


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
