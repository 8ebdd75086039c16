"""Thoughts about documents by a model in this process: the same job as those about queries."""

import pytest

from helpers.tiny import save_chat_model
from o1_model.__main__ import main
from o1_model.jobs import think_about_documents
from o1_model.retriever.instruct import Instruct
from o1_records import Document, DocumentThought, InputError, Query, read_jsonl, write_jsonl
from o1_records.styles import DOCUMENT_STYLES

DOCUMENTS = [
    Document(doc_id="long", text="def read(path):\n    return open(path).read() " * 3),
    Document(doc_id="blank", text=" \n"),
    Document(doc_id="titled", title="sort", text="sorted(xs)"),
    Document(doc_id="short", text="x"),
]
COMMENT = DOCUMENT_STYLES["comment"]


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    return save_chat_model(tmp_path_factory.mktemp("chat") / "tiny-chat")


@pytest.fixture(scope="module")
def thinker(chat_model):
    return Instruct(chat_model, COMMENT, device="cpu")


def about(thinker, documents, characters=None):
    """What the thinker writes about each, alone."""
    thoughts = {}
    for each in documents:
        text = each.full_text[:characters].strip()
        if text:
            (own,) = thinker.think([Query(query_id=each.doc_id, text=text)], thinker.usual)
            thoughts[each.doc_id] = [thought.text for thought in own]
    return thoughts


def written(path):
    found = {}
    for each in read_jsonl(path, DocumentThought):
        found.setdefault(each.doc_id, []).append(each.text)
    return found


def test_documents_get_the_thoughts_that_each_gets_alone(thinker, tmp_path):
    out = tmp_path / "thoughts.jsonl"
    report = think_about_documents(thinker, DOCUMENTS, out=out)
    expected = about(thinker, DOCUMENTS)
    assert written(out) == {doc_id: texts for doc_id, texts in expected.items() if texts}
    assert list(written(out)) == [doc_id for doc_id in ("long", "titled", "short") if expected[doc_id]]
    assert report.queries == report.thought_about == 3  # the blank one is not thought about
    assert report.blank == 3 - report.written


def test_only_so_much_of_a_document_is_read_and_how_many_are_cut_is_said(thinker, tmp_path, caplog):
    out = tmp_path / "thoughts.jsonl"
    think_about_documents(thinker, DOCUMENTS, {"max_tokens": 8}, out=out, characters=20)
    assert "1 documents are longer than 20 characters: only so much is read" in caplog.text
    cut = [Document(doc_id=each.doc_id, text=each.full_text[:20]) for each in DOCUMENTS]
    short = thinker.asking(DOCUMENT_STYLES["comment"])
    alone = {
        each.doc_id: [t.text for t in own]
        for each in cut
        if each.text.strip()
        for own in short.think(
            [Query(query_id=each.doc_id, text=each.text.strip())],
            type(thinker.usual)(samples=1, max_tokens=8, temperature=0),
        )
    }
    assert written(out) == {doc_id: texts for doc_id, texts in alone.items() if texts}


def test_what_was_thought_is_not_thought_again(thinker, chat_model, tmp_path):
    out = tmp_path / "thoughts.jsonl"

    class Stops:
        """Stops after its first chunk."""

        def __init__(self):
            self.asked = 0

        def is_set(self):
            self.asked += 1
            return self.asked > 1

    many = [Document(doc_id=f"d{n}", text="word " * (n % 7 + 1)) for n in range(140)]
    first = think_about_documents(thinker, many, {"max_tokens": 2}, out=out, stop=Stops())
    assert (first.thought_about, first.finished) == (128, False)
    assert not out.exists()
    before = thinker.tokens
    again = think_about_documents(thinker, many, {"max_tokens": 2}, out=out)
    assert again.finished
    assert 0 < thinker.tokens - before <= 2 * 12
    assert list(written(out)) == [each.doc_id for each in many if each.doc_id in written(out)]


def test_the_command_writes_what_the_function_writes(thinker, chat_model, tmp_path, capsys):
    write_jsonl(tmp_path / "corpus.jsonl", DOCUMENTS)
    out = tmp_path / "thoughts.jsonl"
    words = ["think", "--model", str(chat_model), "--style", "comment", "--device", "cpu", "--out", str(out)]
    words += ["--corpus", str(tmp_path / "corpus.jsonl")]
    code = main(words)
    assert written(out) == {doc_id: texts for doc_id, texts in about(thinker, DOCUMENTS).items() if texts}
    assert code == (0 if len(list(read_jsonl(out, DocumentThought))) == 3 else 3)
    capsys.readouterr()
    assert main(words) == code
    assert "is complete; nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--split", "test"], "--split is for --queries; leave it out"),
        (["--cache", "cache.sqlite"], "--cache is for --queries; leave it out"),
        (["--ray"], "--ray is for --queries; leave it out"),
        (["--style", "snippet"], "unknown style 'snippet' of thoughts about documents; choose of comment"),
    ],
)
def test_options_without_effect_are_refused(chat_model, tmp_path, capsys, more, complaint):
    write_jsonl(tmp_path / "corpus.jsonl", DOCUMENTS)
    words = ["think", "--model", str(chat_model), "--style", "comment", "--out", str(tmp_path / "out.jsonl")]
    assert main([*words, "--corpus", str(tmp_path / "corpus.jsonl"), *more]) == 4
    assert complaint in capsys.readouterr().err


def test_characters_are_for_documents_and_checkpoints_for_queries(chat_model, tmp_path, capsys, llama):
    write_jsonl(tmp_path / "q.jsonl", [Query(query_id="a", text="sort")])
    words = ["think", "--model", str(chat_model), "--style", "comment", "--out", str(tmp_path / "out.jsonl")]
    assert main([*words, "--queries", str(tmp_path / "q.jsonl"), "--characters", "9"]) == 4
    assert "--characters is for --corpus; leave it out" in capsys.readouterr().err
    with pytest.raises(InputError, match="a checkpoint thinks about queries; give an instruct model"):
        think_about_documents(llama, DOCUMENTS, out=tmp_path / "out.jsonl")
