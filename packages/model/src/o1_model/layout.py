"""The only place where text becomes control tokens.

```
query side     [bos] <query> q <emb> <thought> t <eos> <emb>
                               ^ v_q                   ^ v_t
document side  [bos] <doc> d <emb>
```
(O1 Embedder, arXiv 2502.07555, figure 2.) v_q is a prefix of v_t's pass, so that the fast mode is
the same computation. Control tokens enter by id: text that spells `<emb>` stays text. Truncation cuts
q, t or d, never the control tokens around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from o1_records import InputError, Record, atomic_write

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONTROL_TOKENS = ("<query>", "<emb>", "<thought>", "<doc>")
FILE_NAME = "o1_layout.json"

Length = Annotated[int, Meta(ge=1)]
TokenId = Annotated[int, Meta(ge=0)]


class Layout(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the control tokens stand, and how the vectors are read out. Saved with a checkpoint.

    `readout` is "token" (the state at `<emb>`) or "mean" (v_q: mean up to the first `<emb>`; v_t and
    documents: mean over all). `attention` is "causal", or "prefix": tokens up to the first `<emb>` see
    each other both ways and only the thought is causal. An encoder used as a decoder keeps what it
    knows with mean and prefix (docs/decisions/0005); a decoder wants token and causal, as the paper.
    """

    bos: TokenId
    eos: TokenId
    query: TokenId
    emb: TokenId
    thought: TokenId
    doc: TokenId
    readout: Literal["token", "mean"] = "token"
    attention: Literal["causal", "prefix"] = "causal"
    query_length: Length = 64
    thought_length: Length = 64
    document_length: Length = 192
    name: Literal["o1"] = "o1"

    @property
    def longest(self) -> int:
        """Tokens of the longest row that can occur."""
        return max(self.query_length + self.thought_length + 6, self.document_length + 3)

    @property
    def control_ids(self) -> tuple[int, ...]:
        """Ids that no text can produce and no sampling may choose."""
        return (self.query, self.emb, self.thought, self.doc)

    def save(self, folder: str | Path) -> None:
        """Write the layout beside the weights."""
        with atomic_write(Path(folder) / FILE_NAME) as file:
            file.write(msgspec.json.format(msgspec.json.encode(self), indent=1))


def load_layout(folder: str | Path) -> Layout:
    """Read the layout of a checkpoint. Raises InputError when it is absent or damaged."""
    path = Path(folder) / FILE_NAME
    if not path.exists():
        raise InputError(f"{folder}: no {FILE_NAME}; is this a checkpoint of o1-model?")
    try:
        return msgspec.json.decode(path.read_bytes(), type=Layout)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InputError(f"{path}: {error}") from error


def new_layout(tokenizer: PreTrainedTokenizerBase, **settings: Any) -> Layout:
    """Add the control tokens to a tokenizer that lacks them and return the layout of their ids."""
    tokenizer.add_tokens(list(CONTROL_TOKENS), special_tokens=True)
    bos, eos = (_first_id(tokenizer, names) for names in (("bos", "cls"), ("eos", "sep")))
    ids: Any = tokenizer.convert_tokens_to_ids(list(CONTROL_TOKENS))
    query, emb, thought, doc = ids
    layout = Layout(bos=bos, eos=eos, query=query, emb=emb, thought=thought, doc=doc, **settings)
    try:
        return msgspec.convert(msgspec.to_builtins(layout), Layout)
    except msgspec.ValidationError as error:
        raise InputError(f"layout: {error}; got {settings}") from error


@dataclass(frozen=True)
class Row:
    """Token ids of one sequence and where its vectors and labels are.

    `first` and `last` are the positions of the first and the last `<emb>`; equal when there is no
    thought. `labels` is the span of positions whose tokens are learnt (thought tokens and EOS).
    """

    ids: tuple[int, ...]
    first: int
    last: int
    labels: range


def query_row(layout: Layout, text: Sequence[int], thought: Sequence[int] | None = None) -> Row:
    """The query side. Without a thought it ends at the first `<emb>`.

    A thought cut at `thought_length` is followed by EOS, which then is no label.
    """
    ids = [layout.bos, layout.query, *text[: layout.query_length], layout.emb]
    first = len(ids) - 1
    if thought is None:
        return Row(tuple(ids), first, first, range(0))
    kept = thought[: layout.thought_length]
    ids += [layout.thought, *kept, layout.eos, layout.emb]
    start = first + 2
    stop = start + len(kept) + (len(kept) == len(thought))
    return Row(tuple(ids), first, len(ids) - 1, range(start, stop))


def prompt_row(layout: Layout, text: Sequence[int]) -> Row:
    """The query side up to `<thought>`: what the model continues when it thinks."""
    row = query_row(layout, text)
    return Row((*row.ids, layout.thought), row.first, row.first, range(0))


def document_row(layout: Layout, text: Sequence[int]) -> Row:
    """The document side."""
    ids = (layout.bos, layout.doc, *text[: layout.document_length], layout.emb)
    return Row(ids, len(ids) - 1, len(ids) - 1, range(0))


def text_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Tokenise texts as ordinary text: no control token and no special token comes out."""
    if not texts:
        return []
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def _first_id(tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> int:
    for name in names:
        token_id = getattr(tokenizer, f"{name}_token_id")
        if token_id is not None:
            return int(token_id)
    raise InputError(f"the tokenizer {tokenizer.name_or_path!r} has no {' or '.join(names)} token; set one")
