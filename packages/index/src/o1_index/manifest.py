"""What an index knows of itself on disk: two small records, sealed by digests of their own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from o1_index.blocks import File, damaged
from o1_index.settings import Settings
from o1_records import Record
from o1_records.types import Count, NonBlank


class IndexManifest(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a version holds. `made_from` names the vectors; `digest` is that of the other fields.

    `rows` counts removed rows too.
    """

    version: int = 2
    rows: Count
    dim: Count
    settings: Settings
    made_from: str = ""
    files: tuple[File, ...]
    digest: str = ""


class Pointer(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which version is current; `digest` is that of the other fields."""

    name: Annotated[str, Meta(pattern=r"^v[0-9]{6}$")]
    manifest_sha256: NonBlank
    digest: str = ""


Sealed = TypeVar("Sealed", IndexManifest, Pointer)


def sealed(record: IndexManifest | Pointer) -> bytes:
    """The only bytes that stand for this record: its encoding, with the digest of the rest in it."""
    bare = msgspec.json.encode(msgspec.structs.replace(record, digest=""))
    signed = msgspec.structs.replace(record, digest=hashlib.sha256(bare).hexdigest())
    return msgspec.json.format(msgspec.json.encode(signed), indent=1) + b"\n"


def unsealed(path: Path, content: bytes, kind: type[Sealed]) -> Sealed:
    """Read a record. Raises InputError for bytes that `sealed` would not have written."""
    try:
        record = msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise damaged(path) from error
    # written again it must be the same bytes: that covers its white space and its own digest
    if sealed(record) != content:
        raise damaged(path)
    return record
