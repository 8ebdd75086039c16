"""MS MARCO passages and TREC DL, in files as Microsoft and NIST publish them."""

import gzip
import json

import pytest

from o1_bench.datasets.msmarco import load_msmarco
from o1_records import InputError

PASSAGES = ["The presence of communication", 'Essay on "The Manhattan Project" ', "Cost: $5\tor more"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "collection.tsv").write_text("".join(f"{n}\t{text}\n" for n, text in enumerate(PASSAGES)))
    (tmp_path / "queries.dev.small.tsv").write_text("1048585\twhat is paula deen's brother\n2\t Androgen\n")
    (tmp_path / "qrels.dev.small.tsv").write_text("1048585\t0\t2\t1\n2\t0\t0\t1\n2\t0\t1\t1\n")
    (tmp_path / "msmarco-test2019-queries.tsv").write_text("19335\tanthropology\n156493\tgoldfish\n7\tno\n")
    (tmp_path / "2019qrels-pass.txt").write_text("19335 Q0 0 0\n19335 Q0 1 3\n156493 Q0 2 1\n")
    (tmp_path / "msmarco-test2020-queries.tsv.gz").write_bytes(gzip.compress(b"23849\tare naturalization\n"))
    (tmp_path / "2020qrels-pass.txt").write_text("23849 0 0 2\n")
    return tmp_path


def test_dev_has_every_query_of_its_file(folder):
    loaded = load_msmarco(folder)
    assert loaded.name == "msmarco/dev"
    assert [query.text for query in loaded.queries] == ["what is paula deen's brother", " Androgen"]
    assert len(loaded.qrels) == 3
    assert loaded.revision == "without titles; 2 of 2 queries are judged"


def test_a_tab_in_a_passage_belongs_to_the_passage(folder):
    texts = [document.text for document in load_msmarco(folder).documents]
    # white space at the end of a line is not kept
    assert texts == [text.rstrip() for text in PASSAGES]


def test_deep_learning_keeps_the_judged_queries_and_their_grades(folder):
    loaded = load_msmarco(folder, "dl19")
    assert loaded.name == "msmarco/dl19"
    assert [query.query_id for query in loaded.queries] == ["19335", "156493"]
    assert [qrel.relevance for qrel in loaded.qrels] == [0, 3, 1]
    assert loaded.revision == "without titles; 2 of 3 queries are judged"


def test_files_may_be_gzipped(folder):
    assert load_msmarco(folder, "dl20").queries[0].query_id == "23849"


def test_passages_with_titles_are_another_collection(folder):
    rows = [{"docid": str(n), "title": "A", "text": text} for n, text in enumerate(PASSAGES)]
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    titled, plain = load_msmarco(folder, titles=True), load_msmarco(folder)
    assert titled.name == "msmarco-titles/dev"
    assert titled.revision.startswith("with titles")
    assert {document.title for document in titled.documents} == {"A"}
    assert titled.digests["documents"] != plain.digests["documents"]


def test_passages_with_titles_may_be_tsv(folder):
    (folder / "corpus.tsv").write_text("".join(f"{n}\tA\t{text}\n" for n, text in enumerate(PASSAGES)))
    loaded = load_msmarco(folder, titles=True)
    assert [document.title for document in loaded.documents] == ["A"] * 3


@pytest.mark.parametrize("name", ["collection.tsv", "queries.dev.small.tsv", "qrels.dev.small.tsv"])
def test_a_missing_file_is_named_with_its_source(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"{name} is missing; get it from microsoft.github.io/msmarco"):
        load_msmarco(folder)


@pytest.mark.parametrize("line", ["no tab", "\ta passage without an id", "7\t"])
def test_a_line_that_is_no_passage_is_refused_with_its_number(folder, line):
    with (folder / "collection.tsv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=r"collection\.tsv:4: expected 2 columns"):
        load_msmarco(folder)


def test_other_queries_are_refused(folder):
    with pytest.raises(InputError, match="dev, dl19, dl20"):
        load_msmarco(folder, "../eval")
