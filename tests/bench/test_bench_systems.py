import sys
from dataclasses import replace
from importlib.metadata import entry_points

import msgspec
import numpy as np
import pytest

from o1_bench import Collection, Options, load_result
from o1_bench.__main__ import main
from o1_bench.collection import digest
from o1_bench.results.result import System
from o1_bench.results.verify import verify_result
from o1_bench.running.about import About
from o1_bench.running.encoder import Stopwatch
from o1_bench.running.retrieve import ExactSearch
from o1_bench.running.systems import GROUP, open_system, run_hybrid
from o1_bench.running.task import Task, slug
from o1_bench.score import DEFAULT
from o1_records import Document, InputError, Qrel, Query, Source, Thought, rank, write_jsonl
from o1_records.beir import write_beir
from o1_records.kit.job import ChangedJobError
from o1_records.trec import write_run

TEXTS = ["open a zip archive", "close the socket", "parse the date", "copy a folder", "sort the list"]
DOCUMENTS = [Document(doc_id=f"d{n}", text=text) for n, text in enumerate(TEXTS)]
QUERIES = [Query(query_id=f"q{n}", text=f"how to {TEXTS[n].split()[0]}") for n in range(3)]
QRELS = [Qrel(query_id=f"q{n}", doc_id=f"d{n}", relevance=1) for n in range(3)]
CONTROLS = ("empty", "shuffled", "filler", "copy")
THOUGHTS = [
    Thought(
        query_id=f"q{n}", thought_id="t", text=TEXTS[n], source=Source(model="llm", completion_tokens=5)
    )
    for n in range(3)
]  # fmt: skip


@pytest.fixture
def collection():
    return Collection(
        name="tiny/test", documents=DOCUMENTS, queries=QUERIES, qrels=QRELS,
        excluded={"q0": frozenset({"d4"})}, instruction="find it",
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    write_beir(tmp_path / "tiny", documents=DOCUMENTS, queries=QUERIES, qrels={"test": QRELS})
    write_jsonl(tmp_path / "thoughts.jsonl", THOUGHTS)
    return tmp_path


def task(collection, folder, **changed):
    return Task(collection=collection, folder=folder / "results", measures=DEFAULT, k=4, **changed)


def run_model(model, task, **options):
    return list(open_system(model, Options(**options)).run(task))


def run_with(*parts):
    return main([str(part) for part in parts])


def by_name(results):
    return {result.name: result for result in results}


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("BM25 + thought", "bm25-and-thought"),
        ("../../etc/x", "etc-x"),
        ("/a\\b", "a-b"),
        (".hidden", "hidden"),
    ],
)
def test_a_name_becomes_a_folder_inside_the_root(name, folder):
    assert slug(name) == folder


def test_a_name_of_nothing_is_refused():
    with pytest.raises(InputError, match="no letter or digit to name a folder by"):
        slug("..")


def test_exact_search_keeps_the_one_total_order_and_leaves_out_what_is_excluded():
    rng = np.random.default_rng(0)
    vectors = rng.integers(-2, 3, size=(60, 4)).astype(np.float32)  # many ties
    doc_ids = [f"d{n}" for n in range(60)]
    asked = rng.integers(-2, 3, size=(7, 4)).astype(np.float32)
    excluded = {"q2": {"d1", "d2", "nowhere"}}
    search = ExactSearch(vectors, doc_ids, excluded=excluded)
    hits = list(search(asked, [f"q{n}" for n in range(7)], k=5))
    for number, row in enumerate(asked @ vectors.T):
        scores = {d: float(s) for d, s in zip(doc_ids, row, strict=True)}
        for doc_id in excluded.get(f"q{number}", ()):
            scores.pop(doc_id, None)
        assert [h for h in hits if h.query_id == f"q{number}"] == rank(f"q{number}", scores, 5)
    assert search.nbytes == 60 * 4 * 4
    assert len(list(search(asked[:1], ["q0"], k=1000))) == 60
    with pytest.raises(InputError, match="59 different doc_ids for 60 vectors"):
        ExactSearch(vectors, ["d1", *doc_ids[1:]])


def test_the_time_of_building_is_added_up_over_processes_and_failures(tmp_path):
    watch = Stopwatch(tmp_path / "new" / "index.seconds")
    assert watch.seconds is None
    with watch.running():
        pass
    first = watch.seconds
    with pytest.raises(InputError), watch.running():
        raise InputError("stopped")
    again = Stopwatch(watch.path)
    assert again.seconds > first > 0
    watch.path.write_text("damaged")
    assert again.seconds is None


