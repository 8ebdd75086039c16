"""The model card: true, free of a machine's folders, and its settings train again."""

import re

import pytest
import yaml

from o1_model.checkpoint.card import Card, Lengths
from o1_model.training.arguments import parse
from o1_records import Document, Example, Query, Source, Thought


def _example(number, dataset, thought):
    query = Query(query_id=f"q{number}", text="open")
    own = Thought(query_id=query.query_id, thought_id="t", text="zip", source=Source(model="m"))
    documents = [Document(doc_id=f"{kind}{number}", text=kind) for kind in "pnm"]
    return Example(
        query=query, positives=(documents[0],), negatives=tuple(documents[1:]),
        thought=own if thought else None, dataset=dataset,
    )  # fmt: skip


@pytest.fixture
def card(tmp_path):
    """A card of a training with two evaluations."""
    (tmp_path / "private" / "base").mkdir(parents=True)
    return Card(
        base_model=str(tmp_path / "private" / "base"),
        data="pony.jsonl",
        data_sha256="ab12",
        examples=[_example(1, "pony", True), _example(2, "pony", False), _example(3, "aops", True)],
        lengths=[Lengths("query", 3, 12.0, 1080, 64, 0.25)],
        settings={"layout": "o1", "learning_rate": 1e-4, "matryoshka_dims": [64, 128], "bf16": True},
        steps=1200,
        processes=8,
        figures=[
            {"step": 600, "eval_nDCG@10": 0.5, "eval_nDCG@10_thoughts": 0.25},
            {"step": 1200, "eval_nDCG@10": 0.4, "eval_nDCG@10_thoughts": 0.3},
        ],
        saved={"saved_nDCG@10": 0.5, "saved_nDCG@10_thoughts": 0.25, "saved_seconds": 9.0},
        measured_on="3 of 12 queries (dev), 8 of 30 documents of beir",
    )


def _written(card, folder):
    card.write(folder / "out")
    return (folder / "out" / "README.md").read_text()


def test_a_card_tells_data_figures_and_how_to_load(card, tmp_path):
    text = _written(card, tmp_path)
    assert "| step | nDCG@10 | nDCG@10 with its own thoughts |" in text
    assert "| 1,200 | 0.4000 | 0.3000 |\n| saved | 0.5000 | 0.2500 |" in text
    assert "On 3 of 12 queries (dev), 8 of 30 documents of beir." in text
    assert (
        "`pony.jsonl` (sha256 of its examples `ab12`): 3 examples, 2 with a thought, 2.0 negatives each"
        in text
    )
    assert "Datasets: pony (2), aops (1)." in text
    assert "| query | 12 | 1,080 | 64 | 25.0% |" in text
    assert 'Embedder.from_pretrained("out")' in text
    assert "in 1,200 steps" in text
    assert "8 processes" in text


def test_a_card_says_nothing_about_folders_of_the_machine(card, tmp_path):
    text = _written(card, tmp_path)
    assert str(tmp_path) not in text
    assert "trained from `base`" in text
    assert "base_model" not in yaml.safe_load(text.split("---")[1])


def test_the_front_matter_names_a_base_of_the_hub(card, tmp_path):
    text = _written(Card(**{**vars(card), "base_model": "Qwen/Qwen3-4B"}), tmp_path)
    assert yaml.safe_load(text.split("---")[1])["base_model"] == "Qwen/Qwen3-4B"


def test_a_card_tells_an_adapter_from_a_whole_model(card, tmp_path):
    adapter = Card(**{**vars(card), "settings": {"lora_rank": 32}})
    merged = Card(**{**vars(card), "settings": {"lora_rank": 32, "merge": True}})
    assert "It is an adapter" in _written(adapter, tmp_path)
    assert "It is an adapter" not in _written(merged, tmp_path)
    assert "It is an adapter" not in _written(card, tmp_path)


def test_a_card_without_figures_says_so(card, tmp_path):
    text = _written(Card(**{**vars(card), "figures": (), "saved": {}}), tmp_path)
    assert "Nothing was measured in this training." in text


def test_the_settings_of_a_card_are_settings_of_the_command(card, tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", _written(card, tmp_path), re.DOTALL)
    (tmp_path / "again.yaml").write_text(block)
    groups = parse(
        [str(tmp_path / "again.yaml"), "--model_name_or_path", "m", "--train_data", "e", "--use_cpu"]
    )
    assert groups[0].layout == "o1"
    assert groups[3].matryoshka_dims == [64, 128]
    assert groups[4].learning_rate == 1e-4
    assert groups[4].bf16


def test_a_checkpoint_saved_by_hand_has_a_card_and_one_that_is_there_stays(llama, tmp_path):
    llama.save_pretrained(tmp_path / "mine")
    card = (tmp_path / "mine" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: o1-model")
    assert 'Embedder.from_pretrained("mine")' in card
    (tmp_path / "mine" / "README.md").write_text("my own words")
    llama.save_pretrained(tmp_path / "mine")
    assert (tmp_path / "mine" / "README.md").read_text() == "my own words"
