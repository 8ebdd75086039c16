"""One checkpoint out of several: the mean of their weights, of models that differ in nothing else."""

import numpy as np
import pytest
import torch

from o1_model import Embedder
from o1_model.__main__ import main
from o1_model.average import average
from o1_records import InputError

TEXTS = ["open a zip file", "sort a list", "read bytes of the text"]


def moved(folder, out, seed):
    """The same model, a little elsewhere: every weight and every control row."""
    model = Embedder.from_pretrained(folder, device="cpu")
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.backbone.parameters():
            value.add_(0.02 * torch.randn(value.shape, generator=random))
    model.save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def three(plain_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("average")
    start = folder / "start"
    Embedder.from_backbone(plain_models["llama"], query_length=12, thought_length=12).save_pretrained(start)
    return [start, moved(start, folder / "one", 1), moved(start, folder / "two", 2)]


def weights_of(model):
    return {name: value.detach().double() for name, value in model.backbone.lm.named_parameters()}


@pytest.mark.parametrize(("weights", "shares"), [((), (1 / 3,) * 3), ((1, 1, 2), (0.25, 0.25, 0.5))])
def test_every_weight_is_the_mean_and_survives_saving(three, tmp_path, weights, shares):
    mean = average(three, weights=weights)
    parts = [weights_of(Embedder.from_pretrained(folder, device="cpu")) for folder in three]
    for name, value in weights_of(mean).items():
        expected = sum(share * part[name] for share, part in zip(shares, parts, strict=True))
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=0)
    mean.save_pretrained(tmp_path / "mean")
    again = Embedder.from_pretrained(tmp_path / "mean", device="cpu")
    np.testing.assert_allclose(again.encode_query(TEXTS), mean.encode_query(TEXTS), atol=1e-6)
    assert abs(mean.encode_query(TEXTS) - Embedder.from_pretrained(three[0]).encode_query(TEXTS)).max() > 1e-3


def test_a_model_and_itself_average_to_itself(three):
    own = Embedder.from_pretrained(three[1], device="cpu").encode_document(TEXTS)
    np.testing.assert_allclose(average([three[1]] * 3).encode_document(TEXTS), own, atol=1e-6)
    np.testing.assert_allclose(average(three, weights=[0, 1, 0]).encode_document(TEXTS), own, atol=1e-6)


def test_models_that_differ_in_more_are_refused(three, plain_models, tmp_path):
    Embedder.from_backbone(plain_models["bert"], query_length=12, thought_length=12).save_pretrained(
        tmp_path / "bert"
    )
    with pytest.raises(InputError, match=r"bert: its \w+ is not that of .*start; they cannot be averaged"):
        average([three[0], tmp_path / "bert"])
    with pytest.raises(InputError, match="1 checkpoint: give at least two"):
        average(three[:1])
    with pytest.raises(InputError, match="2 weights for 3 checkpoints; give one for each"):
        average(three, weights=[1, 2])
    with pytest.raises(InputError, match=r"weights must be 0 or more, and not all 0; got 1\.0, -1\.0, 2\.0"):
        average(three, weights=[1, -1, 2])


def test_the_command_writes_a_checkpoint_and_overwrites_none(three, tmp_path, capsys):
    words = ["average", *map(str, three[:2]), "--weights", "1", "3", "--out", str(tmp_path / "mean")]
    assert main(words) == 0
    assert main(["verify", "--model", str(tmp_path / "mean")]) == 0
    expected = average(three[:2], weights=[1, 3]).encode_query(TEXTS)
    found = Embedder.from_pretrained(tmp_path / "mean", device="cpu").encode_query(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert main(words) == 4
    assert "exists; choose another --out" in capsys.readouterr().err
