import importlib.metadata
import json
import re
import subprocess
import sys

import pytest

import o1_bench
from o1_bench.__main__ import main
from o1_bench.results.result import load_result, load_results
from o1_bench.score import by_query
from o1_records import (
    Document,
    Exclusion,
    Hit,
    InputError,
    Metric,
    Qrel,
    Query,
    Source,
    Thought,
    rank,
    read_jsonl,
    write_jsonl,
)
from o1_records.beir import write_beir
from o1_records.trec import read_run, write_qrels, write_run

QRELS = [
    Qrel(query_id="q1", doc_id="d1", relevance=1),
    Qrel(query_id="q2", doc_id="d2", relevance=1),
]


def run_with(*parts):
    return main([str(part) for part in parts])


@pytest.fixture
def folder(tmp_path):
    write_beir(
        tmp_path / "tiny",
        documents=[
            Document(doc_id="d1", text="open a zip file"),
            Document(doc_id="d2", text="close the socket"),
            Document(doc_id="d3", text="a file that is no zip"),
        ],
        queries=[Query(query_id="q1", text="open zip"), Query(query_id="q2", text="network")],
        qrels={"test": QRELS},
    )
    write_qrels(tmp_path / "qrels.trec", QRELS)
    write_run(tmp_path / "good.trec", [*rank("q1", {"d1": 2.0}), *rank("q2", {"d2": 1.0})])
    write_run(tmp_path / "poor.trec", rank("q1", {"d3": 2.0, "d1": 1.0}))
    return tmp_path


def test_a_run_is_scored_against_a_qrels_file_and_a_beir_folder(folder, capsys):
    for qrels in ("qrels.trec", "tiny"):
        code = main(["score", "--qrels", str(folder / qrels), "--run", str(folder / "poor.trec")])
        out, err = capsys.readouterr()
        assert code == 0
        assert out == "nDCG@10\t0.3155\nRR@10\t0.2500\nR@100\t0.5000\n"
        assert "1 of 2 judged queries retrieved nothing and count 0" in err


def test_measures_exclusions_and_metrics_per_query(folder, capsys):
    write_jsonl(folder / "excluded.jsonl", [Exclusion(query_id="q1", doc_id="d3")])
    run, qrels = folder / "poor.trec", folder / "qrels.trec"
    options = ["--measures", "RR(rel=1)@5", "Success@1", "--per-query", folder / "metrics.jsonl"]
    excluded = folder / "excluded.jsonl"
    code = run_with("score", "--qrels", qrels, "--run", run, "--excluded", excluded, *options)
    assert code == 0
    assert capsys.readouterr().out == "RR@5\t0.5000\nSuccess@1\t0.5000\n"
    metrics = list(read_jsonl(folder / "metrics.jsonl", Metric))
    assert Metric(measure="RR@5", value=1.0, query_id="q1") in metrics
    assert len(metrics) == 6


def test_a_run_of_other_queries_is_refused(folder, capsys):
    write_run(folder / "other.trec", rank("x", {"d1": 1.0}))
    code = main(["score", "--qrels", str(folder / "tiny"), "--run", str(folder / "other.trec")])
    assert code == 4
    assert "none of its 1 queries is judged" in capsys.readouterr().err


def test_an_unknown_measure_is_a_usage_error_with_examples(folder, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["score", "--qrels", "x", "--run", "y", "--measures", "ndcg10"])
    assert stopped.value.code == 2
    assert "try nDCG@10" in capsys.readouterr().err


def test_a_missing_file_and_a_bad_line_exit_with_4(folder, capsys):
    qrels = str(folder / "qrels.trec")
    assert main(["score", "--qrels", qrels, "--run", str(folder / "no.trec")]) == 4
    assert "no.trec: No such file" in capsys.readouterr().err
    (folder / "bad.trec").write_text("q1 Q0 d1 1 high tag\n")
    assert main(["score", "--qrels", qrels, "--run", str(folder / "bad.trec")]) == 4
    assert "bad.trec:1: score 'high' is not a finite float" in capsys.readouterr().err