@pytest.mark.parametrize("given", ["file", "folder"])
def test_a_foreign_run_is_a_system(collection, tmp_path, given):
    path = tmp_path / "tiny-test.trec"
    write_run(path, rank("q0", {"d4": 2.0, "d0": 1.0}))
    (result,) = run_model(str(path if given == "file" else tmp_path), task(collection, tmp_path))
    assert result.per_query["RR@10"] == {"q0": 1.0, "q1": 0.0, "q2": 0.0}
    assert len(result.system.encoder["hits (sha256)"]) == 64
    # looking its hits up is not what finding them took
    assert (result.system.milliseconds.total, result.system.peak_memory_bytes) == (None, None)
    assert verify_result(tmp_path / "results" / slug(result.name)) == []


def test_a_run_that_is_not_there_for_a_collection_is_named(collection, tmp_path):
    write_run(tmp_path / "other.trec", rank("q0", {"d0": 1.0}))
    with pytest.raises(InputError, match=r"tiny-test\.trec: no such run"):
        run_model(str(tmp_path), task(collection, tmp_path))


def test_the_costs_of_what_is_fused_add_up(collection, tmp_path):
    def search(queries, k):
        yield from rank("q0", {"d0": 1.0}, k)

    here = task(collection, tmp_path)
    search.about = About(fingerprint={"a": 1}, index_bytes=3, index_seconds=2.0)
    first, second = (here.run(System(name=name), search) for name in "ab")
    both = run_hybrid(first, second, here).system
    assert both.milliseconds.search > first.system.milliseconds.search + second.system.milliseconds.search
    assert (both.index_bytes, both.index_seconds, both.note) == (6, 4.0, "reciprocal rank fusion")


def test_two_runs_are_fused_and_what_is_not_known_is_said(collection, tmp_path):
    for name, best in (("a", "d0"), ("b", "d1")):
        write_run(tmp_path / f"{name}.trec", rank("q0", {best: 2.0, "d2": 1.0}))
    here = task(collection, tmp_path)
    first, second = (run_model(str(tmp_path / f"{name}.trec"), here)[0] for name in "ab")
    both = run_hybrid(first, second, here)
    assert both.name == "a + b"
    lines = (tmp_path / "results" / slug(both.name) / "run.trec").read_text().split()
    assert lines[2::6] == ["d2", "d1", "d0"]
    assert (
        both.system.note == "reciprocal rank fusion; the time of a is not known; the time of b is not known"
    )


@pytest.mark.extra
def test_bm25_runs_with_thoughts_and_their_controls_at_the_same_cost(collection, tmp_path):
    here = task(collection, tmp_path, thoughts=THOUGHTS, controls=True, think_ms=70.0)
    results = by_name(run_model("bm25", here))
    kinds = {name: result.system.kind for name, result in results.items()}
    assert kinds == {
        "BM25": "system",
        "BM25 + thought": "system",
        "BM25 + empty thought": "control",
        "BM25 + shuffled thought": "control",
        "BM25 + filler thought": "control",
        "BM25 + copy thought": "control",
        "BM25, 0.2 thought": "system",
        **{f"BM25, 0.2 {control} thought": "control" for control in CONTROLS},
        "BM25, thought alone": "system",
    }
    assert results["BM25 + thought"].metrics["RR@10"] == 1.0
    assert results["BM25 + empty thought"].per_query == results["BM25"].per_query
    assert {r.system.thought_tokens for name, r in results.items() if name != "BM25"} == {15}
    assert {r.system.milliseconds.think for name, r in results.items() if name != "BM25"} == {70.0}
    assert results["BM25"].system.index_bytes > 0
    assert results["BM25"].system.index_seconds > 0
    assert results["BM25 + thought"].system.sampling["thoughts"][0]["model"] == "llm"
    assert results["BM25 + thought"].system.sampling["sha256"] == digest(reversed(THOUGHTS))


@pytest.mark.extra
def test_a_result_says_when_the_time_of_thinking_is_not_known(collection, tmp_path):
    results = by_name(run_model("bm25", task(collection, tmp_path, thoughts=THOUGHTS)))
    assert results["BM25 + thought"].system.milliseconds.think is None
    assert results["BM25 + thought"].system.note.endswith("the time of thinking is not known")


