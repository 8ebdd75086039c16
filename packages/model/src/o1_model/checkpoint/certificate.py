"""The parity certificate: what a checkpoint makes of eight fixed texts, written when it is saved.

Whoever loads the checkpoint, here or in another runtime, can compare: same files, same token ids, same
vectors, same order of documents. `verify.py` asks the runtimes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from o1_model.encoding.encode import Vectors
from o1_model.layout import Layout, document_ids, document_row, query_ids, query_row
from o1_records import InputError, Record, atomic_write
from o1_records.kit.models import model_files
from o1_records.mixture import unit_rows

CERTIFICATE = "o1_certificate.json"
LOWEST_COSINE = 0.999
LENGTH_SLACK = 0.01  # of a vector, relative: what half precision moves
# similarities closer than this may change places: float rounding moves them that far
TIE = 0.02

_CONTROL = "<emb> <query> why </query> <thought> do cats <doc> purr </s> <|im_end|> [SEP] [CLS] <pad> <eos>"
PLAIN_TEXTS = (
    "",
    "why do cats purr",
    "Cats purr while they breathe in and out; 25 to 150 hertz were measured in 44 animals. " * 120,
    "猫はなぜ喉を鳴らすのか。為什麼貓會發出咕嚕聲？",
    "لماذا تخرخر القطط؟ מדוע חתולים מגרגרים?",
    "बिल्लियाँ क्यों गुर्राती हैं ทำไมแมวถึงคราง 🐈‍⬛ naïve e\u0301te\u0301",
    "\tdef open_zip(path):\n        return  ZipFile(path)  # 3.14e-10\n",
)
TEXTS = (*PLAIN_TEXTS, _CONTROL)
Role = Literal["query", "document"]
ROLES: tuple[Role, ...] = ("query", "document")

# read by sentence-transformers alone; certificates of earlier versions do not list them
_FOR_OTHERS = (
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "chat_template.jinja",
    "1_Pooling/config.json",
)


class Expected(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the checkpoint makes of one text: the row of token ids and the vector, as little-endian float32.

    `tricky`: the text spells control tokens; runtimes that assemble a row as a string mistake it for them.
    """

    role: Role
    text: str
    ids: tuple[int, ...]
    vector: bytes
    tricky: bool = False


