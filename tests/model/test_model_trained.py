"""Trained thinkers: an adapter on an instruct model, joined, published, opened and verified."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from helpers.tiny import save_chat_model
from o1_model.__main__ import main
from o1_model.retriever.calibration import load_calibration
from o1_model.retriever.instruct import Instruct, VLLMInstruct
from o1_model.retriever.thinkers import open_thinker
from o1_model.retriever.trained import base_of, read_trained
from o1_records import InputError, Query
from o1_records.kit.models import model_digest
from o1_records.styles import QUERY_STYLES, Style

QUERIES = [Query(query_id=f"q{n}", text=text) for n, text in enumerate(["open a zip", "sort", "read it all"])]
PLAIN = Style(instruction="Say more about {text}", max_tokens=12)
KEYWORDS = QUERY_STYLES["keywords"]
ROOT = Path(__file__).parents[2]
CHECKPOINTS = ROOT / "checkpoints"
thinker_py = runpy.run_path(str(ROOT / "runs" / "thinker.py"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_chat_model(tmp_path_factory.mktemp("base") / "tiny-chat")


def adapter(base, folder, seed, rank=4, alpha=8):
    """A LoRA adapter that changes what the model says."""
    torch.manual_seed(seed)
    lm = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    with torch.no_grad():
        for name, values in lm.named_parameters():
            if "lora_" in name:
                values.normal_(std=0.3)
    lm.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return [adapter(base, folder / "first", 1), adapter(base, folder / "second", 2, rank=2, alpha=8)]


def merged(base, adapters, folder):
    """What peft makes of adapters one after another."""
    lm = AutoModelForCausalLM.from_pretrained(base)
    for each in adapters:
        lm = PeftModel.from_pretrained(lm, each).merge_and_unload()
    lm.save_pretrained(folder)
    thinker_py["load_tokenizer"](base).save_pretrained(folder)
    return folder


def said(thinker):
    return [[each.text for each in own] for own in thinker.think(QUERIES, thinker.usual)]


def test_an_adapter_thinks_as_peft_merges_it(base, adapters, tmp_path):
    thinker = Instruct(adapters[0], PLAIN, device="cpu")
    plain = Instruct(base, PLAIN, device="cpu")
    assert said(thinker) == said(Instruct(merged(base, adapters[:1], tmp_path / "m"), PLAIN, device="cpu"))
    assert said(thinker) != said(plain)
    assert thinker.fingerprint["digest"] != plain.fingerprint["digest"]
    moved = Instruct(adapters[0], PLAIN, base=base, device="cpu")
    assert moved.fingerprint == thinker.fingerprint


def test_a_base_is_for_an_adapter_and_vllm_takes_whole_models(base, adapters):
    with pytest.raises(InputError, match="holds no adapter of an instruct model; leave out base"):
        Instruct(base, PLAIN, base=base, device="cpu")
    with pytest.raises(InputError, match="leave out the quantisation"):
        Instruct(adapters[0], PLAIN, quantization=object(), device="cpu")
    with pytest.raises(InputError, match=r"thinker.py merge"):
        VLLMInstruct(adapters[0], PLAIN)


def publish(base, adapters, out, style="keywords"):
    asked = [flag for query in QUERIES for flag in ("--query", query.text)]
    given = ["--model", str(base), "--base", "acme/tiny-chat", "--style", style, "--out", str(out)]
    return thinker_py["main"](["publish", *map(str, adapters), *given, *asked])


@pytest.fixture(scope="module")
def published(base, adapters, tmp_path_factory):
    out = tmp_path_factory.mktemp("published") / "thinker"
    assert publish(base, adapters, out) == 0
    return out


def test_joined_adapters_add_what_each_adds(base, adapters, published):
    def change(folder):
        config = json.loads((folder / "adapter_config.json").read_text())
        weights = load_file(folder / "adapter_model.safetensors")
        return {
            name: config["lora_alpha"]
            / config["r"]
            * weights[name.replace("_A.", "_B.")].double()
            @ a.double()
            for name, a in weights.items()
            if ".lora_A." in name
        }

    first, second, both = map(change, [*adapters, published])
    assert both.keys() == first.keys()
    for name, found in both.items():
        expected = first[name] + second[name]
        assert (found - expected).norm() / expected.norm() < 2**-7  # bfloat16 keeps 8 bits
    config = json.loads((published / "adapter_config.json").read_text())
    assert (config["r"], config["base_model_name_or_path"]) == (6, "acme/tiny-chat")


def test_a_published_thinker_knows_its_style_and_verifies_itself(base, published, capsys):
    trained = read_trained(published)
    assert (trained.style, trained.base) == (KEYWORDS, "acme/tiny-chat")
    thinker = open_thinker(published, base=base, device="cpu")
    assert thinker.style == KEYWORDS
    assert [each.thought for each in trained.examples] == [own[0] if own else "" for own in said(thinker)]
    assert main(["verify", "--model", str(published), "--base", str(base)]) == 0
    assert capsys.readouterr().out == "pass (3 of 3 thoughts are as written)\n"


def test_another_base_is_found_out(base, published, tmp_path, capsys):
    other = merged(base, [adapter(base, tmp_path / "change", 3)], tmp_path / "other")
    assert main(["verify", "--model", str(published), "--base", str(other)]) == 4
    printed = capsys.readouterr().out
    here, then = model_digest(other)[:12], model_digest(base)[:12]
    assert printed.startswith("fail (") and here != then
    assert f"the base here has the digest {here}; they were written on " in printed
    assert printed.endswith(f" with {then}\n")


def test_an_adapter_without_examples_has_nothing_to_verify(base, adapters, capsys):
    assert main(["verify", "--model", str(adapters[0])]) == 4
    assert "no o1_thinker.json with examples" in capsys.readouterr().err
    assert main(["verify", "--model", str(base), "--base", str(base)]) == 4
    assert "--base is for a trained thinker" in capsys.readouterr().err


def test_merge_writes_the_whole_model(base, published, tmp_path):
    out = tmp_path / "whole"
    assert thinker_py["main"](["merge", str(published), "--base", str(base), "--out", str(out)]) == 0
    whole = Instruct(out, KEYWORDS, device="cpu")
    assert said(whole) == said(open_thinker(published, base=base, device="cpu"))


def test_publish_refuses_what_cannot_be_verified_or_joined(base, adapters, published, tmp_path, capsys):
    asked = ["publish", str(adapters[0]), "--model", str(base), "--base", "a/b", "--style", "keywords"]
    assert thinker_py["main"]([*asked, "--out", str(tmp_path / "x")]) == 4
    assert "give one or more --query" in capsys.readouterr().err
    assert thinker_py["main"]([*asked, "--query", "sort", "--out", str(published)]) == 4
    assert " exists; choose another --out" in capsys.readouterr().err


@pytest.mark.parametrize("folder", sorted(CHECKPOINTS.glob("*/")), ids=lambda path: path.name)
def test_a_checkpoint_of_this_repository_is_small_and_says_what_it_is(folder):
    trained, (base, _) = read_trained(folder), base_of(folder)
    assert (trained.base, trained.style) == (base, QUERY_STYLES["snippet"])
    assert len(trained.examples) == 8
    assert all(each.thought.strip() for each in trained.examples)
    weights = load_file(folder / "adapter_model.safetensors")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 25e6
    assert all(values.isfinite().all() for values in weights.values())
    card = (folder / "README.md").read_text()
    assert f"base_model: {base}" in card
    for path in sorted(folder.glob("calibration-*.json")):
        found = load_calibration(path)
        assert f"| {found.search} | {found.mixture.weight:g} |" in card
    assert len(list(folder.glob("calibration-*.json"))) == 2
