import stat
import sys

import numpy as np
import pytest

from o1_bench import Collection, load_result
from o1_bench.__main__ import main
from o1_bench.build_time import Stopwatch
from o1_bench.collection import digest
from o1_bench.exact import ExactSearch
from o1_bench.result import System
from o1_bench.score import DEFAULT
from o1_bench.systems import LAYOUT, run_hybrid, run_model
from o1_bench.task import Task, slug
from o1_bench.verify import verify_result
from o1_records import Document, InputError, Qrel, Query, Source, Thought, rank, write_jsonl
from o1_records.beir import write_beir
from o1_records.trec import write_run

TEXTS = ["open a zip archive", "close the socket", "parse the date", "copy a folder", "sort the list"]
DOCUMENTS = [Document(doc_id=f"d{n}", text=text) for n, text in enumerate(TEXTS)]
QUERIES = [Query(query_id=f"q{n}", text=f"how to {TEXTS[n].split()[0]}") for n in range(3)]
QRELS = [Qrel(query_id=f"q{n}", doc_id=f"d{n}", relevance=1) for n in range(3)]
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
    with pytest.raises(InputError, match="nothing to name a folder by"):
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
    assert result.system.encoder["sha256"]
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
    first, second = (here.run(System(name=name, index_bytes=3, index_seconds=2.0), search) for name in "ab")
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
    assert len(stamps) == 7
    assert run_with(*command) == 0
    assert {path: path.stat().st_mtime_ns for path in made.glob("*/result.json")} == stamps
    assert run_with("verify", *stamps) == 0
    assert load_result(made / "bm25").k == 1000
    assert run_with(*command, "--k", 5) == 4
    assert "was made with k '1000', this run has '5'" in capsys.readouterr().err


def test_several_collections_need_a_folder_of_thoughts(folder, capsys):
    command = ("run", "--suite", "bright", "--out", folder / "r", "--model", "bm25")
    assert run_with(*command, "--thoughts", folder / "thoughts.jsonl") == 4
    assert "12 collections need a folder with a file for each" in capsys.readouterr().err
    assert run_with("run", "--suite", "no-such", "--out", folder / "r", "--model", "bm25") == 4
    assert "is no known collection" in capsys.readouterr().err


def test_a_checkpoint_without_its_commands_says_what_to_install(collection, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / LAYOUT).write_text("{}")
    with pytest.raises(InputError, match="needs the command o1-model; pip install o1-model"):
        run_model(str(tmp_path / "model"), task(collection, tmp_path))


FAKE_MODEL = '''#!{python}
"""Stands for o1-model: a vector per word of the vocabulary; a thought replaces the query's text."""
import sys, json
import numpy as np
from o1_records import Document, Query, Source, Thought, read_jsonl, write_jsonl
from o1_records.vectors import Encoder, VectorWriter
command, words = sys.argv[1], sys.argv[2:]
args = dict(zip(words[::2], words[1::2]))
assert args["--device"] == "cpu" and args["--model"].endswith("model")
if command == "think":
    assert args["--samples"] == "1"
    texts = {texts!r}
    source = Source(model="fake", completion_tokens=4)
    thoughts = [Thought(query_id=q.query_id, thought_id="t", text=texts[int(q.query_id[1:])], source=source)
                for q in read_jsonl(args["--queries"], Query) if q.query_id != "q2"]
    write_jsonl(args["--out"], thoughts)
    print("1 thought came out blank", file=sys.stderr)
    sys.exit(3)
vocabulary = sorted(set(" ".join({texts!r}).split()))
def vector(text):
    return [1e-3 + text.split().count(word) for word in vocabulary]
role = "document" if "--corpus" in args else "query"
if role == "document":
    rows = {{d.doc_id: d.text for d in read_jsonl(args["--corpus"], Document)}}
else:
    rows = {{q.query_id: q.text for q in read_jsonl(args["--queries"], Query)}}
    for thought in read_jsonl(args["--thoughts"], Thought) if "--thoughts" in args else ():
        rows[thought.query_id] = thought.text
encoder = Encoder(model="fake", digest="1", layout="o1", pooling="mean", max_length=9, role=role)
writer = VectorWriter(args["--out"], encoder=encoder)
vectors = np.array([vector(text) for text in rows.values()], dtype=np.float32)
writer.write(list(rows), vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
writer.close()
'''


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """A stand-in for o1-model, and the real o1-index, as commands."""
    import shutil

    if not shutil.which("o1-index", path=f"{sys.prefix}/bin"):
        pytest.skip("o1-index is not installed")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    script = bin_folder / "o1-model"
    script.write_text(FAKE_MODEL.format(python=sys.executable, texts=TEXTS))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{bin_folder}:/usr/bin:/bin")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / LAYOUT).write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    return tmp_path / "model"


