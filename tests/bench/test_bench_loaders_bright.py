"""BRIGHT in the hub's layout (Parquet and JSON lines) and in FlagEmbedding's."""

import json

import pytest

from o1_bench.datasets.bright import LONG_TASKS, TASKS, instruction, load_bright
from o1_records import InputError

DOCUMENTS = [
    {"id": "light/Phototaxis_0.txt", "content": "Moths fly to light."},
    {"id": "light/Phototaxis_1.txt", "content": ""},
    {"id": "pots/Clay_3.txt", "content": "Clay dries."},
]
EXAMPLES = [
    {
        "query": "Why do insects fly to lamps?",
        "reasoning": "phototaxis",
        "id": "0",
        "excluded_ids": ["N/A"],
        "gold_ids_long": ["light/Phototaxis.txt"],
        # an id that stands twice
        "gold_ids": ["light/Phototaxis_0.txt", "light/Phototaxis_1.txt", "light/Phototaxis_0.txt"],
        "gold_answer": "",
    },
    {
        "query": "Why does my pot crack?",
        "reasoning": "",
        "id": "1",
        "excluded_ids": ["light/Phototaxis_0.txt", "elsewhere.txt", "light/Phototaxis_0.txt"],
        "gold_ids_long": ["pots/Clay.txt"],
        "gold_ids": ["pots/Clay_3.txt"],
        "gold_answer": "",
    },
]
LONG = [
    {"id": "light/Phototaxis.txt", "content": "Moths fly to light. And more."},
    {"id": "pots/Clay.txt", "content": "Clay dries, and so on."},
]
REASONED = [{**example, "query": f"{example['query']} Because."} for example in EXAMPLES]
TABLES = {"documents": DOCUMENTS, "examples": EXAMPLES, "long_documents": LONG, "gpt4_reason": REASONED}


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def as_hub_jsonl(folder, tables=TABLES):
    for table, rows in tables.items():
        write(folder / table / "biology-00000-of-00001.jsonl", rows)


def as_hub_parquet(folder):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for table, rows in TABLES.items():
        (folder / table).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / table / "biology-00000-of-00001.parquet")


def as_converted_parquet(folder):
    """The hub's refs/convert/parquet: a folder a split."""
    as_hub_parquet(folder)
    for path in list(folder.rglob("*.parquet")):
        (path.parent / "biology").mkdir()
        path.rename(path.parent / "biology" / "0000.parquet")


def as_flag_embedding(folder, tables=TABLES):
    """What its data loader saves: ids with the table's name before them, exclusions judged 0."""
    write(
        folder / "biology" / "corpus.jsonl",
        [{"id": d["id"], "text": d["content"]} for d in tables["documents"]],
    )
    for table in ("examples", "gpt4_reason"):
        rows = tables[table]
        queries = [{"id": f"{table}-{row['id']}", "text": row["query"]} for row in rows]
        write(folder / "biology" / f"{table}_queries.jsonl", queries)
        judged = [
            {"qid": f"{table}-{row['id']}", "docid": doc_id, "relevance": relevance}
            for row in rows
            for relevance, ids in ((1, row["gold_ids"]), (0, set(row["excluded_ids"]) - {"N/A"}))
            for doc_id in ids
        ]
        write(folder / "biology" / f"{table}_qrels.jsonl", judged)


@pytest.fixture
def folder(tmp_path):
    as_hub_jsonl(tmp_path)
    return tmp_path


def test_a_task_has_its_gold_documents_and_exclusions(folder):
    loaded = load_bright(folder, "biology")
    assert loaded.name == "bright/biology"
    assert [(qrel.query_id, qrel.doc_id) for qrel in loaded.qrels] == [
        ("0", "light/Phototaxis_0.txt"),
        ("0", "light/Phototaxis_1.txt"),
        ("1", "pots/Clay_3.txt"),
    ]
    # N/A is no document, and one that the corpus lacks is no fault
    assert loaded.excluded == {"1": {"light/Phototaxis_0.txt", "elsewhere.txt"}}
    assert loaded.instruction == (
        "Given a Biology post, retrieve relevant passages that help answer the post."
    )


@pytest.mark.parametrize("reasoning", ["", "gpt4"])
@pytest.mark.parametrize(
    "write_copy",
    [
        as_flag_embedding,
        pytest.param(as_hub_parquet, marks=pytest.mark.extra),
        pytest.param(as_converted_parquet, marks=pytest.mark.extra),
    ],
)
def test_every_copy_of_a_task_gives_the_same_collection(tmp_path, write_copy, reasoning):
    as_hub_jsonl(tmp_path / "jsonl")
    write_copy(tmp_path / "copy")
    one = load_bright(tmp_path / "jsonl", "biology", reasoning=reasoning)
    other = load_bright(tmp_path / "copy", "biology", reasoning=reasoning)
    assert (one.name, one.digests) == (other.name, other.digests)


def test_rewritten_queries_are_another_collection_with_the_same_ids(folder):
    plain, reasoned = load_bright(folder, "biology"), load_bright(folder, "biology", reasoning="gpt4")
    assert reasoned.name == "bright-gpt4/biology"
    assert [query.query_id for query in reasoned.queries] == [query.query_id for query in plain.queries]
    assert all(query.text.endswith("Because.") for query in reasoned.queries)
    assert reasoned.digests["queries"] != plain.digests["queries"]


