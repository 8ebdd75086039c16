"""Devices: how they are named (everywhere), and the same hits on a GPU (where there is one)."""

import logging
import subprocess
import sys

import numpy as np
import pytest

from o1_index import build, exact_search, open_index, place
from o1_index.documents import Documents
from o1_index.engine import load_faiss, new_engine
from o1_index.gpu import count_gpus, gpus_of
from o1_index.index import Index
from o1_index.store.manifest import Settings
from o1_records import InputError

RANDOM = np.random.default_rng(0)
# whole numbers: scores are exact on every device, so hits must be equal
VECTORS = RANDOM.integers(-4, 5, size=(5000, 32)).astype(np.float32) + 0.5
IDS = [f"d{i}" for i in range(5000)]
QUERIES = RANDOM.integers(-4, 5, size=(70, 32)).astype(np.float32) + 0.5
NAMES = [f"q{i}" for i in range(70)]


@pytest.mark.parametrize(
    ("device", "gpus"),
    [("cpu", []), ("cuda", [0]), ("cuda:1", [1]), ("cuda:0,1", [0, 1]), ("auto", [0])],
)
def test_devices_are_named_as_in_torch(device, gpus):
    assert gpus_of(device, 2) == gpus


def test_auto_falls_back_to_the_cpu_with_one_line(caplog):
    with caplog.at_level(logging.WARNING, "o1_index"):
        assert gpus_of("auto", 0) == []
    assert [record.getMessage() for record in caplog.records] == ["FAISS sees no GPU; searching on the CPU"]


@pytest.mark.parametrize("device", ["cuda:7", "cuda:0,9"])
def test_a_gpu_that_is_not_there_is_refused(device):
    with pytest.raises(InputError, match="FAISS sees 1 GPUs; it needs an NVIDIA GPU"):
        gpus_of(device, 1)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "CUDA", "cpu:0", "cuda:0,"])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(InputError, match=r"unknown device .*; give cpu, auto, cuda, cuda:0 or cuda:0,1"):
        gpus_of(device, 2)


def test_without_a_gpu_cuda_is_refused_and_auto_works():
    if count_gpus():
        pytest.skip("this machine has a GPU")
    index = build(VECTORS[:5], IDS[:5])
    with pytest.raises(InputError, match="device 'cuda': FAISS sees 0 GPUs"):
        place(index, "cuda")
    found = list(place(index, "auto").search(QUERIES[:1], ["q"], k=2))
    assert found == list(index.search(QUERIES[:1], ["q"], k=2))


@pytest.mark.parametrize("device", ["cpu", "auto", "cuda"])
def test_cagra_is_refused_where_no_gpu_can_build_it(device):
    if count_gpus():
        pytest.skip("this machine has a GPU")
    told = "FAISS sees 0 GPUs" if device == "cuda" else "is built on an NVIDIA GPU: .*or choose HNSW32"
    with pytest.raises(InputError, match=told):
        build(VECTORS, IDS, factory="CAGRA64", device=device)


def test_cagra_has_an_even_number_of_links():
    with pytest.raises(InputError, match="links must be even and at least 4, such as CAGRA64"):
        new_engine(8, "CAGRA7")


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_a_cagra_graph_is_searched_saved_and_changed_on_the_cpu(tmp_path, metric, caplog):
    """Its links are FAISS's here, made on the CPU; on a GPU cuVS makes them."""
    engine = new_engine(32, "CAGRA32", distance=metric == "l2")
    engine.add(VECTORS[:4000])
    index = Index(engine, Documents.of([IDS[:4000]]), Settings(factory="CAGRA32", metric=metric))
    index.set_parameters("efSearch=512")
    index.save(tmp_path / "index")
    opened = open_index(tmp_path / "index")
    assert list(opened.search(QUERIES, NAMES, k=10)) == list(index.search(QUERIES, NAMES, k=10))
    opened.add(VECTORS[4000:], IDS[4000:])
    opened.remove(IDS[:7])
    opened.compact()
    found = {(hit.query_id, hit.doc_id) for hit in opened.search(QUERIES, NAMES, k=10)}
    exact = exact_search((IDS[7:], VECTORS[7:]), (NAMES, QUERIES), k=10, metric=metric)
    assert len(found & {(hit.query_id, hit.doc_id) for hit in exact}) > 0.9 * len(found)
    with caplog.at_level(logging.WARNING, "o1_index"):
        assert place(opened, "auto").accelerator is None


