"""CoSQA, in the JSON files of CoCLR's repository."""

import json

import pytest

from o1_bench.datasets.cosqa import load_cosqa
from o1_records import InputError

CODES = {"def a():\n    pass": 0, "def b(): ...": 2, "def c(): ...": 1}
PAIRS = [("cosqa-train-12467", "sort by a token", 2), ("cosqa-train-7", "sort by a token", 2), ("x", "q", 1)]


def pair(idx, doc, number):
    code = next(code for code, found in CODES.items() if found == number)
    tokens = {"code_tokens": "def", "docstring_tokens": "", "label": 1}
    return {"idx": idx, "doc": doc, "code": code, **tokens, "retrieval_idx": number}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "code_idx_map.txt").write_text(json.dumps(CODES, indent=1))
    (tmp_path / "cosqa-retrieval-test-500.json").write_text(json.dumps([pair(*p) for p in PAIRS], indent=1))
    (tmp_path / "cosqa-retrieval-dev-500.json").write_text(json.dumps([pair(*PAIRS[2])], indent=1))
    return tmp_path


def test_a_documents_id_is_its_number_in_the_map(folder):
    loaded = load_cosqa(folder)
    assert loaded.name == "cosqa/test"
    assert {document.doc_id: document.text for document in loaded.documents}["2"] == "def b(): ..."
    assert [(q.query_id, q.doc_id) for q in loaded.qrels] == [(p[0], str(p[2])) for p in PAIRS]
    assert [query.text for query in loaded.queries] == [p[1] for p in PAIRS]


def test_the_dev_split_has_the_same_documents(folder):
    dev = load_cosqa(folder, "dev")
    assert (len(dev), len(dev.queries)) == (3, 1)


def test_pairs_of_another_map_are_refused(folder):
    (folder / "code_idx_map.txt").write_text(json.dumps({**CODES, "def b(): ...": 3}))
    with pytest.raises(InputError, match=r"entry 1: retrieval_idx 2 is not the number of its code.*\(3\)"):
        load_cosqa(folder)


def test_codes_that_share_a_number_are_refused(folder):
    (folder / "code_idx_map.txt").write_text(json.dumps({**CODES, "def d(): ...": 0}))
    with pytest.raises(InputError, match="4 codes share 3 numbers"):
        load_cosqa(folder)


@pytest.mark.parametrize("name", ["code_idx_map.txt", "cosqa-retrieval-test-500.json"])
def test_a_missing_or_broken_file_is_named_with_its_source(folder, name):
    (folder / name).write_text("[")
    with pytest.raises(InputError, match=rf"{name}: .*get it from https://github.com/Jun-jie-Huang"):
        load_cosqa(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"{name} is missing; get it from https"):
        load_cosqa(folder)


@pytest.mark.parametrize("split", ["train", "../test"])
def test_other_splits_are_refused(folder, split):
    with pytest.raises(InputError, match="dev and test"):
        load_cosqa(folder, split)
