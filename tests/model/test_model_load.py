"""Checkpoints load from folders, hub ids, adapters and strangers; loading executes nothing."""

import hashlib
import json
import pickle
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from o1_model import Embedder, Thinking
from o1_model.backbone import embedding_matrix, load_lm
from o1_model.checkpoint.lora import Lora, add_lora, base_of, merge_lora
from o1_model.layout import document_row, query_row, text_ids
from o1_model.training.saving import save_weights
from o1_records import InputError, MissingExtraError, Query, sha256_file
from o1_records.kit.models import model_digest

TEXTS = ["how do i open a zip file", "", "close the list"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def saved(llama, tmp_path):
    """A folder with a checkpoint whose control rows have moved."""
    with torch.no_grad():
        llama.backbone.control_rows.add_(0.3)
    llama.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def stranger(plain_models, tmp_path):
    """A checkpoint as the public O1 code leaves it: tokens in the tokenizer, rows trained, no layout."""
    tokenizer = AutoTokenizer.from_pretrained(plain_models["llama"])
    tokenizer.add_tokens(["<query>", "</query>", "<thought>", "<emb>"], special_tokens=True)
    lm = AutoModelForCausalLM.from_pretrained(plain_models["llama"])
    lm.resize_token_embeddings(len(tokenizer))
    lm.save_pretrained(tmp_path / "stranger")
    tokenizer.save_pretrained(tmp_path / "stranger")
    return tmp_path / "stranger"


@pytest.fixture
def hub(saved, tmp_path, monkeypatch):
    """A hub without a network: the cache holds one revision of one repository."""
    cache = tmp_path / "hub" / "models--someone--retriever"
    shutil.copytree(saved, cache / "snapshots" / COMMIT)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")


def plain_vectors(folder, rows):
    """Unit vectors of the last token of each row, by the plain model, a row at a time."""
    lm = load_lm(folder).eval()
    with torch.inference_mode():
        states = [lm.base_model(torch.tensor([row.ids])).last_hidden_state[0, -1] for row in rows]
    return torch.nn.functional.normalize(torch.stack(states), dim=-1).numpy()


@pytest.mark.usefixtures("hub")
def test_a_hub_id_loads_at_its_revision(saved):
    expected = Embedder.from_pretrained(saved).encode_query(TEXTS)
    newest = Embedder.from_pretrained("someone/retriever")
    pinned = Embedder.from_pretrained("someone/retriever", revision=COMMIT)
    np.testing.assert_array_equal(newest.encode_query(TEXTS), expected)
    assert (newest.name, pinned.name) == ("someone/retriever", f"someone/retriever@{COMMIT}")
    assert newest.digest == pinned.digest == Embedder.from_pretrained(saved).digest


@pytest.mark.usefixtures("hub")
def test_what_the_hub_does_not_have_is_named():
    with pytest.raises(InputError, match=r"'someone/other' is not a folder, is not cached, and .* cannot be"):
        Embedder.from_pretrained("someone/other")
    with pytest.raises(InputError, match="'someone/retriever' is not a folder, is not cached"):
        Embedder.from_pretrained("someone/retriever", revision="v2")


def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(tmp_path):
    for absent in (tmp_path / "absent", "./absent", "a/b/c"):
        with pytest.raises(InputError, match="is neither a folder nor a model id of the hub"):
            Embedder.from_pretrained(absent)


def test_a_folder_has_no_revision(saved):
    with pytest.raises(InputError, match=r"a revision \('v2'\) belongs to a hub id"):
        Embedder.from_pretrained(saved, revision="v2")


def test_a_checkpoint_of_the_public_code_loads_with_its_layout(stranger):
    model = Embedder.from_pretrained(stranger, layout="reference", thought_length=8)
    ids, (thought,) = text_ids(model.tokenizer, TEXTS), text_ids(model.tokenizer, ["read bytes"])
    rows = [query_row(model.layout, text, thought) for text in ids]
    ours = model.encode_query(TEXTS, thoughts=[["read bytes"]] * 3)
    np.testing.assert_allclose(ours, plain_vectors(stranger, rows), atol=1e-5)
    documents = [document_row(model.layout, text) for text in ids]
    np.testing.assert_allclose(model.encode_document(TEXTS), plain_vectors(stranger, documents), atol=1e-5)
    assert model.tokenizer.convert_ids_to_tokens(list(rows[1].ids)) == [
        "<query>", "</query>", "<thought>", "read", "bytes", "[SEP]", "<emb>",
    ]  # fmt: skip


def test_a_stranger_without_a_layout_is_told_what_to_give(stranger, plain_models):
    with pytest.raises(InputError, match=r"no o1_layout.json.*give layout='reference'"):
        Embedder.from_pretrained(stranger)
    with pytest.raises(InputError, match="lacks <query>"):
        Embedder.from_pretrained(plain_models["llama"], layout="reference")


def test_a_base_is_for_an_adapter(saved, plain_models):
    with pytest.raises(InputError, match="is not an adapter and has no base; leave out base"):
        Embedder.from_pretrained(saved, base=plain_models["llama"])


def test_a_layout_cannot_be_exchanged(saved):
    with pytest.raises(InputError, match="was saved with layout 'o1', not 'instruct'"):
        Embedder.from_pretrained(saved, layout="instruct")


def test_lengths_may_be_changed_when_loading_and_change_the_digest(saved):
    plain, longer = Embedder.from_pretrained(saved), Embedder.from_pretrained(saved, document_length=300)
    assert longer.layout.document_length == 300
    assert longer.digest != plain.digest
    with pytest.raises(InputError, match="`int` >= 1"):
        Embedder.from_pretrained(saved, document_length=0)
    with pytest.raises(InputError, match="lenght"):
        Embedder.from_pretrained(saved, document_lenght=3)
    with pytest.raises(InputError, match="the model takes 2048"):
        Embedder.from_pretrained(saved, document_length=5000)


def test_a_tokenizer_with_tokens_that_the_model_lacks_is_refused(stranger, plain_models):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(plain_models["llama"] / name, stranger / name)
    with pytest.raises(InputError, match=r"has 30 tokens, its model 26 rows"):
        Embedder.from_pretrained(stranger, layout="reference")


def test_an_adapter_loads_with_its_base(plain_models, tmp_path):
    model = Embedder.from_backbone(plain_models["llama"], query_length=12, thought_length=12)
    add_lora(model.backbone, Lora(rank=2, alpha=4, dropout=0.0))
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) / 9)
    save_weights(model, tmp_path / "a", base=base_of(plain_models["llama"]))
    with pytest.raises(InputError, match="merge it"):
        model.save_pretrained(tmp_path / "whole")
    expected = model.encode_query(TEXTS)
    loaded = Embedder.from_pretrained(tmp_path / "a")
    np.testing.assert_allclose(loaded.encode_query(TEXTS), expected, atol=1e-5)
    moved = tmp_path / "moved"
    shutil.copytree(plain_models["llama"], moved)
    again = Embedder.from_pretrained(tmp_path / "a", base=moved)
    np.testing.assert_allclose(again.encode_query(TEXTS), expected, atol=1e-5)
    merge_lora(model.backbone)
    model.save_pretrained(tmp_path / "whole")
    whole = Embedder.from_pretrained(tmp_path / "whole")
    np.testing.assert_allclose(whole.encode_query(TEXTS), expected, atol=1e-5)


