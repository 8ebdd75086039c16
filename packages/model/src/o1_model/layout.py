r"""The only place where text becomes control tokens.

```
o1         [bos] <query> q <emb> <thought> t <eos> <emb>      [bos] <doc> d <emb>
                           ^ v_q                   ^ v_t
reference  [bos] <query> q </query> <thought> t <eos> <emb>   [bos] d <emb>
instruct   [bos] Instruct: {instruction}\nQuery: q [eos]     [bos] d [eos]
```
`o1` is O1 Embedder's figure 2 (arXiv 2502.07555): v_q is a prefix of v_t's pass, so that the fast mode
is the same computation. `reference` is the layout of checkpoints trained with the public O1 code: one
read-out; without a thought the row is `<query> q </query> <thought> <emb>`, as trained. `instruct` is that of
plain embedding models such as ReasonEmbed's and Qwen3-Embedding: their tokenizer says what opens and what
closes a row, and no thought stands inside. Control tokens enter by id: text that spells `<emb>` stays text.
Truncation cuts q, t or d, never the control tokens around them, and never the instruction before q.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from o1_model.tokens import forget, text_tokenizer
from o1_records import Document, InputError, Query, Record, atomic_write

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Name = Literal["o1", "reference", "instruct"]

CONTROL_TOKENS: dict[Name, dict[str, str]] = {
    "o1": {"query": "<query>", "emb": "<emb>", "thought": "<thought>", "doc": "<doc>"},
    "reference": {"query": "<query>", "query_end": "</query>", "thought": "<thought>", "emb": "<emb>"},
    "instruct": {},
}
INSTRUCTION = "{instruction}"
QUERY_PROMPTS: dict[Name, str] = {
    "o1": f"{INSTRUCTION} ",
    "reference": f"{INSTRUCTION} ",
    "instruct": f"Instruct: {INSTRUCTION}\nQuery: ",
}
FILE_NAME = "o1_layout.json"

Length = Annotated[int, Meta(ge=1)]
TokenId = Annotated[int, Meta(ge=0)]


class Layout(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the control tokens stand, and how the vectors are read out. Saved with a checkpoint.

    `readout` is "token" (the state at `emb`), "mean" (v_q: mean up to the first `emb`; v_t and
    documents: mean over all) or, for encoders in `instruct`, "first" (the state of [CLS]). `attention` is
    "causal", or "prefix": tokens up to the first `emb` attend to each other in both directions and only the
    thought is causal. An encoder used as a decoder does best with mean and prefix (docs/decisions/0005), a
    decoder with token and causal, as in the paper. `bos` is None where the tokenizer has none (Qwen2). In
    `instruct`, `emb` is `eos`, or None where nothing closes a row and its last token is read.

    `instruction` applies to queries without one of their own; `query_prompt` is the text before a query that
    has one, with "{instruction}" in its place (None: as the layout has it), or a fixed text before every
    query. `document_prompt` stands before every document. The lengths are in tokens of the query, the thought
    and the document themselves.

    `latent_steps` counts the states whose mean is the vector of a query without a thought, and of a document:
    the first is the read-out's, each further one that of a latent thought, which is no token
    (`encoding.encode.latent_states`). 0: the read-out alone. A query with a thought in its row has none.
    """

    eos: TokenId
    emb: TokenId | None
    bos: TokenId | None = None
    query: TokenId | None = None
    query_end: TokenId | None = None
    thought: TokenId | None = None
    doc: TokenId | None = None
    readout: Literal["token", "mean", "first"] = "token"
    attention: Literal["causal", "prefix"] = "causal"
    query_length: Length = 64
    thought_length: Length = 64
    document_length: Length = 192
    instruction: str = ""
    query_prompt: str | None = None
    document_prompt: str = ""
    latent_steps: Annotated[int, Meta(ge=0)] = 0
    name: Name = "o1"

    def __post_init__(self) -> None:
        """Raise InputError for parts that do not fit together."""
        wanted = CONTROL_TOKENS[self.name]
        for part in ("query", "query_end", "thought", "doc"):
            if (getattr(self, part) is not None) != (part in wanted):
                needs = ", ".join(wanted) or "no control tokens"
                raise InputError(f"layout {self.name!r} has {needs}; got {part}={getattr(self, part)}")
        if self.name == "instruct" and self.emb not in (self.eos, None):
            raise InputError(f"layout 'instruct' reads the eos token {self.eos}; got emb={self.emb}")
        if self.name != "instruct" and self.emb is None:
            raise InputError(f"layout {self.name!r} reads the token emb; got none")
        if self.name == "reference" and self.attention == "prefix":
            raise InputError("layout 'reference' has no prefix for two-way attention; use causal attention")
        if self.readout == "first" and (self.name != "instruct" or self.attention == "causal"):
            raise InputError(
                "the first token has seen nothing but itself in causal attention, and no thought; "
                "readout 'first' is for encoders in layout 'instruct' with attention 'prefix'"
            )
        self._refuse_latent_steps()

    def _refuse_latent_steps(self) -> None:
        if self.latent_steps == 1:
            raise InputError("latent_steps 1 is the read-out alone; give 0, or at least 2 (LaSER has 3)")
        if self.latent_steps and self.name == "reference":
            raise InputError(
                "layout 'reference' cannot tell a query with a thought from one without, which alone takes "
                "latent steps; choose the layout o1, or latent_steps 0"
            )
        if self.latent_steps and self.name == "instruct" and self.attention == "prefix":
            raise InputError(
                "layout 'instruct' with attention 'prefix' is for encoders, which predict no next token to "
                "think with; use causal attention, or latent_steps 0"
            )

    @property
    def thinks(self) -> bool:
        """Whether a thought can stand in the query side."""
        return self.thought is not None

    @property
    def two_read_outs(self) -> bool:
        """Whether the pass that gives v_t also gives v_q, which then costs nothing when thinking.

        With latent steps it gives the first of them alone, and v_q takes a pass of its own.
        """
        return self.name == "o1"

    @property
    def latent_tokens(self) -> int:
        """The number of latent thoughts that are read after a row without a thought."""
        return max(self.latent_steps - 1, 0)

    @property
    def longest(self) -> int:
        """The number of tokens of the longest possible row, prompts left out, latent thoughts among them."""
        thought = self.thought_length + 3 if self.thinks else 0
        return max(self.query_length + thought, self.document_length) + 3 + self.latent_tokens

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
    """Add the missing control tokens to a tokenizer and return the layout of their ids.

    `settings` are fields of Layout. In `instruct`, a row is closed by what the tokenizer itself appends, else
    by its eos token; `eos` is another token for it, or None for no token.
    """
    return _layout(tokenizer, name, settings, always_closed=True)


