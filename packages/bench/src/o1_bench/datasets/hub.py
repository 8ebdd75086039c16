"""Fetching a data set's files from the Hugging Face hub, in their original format.

Loaders never use the network: this fills a folder, they read it. Needs the `[hub]` extra.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from o1_records import InputError, MissingExtraError, quoted

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Repository:
    """A data set on the hub at one commit, and which of its files are wanted (glob patterns)."""

    name: str
    revision: str
    files: tuple[str, ...]


def fetch_repository(repository: Repository, root: str | Path, folder: str) -> Path:
    """Download the wanted files of the pinned revision to `root/folder` and return it; existing files stay.

    Raises InputError when the hub cannot be reached, and when a symlink in the folder leads out of
    `root`; then nothing is written.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    except ImportError as error:
        raise MissingExtraError("o1-bench", "hub", "Fetching from the hub") from error
    target = inside(Path(root), folder)
    try:
        snapshot_download(
            repository.name,
            repo_type="dataset",
            revision=repository.revision,
            allow_patterns=list(repository.files),
            local_dir=target,
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise InputError(
            f"https://huggingface.co/datasets/{repository.name} at {repository.revision[:7]}: "
            f"{error}; or copy {', '.join(repository.files)} to {target}"
        ) from error
    return target


def inside(root: Path, folder: str) -> Path:
    """Return `root/folder`. Raises InputError where `..` or a symlink in it leads out of the root."""
    target = root / folder
    links = (path for path in target.rglob("*") if path.is_symlink()) if target.is_dir() else ()
    for path in (target, *links):
        if not path.resolve().is_relative_to(root.resolve()):
            raise InputError(f"{quoted(str(path))} leads out of {root}; nothing was written")
    return target


def revision_of(folder: Path, repository: Repository | None) -> str:
    """Return the commits that the files of a folder came from, as the hub's client noted when it wrote them.

    Empty for files that were copied: then only the digests say which edition it is.
    """
    notes = (folder / ".cache/huggingface/download").rglob("*.metadata")
    first = {note.read_text(errors="replace").split("\n", 1)[0] for note in notes}
    commits = sorted(commit for commit in first if _COMMIT.fullmatch(commit))
    return f"{repository.name}@{'+'.join(commits)}" if repository and commits else ""