def test_long_documents_have_their_own_gold(folder):
    loaded = load_bright(folder, "biology", long=True)
    assert (loaded.name, len(loaded)) == ("bright-long/biology", 2)
    assert [qrel.doc_id for qrel in loaded.qrels] == ["light/Phototaxis.txt", "pots/Clay.txt"]
    assert loaded.instruction.startswith("Given a Biology post, retrieve relevant documents")


def test_the_shards_of_one_task_are_not_those_of_another(tmp_path):
    for table, rows in TABLES.items():
        write(tmp_path / table / "theoremqa_questions-00000-of-00001.jsonl", rows)
    with pytest.raises(InputError, match=r"theoremqa_theorems\.jsonl is missing"):
        load_bright(tmp_path, "theoremqa_theorems")
    assert len(load_bright(tmp_path, "theoremqa_questions")) == 3


@pytest.mark.parametrize("write_copy", [as_hub_jsonl, as_flag_embedding])
def test_white_space_in_ids_becomes_what_trec_files_can_hold(tmp_path, write_copy):
    write_copy(tmp_path, json.loads(json.dumps(TABLES).replace("pots/Clay_3.txt", "pots/Wet clay 3.txt")))
    loaded = load_bright(tmp_path, "biology")
    assert loaded.qrels[-1].doc_id == "pots/Wet_clay_3.txt"
    assert [document.doc_id for document in loaded.documents][-1] == "pots/Wet_clay_3.txt"


def test_repeated_documents_are_refused_or_merged_on_request(tmp_path):
    again = {"id": "pots/Clay_3.txt", "content": "Clay shrinks."}
    as_hub_jsonl(tmp_path, {**TABLES, "documents": [*DOCUMENTS, again]})
    with pytest.raises(InputError, match=r"duplicate doc_id 'pots/Clay_3\.txt' \(documents 3 and 4\)"):
        load_bright(tmp_path, "biology")
    merged = load_bright(tmp_path, "biology", merge=True, revision="a copy")
    assert [document.text for document in merged.documents][2:] == ["Clay shrinks."]
    assert merged.revision == "a copy; 1 repeated documents merged, the last one kept"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"gold_ids": ["N/A"]}, "query '0' has no gold documents"),
        ({"excluded_ids": ["light/Phototaxis_0.txt"]}, "excludes its gold document"),
        ({"gold_ids": ["light/Phototaxis_9.txt"]}, "judged documents are not in the corpus"),
        ({"id": 0}, r"biology-00000-of-00001\.jsonl:1: Expected `str`, got `int`"),
        ({"id": "1"}, "duplicate query_id '1'"),
        ({"excluded_ids": None}, "Expected `array`, got `null`"),
    ],
)
def test_examples_that_are_wrong_are_refused_with_their_line(tmp_path, changes, told):
    as_hub_jsonl(tmp_path, {**TABLES, "examples": [{**EXAMPLES[0], **changes}, EXAMPLES[1]]})
    with pytest.raises(InputError, match=told):
        load_bright(tmp_path, "biology")


def test_a_saved_copy_with_other_query_ids_is_refused(tmp_path):
    as_flag_embedding(tmp_path)
    write(tmp_path / "biology" / "examples_queries.jsonl", [{"id": "0", "text": "moths"}])
    with pytest.raises(InputError, match=r"examples_queries\.jsonl:1: .*does not start with 'examples-'"):
        load_bright(tmp_path, "biology")


def test_a_saved_copy_of_short_documents_is_not_taken_for_long_ones(tmp_path):
    as_flag_embedding(tmp_path)
    with pytest.raises(InputError, match=r"long_documents: biology\.jsonl is missing"):
        load_bright(tmp_path, "biology", long=True)


def test_a_missing_table_is_named_with_its_source(folder):
    (folder / "examples" / "biology-00000-of-00001.jsonl").unlink()
    with pytest.raises(InputError, match=r"biology\.jsonl is missing.*huggingface.co/datasets/xlangai"):
        load_bright(folder, "biology")


@pytest.mark.parametrize(
    ("task", "options", "told"),
    [
        ("../biology", {}, "BRIGHT's tasks are biology"),
        ("leetcode", {"long": True}, "with long documents are biology"),
        ("biology", {"reasoning": "../examples"}, "rewritten by gpt4"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(folder, task, options, told):
    with pytest.raises(InputError, match=told):
        load_bright(folder, task, **options)


def test_every_task_has_an_instruction_that_names_its_kind_of_query():
    assert (len(TASKS), len(LONG_TASKS)) == (12, 8)
    said = {task: instruction(task) for task in TASKS}
    assert said["pony"] == "Given a Pony question, retrieve relevant passages that help answer the question."
    assert said["aops"] == "Given a Math problem, retrieve relevant examples that help answer the problem."
    assert "theorems" in said["theoremqa_theorems"]
    assert all(text.endswith((" post.", " question.", " problem.")) for text in said.values())