def known_layout(tokenizer: PreTrainedTokenizerBase, *, name: Name, **settings: Any) -> Layout:
    """Return the layout of a model that somebody else trained.

    In `instruct`, rows are what its tokenizer makes of a text. Raises InputError if the tokenizer lacks a
    control token.
    """
    missing = [token for token in CONTROL_TOKENS.get(name, {}).values() if token not in tokenizer.get_vocab()]
    if missing:
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} lacks {', '.join(missing)} of layout {name!r}; "
            "was this checkpoint trained with another layout?"
        )
    return _layout(tokenizer, name, settings, always_closed=False)


def changed_layout(layout: Layout, **settings: Any) -> Layout:
    """Return a layout with some of its fields changed. Raises InputError for values that do not fit."""
    try:
        if layout.name == "instruct" and "eos" in settings:
            settings = {**settings, **_closing(settings["eos"], layout.eos)}
        changed = msgspec.structs.replace(layout, **settings)
        return msgspec.convert(msgspec.to_builtins(changed), Layout)
    except (msgspec.ValidationError, TypeError) as error:
        raise InputError(f"layout: {error}; got {settings}") from error


def _layout(
    tokenizer: PreTrainedTokenizerBase, name: Name, settings: dict[str, Any], *, always_closed: bool
) -> Layout:
    if name not in CONTROL_TOKENS:
        raise InputError(f"unknown layout {name!r}; choose from {', '.join(CONTROL_TOKENS)}")
    tokens = CONTROL_TOKENS[name]
    # also those it has: only a special token can be told from text that spells it
    tokenizer.add_tokens(list(tokens.values()), special_tokens=True)
    forget(tokenizer)
    ids: Any = tokenizer.convert_tokens_to_ids(list(tokens.values()))
    parts: dict[str, Any] = {"eos": _eos(tokenizer), **dict(zip(tokens, ids, strict=True))}
    if name == "o1":
        parts["bos"] = _first_id(tokenizer, ("bos", "cls"))
    else:
        # models that were trained on what the tokenizer itself makes of a text
        parts["bos"], closing = row_frame(tokenizer)
        if name == "instruct":
            parts |= _closing(parts["eos"] if closing is None and always_closed else closing, parts["eos"])
    try:
        layout = Layout(name=name, **parts)
    except (msgspec.ValidationError, TypeError) as error:
        raise InputError(f"layout: {error}; got {settings}") from error
    return changed_layout(layout, **settings)


