import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from o1_bench.datasets.beir import load_beir
from o1_bench.datasets.functions import normalised
from o1_bench.datasets.manifest import up_to_date
from o1_bench.datasets.near_copies import NearCopies
from o1_bench.datasets.sources import LEFT_OUT, installed_packages
from o1_bench.datasets.stdlib import PACKAGE_FUNCTIONS, _inputs, build_stdlib, load_stdlib
from o1_records import InputError, Thought, read_jsonl
from o1_records.beir import read_corpus, read_qrels, read_queries

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


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def built(site, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "stdlib"
    build_stdlib(folder, sites=[site])
    return folder


@pytest.fixture(scope="module")
def held_out(built):
    """The dev and test functions: every document that is relevant to one of their queries."""
    relevant = {q.doc_id for split in ("dev", "test") for q in read_qrels(built, split)}
    return [document for document in read_corpus(built) if document.doc_id in relevant]


def test_there_are_500_test_and_300_dev_queries_each_with_a_human_thought(built):
    test, dev = load_stdlib(built), load_stdlib(built, "dev")
    assert (len(test.queries), len(dev.queries)) == (500, 300)
    thoughts = list(read_jsonl(built / "thoughts.jsonl", Thought))
    assert {one.query_id for one in thoughts} == {q.query_id for q in (*test.queries, *dev.queries)}
    assert {(one.thought_id, one.source.model) for one in thoughts} == {("docstring", "docstring")}


def test_no_two_queries_of_dev_and_test_have_the_same_text(built):
    texts = [normalised(query.text) for query in read_queries(built)]
    assert len(set(texts)) == len(texts) == 800


def test_no_query_is_named_like_a_document(built):
    documents = {document.doc_id for document in read_corpus(built)}
    assert documents.isdisjoint(query.query_id for query in read_queries(built))


def test_no_document_of_dev_and_test_shows_its_query(built, held_out):
    sources = {document.doc_id: normalised(document.text) for document in held_out}
    queries = {query.query_id: normalised(query.text) for query in read_queries(built)}
    shown = [
        qrel
        for split in ("dev", "test")
        for qrel in read_qrels(built, split)
        if f" {queries[qrel.query_id]} " in f" {sources[qrel.doc_id]} "
    ]
    # a handful of functions repeat their docstring in a comment or a message
    assert len(shown) <= 8, shown


def test_equal_sentences_share_their_documents(built):
    shared = [q.query_id for split in ("dev", "test") for q in read_qrels(built, split)]
    assert len(shared) > 820
    train = list(read_qrels(built / "train", "train"))
    brewing = {qrel.doc_id: qrel.query_id for qrel in train if qrel.doc_id.startswith("tea.")}
    assert brewing == {"tea.brew": "q:tea.brew", "tea.refill": "q:tea.brew"}


def test_modules_that_some_pythons_lack_are_left_out(built):
    modules = {document.doc_id.partition(".")[0] for document in read_corpus(built)}
    assert {"argparse", "asyncio", "zipfile"} <= modules
    assert modules.isdisjoint(LEFT_OUT | {"test", "site-packages"})
    assert modules <= sys.stdlib_module_names


def test_no_training_query_repeats_a_query_of_dev_or_test(built):
    asked = {normalised(query.text) for query in read_queries(built)}
    train = [normalised(query.text) for query in read_queries(built / "train")]
    assert len(set(train)) == len(train) > 1000
    assert asked.isdisjoint(train)


def test_no_training_document_is_a_near_copy_of_a_dev_or_test_function(built, held_out):
    copies = NearCopies(document.text for document in held_out)
    assert not any(document.text in copies for document in read_corpus(built / "train"))


def test_a_vendored_copy_teaches_only_what_dev_and_test_do_not_ask(built, held_out):
    train = {document.doc_id for document in read_corpus(built / "train")}
    asked = {f"borrowed.{document.doc_id}" for document in held_out}
    borrowed = {one for one in asked if one.split(".")[1] in BORROWED}
    assert len(borrowed) > 10
    assert train.isdisjoint(borrowed)
    assert any(doc_id.startswith("borrowed.") for doc_id in train)


def test_the_training_folder_is_a_collection_with_thoughts_where_there_is_a_rest(built):
    train = load_beir(built / "train", "train")
    thoughts = {one.query_id: one.text for one in read_jsonl(built / "train/thoughts.jsonl", Thought)}
    assert thoughts.keys() < {query.query_id for query in train.queries}
    assert thoughts["q:tea.brew"].startswith("The water must not boil")


def test_foreign_code_is_parsed_and_never_run(built, site):
    assert not (site / "tea" / "was-run").exists()
    assert "tea.brew" in {document.doc_id for document in read_corpus(built / "train")}


def test_tests_and_broken_files_teach_nothing_and_the_broken_are_counted(built, site):
    assert not any("cups" in document.doc_id for document in read_corpus(built / "train"))
    manifest = build_stdlib(built, sites=[site])
    assert manifest.counts["skipped files"] >= 1
    assert manifest.packages["tea"] == 2


def test_a_folder_that_is_up_to_date_is_left_alone(built, site):
    times = {path: path.stat().st_mtime_ns for path in built.rglob("*")}
    build_stdlib(built, sites=[site])
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*")} == times


def test_another_process_builds_a_damaged_folder_again_with_the_same_bytes(built, site, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(built, again)
    files = sorted(path.relative_to(built) for path in built.rglob("*") if path.is_file())
    assert len(files) == 10
    for file in files:
        if file.name != "collection.json":
            os.truncate(again / file, 100)
    code = "import sys, pathlib; from o1_bench.datasets.stdlib import build_stdlib as build; "
    code += "build(sys.argv[1], sites=[pathlib.Path(sys.argv[2])])"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", code, str(again), str(site)]
    subprocess.run(command, check=True, env=environment)
    for file in files:
        assert (again / file).read_bytes() == (built / file).read_bytes(), file


def test_other_packages_or_limits_make_another_collection_to_build(built, site, tmp_path):
    manifest = build_stdlib(built, sites=[site])
    assert up_to_date(built, manifest.inputs) == manifest
    assert up_to_date(built, "other inputs") is None
    assert manifest.inputs not in {_inputs([site], 7), _inputs([tmp_path], PACKAGE_FUNCTIONS)}
    assert manifest.inputs == _inputs([site], PACKAGE_FUNCTIONS)


def test_the_revision_names_the_interpreter(built):
    assert load_stdlib(built).revision.startswith(f"CPython {platform.python_version()} ")


def test_a_folder_without_its_manifest_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"collection\.json: missing or damaged"):
        load_stdlib(tmp_path)


def test_preferred_packages_come_first_and_installers_and_our_own_never(tmp_path):
    for name in ("pip", "numpy", "abacus", "o1_bench", "argparse", "jinja2", "not-a-name"):
        (tmp_path / name).mkdir()
    (tmp_path / "single.py").touch()
    names = [name for _, name in installed_packages([tmp_path])]
    assert names == ["jinja2", "numpy", "abacus", "single"]
