"""A checkpoint, or any embedder with a thinker, as o1-bench measures it, in its own process.

`open_model` is registered as the entry point `o1-model` of the group `o1_bench.systems`, where o1-bench finds
it; neither package imports the other.
"""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from o1_model.commands import embed, options, think
from o1_model.layout import FILE_NAME
from o1_records import Document, InputError, Query, Thought
from o1_records.kit.models import cached_folder, is_hub_id

if TYPE_CHECKING:  # imported at run time only for a checkpoint of this package: it takes seconds
    from o1_model.embedder import Embedder
    from o1_model.encoding.encode import Vectors
    from o1_model.retriever.retriever import ThinkingRetriever

_LOADING = (
    "revision", "layout", "base", "dtype", "attn_implementation", "load_in_4bit", "gguf_file",
    *options.LAYOUT_SETTINGS,
)  # fmt: skip
_THINKING = ("samples", "max_tokens", "temperature", "top_p", "seed")
_ENGINES = ("vllm", "base_url", "served_name")
_MIXING = ("thinker", "style", "weight", "reading", "calibration")


def open_model(
    model: str,
    *,
    device: str = "cpu",
    think_options: Sequence[str] = (),
    embed_options: Sequence[str] = (),
) -> ThinkingModel | MixingModel | None:
    """Load a checkpoint of o1-model, or return None for any other model.

    With `--thinker` among the `embed_options`, any embedder with that thinker is loaded.

    Args:
        model: a folder, or a hub id of which there is a local copy.
        device: where it runs.
        think_options: words as on the command line of `o1-model think`.
        embed_options: words as on the command line of `o1-model embed`.

    Raises:
        InputError: wrong options, options without effect here, or a checkpoint that cannot be loaded.
    """
    if any(word.partition("=")[0] == "--thinker" for word in embed_options):
        return _mixing(model, device, think_options, embed_options)
    folder = cached_folder(model) if is_hub_id(model) else Path(model)
    if folder is None or not (folder / FILE_NAME).is_file():
        return None
    how = _parsed("think", think.declare, think_options, (*_LOADING, *_THINKING, *_ENGINES, "cache"))
    what = _parsed("embed", embed.declare, embed_options, (*_LOADING, "batch_tokens", "with_query"))
    for name in _LOADING:
        if getattr(how, name) != getattr(what, name):
            raise InputError(
                f"--{name} is {getattr(how, name)!r} for think, but {getattr(what, name)!r} for embed; "
                "the model is loaded once, so give the same for both"
            )
    how.model, how.device = model, device
    return ThinkingModel(how, batch_tokens=what.batch_tokens, with_query=what.with_query)


class ThinkingModel:
    """A loaded checkpoint: `name`, `device`, and its vectors and thoughts.

    `fingerprint` holds everything that changes a vector or a thought, ready for JSON.
    """

    def __init__(self, how: Namespace, *, batch_tokens: int | None, with_query: bool) -> None:
        from o1_model.thinking.records import ThoughtCache

        self._embedder: Embedder = options.load(how)
        self._thinking = self._embedder.capped(options.thinking_of(how))
        self._with_query = with_query
        self._embedder.batch_tokens = batch_tokens
        engine = options.engine_of(how)
        self._embedder.decoder.engine = engine
        if how.cache is not None:
            self._embedder.decoder.cache = ThoughtCache(how.cache)
        self.name: str = self._embedder.name
        self.device: str = how.device
        self.fingerprint: dict[str, Any] = {
            "model": self.name,
            "digest": self._embedder.digest,
            "layout": msgspec.to_builtins(self._embedder.layout),
            "dtype": self._embedder.fingerprint().dtype,
            "thinking": dict(vars(self._thinking)),
            "engine": "" if engine is None else engine.name,
            "with_query": with_query,
        }

    def documents(self, documents: Sequence[Document]) -> Vectors:
        """Return vectors of documents: float32 [n, dim], of unit length."""
        return self._embedder.encode_document(documents)

    def queries(
        self,
        queries: Sequence[Query],
        thoughts: Sequence[Sequence[Thought | str]] | None = None,
        *,
        with_query: bool = False,
    ) -> Vectors:
        """Return vectors of queries: float32 [n, dim], of unit length.

        `thoughts` are those of each query, records or texts; "" is an empty thought, and a query without
        any keeps v_q. `with_query` averages v_q with the v_t.
        """
        return self._embedder.encode_query(
            queries, thoughts=thoughts, with_query=with_query or (self._with_query and thoughts is not None)
        )

    def sample(self, queries: Sequence[Query], documents: Sequence[Document]) -> tuple[list[str], list[str]]:
        """Return the texts that the model really reads of queries and of documents.

        They are made of the token ids of its rows: with instructions and prompts, cut where they are cut,
        control tokens to be seen.
        """
        rows = self._embedder.query_rows(queries), self._embedder.document_rows(documents)
        asked, read = ([self._embedder.row_text(row) for row in own] for own in rows)
        return asked, read

    def think(self, queries: Sequence[Query]) -> list[list[Thought]]:
        """Return the model's own thoughts about each query; blank ones are left out."""
        from o1_model.retriever.thinkers import thoughts_by_query

        return thoughts_by_query(self._embedder, queries, self._thinking)


