"""Instruct models in this process that write thoughts: through their own chat template, trained or not.

`Instruct` runs any causal language model of transformers, also out of a `.gguf` file; `VLLMInstruct` has vLLM
run it.
"""

from __future__ import annotations

import copy
import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec
import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from o1_model.backbone import load_lm, load_tokenizer
from o1_model.encoding.encode import within_memory
from o1_model.retriever.identity import digest_of
from o1_model.retriever.thinker import sample_of, style_digest, style_of
from o1_model.retriever.trained import add_adapter, base_of, is_tuned
from o1_model.thinking.decode import Aloud, Told, in_text
from o1_model.thinking.decoder import THINKING_TOKENS
from o1_model.thinking.engines import Written, seed_of
from o1_model.thinking.generate import Ends, generate
from o1_model.thinking.records import vocabulary_digest
from o1_model.thinking.settings import Thinking
from o1_records import InputError, MissingExtraError, Query, Source, Thought, sha256_file
from o1_records.kit.chat import ChatTokens, until
from o1_records.kit.models import model_digest, model_folder
from o1_records.kit.onednn import fast_linear
from o1_records.styles import Style

NEVER = -100.0  # the logit bias that means so to vLLM
EOS = "eos_token_id"


class _Chat:
    """What both have in common: the prompt of a query, and what is kept of an answer."""

    def __init__(
        self,
        model: str | Path,
        style: Style,
        tokenizer: PreTrainedTokenizerBase,
        digest: str,
        settings: Mapping[str, Any] | None,
    ) -> None:
        path = Path(model)
        self.name = path.resolve().name if path.exists() else str(model)
        self.style, self.tokenizer = style, tokenizer
        self._settings = dict(settings or {})
        self._chat = ChatTokens(tokenizer, name=self.name, settings=self._settings)
        self._digest, self._vocabulary = digest, vocabulary_digest(tokenizer)
        self._banned = tokens_with(tokenizer, style.avoid)
        self.seconds, self.tokens = 0.0, 0

    def asking(self, style: str | Style) -> Self:
        """Return the same loaded model, asked for another style."""
        other = copy.copy(self)
        other.style = style_of(style)
        other._banned = tokens_with(self.tokenizer, other.style.avoid)
        other.seconds, other.tokens = 0.0, 0
        return other

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """The digest of the model, the style, and what goes to its chat template."""
        return {
            "model": self.name,
            "digest": self._digest,
            "style": msgspec.to_builtins(self.style),
            "template": self._settings,
        }

    @property
    def usual(self) -> Thinking:
        """One greedy thought of as many tokens as the style needs."""
        return Thinking(samples=1, max_tokens=self.style.max_tokens, temperature=0)

    def prompt(self, text: str) -> list[int]:
        """Return the token ids that ask for a thought about a text, and begin the answer."""
        return self._chat.encode([{"role": "user", "content": self.style.ask(text)}], self.style.prefix)

    def text(self, ids: Sequence[int]) -> str:
        """Return what is kept of an answer of these token ids; also of the first of them, as if cut there."""
        said = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        continued = bool(self.style.prefix)
        # a character that was cut in two decodes as the sign of replacement
        return self.style.clean(
            until(str(said).rstrip("\N{REPLACEMENT CHARACTER}"), self.style.stop if continued else ()),
            continued=continued,
        )

    def think(self, queries: Sequence[Query], thinking: Thinking) -> list[list[Thought]]:
        """Return the thoughts about each query; equal texts are thought about once."""
        return self._thoughts(queries, thinking, self._write)

    def _thoughts(
        self,
        queries: Sequence[Query],
        thinking: Thinking,
        write: Callable[[Sequence[Sequence[int]], Thinking], list[list[Written]]],
    ) -> list[list[Thought]]:
        began = time.perf_counter()
        texts = list(dict.fromkeys(query.text for query in queries))
        prompts = [self.prompt(text) for text in texts]
        written = dict(zip(texts, write(prompts, thinking), strict=True))
        lengths = dict(zip(texts, map(len, prompts), strict=True))
        self.seconds += time.perf_counter() - began
        self.tokens += sum(len(each.token_ids) for own in written.values() for each in own)
        return [
            [
                sample_of(
                    query, sample, text, self._source(thinking, lengths[query.text], each), each.token_ids
                )
                for sample, each in enumerate(written[query.text])
                if (text := self.text(each.token_ids)).strip()
            ]
            for query in queries
        ]

    def _write(self, prompts: Sequence[Sequence[int]], thinking: Thinking) -> list[list[Written]]:
        raise NotImplementedError

    def _source(self, thinking: Thinking, prompt: int, each: Written) -> Source:
        return Source(
            model=self.name,
            revision=self._digest,
            prompt_digest=style_digest(self.style),
            temperature=thinking.temperature,
            top_p=thinking.top_p,
            max_tokens=thinking.max_tokens,
            seed=thinking.seed,
            finish_reason="stop" if each.finished else "length",
            prompt_tokens=prompt,
            completion_tokens=len(each.token_ids),
            # the ids are those of the whole answer, of which the text may be a part
            tokenizer=f"answer {self._vocabulary}",
        )


