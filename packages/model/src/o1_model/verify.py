"""Compare runtimes with a parity certificate: this package, sentence-transformers, a server."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from o1_model.checkpoint.certificate import (
    Certificate,
    Expected,
    Verdict,
    compare,
    read_certificate,
    refuse_changed_files,
    row_ids,
    tokenizer_fingerprint,
)
from o1_model.embedder import Embedder
from o1_model.encoding.encode import Vectors
from o1_records import InputError, MissingExtraError
from o1_records.kit.http import headers
from o1_records.kit.models import digest_of_files, model_files, model_folder

SECONDS = 120


def verify(
    name_or_path: str | Path,
    runtime: Callable[[Path, Certificate], Verdict],
    *,
    revision: str | None = None,
) -> Verdict:
    """Compare a checkpoint in one runtime with its certificate.

    Raises InputError when there is no certificate, when files were changed since it was written, or
    when the runtime cannot be asked.
    """
    folder = model_folder(name_or_path, revision)
    certificate = read_certificate(folder)
    refuse_changed_files(folder, model_files(folder))
    return runtime(folder, certificate)


def in_o1(folder: Path, certificate: Certificate) -> Verdict:
    """Ask this package, also with texts that spell control tokens."""
    embedder = Embedder.from_pretrained(folder, device="cpu")
    expected = certificate.expected
    if embedder.layout != certificate.layout:
        raise InputError(f"{folder}: has layout {embedder.layout}, its certificate {certificate.layout}")
    ids = [row_ids(embedder.layout, embedder.tokenizer, one.role, [one.text])[0] for one in expected]

    def encode(role: str, group: Sequence[Expected]) -> Vectors:
        texts = [one.text for one in group]
        with embedder.counting():  # one of the texts is meant to be cut
            return embedder.encode_query(texts) if role == "query" else embedder.encode_document(texts)

    vectors = _by_role(expected, encode)
    hint = _tokenizer_hint(certificate, embedder.tokenizer)
    return compare("o1", expected, vectors, ids, hint=hint)


def in_sentence_transformers(folder: Path, certificate: Certificate) -> Verdict:
    """Ask sentence-transformers, on the CPU, without remote code."""
    if certificate.refusal:
        raise InputError(f"{folder}: sentence-transformers cannot load it: {certificate.refusal}")
    try:
        from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError as error:
        raise MissingExtraError("o1-model", "sentence-transformers", "this check") from error
    if not (folder / "modules.json").exists():
        raise InputError(f"{folder}: no modules.json; save the checkpoint again")
    model: Any = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    expected = [one for one in certificate.expected if not one.tricky]
    encode = {"query": model.encode_query, "document": model.encode_document}
    vectors = _by_role(expected, lambda role, group: encode[role]([one.text for one in group]))
    ids = [_ids_in_sentence_transformers(model, one) for one in expected]
    hint = _pooling_hint(certificate, model) or _tokenizer_hint(certificate, model.tokenizer)
    return compare("sentence-transformers", expected, vectors, ids, hint=hint)


def in_server(url: str) -> Callable[[Path, Certificate], Verdict]:
    """Return what asks a running server with OpenAI's /v1/embeddings: TEI, vLLM, `o1-model serve`.

    Other servers get the token ids of a row, so that they tokenise no text; ours gets the texts. The
    environment's OPENAI_API_KEY is sent, if it is set.
    """
    root = url.rstrip("/").removesuffix("/v1")
    if not root.startswith(("http://", "https://")):
        raise InputError(f"--server {url!r} is not an address; give one like http://127.0.0.1:8080")

    def ask(folder: Path, certificate: Certificate) -> Verdict:
        name, ours, digest = _served(root)
        expected = certificate.expected

        def embeddings(role: str, group: Sequence[Expected]) -> Vectors:
            body: dict[str, Any] = {"model": name, "encoding_format": "float"}
            if ours:
                # whatever it does by default, the certificate's queries were read without thoughts
                body |= {"input": [one.text for one in group], "input_type": role}
                body |= {"think": False} if role == "query" else {}
            else:
                body |= {"input": [list(one.ids) for one in group]}
            return _vectors_of(root, _call(f"{root}/v1/embeddings", body), len(group))

        vectors = _by_role(expected, embeddings)
        own = digest_of_files(certificate.files)
        other = f"the server has checkpoint {digest[:12]}, this is {own[:12]}"
        return compare(f"{root} ({name})", expected, vectors, hint=other if ours and digest != own else "")

    return ask


def _by_role(expected: Sequence[Expected], encode: Callable[[str, Sequence[Expected]], Vectors]) -> Vectors:
    """Return the vectors of all, in their order, asked for role by role."""
    parts = [encode(role, list(group)) for role, group in groupby(expected, key=lambda one: one.role)]
    return np.concatenate([np.asarray(part, dtype=np.float32) for part in parts])


def _ids_in_sentence_transformers(model: Any, one: Expected) -> list[int]:
    prompt = model.prompts.get(one.role) or None
    features = model.preprocess([one.text], prompt=prompt, task=one.role)
    ids: list[int] = features["input_ids"][0][features["attention_mask"][0].bool()].tolist()
    return ids


def _pooling_hint(certificate: Certificate, model: Any) -> str:
    wanted = {"token": "lasttoken", "mean": "mean", "first": "cls"}[certificate.layout.readout]
    modes = [module.pooling_mode for module in model if hasattr(module, "pooling_mode")]
    return "" if modes == [wanted] else f"wrong pooling: {modes}, this layout reads {wanted!r}"


def _tokenizer_hint(certificate: Certificate, tokenizer: Any) -> str:
    same = tokenizer_fingerprint(tokenizer) == certificate.tokenizer
    return "" if same else "a different tokenizer"


def _served(root: str) -> tuple[str, bool, str]:
    """Return the model's name on the server, whether that is `o1-model serve`, and the digest it reports.

    A server without /v1/models (TEI) takes any name.
    """
    try:
        models = _call(f"{root}/v1/models")
    except InputError as error:
        if isinstance(error.__cause__, urllib.error.HTTPError):
            return "", False, ""
        raise
    entries = models.get("data") if isinstance(models, dict) else None
    first = entries[0] if entries else {}
    return str(first.get("id", "")), first.get("owned_by") == "o1-model", str(first.get("root", ""))


def _vectors_of(root: str, answer: Any, count: int) -> Vectors:
    try:
        rows = sorted(answer["data"], key=lambda entry: entry["index"])
        vectors: Vectors = np.array([row["embedding"] for row in rows], dtype=np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{root}: the answer is not a list of embeddings: {str(answer)[:200]}") from error
    if len(vectors) != count:
        raise InputError(f"{root}: {len(vectors)} embeddings for {count} inputs")
    return vectors


def _call(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers=headers())
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        said = error.read(500).decode(errors="replace")
        raise InputError(f"{url}: the server answered {error.code}: {said}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{url}: {error}") from error


RUNTIMES: dict[str, Callable[[Path, Certificate], Verdict]] = {
    "o1": in_o1,
    "sentence-transformers": in_sentence_transformers,
}