def test_an_adapter_of_peft_alone_loads_with_its_base(stranger, tmp_path):
    from peft import LoraConfig, get_peft_model

    base = load_lm(stranger)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(3)
    peft = get_peft_model(base, config)
    peft.save_pretrained(tmp_path / "a")
    AutoTokenizer.from_pretrained(stranger).save_pretrained(tmp_path / "a")
    loaded = Embedder.from_pretrained(tmp_path / "a", layout="reference", base=stranger)
    peft.merge_and_unload().save_pretrained(tmp_path / "merged")
    rows = [query_row(loaded.layout, ids) for ids in text_ids(loaded.tokenizer, TEXTS)]
    np.testing.assert_allclose(
        loaded.encode_query(TEXTS), plain_vectors(tmp_path / "merged", rows), atol=1e-5
    )
    # another base is another model
    other = tmp_path / "other"
    shutil.copytree(stranger, other)
    lm = load_lm(other)
    with torch.no_grad():
        embedding_matrix(lm).mul_(1.1)
    lm.save_pretrained(other)
    assert Embedder.from_pretrained(tmp_path / "a", layout="reference", base=other).digest != loaded.digest
    (tmp_path / "a" / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="adapters in pickles are not loaded"):
        Embedder.from_pretrained(tmp_path / "a", layout="reference", base=stranger)