class Instruct(_Chat):
    """A causal language model of transformers that is asked through its own chat template.

    What a text says never becomes a control token. `seconds` and `tokens` add up what thinking took and
    wrote.

    Args:
        model: a folder or hub id, also of a LoRA adapter, which is added to its base's weights; or a `.gguf`
            file, whose weights are unpacked.
        style: what it is asked for.
        revision: of a hub id.
        device: where it runs; by default on a GPU if there is one.
        dtype: of the weights and the computation, also as a string; "auto" is the model's own.
        template: what goes to the chat template beside the message, such as `{"enable_thinking": False}`.
        base: where the base of an adapter is now, if not where the adapter says: a folder, a hub id or a
            `.gguf` file.
        batch_tokens: the most cached tokens of a batch, thoughts of all samples included.
        **loading: other arguments of `o1_model.backbone.load_lm`.

    Raises:
        InputError: the model cannot be loaded, or its chat template takes no message of a user; a base where
            there is no adapter, or an adapter on a base whose weights are quantised.
    """

    def __init__(
        self,
        model: str | Path,
        style: Style,
        *,
        revision: str | None = None,
        device: str | None = None,
        dtype: torch.dtype | str = torch.float32,
        template: Mapping[str, Any] | None = None,
        base: str | Path | None = None,
        batch_tokens: int = THINKING_TOKENS,
        **loading: Any,
    ) -> None:
        found = _found(model, revision)
        tuned = found.packed is None and is_tuned(found.folder)
        if tuned:
            if loading.get("quantization") is not None:
                raise InputError(f"{model}: an adapter is added to whole weights; leave out the quantisation")
            whole = _found(*(base_of(found.folder) if base is None else (base, None)))
            digest = digest_of({"adapter": found.digest, "base": whole.digest})
        elif base is not None:
            raise InputError(f"{model}: holds no adapter of an instruct model; leave out base")
        else:
            whole, digest = found, found.digest
        tokenizer = load_tokenizer(whole.folder, gguf_file=whole.packed)
        lm: Any = load_lm(whole.folder, gguf_file=whole.packed, dtype=dtype, **loading)
        lm = (add_adapter(lm, found.folder) if tuned else lm).eval()
        if loading.get("device_map") is None:
            lm = lm.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._lm, self.batch_tokens, self.base_digest = lm, batch_tokens, whole.digest
        super().__init__(model, style, tokenizer, digest, template)
        self.prompt("")  # a template that refuses messages does so now
        # rows of the matrix that no token has
        self._nameless = range(len(tokenizer), int(lm.config.get_text_config().vocab_size))
        self._last = _ends(lm.generation_config, tokenizer)
        self._completing: dict[int, bool] = {}

    def asking(self, style: str | Style) -> Self:
        """Return the same loaded model, asked for another style."""
        other = super().asking(style)
        other._completing = {}
        return other

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """The digest of the model, the style, what goes to its chat template, and the dtype."""
        quantized = getattr(self._lm.config, "quantization_config", None)
        how = {} if quantized is None else {"quantization": str(quantized)}
        return {**super().fingerprint, "dtype": str(self._lm.dtype).removeprefix("torch."), **how}

    def think_aloud(self, query: Query, thinking: Thinking, aloud: Aloud) -> list[Thought]:
        """Return the thoughts about one query; `aloud` hears what is kept of them while they are written."""
        told = in_text(self.text, thinking.samples, aloud)
        return self._thoughts([query], thinking, functools.partial(self._write, told=told))[0]

    def _write(
        self, prompts: Sequence[Sequence[int]], thinking: Thinking, told: Told | None = None
    ) -> list[list[Written]]:
        self._refuse_longer(prompts, thinking)
        found: list[list[Written]] = [[] for _ in prompts]
        ends = Ends(self._last, self._may_reach, self._reached)
        never = [*self._banned, *self._nameless]

        def run(places: list[int]) -> None:
            group = [prompts[place] for place in places]
            made = generate(self._lm, group, thinking, ends, banned=never, pad_id=self._last[0], told=told)
            for place, own in zip(places, made, strict=True):
                found[place] = own

        lengths = [(len(prompt) + thinking.max_tokens) * thinking.samples for prompt in prompts]
        with fast_linear():
            self.batch_tokens = min(self.batch_tokens, within_memory(lengths, self.batch_tokens, run))
        return found

    def _refuse_longer(self, prompts: Sequence[Sequence[int]], thinking: Thinking) -> None:
        most = getattr(self._lm.config.get_text_config(), "max_position_embeddings", None)
        longest = max(map(len, prompts), default=0) + thinking.max_tokens
        if most is not None and longest > most:
            raise InputError(f"a prompt and its thought have {longest} tokens, but {self.name} takes {most}")

    def _may_reach(self, token: int) -> bool:
        """Return whether a token could complete one of the stops, which follow the style's prefix."""
        if not self.style.prefix:
            return False
        if token not in self._completing:
            piece = str(self.tokenizer.decode([token]))
            self._completing[token] = any(stop[-1] in piece for stop in self.style.stop)
        return self._completing[token]

    def _reached(self, ids: Sequence[int]) -> bool:
        said = str(self.tokenizer.decode(list(ids)))
        return any(stop in said for stop in self.style.stop)


