"""What an embedder or a thinker is, as one digest, wherever it runs; and a digest of records."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from o1_records import Record

_WHERE = ("server", "endpoint")


def without_place(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Return a fingerprint without where the model runs, which does not change what it is."""
    return {name: value for name, value in fingerprint.items() if name not in _WHERE}


def digest_of(fingerprint: Mapping[str, Any]) -> str:
    """Return the digest of a fingerprint."""
    return hashlib.sha256(msgspec.json.encode(without_place(fingerprint), order="sorted")).hexdigest()


def digest_of_records(records: Iterable[Record]) -> tuple[str, int]:
    """Return a digest of records in their order, and how many there are."""
    digest, count = hashlib.sha256(), 0
    for record in records:
        digest.update(msgspec.json.encode(record) + b"\n")
        count += 1
    return digest.hexdigest(), count
