r"""The only place where text becomes control tokens.

```
o1         [bos] <query> q <emb> <thought> t <eos> <emb>      [bos] <doc> d <emb>
                           ^ v_q                   ^ v_t
reference  [bos] <query> q </query> <thought> t <eos> <emb>   [bos] d <emb>
instruct   [bos] Instruct: {instruction}\nQuery: q <eos>     [bos] d <eos>
```
`o1` is O1 Embedder's figure 2 (arXiv 2502.07555): v_q is a prefix of v_t's pass, so that the fast mode
is the same computation. `reference` is the layout of checkpoints trained with the public O1 code: one
read-out; without a thought the row is `<query> q </query> <emb>`. `instruct` is ReasonEmbed's and
Qwen3-Embedding's: the last token is read and no thought stands inside. Control tokens enter by id:
text that spells `<emb>` stays text. Truncation cuts q, t or d, never the control tokens around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from o1_records import InputError, Query, Record, atomic_write, quoted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Name = Literal["o1", "reference", "instruct"]

CONTROL_TOKENS: dict[Name, dict[str, str]] = {
    "o1": {"query": "<query>", "emb": "<emb>", "thought": "<thought>", "doc": "<doc>"},
    "reference": {"query": "<query>", "query_end": "</query>", "thought": "<thought>", "emb": "<emb>"},
    "instruct": {},
}
FILE_NAME = "o1_layout.json"

Length = Annotated[int, Meta(ge=1)]
TokenId = Annotated[int, Meta(ge=0)]


class Layout(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the control tokens stand, and how the vectors are read out. Saved with a checkpoint.

    `readout` is "token" (the state at `emb`) or "mean" (v_q: mean up to the first `emb`; v_t and
    documents: mean over all). `attention` is "causal", or "prefix": tokens up to the first `emb` attend to
    each other in both directions and only the thought is causal. An encoder used as a decoder does best
    with mean and prefix (docs/decisions/0005), a decoder with token and causal, as in the paper.
    `bos` is None where the tokenizer has none (Qwen2). In `instruct`, `emb` is `eos`.
    `instruction` applies to queries without one of their own.
    """

    eos: TokenId
    emb: TokenId
    bos: TokenId | None = None
    query: TokenId | None = None
    query_end: TokenId | None = None
    thought: TokenId | None = None
    doc: TokenId | None = None
    readout: Literal["token", "mean"] = "token"
    attention: Literal["causal", "prefix"] = "causal"
    query_length: Length = 64
    thought_length: Length = 64
    document_length: Length = 192
    instruction: str = ""
    name: Name = "o1"

    def __post_init__(self) -> None:
        """Raise InputError for parts that do not fit together."""
        wanted = CONTROL_TOKENS[self.name]
        for part in ("query", "query_end", "thought", "doc"):
            if (getattr(self, part) is not None) != (part in wanted):
                needs = ", ".join(wanted) or "no control tokens"
                raise InputError(f"layout {self.name!r} has {needs}; got {part}={getattr(self, part)}")
        if self.name == "instruct" and self.emb != self.eos:
            raise InputError(f"layout 'instruct' reads the eos token {self.eos}; got emb={self.emb}")
        if self.name == "reference" and self.attention == "prefix":
            raise InputError("layout 'reference' has no prefix for two-way attention; use causal attention")

    @property
    def thinks(self) -> bool:
        """Whether a thought can stand in the query side."""
        return self.thought is not None

    @property
    def two_read_outs(self) -> bool:
        """Whether the pass that gives v_t also gives v_q, which then costs nothing when thinking."""
        return self.name == "o1"

    @property
    def longest(self) -> int:
        """The number of tokens of the longest possible row."""
        thought = self.thought_length + 3 if self.thinks else 0
        return max(self.query_length + 3 + thought, self.document_length + 3)

    @property
    def control_ids(self) -> tuple[int, ...]:
        """The ids that no text can produce and sampling must never choose."""
        emb = None if self.emb == self.eos else self.emb
        return _present(self.query, self.query_end, emb, self.thought, self.doc)

    def save(self, folder: str | Path) -> None:
        """Write the layout beside the weights."""
        with atomic_write(Path(folder) / FILE_NAME) as file:
            file.write(msgspec.json.format(msgspec.json.encode(self), indent=1))


def load_layout(folder: str | Path) -> Layout:
    """Read the layout of a checkpoint. Raises InputError when it is missing or damaged."""
    path = Path(folder) / FILE_NAME
    if not path.exists():
        raise InputError(f"{folder}: no {FILE_NAME}; is this a checkpoint of o1-model?")
    try:
        return msgspec.json.decode(path.read_bytes(), type=Layout)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InputError(f"{path}: {error}") from error


def new_layout(tokenizer: PreTrainedTokenizerBase, *, name: Name = "o1", **settings: Any) -> Layout:
    """Add the missing control tokens to a tokenizer and return the layout of their ids."""
    if name not in CONTROL_TOKENS:
        raise InputError(f"unknown layout {name!r}; choose from {', '.join(CONTROL_TOKENS)}")
    tokens = CONTROL_TOKENS[name]
    # also those it has: only a special token can be told from text that spells it
    tokenizer.add_tokens(list(tokens.values()), special_tokens=True)
    eos = _eos(tokenizer)
    ids: Any = tokenizer.convert_tokens_to_ids(list(tokens.values()))
    parts = {"emb": eos, **dict(zip(tokens, ids, strict=True))}
    try:
        layout = Layout(name=name, bos=_bos(tokenizer, name), eos=eos, **parts, **settings)
        return msgspec.convert(msgspec.to_builtins(layout), Layout)
    except (msgspec.ValidationError, TypeError) as error:
        raise InputError(f"layout: {error}; got {settings}") from error