class Canary:
    """Unpickled, it leaves a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin"])
def test_a_pickle_is_never_opened(stranger, tmp_path, name):
    canary = tmp_path / "executed"
    (stranger / name).write_bytes(pickle.dumps(Canary(canary)))
    (stranger / "model.safetensors").unlink()
    if name.startswith("adapter"):
        (stranger / "adapter_config.json").write_text(
            json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x"})
        )
    with pytest.raises(InputError, match=r"safetensors"):
        Embedder.from_pretrained(stranger, layout="reference")
    assert not canary.exists()
    # the canary works
    pickle.loads((stranger / name).read_bytes())  # noqa: S301
    assert canary.exists()


@pytest.mark.parametrize("model_type", ["llama", "stranger"])
def test_remote_code_runs_only_when_the_caller_asks(stranger, tmp_path, model_type):
    canary = tmp_path / "executed"
    (stranger / "evil.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        f"open({str(canary)!r}, 'w').close()\n"
        "class EvilConfig(LlamaConfig):\n    pass\n"
        "class EvilModel(LlamaForCausalLM):\n    config_class = EvilConfig\n"
    )
    config = json.loads((stranger / "config.json").read_bytes())
    auto_map = {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel"}
    (stranger / "config.json").write_text(
        json.dumps({**config, "auto_map": auto_map, "model_type": model_type})
    )
    if model_type == "llama":
        Embedder.from_pretrained(stranger, layout="reference")
    else:
        with pytest.raises(InputError, match="trust_remote_code"):
            Embedder.from_pretrained(stranger, layout="reference")
    assert not canary.exists()
    Embedder.from_pretrained(stranger, layout="reference", trust_remote_code=True)
    assert canary.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "o1_layout.json"])
def test_one_flipped_bit_is_noticed_before_use(saved, name):
    content = bytearray((saved / name).read_bytes())
    content[len(content) // 2] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} was changed since the checkpoint was saved"):
        Embedder.from_pretrained(saved)


def test_a_certificate_of_an_earlier_version_still_guards_the_weights(saved):
    """It lists no file that sentence-transformers alone reads."""
    path = saved / "o1_certificate.json"
    certificate = json.loads(path.read_bytes())
    listed = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "o1_layout.json"}
    older = {name: digest for name, digest in certificate["files"].items() if name in listed}
    assert older.keys() < certificate["files"].keys()
    path.write_text(json.dumps({**certificate, "files": older}))
    Embedder.from_pretrained(saved)
    (saved / "special_tokens_map.json").write_text("{}")
    with pytest.raises(InputError, match=r"special_tokens_map\.json is new since the checkpoint was saved"):
        Embedder.from_pretrained(saved)


def test_an_adapter_knows_its_base_by_weights_and_config(plain_models):
    """The digest in the files of adapters: of earlier ones too."""
    folder = plain_models["llama"]
    lines = "".join(f"{n} {sha256_file(folder / n)}\n" for n in ("config.json", "model.safetensors"))
    assert base_of(folder).digest == hashlib.sha256(lines.encode()).hexdigest()


def test_weights_cut_short_are_an_error_with_the_folder(stranger):
    path = stranger / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"stranger' cannot be loaded as a causal .*: .*deserializing"):
        Embedder.from_pretrained(stranger, layout="reference")


def test_an_adapter_that_names_no_base_asks_for_it(stranger):
    (stranger / "adapter_config.json").write_text("{}")
    (stranger / "adapter_model.safetensors").touch()
    with pytest.raises(InputError, match="names no base model; give base="):
        Embedder.from_pretrained(stranger, layout="reference")


def test_the_digest_covers_what_changes_vectors_here_or_elsewhere_and_nothing_else(saved):
    before = model_digest(saved)
    for name in (
        "README.md",
        "o1_certificate.json",
        "o1_training.json",
        "o1_calibration.json",
        "training.log",
    ):
        (saved / name).write_text("something else")
    assert model_digest(saved) == before
    for name in (
        "model.safetensors",
        "tokenizer_config.json",
        "config.json",
        "o1_layout.json",
        "chat_template.jinja",
        "1_Pooling/config.json",
    ):
        original = (saved / name).read_bytes()
        (saved / name).write_bytes(original + b" ")
        assert model_digest(saved) != before
        (saved / name).write_bytes(original)
    assert model_digest(saved) == before


def test_thinking_in_the_reference_layout_equals_a_full_encoding(stranger):
    model = Embedder.from_pretrained(stranger, layout="reference", thought_length=8)
    queries = [Query(query_id=str(n), text=text) for n, text in enumerate(TEXTS)]
    v_q, traces = model.decode(queries, Thinking(samples=2, max_tokens=8, temperature=3.0))
    ids = text_ids(model.tokenizer, TEXTS)
    np.testing.assert_allclose(v_q, model.read([query_row(model.layout, row) for row in ids]), atol=1e-6)
    for text, own in zip(ids, traces, strict=True):
        for trace in own:
            whole = model.read([query_row(model.layout, text, list(trace.token_ids))])[0]
            np.testing.assert_allclose(np.asarray(trace.vector), whole, atol=1e-5)


def test_a_gguf_file_needs_the_package_that_reads_it(plain_models):
    if find_spec("gguf") is not None:
        pytest.skip("gguf is installed")
    with pytest.raises(MissingExtraError, match=r"gguf_file needs an extra: pip install 'o1-model\[gguf\]'"):
        Embedder.from_backbone(plain_models["llama"], gguf_file="model.gguf")


def test_a_plain_model_is_told_how_to_start_from_it(plain_models):
    folder = plain_models["llama"]
    with pytest.raises(InputError, match=rf"try it as it is: Embedder.from_backbone\('{folder}'\)"):
        Embedder.from_pretrained(folder)