def keep(folder, run, name, *options):
    scored = ("score", "--qrels", folder / "tiny", "--run", folder / run)
    return run_with(*scored, "--result", folder / "results" / name, "--name", name, *options)


def test_runs_metrics_and_results_are_compared_alike(folder, capsys):
    for run in ("poor", "good"):
        keep(folder, f"{run}.trec", run)
        command = ["score", "--qrels", str(folder / "tiny"), "--run", str(folder / f"{run}.trec")]
        main([*command, "--per-query", str(folder / f"{run}.jsonl")])
    capsys.readouterr()
    tables = []
    for form in ("{}.trec", "{}.jsonl", "results/{}", "results/{}/result.json"):
        paths = [str(folder / form.format(run)) for run in ("poor", "good")]
        qrels = ["--qrels", str(folder / "tiny")] if form == "{}.trec" else []
        assert main(["compare", *paths, *qrels, "--measure", "RR@10"]) == 0
        out = capsys.readouterr().out
        for path in paths:
            out = out.replace(path, "RUN")
        tables.append(out)
    assert set(tables) == {tables[0]}
    assert "RUN\t0.250\tbaseline\n" in tables[0]
    assert "RUN\t1.000\t+0.750\t+0.500 to +1.000\t" in tables[0]
    assert "2 better, 0 equal, 0 worse" in tables[0]


def test_comparing_needs_the_measure_and_one_collection(folder, capsys):
    good, poor = str(folder / "good.trec"), str(folder / "poor.trec")
    assert main(["compare", good, poor]) == 4
    assert "a run needs --qrels" in capsys.readouterr().err
    keep(folder, "good.trec", "a")
    assert main(["compare", *[str(folder / "results" / "a")] * 2, "--measure", "AP"]) == 4
    assert "has no AP; it has nDCG@10, RR@10, R@100" in capsys.readouterr().err
    write_beir(
        folder / "tiny",
        documents=[Document(doc_id="d1", text="another text"), Document(doc_id="d2", text="t")],
        queries=[Query(query_id="q1", text="open zip"), Query(query_id="q2", text="network")],
        qrels={"test": QRELS},
    )
    keep(folder, "good.trec", "b")
    assert main(["compare", *(str(folder / "results" / name) for name in "ab")]) == 4
    assert "were measured on different documents" in capsys.readouterr().err


def test_a_result_verifies_until_someone_edits_it(folder, capsys):
    keep(folder, "good.trec", "good")
    path = folder / "results" / "good" / "result.json"
    assert main(["verify", str(path)]) == 0
    content = json.loads(path.read_text())
    content["metrics"]["RR@10"] = 0.5
    path.write_text(json.dumps(content))
    capsys.readouterr()
    assert main(["verify", str(path)]) == 4
    assert "mean of RR@10: the result says 0.5, its files give 1.0" in capsys.readouterr().out


def test_results_that_were_moved_aside_are_left_out_and_said(folder, capsys):
    keep(folder, "good.trec", "good")
    (folder / "results" / "good").rename(folder / "results" / "good.old1")
    keep(folder, "poor.trec", "good")
    keep(folder, "good.trec", "mine.old1")  # has a name of its own
    capsys.readouterr()
    assert run_with("verify", folder / "results") == 0
    out, err = capsys.readouterr()
    assert [line.split("/")[-2] for line in out.splitlines()] == ["good", "mine.old1"]
    assert err == f"left out, moved aside by --new-job: {folder}/results/good.old1/result.json\n"
    assert run_with("verify", folder / "results" / "good.old1") == 0
    assert [result.name for result in load_results([folder / "results"])] == ["good", "mine.old1"]


def test_two_results_of_one_name_are_not_shown_as_one(folder, capsys):
    for name in ("a", "b"):
        keep(folder, "good.trec", name, "--name", "mine")
    for path in (folder / "results").glob("*/result.json"):
        path.write_text(path.read_text().replace('"tiny/test"', '"bright/pony"'))
    assert run_with("leaderboard", folder / "results") == 4
    said = "2 results are called 'mine' on bright/pony; give them different names, or a seed each"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [("--name", "n"), ("--note", "n"), ("--kind", "oracle"), ("--search-ms", 1)]
)
def test_what_only_a_result_says_is_refused_without_one(folder, capsys, option):
    assert run_with("score", "--qrels", folder / "tiny", "--run", folder / "good.trec", *option) == 4
    assert "has an effect only with --result" in capsys.readouterr().err


