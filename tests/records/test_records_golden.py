"""Files of released schemas stay readable for ever; O1_GOLDEN=write adds those of this version.

A file under `golden/<version>/` is never changed after the release of that version.
"""

import os
from pathlib import Path

import msgspec
import pytest

import o1_records
from o1_records import (
    Ballot,
    Document,
    DocumentThought,
    Example,
    Exclusion,
    Hit,
    Metric,
    Qrel,
    Query,
    Source,
    Thought,
    read_jsonl,
    write_jsonl,
)

GOLDEN = Path(__file__).parent / "golden"
SOURCE = Source(
    model="meta-llama/Llama-3.1-70B-Instruct",
    revision="1605565b",
    prompt_digest="0123456789abcdef",
    temperature=0.8,
    top_p=0.95,
    max_tokens=512,
    seed=2**31 - 1,
    finish_reason="stop",
    prompt_tokens=700,
    completion_tokens=90,
    tokenizer="llama-3",
    request='{"stop":["\\nQuery:"]}',
)
QUERY = Query(query_id="q1", text="why is the sky blue?\n“Rayleigh”", instruction="Find a passage.")
THOUGHT = Thought(
    query_id="q1", thought_id="q1#0", text="Light is scattered. \U0001f30c", source=SOURCE, token_ids=(1, 2)
)
DOCUMENTS = (Document(doc_id="d1", text="Scattering", title="Sky"), Document(doc_id="d2", text="Sea"))
RECORDS = [
    [QUERY, Query(query_id="q2", text="")],
    list(DOCUMENTS),
    [Qrel(query_id="q1", doc_id="d1", relevance=2), Qrel(query_id="q1", doc_id="d2", relevance=-1)],
    [Exclusion(query_id="q1", doc_id="d2")],
    [Hit(query_id="q1", doc_id="d1", score=0.1, rank=1)],
    [THOUGHT],
    [DocumentThought(doc_id="d1", thought_id="d1#0", text="# opens a zip file", source=SOURCE)],
    [Ballot(query_id="q1", thought_id=None, retriever="bm25", score=1e-300)],
    [
        Example(
            query=QUERY,
            positives=DOCUMENTS[:1],
            negatives=DOCUMENTS[1:],
            thought=THOUGHT,
            teacher_scores=(1.5, -2.0),
            reasoning_query="the sky",
            dataset="msmarco",
            group_size=16,
            batch_size=8,
        ),
        Example(query=Query(query_id="q2", text=""), positives=()),
    ],
    [Metric(measure="nDCG@10", value=0.5), Metric(measure="nDCG@10", value=1.0, query_id="q1")],
]
BY_NAME = {type(records[0]).__name__.lower(): records for records in RECORDS}


def version_of_schema():
    """Fields are only added, with defaults, by a new minor version."""
    return ".".join([*o1_records.__version__.split(".")[:2], "0"])


if os.environ.get("O1_GOLDEN") == "write":
    for name, records in BY_NAME.items():
        write_jsonl(GOLDEN / version_of_schema() / f"{name}.jsonl", records)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_file_of_the_first_release_reads_as_it_was_meant(name):
    read = list(read_jsonl(GOLDEN / "0.1.0" / f"{name}.jsonl", type(BY_NAME[name][0])))
    assert read == BY_NAME[name]


@pytest.mark.parametrize("name", BY_NAME)
def test_this_version_writes_what_its_golden_file_holds(name, tmp_path):
    path = tmp_path / "now.jsonl"
    write_jsonl(path, BY_NAME[name])
    assert path.read_bytes() == (GOLDEN / version_of_schema() / f"{name}.jsonl").read_bytes()


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*/*.jsonl")), ids=lambda path: "-".join(path.parts[-2:]))
def test_files_of_every_release_can_be_read(path):
    assert list(read_jsonl(path, type(BY_NAME[path.stem][0])))


def test_an_example_without_fields_that_came_later_is_read(tmp_path):
    path = tmp_path / "e.jsonl"
    path.write_text(
        '{"query":{"query_id":"q","text":"x"},"positives":[],"dataset":"msmarco","group_size":4}\n'
    )
    query = Query(query_id="q", text="x")
    assert list(read_jsonl(path, Example)) == [
        Example(query=query, positives=(), dataset="msmarco", group_size=4)
    ]


@pytest.mark.parametrize("name", BY_NAME)
def test_every_field_of_the_schema_is_in_its_golden_file(name):
    kind = type(BY_NAME[name][0])
    first = msgspec.json.decode((GOLDEN / version_of_schema() / f"{name}.jsonl").read_bytes().splitlines()[0])
    assert set(first) == set(kind.__struct_fields__)
