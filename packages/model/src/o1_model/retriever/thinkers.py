"""Thinkers by name: a checkpoint, thoughts in a file, an instruct model here or behind a chat server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from o1_model.backbone import load_tokenizer
from o1_model.layout import FILE_NAME
from o1_model.retriever.instruct import Instruct, VLLMInstruct, tokens_with
from o1_model.retriever.thinker import Thinker, sample_of, style_digest, style_of
from o1_model.retriever.trained import read_trained
from o1_model.thinking.decode import stream_number
from o1_model.thinking.settings import Thinking
from o1_records import InputError, Query, Source, Thought, open_queries, read_jsonl, sha256_file
from o1_records.files import is_file
from o1_records.keys import same_query
from o1_records.kit.http import Address, address, is_address, post
from o1_records.kit.models import model_folder
from o1_records.styles import QUERY_STYLES, Style

if TYPE_CHECKING:
    from o1_model.embedder import Embedder
    from o1_model.thinking.decode import Aloud

CHECKPOINT_CHUNK = 256  # queries that are thought about together; lost at most by a kill
INSTRUCT_CHUNK = 128  # the same for instruct models: on a CPU 32 at a time take 1.7 times as long
SERVED_CHUNK = 32  # the same for servers


def open_thinker(
    thinker: str | Path | Embedder | Thinker,
    style: str | Style | None = None,
    *,
    queries: str | Path | None = None,
    **how: Any,
) -> Thinker:
    """Return the thinker that is meant.

    Args:
        thinker: a folder or hub id of an instruct model or of a checkpoint of this package that thinks; a
            `.gguf` file; the address of a chat server with the name of the model there
            (`http://HOST/v1#NAME`); a file of Thought records; or what is opened already.
        style: what an instruct model is asked for, by name or as a Style; a trained thinker
            (`o1_model.retriever.trained`) knows what it was trained for.
        queries: with a file of thoughts: what its queries say, so that a query of another id that asks the
            same finds them.
        **how: arguments of `Instruct`, `VLLMInstruct` (with `vllm=True`), `ChatServer` or
            `Embedder.from_pretrained`, whichever it is; those that are None are left out.

    Raises:
        InputError: there is no such thinker, no style where one is needed, or an argument that it does not
            take.
    """
    from o1_model.embedder import Embedder

    given = {name: value for name, value in how.items() if value is not None}
    vllm = given.pop("vllm", False)
    make: Any
    if not isinstance(thinker, str | Path):
        if given or vllm or style is not None or queries is not None:
            raise InputError("the thinker is opened already, with a style of its own; leave out its settings")
        return CheckpointThinker(thinker) if isinstance(thinker, Embedder) else thinker
    path = Path(thinker)
    if is_address(thinker):
        make = ChatServer
        given.pop("device", None)  # where it runs if it runs here
    elif is_file_of_thoughts(path):
        given.pop("device", None)
        _refuse(thinker, given, vllm, style, "a file of thoughts has neither a style nor settings")
        return GivenThoughts(path, queries=queries)
    elif path.suffix != ".gguf" and (model_folder(thinker, given.get("revision")) / FILE_NAME).exists():
        _refuse(thinker, {}, vllm, style, "a checkpoint thinks in its own way")
        return CheckpointThinker(Embedder.from_pretrained(thinker, **given))
    else:
        make = VLLMInstruct if vllm else Instruct
    if queries is not None:
        raise InputError(f"{thinker}: queries are for a file of thoughts; leave them out")
    if style is None and make is Instruct and path.suffix != ".gguf":
        trained = read_trained(model_folder(thinker, given.get("revision")))
        style = None if trained is None else trained.style
    if style is None:
        kind = "" if is_address(thinker) or path.suffix == ".gguf" else f"no {FILE_NAME}; "
        raise InputError(
            f"{thinker}: {kind}say what the instruct model is asked for: style, one of "
            f"{', '.join(QUERY_STYLES)}"
        )
    try:
        opened: Thinker = make(thinker, style_of(style), **given)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise InputError(f"{thinker}: {str(error).partition(') ')[2]}; leave it out") from error
    return opened


def chunk_of(thinker: Thinker | None) -> int:
    """Return the number of queries that a thinker is given at a time, so many at most are lost by a kill."""
    if isinstance(thinker, CheckpointThinker):
        return CHECKPOINT_CHUNK
    return INSTRUCT_CHUNK if isinstance(thinker, Instruct | VLLMInstruct) else SERVED_CHUNK


def is_file_of_thoughts(thinker: str | Path) -> bool:
    """Return whether a thinker by this name is a file: any that is no packed model has thoughts."""
    return is_file(thinker) and Path(thinker).suffix != ".gguf"


def _refuse(
    name: str | Path, given: Mapping[str, Any], vllm: bool, style: str | Style | None, why: str
) -> None:
    idle = [*given, *(["vllm"] if vllm else []), *(["style"] if style is not None else [])]
    if idle:
        raise InputError(f"{name}: {why}; leave out {', '.join(idle)}")


# --- a checkpoint -------------------------------------------------------------------------------------


class CheckpointThinker:
    """A checkpoint of this package that thinks. Raises InputError for one whose layout has no thoughts."""

    usual = Thinking()

    def __init__(self, embedder: Embedder) -> None:
        if not embedder.layout.thinks:
            raise InputError(
                f"{embedder.name}: its layout {embedder.layout.name!r} has no place for a thought"
            )
        self.embedder = embedder

    @property
    def name(self) -> str:
        """The checkpoint's name."""
        return self.embedder.name

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """The digest of the checkpoint, its layout and dtype, and what writes its thoughts."""
        engine = self.embedder.decoder.engine
        made_by = self.embedder.fingerprint()
        return {
            "model": self.name,
            "digest": made_by.digest,
            "layout": msgspec.to_builtins(self.embedder.layout),
            "dtype": made_by.dtype,
            "engine": "" if engine is None else engine.name,
        }

    def think(self, queries: Sequence[Query], thinking: Thinking) -> list[list[Thought]]:
        """Return the checkpoint's own thoughts about each query."""
        return thoughts_by_query(self.embedder, queries, thinking)

    def think_aloud(self, query: Query, thinking: Thinking, aloud: Aloud) -> list[Thought]:
        """Do so for one query; `aloud` hears them while they are written."""
        return self.embedder.thoughts(
            [query], self.embedder.decode(query, thinking, aloud=aloud)[1], thinking
        )