@pytest.mark.extra
def test_thoughts_that_look_at_the_answer_make_an_oracle(collection, tmp_path):
    here = task(collection, tmp_path, thoughts=THOUGHTS, oracle=True, controls=True)
    results = by_name(run_model("bm25", here))
    assert results["BM25 + thought"].system.kind == "oracle"
    assert results["BM25 + thought"].system.note.startswith("oracle: ")
    assert results["BM25 + filler thought"].system.kind == "control"


@pytest.mark.extra
def test_thoughts_of_other_queries_are_refused(collection, tmp_path):
    strangers = [Thought(query_id="x", thought_id="t", text="t", source=Source(model="m"))]
    with pytest.raises(InputError, match="none of the thoughts is about a query of tiny/test"):
        run_model("bm25", task(collection, tmp_path, thoughts=strangers))


@pytest.mark.extra
def test_the_command_runs_a_model_with_controls_and_a_hybrid_and_resumes(folder, capsys):
    write_run(folder / "mine.trec", rank("q1", {"d1": 1.0}))
    command = ("run", "--collection", folder / "tiny", "--out", folder / "results", "--model", "bm25")
    command += ("--thoughts", folder / "thoughts.jsonl", "--controls", "--hybrid", folder / "mine.trec")
    assert run_with(*command) == 0
    out = capsys.readouterr().out
    assert "BM25 + shuffled thought (control)" in out
    assert "BM25 + mine" in out
    made = folder / "results" / "tiny-test"
    stamps = {path: path.stat().st_mtime_ns for path in made.glob("*/result.json")}
    assert len(stamps) == 14
    assert run_with(*command) == 0
    assert {path: path.stat().st_mtime_ns for path in made.glob("*/result.json")} == stamps
    assert run_with("verify", *stamps) == 0
    assert load_result(made / "bm25").k == 1000
    assert run_with(*command, "--k", 5) == 4
    assert (
        "was made with k '1000', this run has k '5'; choose another name, or give --new-job"
        in capsys.readouterr().err
    )


def test_several_collections_need_a_folder_of_thoughts(folder, capsys):
    command = ("run", "--suite", "bright", "--out", folder / "r", "--model", "bm25")
    assert run_with(*command, "--thoughts", folder / "thoughts.jsonl") == 4
    assert "12 collections need a folder with a file for each" in capsys.readouterr().err
    assert run_with("run", "--suite", "no-such", "--out", folder / "r", "--model", "bm25") == 4
    assert "unknown collection 'no-such'" in capsys.readouterr().err


FAKE = """
import os
import numpy as np
from o1_records import InputError, Source, Thought

VOCABULARY = {words!r}

class Model:
    name, device = "model", "cpu"

    def __init__(self, folder, think_options, embed_options):
        self.folder = folder
        self.samples = int(think_options[1]) if think_options else 1
        self.fingerprint = {{
            "weights": (folder / "weights").read_text(),
            "with_query": "--with-query" in embed_options,
            "thinking": {{"samples": self.samples}},
        }}

    def note(self, what):
        with open(self.folder / "calls", "a") as file:
            file.write(what + " ")

    def vectors(self, texts):
        rows = [[1e-3 + text.split().count(word) for word in VOCABULARY] for text in texts]
        vectors = np.array(rows, dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def documents(self, documents):
        self.note("documents")
        if (self.folder / "stop").exists():
            raise KeyboardInterrupt
        return self.vectors([document.text for document in documents])

    def queries(self, queries, thoughts=None, *, with_query=False):
        self.note("queries")
        own = thoughts or [()] * len(queries)
        texts = [each[0] if each else query.text for query, each in zip(queries, own, strict=True)]
        return self.vectors(text if isinstance(text, str) else text.text for text in texts)

    def sample(self, queries, documents):
        asked = [f"<query> {{query.instruction}} {{query.text}} <emb>" for query in queries]
        return asked, [f"<doc> {{document.text}} <emb>" for document in documents]

    def think(self, queries):
        self.note("think")
        source = Source(model="fake", completion_tokens=4)
        texts = {texts!r}
        return [
            [
                Thought(query_id=q.query_id, thought_id=str(n), text=texts[int(q.query_id[1])], source=source)
                for n in range(self.samples)
            ]
            if q.query_id != "q2" else []  # came out blank
            for q in queries
        ]

def open_model(model, *, device="cpu", think_options=(), embed_options=()):
    from pathlib import Path
    if not (Path(model) / "weights").exists():
        return None
    if device != "cpu":
        raise InputError(f"no such device: {{device}}")
    return Model(Path(model), think_options, embed_options)
"""