class Certificate(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was true when the checkpoint was saved.

    `files` is the sha256 of each file that changes what the model computes. `refusal` says why
    sentence-transformers cannot load the checkpoint; empty if it can.
    """

    layout: Layout
    files: dict[str, str]
    tokenizer: str
    padding_side: str
    dtype: str
    dim: int
    versions: dict[str, str]
    refusal: str = ""
    expected: tuple[Expected, ...]


@dataclass(frozen=True)
class Verdict:
    """How far a runtime agrees: lowest cosine, share of document pairs in the expected order.

    `difference` explains the first difference; empty if the runtime passes.
    """

    runtime: str
    checked: int
    lowest_cosine: float
    order: float
    difference: str = ""


def write_certificate(
    folder: str | Path,
    layout: Layout,
    tokenizer: PreTrainedTokenizerBase,
    vectors: Mapping[Role, Vectors],
    *,
    dtype: str,
    refusal: str = "",
) -> None:
    """Write a certificate beside the saved files, which must be complete.

    `vectors` are those of TEXTS in each role, computed by the model that was saved.
    """
    certificate = Certificate(
        layout=layout,
        files=model_files(folder),
        tokenizer=tokenizer_fingerprint(tokenizer),
        padding_side=tokenizer.padding_side,
        dtype=dtype,
        dim=vectors["query"].shape[1],
        versions=_versions(),
        refusal=refusal,
        expected=tuple(
            Expected(
                role=role, text=text, ids=ids, vector=vector.astype("<f4").tobytes(), tricky=text == _CONTROL
            )
            for role in ROLES
            for text, ids, vector in zip(
                TEXTS, row_ids(layout, tokenizer, role, TEXTS), vectors[role], strict=True
            )
        ),
    )
    with atomic_write(Path(folder) / CERTIFICATE) as file:
        file.write(msgspec.json.format(msgspec.json.encode(certificate), indent=1))


def read_certificate(folder: str | Path) -> Certificate:
    """Read a checkpoint's certificate. Raises InputError when it is missing or damaged."""
    path = Path(folder) / CERTIFICATE
    if not path.exists():
        raise InputError(f"{folder}: no {CERTIFICATE}; save the checkpoint again to get one")
    try:
        return msgspec.json.decode(path.read_bytes(), type=Certificate)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InputError(f"{path}: {error}") from error


def refuse_changed_files(folder: str | Path, files: Mapping[str, str], *, weights: bool = True) -> None:
    """Raise InputError when `files` are not those that the folder's certificate lists, if it has one.

    Without `weights`, those in safetensors may be gone: others are read.
    """
    if not (Path(folder) / CERTIFICATE).exists():
        return
    known = read_certificate(folder).files
    unlisted = {name for name in _FOR_OTHERS if name not in known}
    # a GGUF file is another form of the same weights, read only where it is asked for
    unlisted |= {name for name in files if name.endswith(".gguf")}
    if not weights:
        unlisted |= {name for name in known if name.endswith((".safetensors", ".safetensors.index.json"))}
    for name in sorted({*known, *files} - unlisted):
        if known.get(name) != files.get(name):
            what = "is missing" if name not in files else "is new" if name not in known else "was changed"
            raise InputError(
                f"{folder}: {name} {what} since the checkpoint was saved; restore it, "
                f"or remove {CERTIFICATE} if that was intended"
            )


def row_ids(
    layout: Layout, tokenizer: PreTrainedTokenizerBase, role: Role, texts: Sequence[str]
) -> list[tuple[int, ...]]:
    """Return the row of token ids of each text."""
    if role == "document":
        own = document_ids(layout, tokenizer, texts)
        return [document_row(layout, text.ids, prompt=text.prompt).ids for text in own]
    own = query_ids(layout, tokenizer, texts)
    return [query_row(layout, text.ids, prompt=text.prompt).ids for text in own]


def compare(
    runtime: str,
    expected: Sequence[Expected],
    vectors: Vectors,
    ids: Sequence[Sequence[int]] | None = None,
    *,
    hint: str = "",
) -> Verdict:
    """Compare what a runtime answered with what was expected; `hint` is what is known about the runtime.

    Token ids must be equal (if the runtime shows them), cosines at least 0.999, lengths within 1 %, and each
    query must rank the documents in the same order (with eight texts, a top-10 overlap could ask no more).
    """
    wanted = np.stack([np.frombuffer(e.vector, dtype="<f4") for e in expected])
    if vectors.shape != wanted.shape:
        difference = f"vectors are {list(vectors.shape)}, expected {list(wanted.shape)}"
        return Verdict(runtime, len(expected), 0.0, 0.0, difference)
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        difference = f"the vector of {_called(expected[int(finite.argmin())])} is not finite"
        return Verdict(runtime, len(expected), 0.0, 0.0, difference)
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1) / np.linalg.norm(wanted, axis=1)
    found, wanted = unit_rows(vectors), unit_rows(wanted)
    cosines = (found * wanted).sum(axis=1)
    roles = np.array([e.role for e in expected])
    order = _order_kept(found, wanted, roles)
    difference = (
        _token_difference(expected, ids)
        or _vector_difference(expected, cosines, hint)
        or _length_difference(expected, lengths)
        or ("" if order == 1 else f"documents change places: {order:.1%} of the pairs keep their order")
    )
    return Verdict(runtime, len(expected), float(cosines.min()), order, difference)


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a digest of a tokenizer's vocabulary and of which tokens are special."""
    added = {index: (token.content, token.special) for index, token in tokenizer.added_tokens_decoder.items()}
    content = msgspec.json.encode([sorted(tokenizer.get_vocab().items()), sorted(added.items())])
    return hashlib.sha256(content).hexdigest()


def _token_difference(expected: Sequence[Expected], ids: Sequence[Sequence[int]] | None) -> str:
    for one, found in zip(expected, ids or [], strict=False):
        for position, (want, have) in enumerate(zip(one.ids, found, strict=False)):
            if want != have:
                return f"token ids of {_called(one)} differ at position {position}: {have}, expected {want}"
        if len(one.ids) != len(found):
            return f"{_called(one)} has {len(found)} token ids, expected {len(one.ids)}"
    return ""


def _vector_difference(expected: Sequence[Expected], cosines: Vectors, hint: str) -> str:
    for one, cosine in zip(expected, cosines.tolist(), strict=True):
        if cosine < LOWEST_COSINE:
            why = hint or "different weights, attention or pooling"
            return f"the vector of {_called(one)} has cosine {cosine:.6f}, below {LOWEST_COSINE}: {why}"
    return ""


def _length_difference(expected: Sequence[Expected], lengths: NDArray[np.float64]) -> str:
    for one, length in zip(expected, lengths.tolist(), strict=True):
        if abs(length - 1) > LENGTH_SLACK:
            return (
                f"the vector of {_called(one)} is {length:.4g} times as long as expected: nothing normalises "
                "it; is Normalize missing from modules.json?"
            )
    return ""


def _order_kept(found: Vectors, wanted: Vectors, roles: NDArray[np.str_]) -> float:
    """Return the share of (query, document, document) whose similarities are in the expected order."""
    queries, documents = roles == "query", roles == "document"
    before, after = (v[queries] @ v[documents].T for v in (wanted, found))
    gaps = before[:, :, None] - before[:, None, :]
    apart = gaps > TIE
    kept = (after[:, :, None] > after[:, None, :])[apart]
    return float(kept.mean()) if kept.size else 1.0


def _called(one: Expected) -> str:
    text = one.text if len(one.text) <= 24 else f"{one.text[:24]}…"
    return f"{one.role} {text!r}"


def _versions() -> dict[str, str]:
    found = {}
    for name in ("o1-model", "torch", "transformers", "tokenizers", "sentence-transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
