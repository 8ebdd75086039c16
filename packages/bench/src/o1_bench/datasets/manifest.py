"""`collection.json`: what a built folder holds, and whether it is still what it says."""

from __future__ import annotations

from pathlib import Path

import msgspec

from o1_records import InputError, Record, atomic_write, sha256_file

NAME = "collection.json"


class Manifest(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was built.

    Attributes:
        name: What the collection is called in results.
        revision: The edition: what is searched and asked, not what is trained on.
        inputs: Digest of what it was made from.
        counts: Documents, queries of each split, thoughts, files that were skipped.
        packages: Training functions of each package.
        files: The sha256 of every file, by its path inside the folder.
    """

    name: str
    revision: str
    inputs: str
    counts: dict[str, int]
    packages: dict[str, int]
    files: dict[str, str]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `collection.json`, the last file of a build."""
    with atomic_write(folder / NAME) as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")


def discard_manifest(folder: Path) -> None:
    """Remove `collection.json`, before any file that it vouches for is written again."""
    (folder / NAME).unlink(missing_ok=True)


def read_manifest(folder: Path) -> Manifest:
    """Read `collection.json`. Raises InputError when it is missing or damaged."""
    path = folder / NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InputError(f"{path}: missing or damaged; build the collection again") from error


def up_to_date(folder: Path, inputs: str) -> Manifest | None:
    """The manifest of a folder made from these inputs, if none of its files changed since."""
    try:
        manifest = read_manifest(folder)
    except InputError:
        return None
    same = manifest.inputs == inputs and all(
        (folder / name).is_file() and sha256_file(folder / name) == digest
        for name, digest in manifest.files.items()
    )
    return manifest if same else None
