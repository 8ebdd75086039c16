"""What identifies a checkpoint: the files that change its vectors, and their digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

from o1_model.layout import FILE_NAME
from o1_records import sha256_file

# weights and adapters, configurations, tokenizer, layout; no card, no certificate, no chat template
_PATTERNS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "adapter_config.json",
    "o1_adapter.json",
    FILE_NAME,
    "tokenizer*",
    "vocab*",
    "merges*",
    "*tokens*.json",
    "*.model",
)


def vector_files(folder: str | Path) -> dict[str, str]:
    """sha256 of every file of a checkpoint that changes its vectors, by name."""
    files = {path for pattern in _PATTERNS for path in Path(folder).glob(pattern)}
    return {path.name: sha256_file(path) for path in sorted(files)}


def checkpoint_digest(folder: str | Path) -> str:
    """Digest of everything that changes a checkpoint's vectors."""
    return digest_of(vector_files(folder))


def digest_of(files: dict[str, str]) -> str:
    """Digest of files by name, from the sha256 of each."""
    lines = "".join(f"{name} {sha256}\n" for name, sha256 in files.items())
    return hashlib.sha256(lines.encode()).hexdigest()
