"""A causal language model from transformers, seen as states and logits, with trainable control rows."""

from __future__ import annotations

from collections.abc import Sequence
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

DECODERS_OF_ENCODERS = frozenset({"bert", "roberta", "electra", "xlm-roberta"})


class Backbone(nn.Module):
    """A causal LM whose control tokens read their embeddings from one small parameter.

    `control_rows` [controls, dim] replaces the rows of `control_ids` wherever those tokens occur, so
    the rows train while the matrix itself may stay frozen; `merge_control_rows` writes them back.
    """

    control_ids: Tensor

    def __init__(self, lm: PreTrainedModel, control_ids: Sequence[int]) -> None:
        super().__init__()
        self.lm = lm
        self.register_buffer("control_ids", torch.tensor(control_ids), persistent=False)
        rows = embedding_matrix(lm).detach()[list(control_ids)]
        self.control_rows = nn.Parameter(rows.clone())

    @property
    def config(self) -> Any:
        """The transformers configuration."""
        return self.lm.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.control_rows.device

    def hidden(
        self,
        input_ids: Int[Tensor, "batch seq"],
        mask: Tensor,
        positions: Int[Tensor, "batch seq"],
        cache: Any = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """States of the last layer; `cache` grows in place.

        `mask` is [batch, total] over the cached tokens and these, for causal attention, or
        [batch, 1, seq, total] and says which token sees which.
        """
        output = self.lm.base_model(
            inputs_embeds=self.embed(input_ids),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        states: Tensor = output.last_hidden_state
        return states

    def encode(self, batch: Batch, layout: Layout, cache: Any = None) -> Float[Tensor, "batch seq dim"]:
        """States of whole rows, under the layout's attention."""
        mask = prefix_mask(batch) if layout.attention == "prefix" else batch.mask
        return self.hidden(batch.input_ids, mask, batch.positions, cache)

    def embed(self, input_ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq dim"]:
        """Token embeddings with the control rows scattered in."""
        vectors: Tensor = self.lm.get_input_embeddings()(input_ids)
        is_control = torch.eq(input_ids[..., None], self.control_ids)
        batch, seq, which = is_control.nonzero(as_tuple=True)
        rows = self.control_rows[which].to(vectors.dtype) * self._embed_scale
        return vectors.index_put((batch, seq), rows)

    def logits(self, states: Float[Tensor, "n dim"]) -> Float[Tensor, "n vocab"]:
        """Next-token logits of single states, computed only where they are asked for."""
        scores: Tensor = self._head()(states)
        softcap = getattr(self.config, "final_logit_softcapping", None)
        return scores if softcap is None else softcap * torch.tanh(scores / softcap)

    @torch.no_grad()
    def merge_control_rows(self) -> None:
        """Write the control rows into the embedding matrix, so that the plain model is the same."""
        embedding_matrix(self.lm)[self.control_ids] = self.control_rows

    def _head(self) -> nn.Module:
        lm: Any = self.lm
        heads: dict[str, Any] = {
            "bert": lambda: lm.cls,
            "electra": lambda: nn.Sequential(lm.generator_predictions, lm.generator_lm_head),
        }
        head: nn.Module = heads.get(self.config.model_type, lambda: lm.lm_head)()
        return head

    @property
    def _embed_scale(self) -> float:
        return float(getattr(self.lm.get_input_embeddings(), "scalar_embed_scale", 1.0))


def load_lm(
    name_or_path: str | Path, *, dtype: torch.dtype = torch.float32, revision: str | None = None
) -> PreTrainedModel:
    """Load a causal LM from a folder or a hub id: safetensors only, no remote code.

    BERT-family encoders are loaded as decoders. Raises InputError when there is no such model.
    """
    options = {"revision": revision, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(name_or_path, **options)
        if config.model_type in DECODERS_OF_ENCODERS:
            config.is_decoder = True
        return AutoModelForCausalLM.from_pretrained(
            name_or_path, config=config, dtype=dtype, use_safetensors=True, **options
        )
    except (OSError, ValueError) as error:
        raise InputError(f"cannot load a model from {str(name_or_path)!r}: {error}") from error


def load_tokenizer(name_or_path: str | Path, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder or a hub id; its chat template and special tokens are untouched."""
    try:
        return AutoTokenizer.from_pretrained(
            name_or_path, revision=revision, trust_remote_code=False, use_fast=True
        )
    except (OSError, ValueError) as error:
        raise InputError(f"cannot load a tokenizer from {str(name_or_path)!r}: {error}") from error


@torch.no_grad()
def grow_vocabulary(lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make room for the tokenizer's new tokens; a padded vocabulary keeps its size.

    New rows start at the mean of the old ones, which no model has learnt to fear.
    """
    old = len(embedding_matrix(lm))
    if len(tokenizer) > old:
        mean = embedding_matrix(lm).mean(dim=0)
        lm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        embedding_matrix(lm)[old:] = mean


def embedding_matrix(lm: PreTrainedModel) -> Float[Tensor, "vocab dim"]:
    """The input embeddings of a language model."""
    weight: Any = lm.get_input_embeddings().weight
    matrix: Tensor = weight
    return matrix
