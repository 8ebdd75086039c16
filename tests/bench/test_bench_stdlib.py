import os
import platform
import shutil
import subprocess
import sys
from hashlib import sha256

import pytest

from o1_bench.__main__ import main
from o1_bench.datasets.beir import load_beir
from o1_bench.datasets.functions import LEFT_OUT, Function, installed_packages, normalised, package_functions
from o1_bench.datasets.selection import NearCopies, Selection, _package_functions
from o1_bench.datasets.stdlib import (
    PACKAGE_FUNCTIONS,
    _inputs,
    _refuse_other_files,
    build_stdlib,
    load_stdlib,
    up_to_date,
    write_selection,
)
from o1_records import Document, InputError, Qrel, Query, Thought, read_jsonl
from o1_records.beir import read_corpus, read_qrels, read_queries, write_beir
from o1_records.kit.job import ChangedJobError


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


def test_a_vendored_copy_teaches_only_what_dev_and_test_do_not_ask(built, site, held_out):
    train = {document.doc_id for document in read_corpus(built / "train")}
    asked = {f"borrowed.{document.doc_id}" for document in held_out}
    vendored = {path.stem for path in (site / "borrowed").iterdir()}
    borrowed = {one for one in asked if one.split(".")[1] in vendored}
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


def test_a_folder_of_other_packages_is_refused_with_the_difference_and_moved_aside_on_request(
    built, site, tmp_path
):
    folder = tmp_path / "stdlib"
    shutil.copytree(built, folder)
    before = contents(folder)
    for changed, named in (({"package_limit": 7}, "package_limit '8000'"), ({"sites": []}, "packages '")):
        with pytest.raises(ChangedJobError, match=f"was made with {named}.* give --new-job"):
            build_stdlib(folder, **({"sites": [site]} | changed))
    assert contents(folder) == before
    manifest = build_stdlib(folder, sites=[], new_job=True)
    assert set(manifest.packages) == {"stdlib"}
    assert contents(tmp_path / "stdlib.old1") == before
    assert up_to_date(folder, manifest.inputs) == manifest


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder): path.read_bytes() for path in files}


@pytest.mark.parametrize("manifest", [None, b"{}"])
def test_a_collection_that_was_not_built_here_is_never_overwritten(tmp_path, capsys, manifest):
    document, query = Document(doc_id="d", text="t"), Query(query_id="q", text="t")
    qrels = {"test": [Qrel(query_id="q", doc_id="d", relevance=1)]}
    write_beir(tmp_path / "mine", documents=[document], queries=[query], qrels=qrels)
    if manifest is not None:
        (tmp_path / "mine" / "collection.json").write_bytes(manifest)
    before = contents(tmp_path / "mine")
    assert main(["fetch", "stdlib", "--out", str(tmp_path / "mine")]) == 4
    assert "exists, and was not built by `o1-bench fetch stdlib`, or is damaged" in capsys.readouterr().err
    assert contents(tmp_path / "mine") == before


def test_new_job_is_refused_where_it_has_no_effect(tmp_path, capsys):
    assert main(["fetch", "bright/biology", "--out", str(tmp_path), "--new-job"]) == 4
    assert "--new-job is for stdlib" in capsys.readouterr().err


def test_the_revision_names_the_interpreter(built):
    assert load_stdlib(built).revision.startswith(f"CPython {platform.python_version()} ")


def test_a_folder_without_its_manifest_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"collection\.json: missing or damaged"):
        load_stdlib(tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xfe", b'{"name": "\xff"}', b"{", b'{"name": 1}'])
def test_a_folder_with_a_damaged_manifest_is_refused_and_not_up_to_date(tmp_path, content):
    (tmp_path / "collection.json").write_bytes(content)
    with pytest.raises(InputError, match=r"collection\.json: missing or damaged"):
        load_stdlib(tmp_path)
    assert up_to_date(tmp_path, "") is None


def test_a_build_that_is_cut_short_leaves_no_manifest_over_new_files(tmp_path):
    functions = [
        Function(f"m.{name}", f"def {name}(): ...", f"Open the {name} door.") for name in ("a", "b", "c")
    ]
    groups = [[function] for function in functions]
    parts = {"test": groups[:1], "dev": groups[1:2], "own": functions[2:], "others": []}
    write_selection(tmp_path, Selection(library=functions, **parts), "before")
    assert len(load_stdlib(tmp_path)) == 3
    (tmp_path / "queries.jsonl").unlink()
    (tmp_path / "queries.jsonl").mkdir()  # which stops the second file of the build
    with pytest.raises(OSError, match="directory"):
        write_selection(tmp_path, Selection(library=functions[:2], **parts), "after")
    assert len(list(read_corpus(tmp_path))) == 2
    assert not (tmp_path / "collection.json").exists()
    (tmp_path / "queries.jsonl").rmdir()
    write_selection(tmp_path, Selection(library=functions, **parts), "after")
    assert len(load_stdlib(tmp_path)) == 3
    assert not (tmp_path / "collection.building").exists()


def test_a_build_that_is_cut_short_is_continued_and_other_inputs_are_refused(tmp_path, site):
    inputs = _inputs([site], PACKAGE_FUNCTIONS)
    (tmp_path / "stdlib").mkdir()
    (tmp_path / "stdlib" / "collection.building").write_text(inputs)
    (tmp_path / "stdlib" / "corpus.jsonl").write_text("half a file")
    _refuse_other_files(tmp_path / "stdlib", inputs)
    with pytest.raises(ChangedJobError, match="was made with package_limit '8000', this run has package_li"):
        build_stdlib(tmp_path / "stdlib", sites=[site], package_limit=7)


def test_a_negative_limit_is_refused(tmp_path):
    with pytest.raises(InputError, match="package_limit must be 0 or more, got -1"):
        build_stdlib(tmp_path, sites=[], package_limit=-1)


def test_of_the_last_package_those_of_least_sha256_are_taken_and_no_more_are_checked(site):
    asked = []

    def teaches(function):
        asked.append(function.name)
        return function.name != "tea.refill"

    taken = _package_functions([site], 3, teaches, [])
    found = sorted(
        package_functions(site, "borrowed", []), key=lambda one: sha256(one.name.encode()).digest()
    )
    assert [one.name for one in taken] == [one.name for one in found[:3]]
    assert asked == [one.name for one in taken]


def test_preferred_packages_come_first_and_installers_and_our_own_never(tmp_path):
    for name in ("pip", "numpy", "abacus", "o1_bench", "argparse", "jinja2", "not-a-name"):
        (tmp_path / name).mkdir()
    (tmp_path / "single.py").touch()
    names = [name for _, name in installed_packages([tmp_path])]
    assert names == ["jinja2", "numpy", "abacus", "single"]
