"""Which model this is, and how to load it safely: folders, hub ids, digests; no pickles, no remote code."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from o1_records.files import InputError, sha256_file

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")

CONFIGS = ("modules.json", "config.json", "adapter_config.json")
"""Every model of sentence-transformers, transformers, peft and model2vec has one of them."""

SAFE = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
"""What is fetched of a hub repository: no pickles and no code."""

_IDENTITY = (
    "*.safetensors",
    "*.gguf",
    "*.safetensors.index.json",
    "config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "adapter_config.json",
    "o1_*.json",
    "tokenizer*",
    "vocab*",
    "merges*",
    "*tokens*.json",
    "*.model",
    "chat_template*",
    "[0-9]_*/*.json",
    "[0-9]_*/*.safetensors",
)
# they describe a model and do not change it
_NOT_IDENTITY = (
    "o1_certificate.json", "o1_training.json", "o1_calibration.json", "o1_thinker.json", "o1_mixture.json",
)  # fmt: skip


def is_hub_id(name: str | Path) -> bool:
    """Return whether a name can be a repository of the hub and is no file or folder here."""
    return not Path(name).exists() and _HUB_ID.fullmatch(str(name)) is not None


def model_files(folder: str | Path) -> dict[str, str]:
    """Return the sha256 of every file that changes what a model computes, by its path in `folder`.

    These are weights, adapters, configurations, tokenizers and chat templates; cards and certificates do not
    count. Raises InputError where the folder holds no model.
    """
    folder = Path(folder)
    if not any((folder / name).exists() for name in CONFIGS) and not any(folder.glob("*.gguf")):
        raise InputError(f"{folder}: holds no model: none of {', '.join(CONFIGS)}, *.gguf is in it")
    found = {path for pattern in _IDENTITY for path in folder.glob(pattern) if path.is_file()}
    kept = sorted(path for path in found if path.name not in _NOT_IDENTITY)
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in kept}


def digest_of_files(files: dict[str, str]) -> str:
    """Return one digest of files, given the sha256 of each by name."""
    lines = "".join(f"{name} {sha256}\n" for name, sha256 in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def model_digest(name_or_path: str | Path, revision: str | None = None) -> str:
    """Return the digest of everything that changes what a model computes; downloads a hub model once."""
    return digest_of_files(model_files(model_folder(name_or_path, revision)))


def model_folder(
    name_or_path: str | Path, revision: str | None = None, *, patterns: Sequence[str] = SAFE
) -> Path:
    """Return the folder of a model: itself, or the local copy of a hub repository, downloaded if missing.

    Raises InputError for what is neither a folder nor a hub id, for a revision of a folder, and where the hub
    cannot be reached or has no such model.
    """
    path, name = Path(name_or_path), str(name_or_path)
    if path.is_dir():
        if revision is not None:
            raise InputError(f"{path}: is a folder; a revision ({revision!r}) belongs to a hub id")
        return path
    if not is_hub_id(name):
        raise InputError(f"{name!r} is neither a folder nor a model id of the hub")
    cached = cached_folder(name, revision)
    if cached is not None and any(cached.rglob("*.safetensors")):  # else a download was cut short
        return cached
    import huggingface_hub

    _refuse_unreachable_hub(name, huggingface_hub.constants.ENDPOINT)
    with loading(name, "a model of the hub"):
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(patterns)))


def cached_folder(name: str, revision: str | None = None) -> Path | None:
    """Return the local copy of a hub repository, whole or not, or None."""
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        return None
    for config in CONFIGS:
        found = huggingface_hub.try_to_load_from_cache(name, config, revision=revision)
        if isinstance(found, str):
            return Path(found).parent
    return None


@contextlib.contextmanager
def loading(name: str | Path, kind: str) -> Iterator[None]:
    """Turn what a library raises while it loads a model into an InputError of one line."""
    import safetensors

    try:
        yield
    except InputError:
        raise
    except (
        OSError, ValueError, KeyError, RuntimeError, AssertionError, safetensors.SafetensorError
    ) as error:  # fmt: skip
        first_line = str(error).strip().partition("\n")[0]
        raise InputError(f"{str(name)!r} cannot be loaded as {kind}: {first_line}") from error


def _refuse_unreachable_hub(model: str, address: str) -> None:
    """Raise InputError within ten seconds; the hub's own client would retry for more than a minute."""
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(address, timeout=10).close()
    except urllib.error.HTTPError:
        return
    except OSError as error:
        raise InputError(
            f"{model!r} is not a folder, is not cached, and {address} cannot be reached ({error}); "
            "give the folder of a model"
        ) from error
