"""What identifies a checkpoint."""

from __future__ import annotations

import hashlib
from pathlib import Path

from o1_model.layout import FILE_NAME
from o1_records import sha256_file

_PATTERNS = ("*.safetensors", "config.json", FILE_NAME, "tokenizer*", "vocab*", "merges*", "*tokens*.json")


def checkpoint_digest(folder: str | Path) -> str:
    """Digest of everything that changes a checkpoint's vectors: weights, config, tokenizer, layout."""
    files = {path for pattern in _PATTERNS for path in Path(folder).glob(pattern)}
    lines = "".join(f"{path.name} {sha256_file(path)}\n" for path in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()
