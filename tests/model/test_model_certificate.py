"""A certificate passes the checkpoint it was written for and fails every other one, saying why."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from o1_model import Embedder
from o1_model.__main__ import main
from o1_model.checkpoint.certificate import LENGTH_SLACK, TEXTS, Expected, compare, read_certificate
from o1_model.layout import query_row, text_ids
from o1_model.verify import in_o1, in_server, verify
from o1_records import InputError


@pytest.fixture
def saved(llama, tmp_path):
    """A saved checkpoint with its embedder."""
    with torch.no_grad():
        llama.backbone.control_rows.add_(0.3)
    llama.save_pretrained(tmp_path / "saved")
    return llama, tmp_path / "saved"


def expected_of(vectors, roles=None, ids=()):
    roles = roles or ["query"] * len(vectors)
    return [
        Expected(role=role, text=f"text {n}", ids=tuple(ids), vector=np.asarray(v, "<f4").tobytes())
        for n, (role, v) in enumerate(zip(roles, vectors, strict=True))
    ]


def test_the_certificate_holds_eight_texts_on_both_sides(saved):
    model, folder = saved
    certificate = read_certificate(folder)
    assert [e.text for e in certificate.expected] == [*TEXTS, *TEXTS]
    assert [e.role for e in certificate.expected] == ["query"] * 8 + ["document"] * 8
    vectors = np.stack([np.frombuffer(e.vector, "<f4") for e in certificate.expected])
    np.testing.assert_allclose(vectors[:8], model.encode_query(TEXTS), atol=1e-6)
    np.testing.assert_allclose(vectors[8:], model.encode_document(TEXTS), atol=1e-6)
    ids = text_ids(model.tokenizer, TEXTS)
    assert [e.ids for e in certificate.expected[:8]] == [query_row(model.layout, row).ids for row in ids]
    assert certificate.layout == model.layout
    assert set(certificate.files) >= {"model.safetensors", "config.json", "tokenizer.json", "o1_layout.json"}
    assert {"torch", "transformers", "o1-model"} <= set(certificate.versions)


def test_the_texts_are_empty_long_foreign_and_hostile(saved):
    model, folder = saved
    longest = max(len(e.ids) for e in read_certificate(folder).expected)
    assert TEXTS[0] == ""
    assert longest == model.layout.document_length + 3
    assert len({character for character in "".join(TEXTS) if ord(character) > 0x500}) > 60
    assert all(token in TEXTS[-1] for token in ("<emb>", "<thought>", "<query>", "<doc>"))


def test_every_layout_passes_its_own_certificate(embedder, tmp_path):
    with torch.no_grad():
        embedder.backbone.control_rows.add_(0.3)
    embedder.save_pretrained(tmp_path)
    verdict = verify(tmp_path, in_o1)
    assert verdict.difference == ""
    assert verdict.lowest_cosine >= 1 - 1e-5
    assert verdict.checked == 16


def test_dropout_does_not_reach_the_certificate(plain_models, tmp_path):
    model = Embedder.from_backbone(plain_models["bert"], query_length=12)
    for module in model.backbone.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    model.backbone.train()
    model.save_pretrained(tmp_path)
    assert model.backbone.training
    assert verify(tmp_path, in_o1).difference == ""


def test_the_command_says_pass(saved, capsys):
    assert main(["verify", "--model", str(saved[1])]) == 0
    assert capsys.readouterr().out.startswith("o1: pass (16 vectors, lowest cosine 1.000000")


def test_a_changed_weight_fails(saved, capsys):
    from safetensors.torch import load_file, save_file

    path = saved[1] / "model.safetensors"
    weights = load_file(path)
    next(iter(weights.values()))[0] += 1e-3
    save_file(weights, path, metadata={"format": "pt"})
    assert main(["verify", "--model", str(saved[1])]) == 4
    assert "model.safetensors was changed since the checkpoint was saved" in capsys.readouterr().err


def test_a_swapped_tokenizer_fails(saved, plain_models, capsys):
    _, folder = saved
    (folder / "tokenizer.json").write_bytes((plain_models["llama"] / "tokenizer.json").read_bytes())
    assert main(["verify", "--model", str(folder)]) == 4
    assert "tokenizer.json was changed" in capsys.readouterr().err


def test_a_certificate_of_another_model_fails_on_its_vectors(saved):
    """As when a library computes something else from the same files."""
    model, folder = saved
    with torch.no_grad():
        model.backbone.lm.model.layers[1].mlp.down_proj.weight.mul_(1.5)
    ids = [e.ids for e in read_certificate(folder).expected]
    vectors = np.concatenate([model.encode_query(TEXTS), model.encode_document(TEXTS)])
    verdict = compare("o1", read_certificate(folder).expected, vectors, ids)
    assert verdict.difference.startswith("the vector of query '' has cosine 0.")
    assert verdict.difference.endswith("different weights, attention or pooling")


def test_a_checkpoint_without_a_certificate_is_told_how_to_get_one(llama, tmp_path, capsys):
    llama.save_pretrained(tmp_path, certificate=False)
    assert main(["verify", "--model", str(tmp_path)]) == 4
    assert "no o1_certificate.json; save the checkpoint again" in capsys.readouterr().err
    (tmp_path / "o1_certificate.json").write_text("{")
    with pytest.raises(InputError, match=r"o1_certificate.json"):
        read_certificate(tmp_path)


def test_saving_again_writes_a_new_certificate(saved):
    model, folder = saved
    with torch.no_grad():
        model.backbone.control_rows.sub_(0.5)
    model.save_pretrained(folder, certificate=False)
    assert not (folder / "o1_certificate.json").exists()
    model.save_pretrained(folder)
    assert verify(folder, in_o1).difference == ""


VECTORS = arrays(np.float32, (6, 4), elements=st.floats(-1, 1, width=32)).filter(
    lambda v: (np.linalg.norm(v, axis=1) > 0.1).all()
)


@given(VECTORS, st.floats(0.25, 4))
def test_equal_directions_pass_at_equal_length_only(vectors, scale):
    roles = ["query"] * 3 + ["document"] * 3
    verdict = compare("x", expected_of(vectors, roles), vectors * np.float32(scale))
    assert verdict.order == 1.0
    assert verdict.lowest_cosine >= 1 - 1e-5
    assume(abs(abs(scale - 1) - LENGTH_SLACK) > 1e-5)
    equal = abs(scale - 1) < LENGTH_SLACK
    assert (verdict.difference == "") == equal
    assert equal or "times as long as expected: nothing normalises it" in verdict.difference


@given(VECTORS, st.integers(0, 5))
def test_one_turned_vector_fails_and_is_named(vectors, which):
    turned = vectors.copy()
    turned[which] = np.roll(turned[which], 1) * [1, -1, 1, -1]
    verdict = compare("x", expected_of(vectors), turned)
    cosine = verdict.lowest_cosine
    assert bool(verdict.difference) == (cosine < 0.999)
    assert not verdict.difference or f"the vector of query 'text {which}'" in verdict.difference


def test_the_first_differing_token_is_named():
    expected = expected_of(np.eye(2), ids=(1, 90, 5, 91))
    same, other = (1, 90, 5, 91), (1, 90, 7, 91)
    vectors = np.eye(2, dtype=np.float32)
    assert compare("x", expected, vectors, [same, same]).difference == ""
    difference = compare("x", expected, vectors, [same, other]).difference
    assert difference == "token ids of query 'text 1' differ at position 2: 7, expected 5"
    difference = compare("x", expected, vectors, [same[:3], same]).difference
    assert difference == "query 'text 0' has 3 token ids, expected 4"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_fail(bad):
    vectors = np.eye(3, dtype=np.float32)
    vectors[1, 1] = bad
    verdict = compare("x", expected_of(np.eye(3)), vectors)
    assert verdict.difference == "the vector of query 'text 1' is not finite"


def test_a_vector_of_another_length_fails():
    verdict = compare("x", expected_of(np.eye(3)), np.ones((3, 2), np.float32))
    assert verdict.difference == "vectors are [3, 2], expected [3, 3]"


def test_documents_that_change_places_fail_though_each_vector_is_close():
    def at(*degrees):
        turns = np.radians(degrees)
        return np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)

    roles = ["query", "document", "document"]
    verdict = compare("x", expected_of(at(0, 45, 46.8), roles), at(0, 47, 45.3))
    assert verdict.lowest_cosine >= 0.999
    assert verdict.order == 0.0
    assert verdict.difference.startswith("documents change places")


@contextmanager
def served(model, *, owned_by="vllm", models=True, answer=None, scale=1.0):
    """A small server of /v1/embeddings: rows of token ids as they are, or texts if it is ours."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            entries = [{"id": "a-model", "owned_by": owned_by, "root": model.digest}]
            self.reply(200 if models else 404, {"object": "list", "data": entries})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if answer is not None:
                self.reply(*answer)
                return
            if owned_by == "o1-model":
                encode = {"query": model.encode_query, "document": model.encode_document}
                vectors = encode[body["input_type"]](body["input"])
            else:
                vectors = [last_state(model, ids) for ids in body["input"]]
            data = [{"index": n, "embedding": [scale * float(x) for x in v]} for n, v in enumerate(vectors)]
            self.reply(200, {"data": data[::-1], "model": body["model"]})

        def reply(self, status, body):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def last_state(model, ids):
    with torch.inference_mode():
        row = torch.tensor([ids])
        places = torch.arange(len(ids))[None]
        state = model.backbone.hidden(row, torch.ones_like(row), places)[0, -1]
        return torch.nn.functional.normalize(state, dim=-1).numpy()


