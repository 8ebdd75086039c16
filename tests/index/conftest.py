"""Stores of every kind, empty, and opened again: the engines behind them are real ones."""

import itertools
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from o1_index import build, open_index
from o1_index.vector_store import Shards, open_shards

# how long an example takes says how busy the machine is
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")

ENGINES = ("milvus-lite", "milvus-server", "qdrant-edge", "lance", "pgvector")
_names = (f"c{number}" for number in itertools.count())


@pytest.fixture(scope="session")
def short():
    """A folder with a short name: the address of a socket has at most 107 bytes."""
    folder = tempfile.mkdtemp(prefix="o1-")
    yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def milvus_server(short):
    from milvus import MilvusServer

    server = MilvusServer()
    server.set_base_dir(str(short / "milvus"))
    with server:
        yield f"http://127.0.0.1:{server.listen_port}"


@pytest.fixture(scope="session")
def postgres(short):
    os.environ.setdefault("XDG_RUNTIME_DIR", str(short))
    import pgserver

    server = pgserver.get_server(str(short / "postgres"))
    yield server.get_uri()
    server.cleanup()


class Kind:
    """One kind of store: `create` makes an empty one, `again` closes one and opens it."""

    def __init__(self, name, place):
        self.name, self.place, self.opened = name, place, []

    @property
    def is_database(self):
        return self.name in ENGINES

    def target(self):
        """A collection that does not exist yet."""
        return f"{self.name.partition('-')[0]}:{self.place}#{next(_names)}"

    def create(self, dim=3, **options):
        if self.name == "index":
            return build(np.zeros((0, dim)), [], **options)
        if self.name == "shards":
            return Shards([build(np.zeros((0, dim)), [], **options) for _ in range(3)])
        from o1_index.databases.database import create_store

        return self._kept(create_store(self.target(), dim, **options))

    def again(self, store):
        if self.name == "index":
            store.save(self.place / "index")
            return open_index(self.place / "index")
        if self.name == "shards":
            folders = [self.place / str(number) for number in range(3)]
            for index, folder in zip(store.indexes, folders, strict=True):
                index.save(folder)
            return open_shards(folders)
        from o1_index.databases.database import open_store

        store.close()
        self.opened.remove(store)
        return self._kept(open_store(store.target))

    def close(self):
        for store in self.opened:
            store.close()

    def _kept(self, store):
        self.opened.append(store)
        return store


def kind_of(request, name):
    if name in ("milvus-server", "pgvector"):
        place = request.getfixturevalue("milvus_server" if name == "milvus-server" else "postgres")
    else:
        folder = request.getfixturevalue("tmp_path")
        place = folder / "docs.db" if name == "milvus-lite" else folder
    kind = Kind(name, place)
    yield kind
    kind.close()


EVERY = [pytest.param(name, marks=pytest.mark.engines) for name in ENGINES]


@pytest.fixture(params=["index", "shards", *EVERY])
def kind(request):
    """Every kind of store."""
    yield from kind_of(request, request.param)


@pytest.fixture(params=EVERY)
def database(request):
    """Every vector database."""
    yield from kind_of(request, request.param)