def known_layout(tokenizer: PreTrainedTokenizerBase, *, name: Name, **settings: Any) -> Layout:
    """Return the layout of a tokenizer that has its control tokens. Raises InputError if one is missing."""
    missing = [token for token in CONTROL_TOKENS.get(name, {}).values() if token not in tokenizer.get_vocab()]
    if missing:
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} lacks {', '.join(missing)} of layout {name!r}; "
            "was this checkpoint trained with another layout?"
        )
    return new_layout(tokenizer, name=name, **settings)


@dataclass(frozen=True)
class Row:
    """Token ids of one sequence, and where its vectors and labels are.

    `first` and `last` are the positions of the first and the last `<emb>`; equal when there is no
    thought. `labels` is the span of positions whose tokens are learnt (thought tokens and EOS).
    """

    ids: tuple[int, ...]
    first: int
    last: int
    labels: range


def query_row(layout: Layout, text: Sequence[int], thought: Sequence[int] | None = None) -> Row:
    """Return the row of a query. Without a thought it ends at the first `<emb>`; `[]` is an empty thought.

    After a thought that was cut at `thought_length`, EOS is not a label. Raises InputError for a thought
    in a layout that has no place for one.
    """
    ids = [*_query_start(layout, text), layout.emb]
    first = len(ids) - 1
    if thought is None:
        return Row(tuple(ids), first, first, range(0))
    prompt = prompt_row(layout, text)
    kept = thought[: layout.thought_length]
    ids = [*prompt.ids, *kept, layout.eos, layout.emb]
    last = len(ids) - 1
    start = len(prompt.ids)
    stop = start + len(kept) + (len(kept) == len(thought))
    return Row(tuple(ids), first if layout.two_read_outs else last, last, range(start, stop))


def prompt_row(layout: Layout, text: Sequence[int]) -> Row:
    """Return the row of a query up to `<thought>`: what the model continues when it thinks.

    Only a layout with two read-outs can read v_q in it, at `first`; others need a `query_row` for v_q.
    """
    if layout.thought is None:
        raise InputError(
            f"the layout {layout.name!r} has no place for a thought; write the thought into the query's text"
        )
    ids = _query_start(layout, text)
    if layout.two_read_outs:
        ids.append(layout.emb)
    first = len(ids) - 1
    return Row((*ids, layout.thought), first, first, range(0))


def document_row(layout: Layout, text: Sequence[int]) -> Row:
    """Return the row of a document."""
    ids = (*_present(layout.bos, layout.doc), *text[: layout.document_length], layout.emb)
    return Row(ids, len(ids) - 1, len(ids) - 1, range(0))


def query_text(layout: Layout, query: str | Query) -> str:
    """Return the text of a query after its instruction; a string gets the instruction of the layout."""
    own, text = ("", query) if isinstance(query, str) else (query.instruction, query.text)
    return query_prefix(layout, own) + text


def query_prefix(layout: Layout, instruction: str = "") -> str:
    """Return the text before a query: its instruction, else that of the layout, in the layout's format."""
    instruction = instruction or layout.instruction
    if not instruction:
        return ""
    return f"Instruct: {instruction}\nQuery: " if layout.name == "instruct" else f"{instruction} "


def text_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Tokenise texts as ordinary text, without any control or special token.

    Raises InputError for a text that is not valid Unicode.
    """
    if not texts:
        return []
    try:
        encoded = tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
    except TypeError as error:
        lone = [text for text in texts if any("\ud800" <= letter <= "\udfff" for letter in text)]
        if not lone:
            raise
        raise InputError(
            f"{quoted(lone[0])}: not valid Unicode: a lone surrogate (half of a pair); correct the text"
        ) from error
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def _query_start(layout: Layout, text: Sequence[int]) -> list[int]:
    before = _present(layout.bos, layout.query)
    return [*before, *text[: layout.query_length], *_present(layout.query_end)]


def _present(*ids: int | None) -> tuple[int, ...]:
    return tuple(token for token in ids if token is not None)


def _bos(tokenizer: PreTrainedTokenizerBase, name: Name) -> int | None:
    """Return the token that opens a row, if any.

    The layouts other than `o1` are those of models trained on the output of the tokenizer itself: they
    have a bos only if it adds one.
    """
    own = _first_id(tokenizer, ("bos", "cls"))
    if name == "o1":
        return own
    opening: Any = tokenizer("a")["input_ids"]
    return own if own in opening[:1] else None


def _eos(tokenizer: PreTrainedTokenizerBase) -> int:
    eos = _first_id(tokenizer, ("eos", "sep"))
    if eos is None:
        raise InputError(f"the tokenizer {tokenizer.name_or_path!r} has no eos and no sep token; set one")
    return eos


def _first_id(tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> int | None:
    ids = (getattr(tokenizer, f"{name}_token_id") for name in names)
    return next((int(token_id) for token_id in ids if token_id is not None), None)
