"""What an embedder or a thinker is, as one digest: wherever it runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

_WHERE = ("server", "endpoint")


def without_place(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Return a fingerprint without where the model runs, which does not change what it is."""
    return {name: value for name, value in fingerprint.items() if name not in _WHERE}


def digest_of(fingerprint: Mapping[str, Any]) -> str:
    """Return the digest of a fingerprint."""
    return hashlib.sha256(msgspec.json.encode(without_place(fingerprint), order="sorted")).hexdigest()
