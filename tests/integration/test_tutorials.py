"""The tutorials of the documentation run, on real data and without a network."""

import shutil
from pathlib import Path

import pytest

from helpers.documents import follow

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
COLLECTION = TUTORIALS / "collection.md"
NAMES = sorted(path.stem for path in TUTORIALS.glob("*.md") if path != COLLECTION)


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """What every tutorial begins with."""
    folder = tmp_path_factory.mktemp("collection")
    follow(COLLECTION, folder)
    return folder / "small"


def test_there_are_five():
    assert NAMES == ["curate", "measure", "scale", "think", "train"]


@pytest.mark.parametrize("name", NAMES)
def test_a_reader_who_follows_it_arrives(name, collection, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.copytree(collection, tmp_path / "small")
    follow(TUTORIALS / f"{name}.md", tmp_path)