class VLLMInstruct(_Chat):
    """The same in vLLM (`[vllm]`); `options` go to `vllm.LLM`.

    Raises InputError for an adapter, MissingExtraError without vLLM.
    """

    def __init__(
        self,
        model: str | Path,
        style: Style,
        *,
        revision: str | None = None,
        template: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        folder = model_folder(model, revision)
        if is_tuned(folder):
            raise InputError(
                f"{model}: holds an adapter; make a whole model of it for vLLM: python runs/thinker.py merge"
            )
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        try:
            import vllm
        except ModuleNotFoundError as error:
            raise MissingExtraError("o1-model", "vllm", "thinking with vLLM") from error
        self._options = {**options, "vllm": vllm.__version__}
        self._llm: Any = vllm.LLM(model=str(folder), runner="generate", enable_prefix_caching=True, **options)
        super().__init__(model, style, load_tokenizer(folder), model_digest(folder), template)
        try:
            generation = GenerationConfig.from_pretrained(folder)
        except OSError:  # the folder has none
            generation = GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder))
        self._last = _ends(generation, self.tokenizer)

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """The digest of the model, the style, what goes to its chat template, and how vLLM runs it."""
        return {**super().fingerprint, "vllm": {name: str(value) for name, value in self._options.items()}}

    def _write(self, prompts: Sequence[Sequence[int]], thinking: Thinking) -> list[list[Written]]:
        from vllm import SamplingParams

        asked = [(prompt, sample) for prompt in prompts for sample in range(thinking.samples)]
        params = [
            SamplingParams(
                temperature=thinking.temperature,
                top_p=thinking.top_p,
                max_tokens=thinking.max_tokens,
                seed=seed_of(thinking, prompt, sample),
                stop_token_ids=self._last,
                stop=list(self.style.stop) if self.style.prefix else [],
                logit_bias=dict.fromkeys(self._banned, NEVER),
            )
            for prompt, sample in asked
        ]
        outputs = self._llm.generate(
            [{"prompt_token_ids": list(prompt)} for prompt, _ in asked], params, use_tqdm=False
        )
        said = [each.outputs[0] for each in outputs]
        written = [Written(self._without_end(each.token_ids), each.finish_reason == "stop") for each in said]
        n = thinking.samples
        return [written[start : start + n] for start in range(0, len(written), n)]

    def _without_end(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Return token ids without the one that ended the answer, which vLLM counts as part of it."""
        return tuple(ids[:-1] if ids and ids[-1] in self._last else ids)


class _Found(NamedTuple):
    """A model on this machine: its folder, the packed file in it if it is one, and its digest."""

    folder: Path
    packed: str | None
    digest: str


def _found(model: str | Path, revision: str | None) -> _Found:
    path = Path(model)
    if path.suffix == ".gguf":
        return _Found(path.parent, path.name, sha256_file(path))
    folder = model_folder(model, revision)
    return _Found(folder, None, model_digest(folder))


def tokens_with(tokenizer: PreTrainedTokenizerBase, parts: Sequence[str]) -> list[int]:
    """Return the tokens whose text has one of these in it."""
    if not parts:
        return []
    pieces = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return [token for token, piece in enumerate(pieces) if any(part in piece for part in parts)]


def _ends(generation: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return every token that ends an answer: those of the generation config, and the tokenizer's own."""
    own = getattr(generation, EOS, None)
    listed = own if isinstance(own, list) else [own]
    ends = [token for token in (*listed, tokenizer.eos_token_id) if token is not None]
    if not ends:
        raise InputError(
            "no token ends the model's answers: neither its generation config nor its tokenizer has one"
        )
    return list(dict.fromkeys(ends))
