"""Messages become token ids by a model's own chat template; no text ever becomes a control token."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from o1_records.files import InputError

_CONTENT = "\ue000{}\ue000"  # stands for the text of a message while the template is rendered alone


class _Frame(NamedTuple):
    """What a chat template makes around texts: its control tokens, and its text before each and after all."""

    control: list[int]
    before: list[str]
    after: str


class ChatTokens:
    """The prompt of a chat: a tokenizer of transformers with the chat template of its model.

    The ids are those of the rendered template, as `apply_chat_template` gives them, unless a text spells a
    control token: then the parts of the template and the texts are tokenised apart, and the text stays text.
    Without a chat template a prompt is the messages themselves. Any number of threads may use it.

    Args:
        tokenizer: of transformers; it is copied, and not changed.
        name: what errors call the model.
        settings: what goes to the template beside the messages, such as `enable_thinking`.
    """

    def __init__(self, tokenizer: Any, *, name: str = "", settings: Mapping[str, Any] | None = None) -> None:
        self._template, self._plain = copy.deepcopy(tokenizer), copy.deepcopy(tokenizer)
        backend = getattr(self._plain, "backend_tokenizer", None)
        if backend is not None:
            # only a special token can be told from text that spells it, and not all control tokens are
            self._plain.add_tokens(
                [token.content for token in tokenizer.added_tokens_decoder.values()], special_tokens=True
            )
            backend.encode_special_tokens = True
        self._name = name or str(getattr(tokenizer, "name_or_path", "")) or "the model"
        self._settings = dict(settings or {})
        control = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
        self._control = frozenset(control - {tokenizer.unk_token_id})
        self._frames: dict[tuple[str, ...], _Frame] = {}

    def encode(self, messages: Sequence[Mapping[str, str]], prefix: str = "") -> list[int]:
        """Return the token ids of messages (`role`, `content`), and of how the answer begins.

        Raises InputError where the chat template refuses the messages, such as one of the system, or leaves
        one out.
        """
        texts = [message["content"] for message in messages]
        if not self._template.chat_template:
            return [*self._bos(), *self.plain("\n\n".join(texts)), *self.plain(prefix)]
        roles = tuple(message["role"] for message in messages)
        frame = self._frames.get(roles) or self._frames.setdefault(roles, self._frame(roles))
        ids = self._ids(self._rendered(roles, texts))
        if [token for token in ids if token in self._control] != frame.control:
            ids = []
            for before, text in zip(frame.before, texts, strict=True):
                ids += [*self._ids(before), *self.plain(text)]
            ids += self._ids(frame.after)
        return [*ids, *self.plain(prefix)]

    def text(self, messages: Sequence[Mapping[str, str]], prefix: str = "") -> str:
        """Return the prompt as text, for trainers that tokenise by themselves."""
        texts = [message["content"] for message in messages]
        if not self._template.chat_template:
            return "\n\n".join(texts) + prefix
        return self._rendered([message["role"] for message in messages], texts) + prefix

    def plain(self, text: str) -> list[int]:
        """Return the token ids of a text, as text only."""
        if not text:
            return []
        ids: list[int] = self._plain(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    def _frame(self, roles: tuple[str, ...]) -> _Frame:
        """Return what the template puts around texts; the same whatever they say."""
        marks = [_CONTENT.format(place) for place in range(len(roles))]
        rendered = self._rendered(roles, marks)
        before, rest = [], rendered
        for mark, role in zip(marks, roles, strict=True):
            part, found, rest = rest.partition(mark)
            if not found:
                raise InputError(f"the chat template of {self._name} leaves out the message of the {role}")
            before.append(part)
        return _Frame([token for token in self._ids(rendered) if token in self._control], before, rest)

    def _rendered(self, roles: Sequence[str], texts: Sequence[str]) -> str:
        from jinja2 import TemplateError

        chat = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
        try:
            rendered: str = self._template.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=True, **self._settings
            )
        except (ValueError, TypeError, TemplateError) as error:
            raise InputError(f"the chat template of {self._name} refuses the messages: {error}") from error
        return rendered

    def _bos(self) -> list[int]:
        """Return what the tokenizer itself puts before a text."""
        ids: list[int] = self._template("", add_special_tokens=True)["input_ids"]
        return ids[:1] if ids[:1] == [self._template.bos_token_id] else []

    def _ids(self, text: str) -> list[int]:
        if not text:
            return []
        ids: list[int] = self._template(text, add_special_tokens=False)["input_ids"]
        return ids


def until(text: str, stop: Sequence[str]) -> str:
    """Return a text up to the first of some stop sequences."""
    places = [place for sequence in stop if (place := text.find(sequence)) >= 0]
    return text[: min(places)] if places else text
