"""Whether a model computes what this package builds on: measured on a few tokens when it is loaded.

Families of models differ in ways that no configuration tells: logits that are scaled after the head, caches
whose rows cannot be repeated, attention that cannot look ahead, encoders under the name of decoders. What is
measured here is put right (the scale of the logits) or refused, so that nothing goes wrong in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from o1_model.backbone import Backbone, embedding_matrix
from o1_model.batch import collate
from o1_model.encoding.encode import Reader
from o1_model.layout import Layout, Row, prompt_row, query_row
from o1_model.thinking.decode import think_rows
from o1_model.thinking.settings import Thinking
from o1_records import InputError

_FAILURES = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NotImplementedError,
    RuntimeError, TypeError, ValueError,
)  # fmt: skip
_INSTEAD = "layout 'instruct' embeds with it, without thoughts"


class _MisfitError(Exception):
    """What the model does otherwise."""


@torch.inference_mode()
def fit(backbone: Backbone, layout: Layout, name: str) -> None:
    """Measure the scale of a model's logits; raise InputError where the model cannot do what the layout asks.

    Attention must be that of the layout. If the layout thinks, the logits must be the model's own, and
    thinking on the live cache must give the vectors of reading the same tokens at once; if it has latent
    steps, embeddings must be read as their tokens are, and no row may change another's. `name` is for the
    message.
    """
    matrix = embedding_matrix(backbone.lm)
    if matrix.is_meta:  # the weights are on another process
        return
    pad = getattr(backbone.config, "pad_token_id", None)
    ids = _ordinary_ids(matrix, {*layout.control_ids, layout.eos, layout.bos, pad})
    training = backbone.training
    backbone.eval()
    try:
        _check_attention(backbone, layout, ids)
        if layout.thinks or layout.latent_steps:
            backbone.logit_scale = _logit_scale(backbone, ids)
        if layout.thinks:
            _check_thinking(backbone, layout, ids)
        if layout.latent_steps:
            _check_latent_steps(backbone, layout, ids)
    except InputError:
        raise
    except (_MisfitError, *_FAILURES) as error:
        why = str(error).strip().partition("\n")[0]
        if not isinstance(error, _MisfitError):
            why = f"{type(error).__name__}: {why}"
        kind = backbone.config.model_type
        raise InputError(f"{name}: a {kind!r} cannot be used with layout {layout.name!r}: {why}") from error
    finally:
        backbone.train(training)


def _ordinary_ids(matrix: Tensor, excluded: set[Any]) -> list[int]:
    """Return eight token ids that are no control tokens and whose embeddings are numbers."""
    some = matrix.detach()[:4096]
    usable = [
        n for n, finite in enumerate(some.isfinite().all(dim=1).tolist()) if finite and n not in excluded
    ]
    if not usable:
        raise InputError("no token embedding of the model is a finite number; the weights are damaged")
    return [usable[place * len(usable) // 8] for place in range(8)]


def _check_attention(backbone: Backbone, layout: Layout, ids: Sequence[int]) -> None:
    """Check who sees whom in a row with a prefix of four tokens and two more after it."""
    *row, other, last = ids
    rows = [row, [*row[:2], other, *row[3:]], [*row[:-1], last]]
    batch = collate([Row(tuple(own), 3, 5, range(0)) for own in rows], 0).to(backbone.device)
    looked_up: list[Tensor] = []
    embeddings = backbone.lm.get_input_embeddings()
    hook = embeddings.register_forward_hook(lambda module, args, output: looked_up.append(args[0]))
    try:
        states = backbone.encode(batch, layout).float()
    finally:
        hook.remove()
    if not any(torch.equal(each, batch.input_ids) for each in looked_up):
        raise _MisfitError("it reads token ids elsewhere than in its input embeddings")
    near = _tolerance(backbone)
    ahead = not _close(states[1, :2], states[0, :2], near)
    if not _close(states[2, :5], states[0, :5], near) or (layout.attention == "causal" and ahead):
        raise _MisfitError("later tokens change the states of earlier ones, as in an encoder")
    if layout.attention == "prefix" and not ahead:
        raise _MisfitError("its attention cannot look ahead; use attention 'causal'")


def _logit_scale(backbone: Backbone, ids: Sequence[int]) -> float:
    """Return what the model multiplies its head's output with."""
    backbone.logit_scale = 1.0
    row = torch.tensor([list(ids)], device=backbone.device)
    logits = backbone.lm(input_ids=row, use_cache=False).logits[0].float()
    states = backbone.hidden(row, None, torch.arange(len(ids), device=row.device)[None])[0]
    scores = backbone.head(states).float().to(logits.device)
    if backbone.softcap is not None:
        # where the bound is nearly reached, rounding hides what was bounded
        logits = (logits / backbone.softcap).atanh() * backbone.softcap
        logits = logits.masked_fill(logits.abs() > 2 * backbone.softcap, torch.nan)
    known = logits.isfinite() & scores.isfinite()
    logits, scores = logits[known], scores[known]
    scale = float((logits * scores).sum() / (scores * scores).sum())
    if not _close(scale * scores, logits, _tolerance(backbone)):
        raise _MisfitError(f"its logits are not those of its head times a number; {_INSTEAD}")
    # a number of the configuration, if one is as near as can be measured
    numbers = [float(n) for n in backbone.config.to_dict().values() if isinstance(n, int | float) and n]
    ratios = [(n, 1 / n, n / backbone.dim, backbone.dim / n) for n in numbers]
    nearest = min([1.0, *(ratio for each in ratios for ratio in each)], key=lambda ratio: abs(ratio - scale))
    return nearest if abs(nearest - scale) < _tolerance(backbone) * abs(scale) else scale


