"""Finding and loading a model of the hub or of a folder without surprises: no pickles, no remote code."""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from o1_records import InputError, MissingExtraError, quoted
from o1_vote.rerun import digest_of

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_CONFIGS = ("modules.json", "config.json", "adapter_config.json")
"""Every model of sentence-transformers, transformers, peft and model2vec has one of them."""


def load_options(model: str, revision: str | None) -> dict[str, Any]:
    """What the constructors of sentence-transformers are told.

    Raises InputError for a model that can be nowhere.
    """
    _refuse_impossible(model)
    try:
        import sentence_transformers  # noqa: F401 - whether it can be imported
    except ModuleNotFoundError as error:
        raise MissingExtraError("o1-vote", "dense", "A sentence-transformers member") from error
    return {
        "local_files_only": _is_at_hand(model, revision),
        "trust_remote_code": False,
        "revision": revision,
        "model_kwargs": {"use_safetensors": True},
    }


def folder_of(model: str, revision: str | None) -> Path:
    """The folder of a model; one of the hub is downloaded where it is not cached.

    Raises InputError for a model that can be nowhere.
    """
    _refuse_impossible(model)
    if Path(model).is_dir():
        return Path(model)
    import huggingface_hub

    with explained(model, "a model of the hub"):
        folder = huggingface_hub.snapshot_download(
            model,
            revision=revision,
            local_files_only=_is_at_hand(model, revision),
            allow_patterns=["*.json", "*.safetensors"],
        )
    return Path(folder)


@contextlib.contextmanager
def explained(model: str, kind: str) -> Iterator[None]:
    """Turn what loading raises into an InputError of one line."""
    import safetensors

    try:
        yield
    except (
        OSError, ValueError, KeyError, RuntimeError, AssertionError, safetensors.SafetensorError
    ) as error:  # fmt: skip
        first_line = str(error).strip().partition("\n")[0]
        raise InputError(f"{quoted(model)} cannot be loaded as {kind}: {first_line}") from error


def digest_of_model(model: str, revision: str | None = None) -> str:
    """The sha256 of everything in a model's folder, or of the hub's files in the local cache.

    Raises InputError, and reads nothing, where a folder holds no model.
    """
    if Path(model).is_dir():
        if not any((Path(model) / name).exists() for name in _CONFIGS):
            raise InputError(f"{quoted(model)} holds no model: none of {', '.join(_CONFIGS)} is in it")
        return digest_of([Path(model)])
    found = _cached_config(model, revision)
    return digest_of([Path(found).parent]) if found else "not at hand"


def _refuse_impossible(model: str) -> None:
    if not Path(model).is_dir() and (Path(model).exists() or not _HUB_ID.fullmatch(model)):
        raise InputError(f"{quoted(model)} is neither a folder nor a model id of the hub")


def _is_at_hand(model: str, revision: str | None) -> bool:
    if Path(model).is_dir():
        return True
    config = _cached_config(model, revision)
    if config and any(Path(config).parent.rglob("*.safetensors")):  # a download may have been cut short
        return True
    import huggingface_hub

    _refuse_unreachable_hub(model, huggingface_hub.constants.ENDPOINT)
    return False


def _cached_config(model: str, revision: str | None) -> str | None:
    if not _HUB_ID.fullmatch(model) or importlib.util.find_spec("huggingface_hub") is None:
        return None
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(model, "config.json", revision=revision)
    return found if isinstance(found, str) else None


def _refuse_unreachable_hub(model: str, address: str) -> None:
    import urllib.error
    import urllib.request

    # the hub's client would retry for more than a minute before it says so
    try:
        urllib.request.urlopen(address, timeout=10).close()
    except urllib.error.HTTPError:
        return
    except OSError as error:
        raise InputError(
            f"{quoted(model)} is not a folder, is not cached, and {address} cannot be reached "
            f"({error}); give the folder of a model"
        ) from error
