"""R2MED, in the JSON lines of its repositories on the hub."""

import json

import pytest

from o1_bench.datasets.r2med import TASKS, instruction, load_r2med
from o1_records import InputError

CORPUS = [{"id": "light/Phototaxis_3.txt", "text": "Moths"}, {"id": "b", "text": "Noses"}]
QUERIES = [
    {"id": "0", "text": "Why lamps?", "doc_id": ["light/Phototaxis_3.txt"], "answer": "phototaxis"},
    {"id": "1", "text": "Why one nostril?", "doc_id": ["b"]},
]
QRELS = [
    {"q_id": "0", "p_id": "light/Phototaxis_3.txt", "score": 1},
    {"q_id": "1", "p_id": "b", "score": 2.0},
]


@pytest.fixture
def folder(tmp_path):
    for name, rows in (("corpus", CORPUS), ("query", QUERIES), ("qrels", QRELS)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_a_task_is_read_from_its_three_files(folder):
    loaded = load_r2med(folder, "Biology")
    assert (loaded.name, len(loaded)) == ("r2med/Biology", 2)
    assert [(q.query_id, q.doc_id, q.relevance) for q in loaded.qrels] == [
        ("0", "light/Phototaxis_3.txt", 1),
        ("1", "b", 2),
    ]
    assert loaded.instruction == "Given a Biology post, retrieve relevant passages that help answer the post."


def test_clinical_cases_look_for_similar_cases():
    assert len(TASKS) == 8
    assert instruction("PMC-Clinical") == (
        "Given a Clinical Case, retrieve similar cases that help diagnose the case."
    )
    assert instruction("PMC-Treatment").endswith("relevant passages that help answer the case.")


def test_repeated_documents_are_refused_or_merged_on_request(folder):
    with (folder / "corpus.jsonl").open("a") as file:
        file.write(json.dumps({"id": "b", "text": "Two nostrils"}) + "\n")
    with pytest.raises(InputError, match="duplicate doc_id 'b'"):
        load_r2med(folder, "Bioinformatics")
    merged = load_r2med(folder, "Bioinformatics", merge=True)
    assert [document.text for document in merged.documents] == ["Moths", "Two nostrils"]
    assert merged.revision == "1 repeated documents merged, the last one kept"


@pytest.mark.parametrize("task", ["biology", "../Biology", ""])
def test_other_tasks_are_refused(folder, task):
    with pytest.raises(InputError, match="R2MED's tasks are Biology"):
        load_r2med(folder, task)


@pytest.mark.parametrize("name", ["corpus", "query", "qrels"])
def test_a_missing_file_is_named_with_its_source(folder, name):
    (folder / f"{name}.jsonl").unlink()
    with pytest.raises(InputError, match=rf"{name}\.jsonl is missing.*https://huggingface.co/R2MED"):
        load_r2med(folder, "Biology")