def _check_thinking(backbone: Backbone, layout: Layout, ids: Sequence[int]) -> None:
    """Check that thoughts read from the live cache have the vectors of their whole rows."""
    texts = [ids[:3], ids[4:7]] if backbone.recurrent else [ids[:5], ids[5:7]]
    prompts, thinking = [prompt_row(layout, text) for text in texts], Thinking(samples=2, max_tokens=2)
    decoded = think_rows(backbone, layout, prompts, thinking, pad_id=ids[0])
    pairs = [(text, trace) for text, own in zip(texts, decoded, strict=True) for trace in own.traces]
    vectors = Reader(backbone, layout, ids[0]).read(
        [query_row(layout, text, trace.token_ids) for text, trace in pairs]
    )
    live = torch.stack([trace.vector for _, trace in pairs])
    cosine = float((torch.from_numpy(vectors) * live).sum(dim=1).min())
    if not cosine > 1 - _tolerance(backbone):
        raise _MisfitError(
            f"thinking on its cache gives other vectors than reading the same tokens (cosine {cosine:.4f}); "
            f"{_INSTEAD}"
        )


def _check_latent_steps(backbone: Backbone, layout: Layout, ids: Sequence[int]) -> None:
    """Check that embeddings are read as their tokens are, and that latent steps see their own row alone."""
    if backbone.recurrent:
        raise _MisfitError("its layers carry a state, which latent steps cannot leave; use latent_steps 0")
    row = torch.tensor([list(ids)], device=backbone.device)
    positions = torch.arange(len(ids), device=row.device)[None]
    embeddings = backbone.lm.get_input_embeddings()(row)
    ways = [backbone.hidden(inputs, None, positions).float() for inputs in (row, embeddings)]
    if not _close(ways[1], ways[0], _tolerance(backbone)):
        raise _MisfitError("it reads embeddings otherwise than their tokens; use latent_steps 0")
    rows = [query_row(layout, ids[:6]), query_row(layout, ids[5:7])]
    if layout.thinks:
        rows.append(query_row(layout, ids[:2], ids[3:7]))
    together, alone = (Reader(backbone, layout, ids[0], tokens).read(rows) for tokens in (10_000, 1))
    if not (together * alone).sum(axis=1).min() > 1 - _tolerance(backbone):
        raise _MisfitError("other rows of a batch change its latent steps; use latent_steps 0")


def _tolerance(backbone: Backbone) -> float:
    """Return how far numbers that should be equal may be apart, as a share of the largest."""
    return 1e-3 if backbone.control_rows.dtype == torch.float32 else 3e-2


def _close(first: Tensor, second: Tensor, tolerance: float) -> bool:
    return bool((first - second).abs().max() <= tolerance * second.abs().max())
