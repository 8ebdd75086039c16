"""ir_datasets, with files in its cache under the names that it gives them; nothing is downloaded."""

import json
import os
import subprocess
import sys
import zipfile

import pytest

pytestmark = pytest.mark.extra

SHOW = """
import sys
from o1_bench.datasets.suites import load_from_irds
from o1_records import InputError
import json
try:
    one = load_from_irds(sys.argv[1])
except InputError as error:
    sys.exit(str(error))
print(json.dumps({
    "name": one.name,
    "documents": [[d.doc_id, d.title, d.text] for d in one.documents],
    "queries": [q.query_id for q in one.queries],
    "qrels": [[q.query_id, q.doc_id, q.relevance] for q in one.qrels],
    "excluded": {q: sorted(ids) for q, ids in one.excluded.items()},
    "instruction": one.instruction,
    "revision": one.revision,
}))
"""


def load_in_a_process(name, home):
    """ir_datasets reads the place of its cache when it is imported."""
    environment = {**os.environ, "IR_DATASETS_HOME": str(home)}
    command = [sys.executable, "-c", SHOW, name]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr


@pytest.fixture
def home(tmp_path):
    pytest.importorskip("ir_datasets")
    passages = tmp_path / "msmarco-passage"
    (passages / "trec-dl-2019").mkdir(parents=True)
    (passages / "irds_version.txt").write_text("v2")
    (passages / "collection.tsv").write_text("0\tfirst\n1\tsecond\n")
    (passages / "trec-dl-2019" / "queries.tsv").write_text("19335\tanthropology\n7\tunjudged\n")
    (passages / "trec-dl-2019" / "qrels").write_text("19335 Q0 0 0\n19335 Q0 1 3\n")
    (tmp_path / "beir" / "scifact").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "beir" / "scifact" / "source.zip", "w") as file:
        file.writestr("scifact/corpus.jsonl", '{"_id": "d1", "title": "A", "text": "a", "metadata": {}}\n')
        file.writestr("scifact/queries.jsonl", '{"_id": "1", "text": "brains", "metadata": {}}\n')
        file.writestr("scifact/qrels/test.tsv", "query-id\tcorpus-id\tscore\n1\td1\t1\n")
    return tmp_path


def test_deep_learning_comes_from_the_cache(home):
    loaded = load_in_a_process("msmarco/dl19", home)
    assert loaded["name"] == "msmarco/dl19"
    assert loaded["documents"] == [["0", "", "first"], ["1", "", "second"]]
    assert loaded["queries"] == ["19335"]
    assert loaded["qrels"] == [["19335", "0", 0], ["19335", "1", 3]]
    assert "ir_datasets" in loaded["revision"]


def test_beir_comes_from_the_cache_with_its_protocol(home):
    loaded = load_in_a_process("beir/scifact", home)
    assert loaded["name"] == "beir/scifact/test"
    assert loaded["documents"] == [["d1", "A", "a"]]
    assert loaded["excluded"] == {"1": ["1"]}


def test_brights_exclusions_are_not_judgements(home):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (home / "bright").mkdir()
    query = {"id": "0", "query": "lamps?", "reasoning": "", "gold_answer": ""}
    lists = {"gold_ids": ["d1"], "gold_ids_long": ["d"], "excluded_ids": ["N/A", "d2"]}
    documents = [{"id": "d1", "content": "a"}, {"id": "d2", "content": "b"}]
    sources = ("Gemini-1.0_reason", "claude-3-opus_reason", "gpt4_reason", "grit_reason", "llama3-70b_reason")
    names = ["biology.queries.parquet", *(f"biology.{source}.queries.parquet" for source in sources)]
    for name in names:
        pq.write_table(pa.Table.from_pylist([{**query, **lists}]), home / "bright" / name)
    pq.write_table(pa.Table.from_pylist(documents), home / "bright" / "biology.docs.parquet")
    loaded = load_in_a_process("bright/biology", home)
    assert loaded["qrels"] == [["0", "d1", 1]]
    assert loaded["excluded"] == {"0": ["d2"]}
    assert loaded["instruction"].startswith("Given a Biology post")


def test_a_data_set_without_judgements_is_refused(home):
    code = "from o1_bench.datasets.irds import load_irds; load_irds('msmarco-passage/eval')"
    environment = {**os.environ, "IR_DATASETS_HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "has no documents, queries or judgements" in done.stderr
