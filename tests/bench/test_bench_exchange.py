"""Runs and results in the forms of others, in and out."""

import gzip
import json

import pytest

from o1_bench import Collection, leaderboard, save_result
from o1_bench.__main__ import main
from o1_bench.protocol import PROTOCOLS
from o1_bench.results.exchange import find_run, read_any_run
from o1_bench.results.mteb import TASKS, read_mteb
from o1_bench.results.result import Milliseconds, System
from o1_bench.score import to_dict
from o1_records import Document, InputError, Qrel, Query, rank

RUN = {"1": {"d1": 2.0, "d2": 1.0}, "2": {"d1": 1.5, "d2": 0.5}}


def run_with(*parts):
    return main([str(part) for part in parts])


def kept(folder, name="bright/pony", system="my model", seed=None):
    collection = Collection(
        name=name,
        documents=[Document(doc_id=f"d{n}", text=f"text {n}") for n in (1, 2)],
        queries=[Query(query_id="1", text="a"), Query(query_id="2", text="b")],
        qrels=[Qrel(query_id="1", doc_id="d1", relevance=1), Qrel(query_id="2", doc_id="d2", relevance=1)],
        protocol=PROTOCOLS["bright" if name.startswith("bright/") else "beir"],
        revision="hub BeIR/scifact@" + 40 * "a",
    )
    hits = [hit for query_id, scores in RUN.items() for hit in rank(query_id, scores)]
    return save_result(
        folder, System(name=system, seed=seed, milliseconds=Milliseconds(search=2.0)), collection=collection,
        hits=hits,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", RUN),
        ("run.json.gz", RUN),
        ("pony-examples.json", {"eval_name": "bright_short", "search_results": RUN}),
        (
            "pony-examples.json",
            {
                "split": "examples",
                "search_results": {f"examples-{query_id}": scores for query_id, scores in RUN.items()},
            },
        ),
    ],
)
def test_runs_of_beir_and_flagembedding_are_read(tmp_path, name, content):
    data = json.dumps(content).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert to_dict(read_any_run(tmp_path / name)) == RUN


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1]", "damaged, or not a run"),
        ('{"q": {"d": "high"}}', "a run is {query_id: {doc_id: score}}, or has it in search_results"),
        ('{"q": {"d": NaN}}', "damaged, or not a run"),
        ('{"q": {"a b": 1, "a\\tb": 2}}', "query 'q' has two documents whose ids differ in white space only"),
    ],
)
def test_what_is_no_run_is_refused_by_name(tmp_path, content, said):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"run\.json: ") as caught:
        list(read_any_run(tmp_path / "run.json"))
    assert said in str(caught.value)


def test_a_folder_has_one_run_for_a_collection_under_any_of_its_names(tmp_path):
    (tmp_path / "pony_mine_long_False").mkdir()
    path = tmp_path / "pony_mine_long_False" / "score.json"
    path.write_text(json.dumps(RUN))
    assert find_run(tmp_path, "bright/pony") == path
    flag = tmp_path / "pony-examples.json"
    flag.write_text(json.dumps({"search_results": RUN}))
    with pytest.raises(InputError, match=r"pony-examples\.json, pony_mine_long_False/score\.json: keep one"):
        find_run(tmp_path, "bright/pony")
    with pytest.raises(
        InputError, match=r"bright-biology\.trec: no such run; a folder of runs needs one for ea"
    ):
        find_run(tmp_path, "bright/biology")


@pytest.mark.parametrize("form", ["beir", "flagembedding", "bright"])
def test_what_is_written_is_read_again(tmp_path, form, capsys):
    kept(tmp_path / "r")
    assert run_with("export", tmp_path / "r", "--format", form, "--out", tmp_path / "out") == 0
    files = capsys.readouterr().out.split()
    assert to_dict(read_any_run(files[0])) == RUN
    # a second time nothing changes; another content is not overwritten
    assert run_with("export", tmp_path / "r", "--format", form, "--out", tmp_path / "out") == 0
    with open(files[0], "w") as file:
        file.write("{}")
    assert run_with("export", tmp_path / "r", "--format", form, "--out", tmp_path / "out") == 4
    assert "exists, with another content" in capsys.readouterr().err


def test_brights_files_have_its_names_and_its_measures(tmp_path):
    kept(tmp_path / "r")
    assert run_with("export", tmp_path / "r", "--format", "bright", "--out", tmp_path / "out") == 0
    folder = tmp_path / "out" / "pony_my-model_long_False"
    assert sorted(path.name for path in folder.iterdir()) == ["results.json", "score.json"]
    found = json.loads((folder / "results.json").read_text())
    assert found["NDCG@10"] == round((1 + 0.6309297535714575) / 2, 5)
    assert found["MRR"] == 0.75
    assert {"NDCG@1", "MAP@5", "Recall@100", "P@25"} <= found.keys()
    kept(tmp_path / "s", name="cosqa/test")
    assert run_with("export", tmp_path / "s", "--format", "bright", "--out", tmp_path / "out") == 4