def install(site, distribution, entry_points, module=""):
    """A distribution as pip leaves it; it hides one of the same name that comes later on the path."""
    name = distribution.replace("-", "_")
    folder = site / f"{name}-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(entry_points)
    (site / f"{name}.py").write_text(module)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed packages, where o1-model has no entry point."""
    install(tmp_path / "site", "o1-model", "")
    (tmp_path / "site" / "o1_model.py").unlink()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path / "site"


@pytest.fixture
def model(site, tmp_path, monkeypatch):
    """The folder of a model that thinks, which an installed package opens."""
    words = sorted(set(" ".join(TEXTS).split()))
    registered = f"[{GROUP}]\nfake = fake_thinker:open_model\n"
    install(site, "fake-thinker", registered, FAKE.format(words=words, texts=TEXTS))
    monkeypatch.delitem(sys.modules, "fake_thinker", raising=False)
    (tmp_path / "thinker").mkdir()
    (tmp_path / "thinker" / "weights").write_text("1")
    return tmp_path / "thinker"


def calls(model):
    """What the model was asked for since the last time."""
    found = (model / "calls").read_text().split() if (model / "calls").exists() else []
    (model / "calls").unlink(missing_ok=True)
    return found


def test_a_checkpoint_without_o1_model_says_what_to_install(site, collection, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "o1_layout.json").write_text("{}")
    with pytest.raises(
        InputError, match="is a checkpoint of o1-model, which is not installed; pip install o1-m"
    ):
        run_model(str(tmp_path / "model"), task(collection, tmp_path))


def test_a_broken_entry_point_is_named_with_its_remedy(site, collection, tmp_path):
    install(site, "broken-thinker", f"[{GROUP}]\nbroken = no_such_module:open_model\n")
    with pytest.raises(
        InputError, match=r"the entry point 'broken' of o1_bench\.systems cannot be loaded: No"
    ):
        run_model(str(tmp_path), task(collection, tmp_path))


@pytest.mark.extra
def test_a_model_that_thinks_runs_with_given_and_own_thoughts_and_all_controls(collection, tmp_path, model):
    here = task(collection, tmp_path, think=True, controls=True, thoughts=THOUGHTS, think_ms=70.0)
    options = {"think_options": ["--samples", "2"], "embed_options": ["--with-query"]}
    results = by_name(run_model(str(model), here, **options))
    assert {name: result.system.kind for name, result in results.items()} == {
        "thinker": "system",
        "thinker + thought": "system",
        "thinker + empty thought": "control",
        "thinker + shuffled thought": "control",
        "thinker + filler thought": "control",
        "thinker + copy thought": "control",
        "thinker, thinking": "system",
        "thinker, empty thoughts": "control",
        "thinker, shuffled thoughts": "control",
        "thinker, filler thoughts": "control",
        "thinker, copy thoughts": "control",
        **{f"thinker, {share}": "system" for share in ("0.2 thought", "thought alone")},
        **{f"thinker, {share}": "system" for share in ("0.2 own thought", "own thought alone")},
        **{f"thinker, 0.2 {control} thought": "control" for control in CONTROLS},
        **{f"thinker, 0.2 {control} own thought": "control" for control in CONTROLS},
    }
    assert results["thinker + thought"].metrics["RR@10"] == 1.0
    thinking = results["thinker, thinking"]
    assert thinking.per_query["RR@10"]["q0"] == thinking.per_query["RR@10"]["q1"] == 1.0
    assert thinking.system.thought_tokens == 16
    assert thinking.system.milliseconds.think > 0
    for control in CONTROLS:
        system = results[f"thinker, {control} thoughts"].system
        assert system.milliseconds.think == thinking.system.milliseconds.think
        assert system.thought_tokens == 16
    # an empty thought is not the same as none: it is what the model is given
    assert results["thinker, empty thoughts"].per_query != results["thinker"].per_query
    assert results["thinker, empty thoughts"].thought_words == {"q0": 0, "q1": 0, "q2": 0}
    assert results["thinker"].system.encoder == {"weights": "1"}
    assert thinking.system.encoder == {"weights": "1", "with_query": True}
    assert thinking.system.sampling == {"thinking": {"samples": 2}}
    assert (thinking.system.index_bytes, thinking.system.device) == (5 * 13 * 4, "cpu")
    assert thinking.system.index_seconds > 0
    lines = (tmp_path / "results" / "thinker" / "run.trec").read_text().splitlines()
    assert not [line for line in lines if line.startswith("q0 Q0 d4 ")]  # excluded
    assert verify_result(tmp_path / "results" / "thinker-thinking") == []


@pytest.mark.extra
def test_a_models_rerun_repeats_nothing_and_another_model_is_refused(collection, tmp_path, model):
    here = task(collection, tmp_path, think=True, controls=True)
    (model / "stop").touch()
    with pytest.raises(KeyboardInterrupt):
        run_model(str(model), here)
    (model / "stop").unlink()
    calls(model)
    first = run_model(str(model), here)
    # with a mixture, each row reads queries and thoughts
    mixtures = ["queries", "documents"] * 6
    assert calls(model) == ["documents", "queries", "think", *["queries"] * 5, *mixtures]
    assert run_model(str(model), here) == first
    assert calls(model) == []
    (model / "weights").write_text("2")
    with pytest.raises(InputError, match=r'weights":"1".*weights":"2".*--new-job'):
        run_model(str(model), here)
    second = run_model(str(model), replace(here, new_job=True))
    assert calls(model) == ["documents", "queries", "think", *["queries"] * 5, *mixtures]
    assert [result.system.encoder["weights"] for result in second] == ["2"] * 12
    moved = [path.name for path in (tmp_path / "results").iterdir() if path.name.endswith(".old1")]
    assert len(moved) == 13  # the results, and the vectors of documents
    assert {"thinker.old1", "thinker-thinking.old1", "thinker.documents.old1"} <= set(moved)
    assert load_result(tmp_path / "results" / "thinker.old1") == first[0]


@pytest.mark.extra
def test_other_thinking_embeds_no_document_again_and_is_refused_by_name(collection, tmp_path, model):
    here = task(collection, tmp_path, think=True)
    first = run_model(str(model), here)
    calls(model)
    other = {"think_options": ["--samples", "2"]}
    with pytest.raises(ChangedJobError, match=r'thinker-thinking: .*thinking .{"samples":1}.*{"samples":2}'):
        run_model(str(model), here, **other)
    assert calls(model) == []
    second = run_model(str(model), replace(here, new_job=True), **other)
    assert calls(model) == ["think", "queries", *["queries", "documents"] * 2]
    assert second[0] == first[0]
    assert sorted(path.name for path in (tmp_path / "results").glob("*.old*")) == [
        "thinker-0.2-own-thought.old1", "thinker-own-thought-alone.old1", "thinker-thinking.old1",
    ]  # fmt: skip


@pytest.mark.extra
def test_a_model_can_be_given_as_an_object_to_run(collection, tmp_path, model):
    from o1_bench import run

    opened = {entry.name: entry for entry in entry_points(group=GROUP)}["fake"].load()(str(model))
    done = run(opened, tmp_path / "out", collection=collection, think=True)
    assert [result.name for result in done["tiny/test"]] == [
        "model", "model, thinking", "model, 0.2 own thought", "model, own thought alone",
    ]  # fmt: skip
    assert calls(model) == ["documents", "queries", "think", "queries", *["queries", "documents"] * 2]


def test_what_a_model_refuses_is_one_error(folder, model, capsys):
    command = ("run", "--collection", folder / "tiny", "--out", folder / "results", "--model", model)
    assert run_with(*command, "--device", "abacus") == 4
    assert capsys.readouterr().err == "error: no such device: abacus\n"


@pytest.mark.extra
@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "lance"])
def test_a_run_of_hit_records_is_a_run_in_columns_too(collection, tmp_path, suffix):
    """A Lance folder was taken for a model."""
    pytest.importorskip({"jsonl": "json", "parquet": "pyarrow", "lance": "lance"}[suffix])
    hits = [*rank("q0", {"d1": 2.0, "d4": 1.0}), *rank("q1", {"d1": 1.0})]
    write_run(tmp_path / "mine.trec", hits)
    write_jsonl(tmp_path / f"mine.{suffix}", hits)
    (expected,) = run_model(tmp_path / "mine.trec", task(collection, tmp_path / "trec"))
    (found,) = run_model(tmp_path / f"mine.{suffix}", task(collection, tmp_path / suffix))
    assert found.metrics == expected.metrics
    assert (found.system.note, len(found.metrics) > 0) == ("a run that was given", True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--model bm25 --think", "--think has no effect on bm25; leave it out"),
        ("--model bm25 --device cuda", "--device has no effect on bm25"),
        ("--model bm25 --embed-options=--seed", "--embed-options has no effect on bm25"),
        ("--model mine.trec --k1 1.2", "--k1 has no effect on a run"),
        ("--model mine.trec --thoughts thoughts.jsonl", "--thoughts has no effect on a run"),
        (
            "--model mine.trec --hybrid bm25 --max-length 9",
            "--max-length has no effect on a run and bm25",
        ),
        ("--model bm25 --query-times 5", "--query-times has an effect only with --thoughts"),
        ("--model bm25 --oracle", "--oracle has an effect only with --thoughts"),
        ("--model bm25 --think-ms 3", "--think-ms has an effect only with --thoughts"),
        ("--model bm25 --controls", "--controls has an effect only with --thoughts or --think"),
        ("--model thinker --think-options=--seed", "--think-options has an effect only with --think"),
        ("--model thinker --batch 9", "--batch has no effect on a model that thinks"),
        ("--model bm25 --query-prompt x", "--query-prompt has no effect on bm25"),
        ("--model bm25 --document-prompt x", "--document-prompt has no effect on bm25"),
        ("--model bm25 --max-length 9", "--max-length has no effect on bm25"),
        ("--model bm25 --think-options=--seed", "--think-options has an effect only with --think"),
        ("--model mine.trec --query-weights", "--query-weights has no effect on a run"),
        ("--model bm25 --fusion z", "--fusion has an effect only with --hybrid"),
        ("--model bm25 --weights .75 .25", "--weights has an effect only with --hybrid"),
        ("--model bm25 --hybrid-name x", "--hybrid-name has an effect only with --hybrid"),
        ("--model bm25 --rerank-top 9", "--rerank-top has an effect only with --rerank"),
        (
            "--model bm25 --hybrid bm25",
            "both models would be called 'BM25' in results; give one another --name",
        ),
    ],
)
def test_an_option_without_an_effect_is_refused(folder, model, capsys, monkeypatch, options, said):
    monkeypatch.chdir(folder)
    write_run(folder / "mine.trec", rank("q1", {"d1": 1.0}))
    assert run_with("run", "--collection", "tiny", "--out", "results", *options.split()) == 4
    assert said in capsys.readouterr().err
    assert not (folder / "results").exists()


@pytest.fixture(scope="module")
def tiny_encoder(tmp_path_factory):
    """A real sentence-transformers model with random weights, built here."""
    pytest.importorskip("sentence_transformers")
    from helpers.tiny import save_sentence_model

    words = sorted(set(" ".join([*TEXTS, "how to"]).split()))
    return save_sentence_model(tmp_path_factory.mktemp("encoder"), words)


@pytest.mark.extra
def test_any_encoder_runs_with_thoughts_hyde_and_controls(site, collection, tmp_path, tiny_encoder):
    here = task(collection, tmp_path, thoughts=THOUGHTS, controls=True)
    results = by_name(run_model(str(tiny_encoder), here))
    assert {"tiny-encoder", "tiny-encoder + thought", "tiny-encoder, HyDE"} < set(results)
    assert results["tiny-encoder + empty thought"].per_query == results["tiny-encoder"].per_query
    assert results["tiny-encoder, 0.2 empty thought"].per_query == results["tiny-encoder"].per_query
    assert results["tiny-encoder, 0.2 thought"].system.encoder["thoughts"] == {
        "mixture": {"weight": 0.2, "reading": "document"}
    }
    plain = results["tiny-encoder"]
    assert plain.system.encoder["digest"].startswith("sha256:")
    assert plain.system.index_bytes == 5 * 16 * 4
    kept = Stopwatch(tmp_path / "results" / "tiny-encoder.documents" / "seconds").seconds
    assert plain.system.index_seconds == kept > 0
    assert results["tiny-encoder, HyDE"].system.index_seconds == kept
    assert min(plain.system.milliseconds.embed, plain.system.milliseconds.search) > 0
    assert results["tiny-encoder, HyDE"].metrics["RR@10"] >= plain.metrics["RR@10"]


@pytest.mark.extra
def test_encoded_documents_are_kept_and_those_of_another_prompt_refused(collection, tmp_path, tiny_encoder):
    from o1_bench.running.encoder import EncodedCollection, SentenceEncoder

    def encoded(encoder, **changed):
        folder = tmp_path / "documents"
        return EncodedCollection(collection, encoder.documents, encoder.encoder, folder, **changed)

    plain = SentenceEncoder(str(tiny_encoder))
    kept = encoded(plain)
    (best,) = kept.search(plain.documents(DOCUMENTS)[3:4], ["q"], k=1)
    assert best.doc_id == "d3"
    assert best.score == pytest.approx(1.0, abs=1e-6)  # the cosine of a text with itself
    asking = SentenceEncoder(str(tiny_encoder), query_prompt="how {instruction}: ")
    assert encoded(asking).seconds == kept.seconds  # the documents' prompt is the same
    other = SentenceEncoder(str(tiny_encoder), document_prompt="to ")
    with pytest.raises(ChangedJobError, match=r"with digest .*''.*this run has digest .*'to "):
        encoded(other)
    encoded(other, new_job=True)
    assert len(list((tmp_path / "documents.old1").glob("shard-*.safetensors"))) == 1
    assert encoded(other).seconds != kept.seconds


@pytest.mark.extra
def test_embedding_that_was_stopped_continues(collection, tmp_path, tiny_encoder, monkeypatch):
    from o1_bench.running import encoder as module

    monkeypatch.setattr(module, "_SHARD", 2)
    model, asked = module.SentenceEncoder(str(tiny_encoder)), []

    def embed(documents):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append([document.doc_id for document in documents])
        return model.documents(documents)

    with pytest.raises(KeyboardInterrupt):
        module.EncodedCollection(collection, embed, model.encoder, tmp_path / "v")
    before = module.Stopwatch(tmp_path / "v.partial" / "seconds").seconds
    asked.append(None)
    found = module.EncodedCollection(collection, embed, model.encoder, tmp_path / "v")
    assert asked == [["d0", "d1"], ["d2", "d3"], None, ["d4"]]
    assert found.seconds > before > 0
    hits = list(found.search(model.documents(DOCUMENTS), ["a", "b", "c", "d", "e"], k=1))
    assert [hit.doc_id for hit in hits] == ["d0", "d1", "d2", "d3", "d4"]


@pytest.mark.extra
def test_a_query_without_an_instruction_has_the_collections(site, collection, tmp_path, tiny_encoder):
    from o1_bench.running.encoder import SentenceEncoder

    prompted = SentenceEncoder(str(tiny_encoder), query_prompt="how {instruction}: ")
    asked = [msgspec.structs.replace(query, instruction="to sort") for query in QUERIES]
    by_hand = [msgspec.structs.replace(q, text=f"how to sort: {q.text}") for q in QUERIES]
    assert np.allclose(
        prompted.queries(asked), SentenceEncoder(str(tiny_encoder)).queries(by_hand), atol=1e-6
    )
    runs = []
    for name, changed in (("own", {"queries": asked}), ("collection's", {"instruction": "to sort"})):
        here = task(replace(collection, **changed), tmp_path / name)
        run_model(str(tiny_encoder), here, query_prompt="how {instruction}: ")
        runs.append((here.folder_of("tiny-encoder") / "run.trec").read_text())
    assert runs[0] == runs[1]


@pytest.mark.extra
def test_hyde_is_the_mean_with_the_thoughts_as_documents(tiny_encoder):
    from o1_bench.running.encoder import SentenceEncoder

    encoder = SentenceEncoder(str(tiny_encoder))
    vectors = encoder.hyde(QUERIES[:2], [["sort the list", "copy a folder"], [""]])
    texts = [Document(doc_id=text, text=text) for text in ("sort the list", "copy a folder")]
    mean = np.concatenate([encoder.queries(QUERIES[:1]), encoder.documents(texts)]).mean(axis=0)
    assert np.allclose(vectors[0], mean / np.linalg.norm(mean), atol=1e-6)
    assert np.allclose(vectors[1], encoder.queries(QUERIES[1:2])[0], atol=1e-6)


@pytest.mark.extra
def test_a_model_that_is_nowhere_is_one_sentence(site, collection, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="cannot be loaded as a sentence-transformers model"):
        run_model(str(tmp_path / "empty"), task(collection, tmp_path))