def test_a_result_of_run_is_not_replaced_by_one_of_score(folder, capsys):
    out = ("--collection", folder / "tiny", "--out", folder / "out")
    assert run_with("run", "--model", folder / "poor.trec", *out) == 0
    made = folder / "out" / "tiny-test" / "poor"
    before = {path: path.read_bytes() for path in made.iterdir()}
    scored = ("score", "--qrels", folder / "tiny", "--run", folder / "good.trec")
    assert run_with(*scored, "--result", made) == 4
    assert "holds a result of `o1-bench run`; choose another folder" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in made.iterdir()} == before


def test_python_can_do_what_the_commands_can_and_prints_nothing(folder, capsys):
    kept = folder / "kept"
    scored = o1_bench.score_run(folder / "poor.trec", folder / "tiny", result=kept / "poor")
    assert (scored.means["RR@10"], scored.judged, scored.without_hits) == (0.25, 2, 1)
    o1_bench.score_run(folder / "good.trec", folder / "tiny", result=kept / "good", name="best")
    base, other = o1_bench.compare_runs([kept / "poor", kept / "good"])
    assert (base.mean, base.against, other.against.wins) == (pytest.approx(0.3155, abs=1e-4), None, 2)
    assert o1_bench.verify_results([kept]) == {kept / name / "result.json": [] for name in ("good", "poor")}
    board = o1_bench.leaderboard(o1_bench.load_results([kept]))
    assert [entry.system for entry in board.entries] == ["best", "poor"]
    told = []
    done = o1_bench.run(
        folder / "good.trec", folder / "out", collection=folder / "tiny", tell=lambda *one: told.append(one)
    )
    assert [result.name for result in done[str(folder / "tiny")]] == ["good"]
    assert told == [(str(folder / "tiny"), done[str(folder / "tiny")])]
    assert capsys.readouterr().out == ""


def test_python_is_told_which_collections_of_a_suite_failed(folder):
    with pytest.raises(o1_bench.PartlyDoneError, match="0 of 8 done; not done: r2med/Biology") as raised:
        o1_bench.run("bm25", folder / "out", suite=["r2med"], data=folder)
    assert (raised.value.done, len(raised.value.failed)) == ({}, 8)
    assert "R2MED/Biology: no such folder" in str(raised.value.failed["r2med/Biology"])
    with pytest.raises(InputError, match="give a suite or a collection, and not both"):
        o1_bench.run("bm25", folder / "out")


def test_a_damaged_result_does_not_hide_the_others(folder, capsys):
    for name in "abc":
        keep(folder, "good.trec", name)
    (folder / "results" / "a" / "result.json").write_text("{")
    (folder / "results" / "b" / "run.trec").unlink()
    capsys.readouterr()
    assert run_with("verify", folder / "results") == 4
    out = capsys.readouterr().out
    assert "not a complete result" in out
    assert "run.trec: is missing" in out
    assert "c/result.json: every metric came out the same" in out


def test_a_result_is_kept_with_its_exclusions_times_and_metrics_per_query(folder, capsys):
    write_jsonl(folder / "excluded.jsonl", [Exclusion(query_id="q1", doc_id="d3")])
    options = ["--excluded", folder / "excluded.jsonl", "--per-query", folder / "m.jsonl"]
    options += ["--think-ms", 3, "--kind", "control", "--note", "control: nothing"]
    assert keep(folder, "poor.trec", "kept", *options) == 0
    assert "RR@10\t0.5000" in capsys.readouterr().out
    kept = load_result(folder / "results" / "kept")
    assert kept.metrics["RR@10"] == 0.5
    assert (kept.system.kind, kept.system.note) == ("control", "control: nothing")
    assert kept.system.milliseconds.total == 3
    assert by_query(read_jsonl(folder / "m.jsonl", Metric)) == kept.per_query
    assert run_with("verify", folder / "results" / "kept") == 0


