"""What an index records about itself on disk: its settings, a manifest for each version, one pointer.

Manifest and pointer are sealed: each holds a digest of its own other fields.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from o1_index.store.blocks import File, damaged
from o1_index.vectors import METRICS, Metric
from o1_records import InputError, Record
from o1_records.types import Count, NonBlank
from o1_records.vectors import Encoder

FORMAT = 3
"""The version of the manifest that this release writes and reads."""


EASIER = 0.5
"""Where documents are searched for in the place of queries, half as many hits may be missed."""


class Measured(Record, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The share of the exact hits that the search parameters found, at `k` hits a query.

    `sample` says what was searched for: real queries, or documents in their place, which are easier. `target`
    is the recall that had to be found with them. `outdated` says that the engine has changed since; it is
    written only then.
    """

    k: Count
    recall: float
    queries: Count
    sample: Literal["queries", "documents"]
    target: float
    outdated: bool = False

    @property
    def aim(self) -> float:
        """The recall that was aimed at for queries."""
        return self.target if self.sample == "queries" else 1 - (1 - self.target) / EASIER


class Settings(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How vectors are stored (`factory`), searched (`parameters`) and compared, and what encoded them.

    `factory` is FAISS's index_factory string, `parameters` its ParameterSpace string ("nprobe=16"),
    `measured` what these find, unless they were set by hand. `radius` is that of `o1_index.vectors.Layout`,
    `payloads` the digest of the file of payloads that the index was built with.
    """

    factory: str = "Flat"
    parameters: str = ""
    metric: Metric = "inner_product"
    encoder: Encoder | None = None
    radius: float = 0.0
    measured: Measured | None = None
    payloads: str = ""

    def __post_init__(self) -> None:
        """Refuse an unknown metric."""
        if self.metric not in METRICS:
            raise InputError(f"unknown metric {self.metric!r}; choose one of {', '.join(METRICS)}")

    @property
    def ranks_by_distance(self) -> bool:
        """Whether the engine compares squared distances, not inner products."""
        return self.metric == "l2" or self.radius > 0

    def refuse_other_encoder(self, encoder: Encoder | None) -> None:
        """Raise InputError unless vectors of `encoder` can be searched for here.

        They cannot when another encoder made them (the error names both) or when they are documents.
        """
        if not self._same_space(encoder):
            raise InputError(
                f"the query vectors were made by {encoder}, the document vectors of the index by "
                f"{self.encoder}; encode the queries with the model that encoded the documents"
            )
        if encoder is not None and encoder.role == "document":
            raise InputError(
                "the vectors to search for were encoded as documents; give a folder of query vectors"
            )

    def refuse_other_documents(self, encoder: Encoder | None) -> None:
        """Raise InputError unless vectors of `encoder` can be added here; the error names both encoders."""
        if not self._same_space(encoder) or (encoder is not None and encoder.role == "query"):
            raise InputError(
                f"the vectors to add were made by {encoder}, those of the index by {self.encoder}; "
                "encode the new documents as those of the index were encoded"
            )

    def _same_space(self, encoder: Encoder | None) -> bool:
        """Whether vectors of `encoder` can be compared with these; two unknown encoders count as one."""
        mine = self.encoder
        return mine is encoder if mine is None or encoder is None else mine.same_space(encoder)


def origin(made_from: str, settings: Settings) -> dict[str, str]:
    """Return everything that the engine of an index depends on, by name.

    Search parameters are not among it: tuning changes them without building again.
    """
    vectors = made_from or "changed since the index was built"
    payloads = {"payloads": settings.payloads} if settings.payloads else {}
    return {"vectors": vectors, "factory": settings.factory, "metric": settings.metric, **payloads}


class IndexManifest(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a version holds.

    `rows` are those of the engine, `added` those that are not in it yet; both count removed ones. `dim` is
    that of the vectors. `made_from` is the digest of the vectors that the index was built from; "" once
    documents were added or removed. `digest` covers the other fields.
    """

    version: int = FORMAT
    rows: Count
    added: Count = 0
    removed: Count = 0
    dim: Count
    settings: Settings
    made_from: str = ""
    files: tuple[File, ...]
    digest: str = ""


class Pointer(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which version is current; `digest` covers the other fields."""

    name: Annotated[str, Meta(pattern=r"^v[0-9]{6}$")]
    manifest_sha256: NonBlank
    digest: str = ""


class _Format(msgspec.Struct):
    """Any record of any release, as far as its version."""

    version: int = FORMAT


Sealed = TypeVar("Sealed", IndexManifest, Pointer)


def sealed(record: IndexManifest | Pointer) -> bytes:
    """Return the only bytes that represent this record: its encoding, with a digest of the rest in it."""
    bare = msgspec.json.encode(msgspec.structs.replace(record, digest=""))
    signed = msgspec.structs.replace(record, digest=hashlib.sha256(bare).hexdigest())
    return msgspec.json.format(msgspec.json.encode(signed), indent=1) + b"\n"


def unsealed(path: Path, content: bytes, kind: type[Sealed]) -> Sealed:
    """Return the record in `content`. Raises InputError for bytes that `sealed` would not have written."""
    try:
        version = msgspec.json.decode(content, type=_Format).version
        if version > FORMAT:
            raise InputError(f"{path}: written by a newer release of o1-index; upgrade this one to read it")
        if version < FORMAT:
            raise InputError(f"{path}: written by an older release of o1-index; build the index again")
        record = msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise damaged(path) from error
    # encoded again it must give the same bytes: that covers white space and the record's own digest
    if sealed(record) != content:
        raise damaged(path)
    return record