@pytest.mark.gpu
@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
def test_a_gpu_builds_a_cagra_graph_that_the_cpu_searches(tmp_path, metric):
    if "CUVS" not in load_faiss().get_compile_options():  # faiss-gpu has none, faiss-gpu-cuvs has it
        with pytest.raises(InputError, match=r"pip install 'o1-index\[cagra\]'"):
            build(VECTORS, IDS, factory="CAGRA32", device="cuda", metric=metric)
        return
    index = build(VECTORS, IDS, factory="CAGRA32", device="cuda", metric=metric)
    assert index.accelerator is None and len(index) == len(IDS)
    index.set_parameters("efSearch=512")
    found = {(hit.query_id, hit.doc_id) for hit in index.search(QUERIES, NAMES, k=10)}
    exact = exact_search((IDS, VECTORS), (NAMES, QUERIES), k=10, metric=metric)
    assert len(found & {(hit.query_id, hit.doc_id) for hit in exact}) > 0.9 * len(found)
    index.save(tmp_path / "index")
    with pytest.raises(InputError, match="CAGRA is built on a GPU and searched on the CPU"):
        open_index(tmp_path / "index", device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("k", [1, 100, 2047, 3000])
def test_a_gpu_returns_the_hits_of_the_oracle(k):
    hits = build(VECTORS, IDS, device="cuda").search(QUERIES, NAMES, k=k)
    assert list(hits) == list(exact_search((IDS, VECTORS), (NAMES, QUERIES), k=k))


@pytest.mark.gpu
def test_more_ties_than_a_gpu_can_fetch_are_settled_by_the_cpu():
    index = build(np.ones((5000, 4)), IDS, device="cuda")
    hits = list(index.search(np.ones((1, 4)), ["q"], k=10))
    assert [hit.doc_id for hit in hits] == sorted(IDS, reverse=True)[:10]


@pytest.mark.gpu
@pytest.mark.parametrize("shard", [False, True])
def test_several_gpus_return_the_hits_of_the_oracle(shard):
    count = count_gpus()
    # one GPU may be named twice: two copies, or two shards, on the same card
    device = "cuda:0,1" if count > 1 else "cuda:0,0"
    index = place(build(VECTORS, IDS), device, shard=shard)
    expected = exact_search((IDS, VECTORS), (NAMES, QUERIES), k=50)
    assert list(index.search(QUERIES, NAMES, k=50)) == list(expected)


@pytest.mark.gpu
@pytest.mark.parametrize("factory", ["Flat", "IVF32,Flat"])
def test_an_index_built_on_a_gpu_is_saved_and_opened_on_the_cpu(tmp_path, factory):
    index = build(VECTORS, IDS, factory=factory, device="cuda")
    index.save(tmp_path / "index")
    for device in ("cpu", "cuda"):
        opened = open_index(tmp_path / "index", device=device)
        assert list(opened.search(QUERIES, NAMES, k=20)) == list(index.search(QUERIES, NAMES, k=20))
        assert (opened.accelerator is not None) == (device == "cuda")


@pytest.mark.gpu
def test_a_factory_without_a_gpu_version_is_refused():
    with pytest.raises(InputError, match="device 'cuda': FAISS refuses"):
        build(VECTORS, IDS, factory="HNSW16", device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tensors_on_the_gpu_are_searched_for_without_a_way_through_the_host(dtype, monkeypatch):
    torch = pytest.importorskip("torch")
    index = place(build(VECTORS, IDS), "cuda")
    for module in ("index", "gpu", "vectors"):
        monkeypatch.setattr(f"o1_index.{module}.as_numpy", None)
    tensor = torch.tensor(VECTORS[:5], device="cuda").to(getattr(torch, dtype))
    names = [f"q{i}" for i in range(5)]
    hits = index.search(tensor, names, k=3)
    monkeypatch.undo()
    expected = index.search(tensor.float().cpu().numpy(), names, k=3)
    assert [hit.doc_id for hit in hits] == [hit.doc_id for hit in expected]
    with pytest.raises(InputError, match="not finite"):
        index.search(tensor * float("nan"), names, k=3)


@pytest.mark.gpu
def test_tensors_on_the_gpu_are_indexed_without_a_way_through_the_host(monkeypatch):
    torch = pytest.importorskip("torch")
    expected = build(VECTORS, IDS).search(QUERIES, NAMES, k=9)
    for module in ("index", "gpu", "vectors"):
        monkeypatch.setattr(f"o1_index.{module}.as_numpy", None)
    index = build(torch.tensor(VECTORS, device="cuda"), IDS, device="cuda")
    assert list(index.search(torch.tensor(QUERIES, device="cuda"), NAMES, k=9)) == list(expected)


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:0,0"])
@pytest.mark.parametrize("shard", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_a_placed_index_is_changed_and_tuned_like_any_other(device, shard, half):
    index = build(VECTORS[:4000], IDS[:4000], factory="IVF32,Flat")
    placed = place(index, device, shard=shard, half=half)
    placed.add(VECTORS[4000:], IDS[4000:])
    placed.remove(IDS[:7])
    placed.set_parameters("nprobe=32")
    expected = exact_search((IDS[7:], VECTORS[7:]), (NAMES, QUERIES), k=20)
    assert list(placed.search(QUERIES, NAMES, k=20)) == list(expected)


@pytest.mark.gpu
def test_a_transform_before_the_gpu_takes_tensors_too():
    torch = pytest.importorskip("torch")
    index = place(build(VECTORS, IDS, factory="PCA16,Flat"), "cuda")
    hits = index.search(torch.tensor(QUERIES, device="cuda"), NAMES, k=9)
    assert [hit.doc_id for hit in hits] == [hit.doc_id for hit in index.search(QUERIES, NAMES, k=9)]


@pytest.mark.gpu
def test_auto_keeps_a_factory_without_a_gpu_version_on_the_cpu(caplog):
    index = place(build(VECTORS, IDS, factory="HNSW16"), "auto")
    assert index.accelerator is None
    assert "searching on the CPU" in caplog.text


@pytest.mark.gpu
@pytest.mark.parametrize("order", ["import torch, faiss", "import faiss, torch"])
def test_faiss_and_torch_share_a_process_in_both_import_orders(order):
    """faiss-gpu brings CUDA 12, torch CUDA 13."""
    code = f"""
{order}
import numpy as np
from o1_index import build
hits = build(np.eye(4), list("abcd"), device="cuda").search(np.eye(4)[:1], ["q"], k=1)
assert [hit.doc_id for hit in hits] == ["a"]
assert (torch.eye(4, device="cuda") @ torch.eye(4, device="cuda")).sum().item() == 4
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