def test_a_result_needs_the_whole_collection(folder, capsys):
    scored = ("score", "--qrels", folder / "qrels.trec", "--run", folder / "good.trec")
    assert run_with(*scored, "--result", folder / "r") == 4
    assert "a collection is a BEIR folder" in capsys.readouterr().err
    assert not (folder / "r").exists()


@pytest.mark.extra
def test_a_report_is_made_of_a_folder_of_results(folder, capsys):
    keep(folder, "poor.trec", "poor", "--search-ms", "1")
    keep(folder, "good.trec", "good", "--think-ms", "300", "--search-ms", "1.5")
    capsys.readouterr()
    command = ["report", "--results", str(folder / "results"), "--out", str(folder / "r.html")]
    assert main([*command, "--baseline", "poor"]) == 0
    out, err = capsys.readouterr()
    assert "good" in out
    assert "2 results" in err
    assert "“good” scores nDCG@10 1.000" in (folder / "r.html").read_text()
    assert main([*command, "--baseline", "none such"]) == 4
    assert "there are 'good', 'poor'" in capsys.readouterr().err


@pytest.mark.extra
def test_bm25_writes_a_run_that_can_be_scored(folder, capsys):
    run = folder / "bm25.trec"
    assert main(["bm25", "--collection", str(folder / "tiny"), "--run", str(run)]) == 0
    assert [hit.doc_id for hit in read_run(run) if hit.query_id == "q1"] == ["d1", "d3"]
    assert "ms per query" in capsys.readouterr().err
    assert main(["score", "--qrels", str(folder / "tiny"), "--run", str(run)]) == 0
    assert capsys.readouterr().out.startswith("nDCG@10\t0.5000")


@pytest.mark.parametrize("k", ["0", "-1", "ten"])
def test_a_run_of_no_documents_per_query_is_a_usage_error(folder, capsys, k):
    run = folder / "bm25.trec"
    with pytest.raises(SystemExit) as stopped:
        run_with("bm25", "--collection", folder / "tiny", "--run", run, "--k", k)
    assert stopped.value.code == 2
    assert f"'{k}' is not a whole number of 1 or more" in capsys.readouterr().err
    assert not run.exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--b=1.2", "must be between 0 and 1, got '1.2'"),
        ("--k1=-1", "must be between 0 and inf, got '-1'"),
        ("--think-ms=nan", "must be between 0 and inf, got 'nan'"),
    ],
)
def test_numbers_outside_their_range_are_usage_errors(folder, capsys, option, said):
    with pytest.raises(SystemExit) as stopped:
        run_with("run", "--model", "bm25", "--collection", folder / "tiny", "--out", folder / "o", option)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_a_seed_below_zero_is_a_usage_error(folder, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_with("compare", folder / "good.trec", folder / "poor.trec", "--seed", "-1")
    assert stopped.value.code == 2
    assert "'-1' is not a whole number of 0 or more" in capsys.readouterr().err


def test_importing_is_light():
    code = "import sys, o1_bench.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "ir_measures" in loaded
    heavy = {"torch", "matplotlib", "jinja2", "bm25s", "Stemmer", "scipy", "pandas", "transformers"}
    heavy |= {"tqdm", "pyarrow", "huggingface_hub", "ir_datasets", "sentence_transformers", "safetensors"}
    assert not heavy & loaded


def third_party(distribution, seen):
    """The distributions that installing one brings along, extras left out, ours not counted."""
    for requirement in importlib.metadata.requires(distribution) or ():
        name = re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")
        if "extra ==" in requirement or "sys_platform" in requirement or "platform_system" in requirement:
            continue
        if name not in seen:
            seen.add(name)
            third_party(name, seen)
    return {name for name in seen if not name.startswith("o1-")}


def test_at_most_six_packages_of_others_come_along():
    needed = third_party("o1-bench", set())
    assert {"msgspec", "numpy", "ir-measures"} <= needed
    assert len(needed) <= 6, sorted(needed)


def test_other_collections_are_compared_only_when_told_to(folder, capsys):
    keep(folder, "good.trec", "a")
    write_beir(
        folder / "tiny",
        documents=[Document(doc_id="d1", text="another text"), Document(doc_id="d2", text="t")],
        queries=[Query(query_id="q1", text="open zip")],
        qrels={"test": QRELS[:1]},
    )
    keep(folder, "poor.trec", "b")
    capsys.readouterr()
    pair = [folder / "results" / name for name in "ab"]
    assert run_with("compare", *pair) == 4
    assert "were measured on different" in capsys.readouterr().err
    assert run_with("compare", *pair, "--allow-different", "--measure", "RR@10") == 0
    out, err = capsys.readouterr()
    assert "compared on the 1 queries that all have" in err
    assert "0 better, 0 equal, 1 worse" in out
    (folder / "m.jsonl").write_text('{"measure":"RR@10","value":1.0,"query_id":"x"}\n')
    assert run_with("compare", pair[0], folder / "m.jsonl", "--allow-different", "--measure", "RR@10") == 4
    assert "no query is in all of them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "named"),
    [({"k": 7}, "hits per query 7, 10"), ({"measures": {"RR@10": "another tool"}}, "provider of RR@10")],
)
def test_another_protocol_is_not_compared(folder, capsys, change, named):
    for name in "ab":
        keep(folder, "good.trec", name)
    paths = [folder / "results" / name / "result.json" for name in "ab"]
    for path, changed in zip(paths, ({"k": 10}, {"k": 10} | change), strict=True):
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    assert run_with("compare", *paths) == 4
    assert f"were measured by different protocols: {named}" in capsys.readouterr().err
    assert run_with("compare", *paths, "--allow-different") == 0