def thoughts_by_query(
    embedder: Embedder, queries: Sequence[Query], thinking: Thinking
) -> list[list[Thought]]:
    """Return a checkpoint's own thoughts about each query; blank ones are left out."""
    found: dict[str, list[Thought]] = {query.query_id: [] for query in queries}
    for thought in embedder.think(list({query.query_id: query for query in queries}.values()), thinking):
        found[thought.query_id].append(thought)
    return [found[query.query_id] for query in queries]


# --- thoughts that are there already ------------------------------------------------------------------


class GivenThoughts:
    """Thoughts that somebody else wrote: those filed under a query's id, else under one that asks the same.

    Args:
        thoughts: a JSONL file of Thought records, or records.
        queries: what was asked (a BEIR folder, a JSONL file of Query records, or records); without them only
            equal ids count.
    """

    def __init__(
        self, thoughts: str | Path | Iterable[Thought], *, queries: str | Path | Iterable[Query] | None = None
    ) -> None:
        path = thoughts if isinstance(thoughts, str | Path) else None
        self._by_id: dict[str, list[Thought]] = {}
        for thought in read_jsonl(thoughts, Thought) if isinstance(thoughts, str | Path) else thoughts:
            self._by_id.setdefault(thought.query_id, []).append(thought)
        if not self._by_id:
            raise InputError(f"{path or 'thoughts'}: no thoughts in it")
        asked = open_queries(queries) if isinstance(queries, str | Path) else queries or ()
        self._id_of = {same_query(query): query.query_id for query in asked if query.query_id in self._by_id}
        self.name = (path and Path(path).name) or "given thoughts"
        self._digest = (
            sha256_file(path)
            if path is not None
            else hashlib.sha256(msgspec.json.encode(list(self._by_id.values()))).hexdigest()
        )

    @property
    def by_text(self) -> int:
        """How many queries are also found by what they ask."""
        return len(self._id_of)

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """The digest of the thoughts, and whether equal texts find them."""
        return {"thoughts": self._digest, "by_text": self.by_text}

    @property
    def usual(self) -> Thinking:
        """Take all thoughts of a query."""
        return Thinking(samples=max(map(len, self._by_id.values())), temperature=0)

    def think(self, queries: Sequence[Query], thinking: Thinking) -> list[list[Thought]]:
        """Return the first `thinking.samples` thoughts of each query, as its own; perhaps none."""
        return [self._of(query)[: thinking.samples] for query in queries]

    def _of(self, query: Query) -> list[Thought]:
        if query.query_id in self._by_id:
            return self._by_id[query.query_id]
        known = self._by_id.get(self._id_of.get(same_query(query), ""), [])
        return [sample_of(query, n, each.text, each.source, each.token_ids) for n, each in enumerate(known)]