def _mixing(
    model: str, device: str, think_options: Sequence[str], embed_options: Sequence[str]
) -> MixingModel:
    how = _parsed("embed", embed.declare, embed_options, (*_LOADING, *_THINKING, *_MIXING))
    if think_options:
        raise InputError(
            "with --thinker, give the options of thinking to embed too: --samples, --max-tokens, ..."
        )
    how.model, how.device = model, device
    return MixingModel(options.retriever(how), device)


class MixingModel:
    """Any embedder with a thinker whose thoughts are mixed into queries: a `ThinkingRetriever`."""

    def __init__(self, retriever: ThinkingRetriever, device: str) -> None:
        if retriever.gate is not None:
            raise InputError("a gate needs margins, which o1-bench has not; calibrate without --budget")
        self._retriever = retriever
        self.name: str = retriever.embedder.name
        self.device = device
        thinker: Any = retriever.thinker
        self.fingerprint: dict[str, Any] = {
            "embedder": dict(retriever.embedder.fingerprint),
            "thinking": dict(vars(retriever.thinking)),
            "engine": dict(thinker.fingerprint),
            "mixture": {"weight": retriever.mixture.weight, "reading": retriever.mixture.reading},
        }

    def documents(self, documents: Sequence[Document]) -> Vectors:
        """Return vectors of documents: float32 [n, dim], of unit length."""
        return self._retriever.encode_document(documents)

    def queries(
        self,
        queries: Sequence[Query],
        thoughts: Sequence[Sequence[Thought | str]] | None = None,
        *,
        with_query: bool = False,
    ) -> Vectors:
        """Return vectors of queries: float32 [n, dim], of unit length; with thoughts, of the mixture.

        Raises InputError for `with_query`, which a weight makes pointless.
        """
        if with_query:
            raise InputError("with_query: thoughts are mixed in by a weight; leave it out")
        return self._retriever.encode_query(queries, thoughts=thoughts or [[] for _ in queries])

    def sample(self, queries: Sequence[Query], documents: Sequence[Document]) -> tuple[list[str], list[str]]:
        """Return the texts of queries and documents; what the embedder puts before them is its own."""
        asked = [f"{query.instruction} {query.text}".strip() for query in queries]
        return asked, [document.full_text for document in documents]

    def think(self, queries: Sequence[Query]) -> list[list[Thought]]:
        """Return the thoughts that the thinker writes about each query; blank ones are left out."""
        return self._retriever.think(queries)


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{self.prog}: {message}")


def _parsed(
    name: str, declare: Callable[[ArgumentParser], None], words: Sequence[str], known: Sequence[str]
) -> Namespace:
    """Parse options of a command; only `known` ones may be given, for the others have no effect here."""
    parser = _Parser(prog=f"options for o1-model {name}", add_help=False)
    declare(parser)
    defaults = {action.dest: action.default for action in parser._actions}
    flags = {action.dest: action.option_strings[0] for action in parser._actions}
    for group in parser._mutually_exclusive_groups:
        group.required = False
    for action in parser._actions:
        action.required, action.default = False, SUPPRESS
    given = vars(parser.parse_args(list(words)))
    idle = [flags[dest] for dest in given if dest not in known]
    if idle:
        raise InputError(f"{parser.prog}: without effect here, leave out: {', '.join(idle)}")
    return Namespace(**{**defaults, **given})