def test_published_figures_stand_beside_ours(folder, capsys):
    keep(folder, "good.trec", "mine")
    capsys.readouterr()
    assert run_with("leaderboard", folder / "results") == 0
    said = capsys.readouterr()
    assert said.out == "system\ttiny/test nDCG@10\tsource\nmine\t100.00\tmeasured here\n"
    assert "no published figure is known of tiny/test nDCG@10" in said.err
    path = folder / "results" / "mine" / "result.json"
    as_pony = path.read_text().replace('"tiny/test"', '"bright/pony"')
    path.write_text(as_pony)
    # measured by BEIR's protocol: published figures of BRIGHT's stand apart
    assert run_with("leaderboard", folder / "results") == 0
    ours, theirs = capsys.readouterr().out.split(
        "\n\nby other protocols, not to be compared with the above\n"
    )
    assert ours.splitlines() == ["system\tbright/pony nDCG@10\tsource", "mine\t100.00\tmeasured here"]
    assert (
        "BM25\t7.90\tReasonEmbed (arXiv 2510.08252), tables of its repository (on bright/pony, pr" in theirs
    )
    path.write_text(as_pony.replace('"beir"', '"bright"'))
    assert run_with("leaderboard", folder / "results") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["system\tbright/pony nDCG@10\tsource", "mine\t100.00\tmeasured here"]
    (bm25,) = [line for line in lines if line.startswith("BM25\t")]
    assert bm25.startswith("BM25\t7.90\tReasonEmbed (arXiv 2510.08252), tables of its repository (Lucene's")
    assert "not to be compared" not in "\n".join(lines)


@pytest.mark.extra
def test_a_report_shows_examples_from_the_runs_and_thoughts_of_its_results(folder, capsys):
    thoughts = [
        Thought(query_id=name, thought_id="t", text=f"thought of {name}", source=Source(model="m"))
        for name in ("q1", "q2")
    ]
    write_jsonl(folder / "thoughts.jsonl", thoughts)
    keep(folder, "poor.trec", "poor")
    keep(folder, "good.trec", "good")
    command = ("report", "--results", folder / "results", "--out", folder / "r.html", "--baseline", "poor")
    command += ("--collection", folder / "tiny", "--thoughts", folder / "thoughts.jsonl")
    assert run_with(*command[:-2]) == 0  # nobody thought
    assert "thought of q1" not in (folder / "r.html").read_text()
    assert run_with(*command) == 0
    page = (folder / "r.html").read_text()
    assert "thought of q1" in page
    assert "Relevant documents" in page
    assert '<span class="code">d1</span> 2 → 1' in page
    assert '<span class="code">d2</span> not found → 1' in page


