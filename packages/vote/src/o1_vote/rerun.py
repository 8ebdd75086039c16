"""Knowing that there is nothing to do: what outputs were made from, written beside them.

`<out>.made.json` holds the digests of inputs, options and outputs. It is written last, so a run
that was cut short is run again, and any change of an input, a model or an output is noticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from o1_records import atomic_write, sha256_file


class Made(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What went in, by name, and the sha256 of what came out, by path."""

    inputs: dict[str, str]
    outputs: dict[str, str]


def is_up_to_date(out: Path, inputs: Mapping[str, str], outputs: Iterable[Path]) -> bool:
    """Whether `outputs` are whole and were made from exactly these inputs."""
    try:
        made = msgspec.json.decode(_beside(out).read_bytes(), type=Made)
        digests = {str(path): sha256_file(path) for path in outputs}
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeError):
        return False
    return made == Made(inputs=dict(inputs), outputs=digests)


def remember(out: Path, inputs: Mapping[str, str], outputs: Iterable[Path]) -> None:
    """Write down what the finished `outputs` were made from."""
    digests = {str(path): sha256_file(path) for path in outputs}
    made = msgspec.json.encode(Made(inputs=dict(inputs), outputs=digests))
    with atomic_write(_beside(out)) as file:
        file.write(msgspec.json.format(made, indent=1) + b"\n")


def digest_of(paths: Iterable[Path]) -> str:
    """One digest of files, or of everything in a folder: names and content."""
    digest = hashlib.sha256()
    for path in paths:
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in inside:
            digest.update(f"{file.relative_to(path)}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()


def _beside(out: Path) -> Path:
    return out.with_name(out.name + ".made.json")