# --- a chat server ------------------------------------------------------------------------------------


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


class ChatServer:
    """An instruct model behind an OpenAI-compatible chat server; OPENAI_API_KEY is sent if it is set.

    A server begins its answer itself, so that a style's prefix and stops are not sent, and `Style.clean`
    finds the answer. What the style wants avoided is banned where the server's tokens are known.

    Args:
        model: `http://HOST/v1#NAME`.
        style: what it is asked for.
        fields: of every request, beside ours, such as `{"chat_template_kwargs": {"enable_thinking": False}}`.
        tokenizer: the folder or hub id of the model's tokenizer, for `logit_bias`.
        concurrency: requests at a time.

    Raises:
        InputError: the address has no name of a model; or, when it is asked, the server refuses or cannot be
            reached.
    """

    def __init__(
        self,
        model: str | Path,
        style: Style,
        *,
        fields: Mapping[str, Any] | None = None,
        tokenizer: str | Path | None = None,
        concurrency: int = 16,
    ) -> None:
        self._address: Address = address(str(model))
        self._style, self._fields, self._concurrency = style, dict(fields or {}), concurrency
        if tokenizer is not None:
            self._fields["logit_bias"] = _bias(tokenizer, style)

    @property
    def name(self) -> str:
        """What the server calls the model."""
        return self._address.model

    @property
    def ignored(self) -> str:
        """What of the style this server is not told, as a sentence; "" if nothing."""
        if not self._style.avoid or "logit_bias" in self._fields:
            return ""
        avoided = " ".join(self._style.avoid)
        return f"{self.name}: the tokens of the server are not known, so that {avoided} are not banned"

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """The server's address, the style and the fields; what its model is made of is not known here."""
        return {
            "server": self._address.url,
            "model": self.name,
            "style": msgspec.to_builtins(self._style),
            "fields": self._fields,
        }

    @property
    def usual(self) -> Thinking:
        """One greedy thought of as many tokens as the style needs."""
        return Thinking(samples=1, max_tokens=self._style.max_tokens, temperature=0)

    def think(self, queries: Sequence[Query], thinking: Thinking) -> list[list[Thought]]:
        """Ask for each sample of each query, equal questions once."""
        messages = {query.text: self._style.ask(query.text) for query in queries}
        asked = [(text, sample) for text in messages for sample in range(thinking.samples)]
        with ThreadPoolExecutor(self._concurrency) as pool:
            answers = list(pool.map(lambda each: self._answer(messages[each[0]], each[1], thinking), asked))
        found = dict(zip(asked, answers, strict=True))
        return [
            [
                sample_of(query, sample, text, source)
                for sample in range(thinking.samples)
                for text, source in [found[query.text, sample]]
                if text.strip()
            ]
            for query in queries
        ]

    def _answer(self, message: str, sample: int, thinking: Thinking) -> tuple[str, Source]:
        seed = stream_number(thinking.seed, tuple(message.encode()), sample) >> 32
        body = {
            "model": self.name,
            "messages": [{"role": "user", "content": message}],
            "temperature": thinking.temperature,
            "top_p": thinking.top_p,
            "max_tokens": thinking.max_tokens,
            "seed": seed,
            **self._fields,
        }
        answer = post(f"{self._address.url}/chat/completions", body, _Completion)
        if not answer.choices:
            raise InputError(
                f"{self._address.url}: an answer without choices; is it a chat server, with this model?"
            )
        choice, usage = answer.choices[0], answer.usage or _Usage()
        source = Source(
            model=self.name,
            prompt_digest=style_digest(self._style),
            temperature=thinking.temperature,
            top_p=thinking.top_p,
            max_tokens=thinking.max_tokens,
            seed=thinking.seed,
            finish_reason=choice.finish_reason or "",
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
        )
        return self._style.clean(choice.message.content or ""), source


def _bias(tokenizer: str | Path, style: Style) -> dict[str, int]:
    """Return what never to choose, as OpenAI's `logit_bias`."""
    return {str(token): -100 for token in tokens_with(load_tokenizer(tokenizer), style.avoid)}