WITHOUT = """
import sys
for name in {missing!r}:
    sys.modules[name] = None
from o1_bench.__main__ import main
sys.exit(main({command!r}))
"""


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_a_report_without_its_extra_says_what_to_install(folder, missing):
    keep(folder, "good.trec", "mine")
    command = ["report", "--results", str(folder / "results"), "--out", str(folder / "r.html")]
    code = WITHOUT.format(missing=[missing], command=command)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 4
    assert done.stderr == "error: Writing a report needs an extra: pip install 'o1-bench[report]'\n"
    assert not (folder / "r.html").exists()


def test_bm25_without_its_extra_says_what_to_install(folder):
    command = ["bm25", "--collection", str(folder / "tiny"), "--run", str(folder / "bm25.trec")]
    code = WITHOUT.format(missing=["bm25s"], command=command)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert "pip install 'o1-bench[bm25]'" in done.stderr


# --- what a reader of a score should know -------------------------------------------------------------


def test_a_run_of_another_collection_is_refused_and_not_scored_0(folder, capsys):
    hits = [Hit(query_id="q1", doc_id=f"x{n}", score=-n, rank=n + 1) for n in range(3)]
    write_run(folder / "foreign.trec", hits)
    scored = ("score", "--run", folder / "foreign.trec", "--qrels", folder / "tiny")
    assert run_with(*scored, "--result", folder / "r", "--name", "x") == 4
    assert "none of the 3 hits is a document of tiny/test, such as 'x0'" in capsys.readouterr().err
    assert not (folder / "r" / "result.json").exists()
    # where the corpus is not read, it can only be suspected
    assert run_with(*scored) == 0
    assert "none of the 3 hits is judged for any query, such as 'x0'" in capsys.readouterr().err


def test_some_hits_outside_the_corpus_are_counted_and_kept_in_the_result(folder, capsys):
    hits = [Hit(query_id="q1", doc_id=d, score=-n, rank=n + 1) for n, d in enumerate(("d1", "gone"))]
    write_run(folder / "partly.trec", hits)
    scored = ("score", "--run", folder / "partly.trec", "--qrels", folder / "tiny")
    assert run_with(*scored, "--result", folder / "r", "--name", "x") == 0
    said = "1 of 2 hits are no documents of the corpus, such as 'gone'"
    assert said in capsys.readouterr().err
    assert said in load_result(folder / "r").said


def test_a_measure_that_looks_deeper_than_the_run_is_said(folder, capsys):
    scored = ("score", "--run", folder / "good.trec", "--qrels", folder / "tiny")
    assert run_with(*scored, "--measures", "nDCG@10", "R@1000") == 0
    assert "R@1000: no query has more than 1 hit in the run" in capsys.readouterr().err


def test_comparing_says_what_scoring_says(folder, capsys):
    write_run(folder / "foreign.trec", rank("q1", {"x": 1.0}))
    paths = (folder / "good.trec", folder / "foreign.trec")
    assert run_with("compare", *paths, "--qrels", folder / "tiny", "--measure", "R@1000") == 0
    err = capsys.readouterr().err
    assert f"{paths[0]}: R@1000: no query has more than 1 hit in the run" in err
    assert f"{paths[1]}: none of the 1 hits is judged for any query, such as 'x'" in err


@pytest.mark.parametrize("command", ["table", "leaderboard", "compare"])
def test_what_a_result_says_is_said_wherever_it_is_shown(folder, capsys, command):
    hits = [Hit(query_id="q1", doc_id=d, score=-n, rank=n + 1) for n, d in enumerate(("d1", "gone"))]
    write_run(folder / "partly.trec", hits)
    scored = ("score", "--run", folder / "partly.trec", "--qrels", folder / "tiny")
    run_with(*scored, "--result", folder / "r", "--name", "x")
    keep(folder, "good.trec", "mine")
    capsys.readouterr()
    other = [folder / "results" / "mine"] if command == "compare" else []
    assert run_with(command, folder / "r", *other) == 0
    assert "1 of 2 hits are no documents of the corpus, such as 'gone'" in capsys.readouterr().err