def _closing(token: Any, eos: int) -> dict[str, Any]:
    """Return the fields of an `instruct` layout whose rows end with `token`, or with nothing."""
    return {"eos": eos if token is None else token, "emb": token}


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


def query_row(
    layout: Layout, text: Sequence[int], thought: Sequence[int] | None = None, *, prompt: int = 0
) -> Row:
    """Return the row of a query. Without a thought it ends at the first `<emb>`; `[]` is an empty thought.

    The first `prompt` tokens of the text are the instruction, which is not cut. After a thought that was cut
    at `thought_length`, EOS is not a label. Raises InputError for a thought in a layout that has no place
    for one.
    """
    if thought is not None:
        return thought_row(layout, prompt_row(layout, text, prompt=prompt), thought)
    ids = _query_start(layout, text, prompt)
    if layout.thinks and not layout.two_read_outs:
        ids += _present(layout.thought)
    ids = _closed(layout, ids)
    return Row(tuple(ids), len(ids) - 1, len(ids) - 1, range(0))


def prompt_row(layout: Layout, text: Sequence[int], *, prompt: int = 0) -> Row:
    """Return the row of a query up to `<thought>`: what the model continues when it thinks.

    Only a layout with two read-outs can read v_q in it, at `first`; others need a `query_row` for v_q.
    """
    if layout.thought is None:
        raise InputError(
            f"the layout {layout.name!r} has no place for a thought; write the thought into the query's text"
        )
    ids = _query_start(layout, text, prompt)
    if layout.two_read_outs:
        ids = _closed(layout, ids)
    first = len(ids) - 1
    return Row((*ids, layout.thought), first, first, range(0))


def thought_row(layout: Layout, prompt: Row, thought: Sequence[int]) -> Row:
    """Return the whole row of a query, from its prompt and a thought."""
    kept = thought[: layout.thought_length]
    ids = _closed(layout, [*prompt.ids, *kept, layout.eos])
    start, last = len(prompt.ids), len(ids) - 1
    stop = start + len(kept) + (len(kept) == len(thought))
    return Row(tuple(ids), prompt.first if layout.two_read_outs else last, last, range(start, stop))


def thoughtless_row(layout: Layout, prompt: Row) -> Row:
    """Return the row of a query without a thought, from its prompt."""
    ids = prompt.ids[:-1] if layout.two_read_outs else _closed(layout, prompt.ids)
    return Row(tuple(ids), len(ids) - 1, len(ids) - 1, range(0))


def document_row(layout: Layout, text: Sequence[int], *, prompt: int = 0) -> Row:
    """Return the row of a document, of whose text the first `prompt` tokens are not cut."""
    kept = text[: prompt + layout.document_length]
    ids = _closed(layout, [*_present(layout.bos, layout.doc), *kept])
    return Row(tuple(ids), len(ids) - 1, len(ids) - 1, range(0))


# --- texts --------------------------------------------------------------------------------------------


class TextIds(NamedTuple):
    """The token ids of a text after its prompt, how many of them are the prompt's, and whether it is cut."""

    ids: list[int]
    prompt: int
    cut: bool


def query_ids(
    layout: Layout, tokenizer: PreTrainedTokenizerBase, queries: Sequence[str | Query]
) -> list[TextIds]:
    """Return the token ids of queries after their instructions, for `query_row` and `prompt_row`."""
    texts = [query if isinstance(query, str) else query.text for query in queries]
    own = ["" if isinstance(query, str) else query.instruction for query in queries]
    prompts = [query_prefix(layout, instruction) for instruction in own]
    return _prompted(tokenizer, prompts, texts, layout.query_length)