@pytest.mark.extra
def test_a_checkpoint_is_driven_by_its_commands(collection, tmp_path, commands):
    options = {"think": ["--samples", "1"]}
    here = task(collection, tmp_path, think=True, controls=True, options=options, thoughts=THOUGHTS)
    results = by_name(run_model(str(commands), here))
    assert list(results) == [
        "model", "model + thought", "model, thinking", "model, shuffled thoughts", "model, filler thoughts",
    ]  # fmt: skip
    assert results["model + thought"].metrics["RR@10"] == 1.0
    thinking = results["model, thinking"]
    assert thinking.per_query["RR@10"]["q0"] == thinking.per_query["RR@10"]["q1"] == 1.0
    assert thinking.system.thought_tokens == 8
    assert thinking.system.milliseconds.think > 0
    shuffled = results["model, shuffled thoughts"].system
    assert shuffled.milliseconds.think == thinking.system.milliseconds.think
    assert shuffled.kind == "control"
    assert thinking.system.encoder["model.safetensors"]
    assert thinking.system.index_bytes > 0
    assert thinking.system.index_seconds > 0
    lines = (tmp_path / "results" / "model" / "run.trec").read_text().splitlines()
    assert not [line for line in lines if line.startswith("q0 Q0 d4 ")]  # excluded


@pytest.mark.extra
def test_a_command_that_fails_says_its_last_words(collection, tmp_path, commands):
    here = task(collection, tmp_path, think=True, options={"think": ["--samples", "2"]})
    with pytest.raises(InputError, match="o1-model think stopped with exit code 1: AssertionError"):
        run_model(str(commands), here)


@pytest.fixture(scope="module")
def tiny_encoder(tmp_path_factory):
    """A real sentence-transformers model with random weights, built here."""
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, set_seed

    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(set(" ".join([*TEXTS, "how to"]).split()))]
    tokenizer = Tokenizer(WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder / "bert")
    set_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"), max_seq_length=16)
    pooling = Pooling(16, pooling_mode="mean")
    model = SentenceTransformer(modules=[transformer, pooling], device="cpu")
    model.save_pretrained(str(folder / "tiny-encoder"))
    return folder / "tiny-encoder"


@pytest.mark.extra
def test_any_encoder_runs_with_thoughts_hyde_and_controls(collection, tmp_path, tiny_encoder):
    here = task(collection, tmp_path, thoughts=THOUGHTS, controls=True)
    results = by_name(run_model(str(tiny_encoder), here))
    assert {"tiny-encoder", "tiny-encoder + thought", "tiny-encoder, HyDE"} < set(results)
    assert results["tiny-encoder + empty thought"].per_query == results["tiny-encoder"].per_query
    plain = results["tiny-encoder"]
    assert plain.system.encoder["digest"].startswith("sha256:")
    assert plain.system.index_bytes == 5 * 16 * 4
    kept = Stopwatch(tmp_path / "results" / "tiny-encoder.seconds").seconds
    assert plain.system.index_seconds == kept > 0
    assert results["tiny-encoder, HyDE"].system.index_seconds == kept
    assert min(plain.system.milliseconds.embed, plain.system.milliseconds.search) > 0
    assert results["tiny-encoder, HyDE"].metrics["RR@10"] >= plain.metrics["RR@10"]


@pytest.mark.extra
def test_encoded_documents_are_kept_and_those_of_another_prompt_refused(collection, tmp_path, tiny_encoder):
    from o1_bench.encoder import EncodedCollection, SentenceEncoder

    encoder = SentenceEncoder(str(tiny_encoder), query_prompt="how {instruction}: ")
    encoded = EncodedCollection(encoder, collection, tmp_path / "documents")
    exact = encoder.documents([d.full_text for d in DOCUMENTS])
    (best,) = encoded.search(exact[3:4], ["q"], k=1)
    assert best.doc_id == "d3"
    assert best.score == pytest.approx(1.0, abs=1e-6)  # the cosine of a text with itself
    prompted = encoded.appended(QUERIES[:1], thoughts=None)
    plain = SentenceEncoder(str(tiny_encoder))
    by_hand = plain.queries(["how find it: " + QUERIES[0].text], [""])
    assert np.allclose(prompted, by_hand, atol=1e-6)
    EncodedCollection(plain, collection, tmp_path / "documents")  # the documents' prompt is the same
    other = SentenceEncoder(str(tiny_encoder), document_prompt="to ")
    with pytest.raises(InputError, match="was made with encoder"):
        EncodedCollection(other, collection, tmp_path / "documents")


@pytest.mark.extra
def test_hyde_is_the_mean_with_the_thoughts_as_documents(collection, tmp_path, tiny_encoder):
    from o1_bench.encoder import EncodedCollection, SentenceEncoder

    encoder = SentenceEncoder(str(tiny_encoder))
    encoded = EncodedCollection(encoder, collection, tmp_path / "documents")
    vectors = encoded.hyde(QUERIES[:2], thoughts=[["sort the list", "copy a folder"], [""]])
    parts = [encoder.queries([QUERIES[0].text], [""]), encoder.documents(["sort the list", "copy a folder"])]
    mean = np.concatenate(parts).mean(axis=0)
    assert np.allclose(vectors[0], mean / np.linalg.norm(mean), atol=1e-6)
    assert np.allclose(vectors[1], encoder.queries([QUERIES[1].text], [""])[0], atol=1e-6)


@pytest.mark.extra
def test_a_model_that_is_nowhere_is_one_sentence(collection, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="cannot be loaded as a sentence-transformers model"):
        run_model(str(tmp_path / "empty"), task(collection, tmp_path))