def test_flagembeddings_file_says_model_split_and_dataset(tmp_path):
    kept(tmp_path / "r", name="beir/fiqa/test", seed=3)
    assert run_with("export", tmp_path / "r", "--format", "flagembedding", "--out", tmp_path / "out") == 0
    found = json.loads((tmp_path / "out" / "my-model-seed-3" / "NoReranker" / "fiqa-test.json").read_text())
    assert (found["model_name"], found["reranker_name"]) == ("my model seed 3", "NoReranker")
    assert (found["eval_name"], found["dataset_name"], found["split"]) == ("beir", "fiqa", "test")


def test_two_results_that_would_be_one_file_are_refused(tmp_path, capsys):
    kept(tmp_path / "r" / "a", system="x y")
    kept(tmp_path / "r" / "b", system="x-y")
    assert run_with("export", tmp_path / "r", "--format", "beir", "--out", tmp_path / "out") == 4
    assert "two results would be written there" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- mteb ---------------------------------------------------------------------------------------------


def test_mtebs_results_go_out_and_come_in_again(tmp_path):
    result = kept(tmp_path / "r", name="beir/scifact/test")
    assert run_with("export", tmp_path / "r", "--format", "mteb", "--out", tmp_path / "out") == 0
    (path,) = (tmp_path / "out").rglob("*.json")
    assert path.name == "SciFact.json"
    content = json.loads(path.read_text())
    assert content["dataset_revision"] == 40 * "a"
    (entry,) = content["scores"]["test"]
    assert entry["main_score"] == entry["ndcg_at_10"] == pytest.approx(result.metrics["nDCG@10"], abs=1e-6)
    figures = {each.measure: each for each in read_mteb([tmp_path / "out"])}
    assert figures["nDCG@10"].value == pytest.approx(result.metrics["nDCG@10"], abs=1e-6)
    assert (figures["nDCG@10"].collection, figures["nDCG@10"].system) == ("beir/scifact/test", "my-model")


def test_mtebs_results_stand_on_the_leaderboard(tmp_path, capsys):
    result = kept(tmp_path / "r", name="beir/scifact/test")
    theirs = tmp_path / "mteb" / "BAAI__bge-m3" / "rev" / "SciFact.json"
    theirs.parent.mkdir(parents=True)
    scores = {"test": [{"main_score": 0.9, "ndcg_at_10": 0.9, "hf_subset": "default"}]}
    theirs.write_text(json.dumps({"task_name": "SciFact", "mteb_version": "2.26.0", "scores": scores}))
    board = leaderboard([result], also=read_mteb([theirs]))
    assert (board.entries[0].system, board.entries[0].values) == ("BAAI/bge-m3", (0.9,))
    assert run_with("leaderboard", tmp_path / "r", "--mteb", tmp_path / "mteb") == 0
    assert "BAAI/bge-m3\t90.00\tmteb 2.26.0" in capsys.readouterr().out


def test_tasks_that_evaluate_something_else_are_not_taken_for_ours(tmp_path, capsys):
    # mteb's first BRIGHT counted excluded documents; its CosQA repeats functions
    names = {task.name for task in TASKS.values()}
    assert not {"BrightRetrieval", "CosQA"} & names
    assert {"BrightPonyRetrieval", "R2MEDBiologyRetrieval", "CQADupstackTexRetrieval"} <= names
    assert len(names) == len(TASKS)
    other = tmp_path / "BrightRetrieval.json"
    other.write_text('{"task_name": "BrightRetrieval", "scores": {"pony": [{"main_score": 0.3}]}}')
    with pytest.raises(InputError, match="no result of mteb of a collection that is known here"):
        read_mteb([other])
    kept(tmp_path / "r", name="cosqa/test")
    assert run_with("export", tmp_path / "r", "--format", "mteb", "--out", tmp_path / "out") == 4
    assert "cosqa/test: no task of mteb evaluates the same" in capsys.readouterr().err


def test_a_json_run_is_scored_and_compared_like_any_other(tmp_path, capsys):
    (tmp_path / "qrels.trec").write_text("1 0 d1 1\n2 0 d2 1\n")
    (tmp_path / "theirs.json").write_text(json.dumps(RUN))
    (tmp_path / "mine.json").write_text(json.dumps({"1": {"d1": 2.0}, "2": {"d2": 1.0}}))
    assert run_with("score", "--run", tmp_path / "theirs.json", "--qrels", tmp_path / "qrels.trec") == 0
    assert "RR@10\t0.7500" in capsys.readouterr().out
    paths = (tmp_path / "theirs.json", tmp_path / "mine.json")
    assert run_with("compare", *paths, "--qrels", tmp_path / "qrels.trec", "--measure", "RR@10") == 0
    assert "+0.250" in capsys.readouterr().out