def document_ids(
    layout: Layout, tokenizer: PreTrainedTokenizerBase, documents: Sequence[str | Document]
) -> list[TextIds]:
    """Return the token ids of documents (of title and text, if they are records), for `document_row`."""
    texts = [document if isinstance(document, str) else document.full_text for document in documents]
    return _prompted(tokenizer, [layout.document_prompt] * len(texts), texts, layout.document_length)


def query_text(layout: Layout, query: str | Query) -> str:
    """Return the text of a query after its instruction; a string gets the instruction of the layout."""
    own, text = ("", query) if isinstance(query, str) else (query.instruction, query.text)
    return query_prefix(layout, own) + text


def query_prefix(layout: Layout, instruction: str = "") -> str:
    """Return the text before a query: its instruction, else that of the layout, in the layout's format."""
    instruction = instruction or layout.instruction
    prompt = QUERY_PROMPTS[layout.name] if layout.query_prompt is None else layout.query_prompt
    if INSTRUCTION not in prompt:
        return f"{prompt}{instruction} " if instruction else prompt
    return prompt.replace(INSTRUCTION, instruction) if instruction else ""


def text_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], most: int | None = None
) -> list[list[int]]:
    """Tokenise texts as ordinary text, without any control or special token; `most` as in TextTokenizer.

    Raises InputError for a text that is not valid Unicode.
    """
    return text_tokenizer(tokenizer)(texts, most)


def row_frame(tokenizer: PreTrainedTokenizerBase) -> tuple[int | None, int | None]:
    """Return the token that the tokenizer itself puts before a text, and the one after it, if any.

    Raises InputError where it puts several.
    """
    whole: Any = tokenizer("a")["input_ids"]
    (own,) = text_ids(tokenizer, ["a"])
    places = range(len(whole) - len(own) + 1)
    start = next((place for place in places if whole[place : place + len(own)] == own), None)
    if start is not None:
        before, after = whole[:start], whole[start + len(own) :]
        if max(len(before), len(after)) < 2:
            return next(iter(before), None), next(iter(after), None)
    raise InputError(
        f"the tokenizer {tokenizer.name_or_path!r} makes {whole} of the text 'a', whose own token ids are "
        f"{own}; only rows with at most one token before and one after the text are known"
    )


def _prompted(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], texts: Sequence[str], most: int
) -> list[TextIds]:
    # tokenised with the prompt in one go, as the models' cards do: a token can span the boundary
    places: dict[str, list[int]] = defaultdict(list)
    for place, prompt in enumerate(prompts):
        places[prompt].append(place)
    found: list[TextIds] = [TextIds([], 0, False)] * len(texts)
    for (prompt, own), ids in zip(places.items(), text_ids(tokenizer, list(places)), strict=True):
        kept = len(ids) + most
        for place, row in zip(own, text_ids(tokenizer, [prompt + texts[p] for p in own], kept), strict=True):
            found[place] = TextIds(row, len(ids), len(row) > kept)
    return found


def _query_start(layout: Layout, text: Sequence[int], prompt: int) -> list[int]:
    before = _present(layout.bos, layout.query)
    return [*before, *text[: prompt + layout.query_length], *_present(layout.query_end)]


def _closed(layout: Layout, ids: Sequence[int]) -> list[int]:
    """Return ids with the token that closes a row; an empty text that nothing closes is read as eos."""
    return [*ids, *_present(layout.emb)] or [layout.eos]


def _present(*ids: int | None) -> tuple[int, ...]:
    return tuple(token for token in ids if token is not None)


def _eos(tokenizer: PreTrainedTokenizerBase) -> int:
    eos = _first_id(tokenizer, ("eos", "sep"))
    if eos is None:
        raise InputError(f"the tokenizer {tokenizer.name_or_path!r} has no eos and no sep token; set one")
    return eos


def _first_id(tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> int | None:
    ids = (getattr(tokenizer, f"{name}_token_id") for name in names)
    return next((int(token_id) for token_id in ids if token_id is not None), None)