@pytest.mark.parametrize("kind", [{}, {"models": False}, {"owned_by": "o1-model"}])
def test_a_server_of_the_checkpoint_passes(saved, kind, capsys):
    model, folder = saved
    with served(model, **kind) as url:
        assert main(["verify", "--model", str(folder), "--server", f"{url}/v1/"]) == 0
    assert ": pass (16 vectors" in capsys.readouterr().out


def test_a_server_that_does_not_normalise_fails(saved, capsys):
    model, folder = saved
    with served(model, scale=5.7) as url:
        assert main(["verify", "--model", str(folder), "--server", url]) == 4
    assert "is 5.7 times as long as expected: nothing normalises it" in capsys.readouterr().out


@pytest.mark.parametrize("owned_by", ["vllm", "o1-model"])
def test_a_server_of_another_model_fails(saved, plain_models, owned_by, capsys):
    other = Embedder.from_backbone(plain_models["llama"], query_length=12, thought_length=12)
    with served(other, owned_by=owned_by) as url:
        assert main(["verify", "--model", str(saved[1]), "--server", url]) == 4
    assert "fail" in (out := capsys.readouterr().out)
    assert "the vector of query ''" in out
    assert ("the server has checkpoint" in out) == (owned_by == "o1-model")


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ((500, {"error": "out of memory"}), "the server answered 500: .*out of memory"),
        ((200, b"<html>"), "Expecting value"),
        ((200, {"data": [{"index": 0}]}), "not a list of embeddings"),
        ((200, {"data": []}), "0 embeddings for 8 inputs"),
    ],
)
def test_a_server_that_answers_nonsense_is_an_error_with_its_words(saved, answer, complaint):
    model, folder = saved
    with served(model, answer=answer) as url, pytest.raises(InputError, match=complaint):
        verify(folder, in_server(url))


def test_a_server_that_is_not_there_is_an_error(saved):
    with pytest.raises(InputError, match=r"http://127.0.0.1:1/v1/models: .*refused"):
        verify(saved[1], in_server("http://127.0.0.1:1"))
    with pytest.raises(InputError, match="'file:///etc/passwd' is not an address"):
        in_server("file:///etc/passwd")
