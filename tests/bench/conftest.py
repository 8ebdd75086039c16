"""One collection of the standard library for the whole session: building it takes seconds."""

import sysconfig
from pathlib import Path

import pytest

from o1_bench.datasets.stdlib import build_stdlib
from o1_records.beir import read_corpus, read_qrels

BORROWED = ("argparse", "configparser", "difflib", "ipaddress", "shutil", "tarfile", "textwrap")
OWN = '''
from pathlib import Path
Path(__file__).with_name("was-run").touch()

def brew(leaves, water):
    """Brew a pot of oolong from whole leaves.

    The water must not boil any more when it meets the leaves, or the tea turns bitter.
    """
    return water.pour(leaves)

def refill(pot):
    """Brew a pot of Oolong from whole leaves!"""
    return pot.leaves
'''


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """Installed packages: one of its own, one that vendors the standard library, one broken."""
    site = tmp_path_factory.mktemp("site-packages")
    (site / "tea").mkdir()
    (site / "tea" / "__init__.py").write_text(OWN)
    (site / "tea" / "tests").mkdir()
    (site / "tea" / "tests" / "cups.py").write_text(OWN.replace("brew", "sip"))
    (site / "tea" / "broken.py").write_text("def f(:\n")
    (site / "borrowed").mkdir()
    for name in BORROWED:
        source = Path(sysconfig.get_path("stdlib"), f"{name}.py").read_bytes()
        (site / "borrowed" / f"{name}.py").write_bytes(source)
    return site


@pytest.fixture(scope="session")
def built(site, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "stdlib"
    build_stdlib(folder, sites=[site])
    return folder


@pytest.fixture(scope="session")
def held_out(built):
    """The dev and test functions: every document that is relevant to one of their queries."""
    relevant = {q.doc_id for split in ("dev", "test") for q in read_qrels(built, split)}
    return [document for document in read_corpus(built) if document.doc_id in relevant]
