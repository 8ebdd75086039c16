"""The calls into FAISS: make, read, write, search an engine. Its errors become InputErrors of one line."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from o1_records import InputError, MissingExtraError

_LATTICE_R2 = 1_000
_HEADERS = 65_536  # bytes; more than FAISS writes beside vectors, lists and graphs


def load_faiss() -> Any:
    """Return the faiss module. Raises MissingExtraError, or InputError where it is installed but broken."""
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise MissingExtraError("o1-index", "cpu", "A FAISS index") from error
    except (ImportError, RuntimeError) as error:  # faiss-gpu without its CUDA libraries
        raise InputError(f"faiss is installed but cannot be loaded: {error}") from error
    return faiss


@contextlib.contextmanager
def refusals(place: str) -> Iterator[None]:
    """Turn FAISS's RuntimeError (it raises no other) into an InputError that begins with `place`."""
    try:
        yield
    except RuntimeError as error:
        # "Error in <signature> at <file>:<line>: <what is wrong>"
        reason = re.sub(r"^Error in .*? at \S+:\d+: ", "", str(error), flags=re.DOTALL)
        raise InputError(f"{place}: FAISS refuses: {reason.strip()}") from error


def new_engine(dim: int, factory: str) -> Any:
    """Return an empty engine that ranks by inner product. Raises InputError for an unknown factory."""
    faiss = load_faiss()
    with refusals(f"factory {factory!r} with {dim} dimensions"):
        engine = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    _refuse_other_metric(engine, f"factory {factory!r}")
    return engine


def _refuse_other_metric(engine: Any, place: str) -> None:
    """Raise InputError for an engine that ignores the metric it was asked for.

    Some rank by distance whatever they are asked, and return the worst documents first.
    """
    if any(part.metric_type != load_faiss().METRIC_INNER_PRODUCT for part in _parts(engine)):
        raise InputError(
            f"{place}: FAISS ranks by distance here, not by inner product; choose another factory"
        )


def _parts(engine: Any) -> Iterator[Any]:
    """Yield an engine and those inside it that hold the vectors: behind transforms, before refinement."""
    faiss = load_faiss()
    engine = faiss.downcast_index(engine)
    yield engine
    if isinstance(engine, faiss.IndexPreTransform | faiss.IndexIDMap):
        yield from _parts(engine.index)
    if isinstance(engine, faiss.IndexRefine):
        yield from _parts(engine.base_index)
        yield from _parts(engine.refine_index)
    if isinstance(engine, faiss.IndexHNSW | faiss.IndexNSG):
        yield from _parts(engine.storage)


def search(engine: Any, vectors: Any, k: int, parameters: Any = None) -> tuple[Any, Any]:
    """Return scores and rows [queries, k] in host memory; row -1 where nothing more was found.

    `vectors` are contiguous float32: an array, or a torch tensor that the engine can reach.
    """
    faiss = load_faiss()
    scores = np.empty((len(vectors), k), dtype=np.float32)
    rows = np.empty((len(vectors), k), dtype=np.int64)
    with refusals("search"):
        engine.search_c(
            len(vectors), _address(vectors), k, faiss.swig_ptr(scores), faiss.swig_ptr(rows), parameters
        )
    return scores, rows


def add(engine: Any, vectors: Any, place: str) -> None:
    """Add vectors of the kind that `search` takes."""
    with refusals(place):
        engine.add_c(len(vectors), _address(vectors))


def _address(vectors: Any) -> Any:
    # tensors go in by their address: faiss.contrib.torch_utils would replace methods of FAISS for the whole
    # process, and its replacements take no search parameters
    faiss = load_faiss()
    if isinstance(vectors, np.ndarray):
        return faiss.swig_ptr(vectors)
    if vectors.is_cuda:
        # FAISS works on streams of its own; what torch has queued must be done
        importlib.import_module("torch").cuda.current_stream(vectors.device).synchronize()
    return faiss.cast_integer_to_float_ptr(vectors.data_ptr())


def set_parameters(engine: Any, parameters: str) -> None:
    """Set search parameters such as "nprobe=16". Raises InputError for one that the engine does not have."""
    if parameters:
        with refusals(f"parameters {parameters!r}"):
            faiss = load_faiss()
            # the GPU's class knows the CPU's parameters too, the CPU's class not the GPU's
            space = getattr(faiss, "GpuParameterSpace", faiss.ParameterSpace)()
            space.set_index_parameters(engine, parameters)


def parameter_values(engine: Any) -> dict[str, list[int]]:
    """Return the search parameters of an engine that trade recall for time, with values worth trying."""
    # faiss.ParameterSpace lists them too, but its Python vectors are freed before they can be read
    faiss = load_faiss()
    engine = faiss.downcast_index(engine)
    if isinstance(engine, faiss.IndexPreTransform):
        return parameter_values(engine.index)
    if isinstance(engine, faiss.IndexRefine):
        return {**parameter_values(engine.base_index), "k_factor_rf": [1, 2, 4, 8, 16]}
    if isinstance(engine, faiss.IndexIVF):
        return {"nprobe": [2**power for power in range(int(engine.nlist).bit_length())]}
    if isinstance(engine, faiss.IndexHNSW):
        return {"efSearch": [2**power for power in range(4, 11)]}
    return {}


def selecting(engine: Any, rows: NDArray[np.bool_]) -> Any:
    """Return the engine's own search parameters, restricted to the rows that a mask [ntotal] allows.

    None for an engine that cannot leave rows out.
    """
    faiss = load_faiss()
    return _selecting(faiss, engine, faiss.IDSelectorBitmap(np.packbits(rows, bitorder="little")))


def _selecting(faiss: Any, engine: Any, selector: Any) -> Any:
    # parameters of a search replace all of the engine's own, so each of them is repeated here
    engine = faiss.downcast_index(engine)
    if isinstance(engine, faiss.IndexPreTransform):
        inner = _selecting(faiss, engine.index, selector)
        return inner and faiss.SearchParametersPreTransform(index_params=inner)
    if isinstance(engine, faiss.IndexRefine):
        inner = _selecting(faiss, engine.base_index, selector)
        return inner and faiss.IndexRefineSearchParameters(k_factor=engine.k_factor, base_index_params=inner)
    if isinstance(engine, faiss.IndexIVFPQ):
        return faiss.IVFPQSearchParameters(sel=selector, nprobe=engine.nprobe, max_codes=engine.max_codes)
    if isinstance(engine, faiss.IndexIVFFlat | faiss.IndexIVFScalarQuantizer | faiss.IndexIVFPQFastScan):
        return faiss.SearchParametersIVF(sel=selector, nprobe=engine.nprobe, max_codes=engine.max_codes)
    if isinstance(engine, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(sel=selector, efSearch=engine.hnsw.efSearch)
    if isinstance(engine, faiss.IndexFlat | faiss.IndexScalarQuantizer):
        return faiss.SearchParameters(sel=selector)
    return None


def reserve(engine: Any, rows: int) -> None:
    """Make room for the rows to come, in engines that keep all codes in one array.

    Otherwise the array grows by doubling, and needs twice its size for a moment.
    """
    for part in _parts(engine):
        if isinstance(part, load_faiss().IndexFlatCodes):
            used = part.codes.size()
            part.codes.resize(used + rows * part.code_size)
            part.codes.resize(used)


def write_engine(engine: Any, file: IO[bytes]) -> None:
    """Write through Python's file: FAISS's own writer does not notice that the disk is full at the end."""
    faiss = load_faiss()
    faiss.write_index(engine, faiss.PyCallbackIOWriter(file.write))


def read_engine(path: Path, *, mmap: bool = False) -> Any:
    """Read a file that was checked before, under limits on what FAISS may allocate for it."""
    faiss = load_faiss()
    # the precomputed table of IVF-PQ serves L2 only, and may be larger than the file and so than its limit
    flags = faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE | (faiss.IO_FLAG_MMAP_IFC if mmap else 0)
    # no vector in a file is longer than the file, and no loop reads less than a byte a turn. FAISS sets no
    # limit (0) for two of the three; they are the whole process's, so they are put back
    size = path.stat().st_size + _HEADERS
    limits = {"loop_limit": size, "vector_byte_limit": size, "lattice_r2_limit": _LATTICE_R2}
    before = {name: getattr(faiss, f"get_deserialization_{name}")() for name in limits}
    try:
        for name, value in limits.items():
            getattr(faiss, f"set_deserialization_{name}")(value)
        with refusals(str(path)):
            engine = faiss.read_index(str(path), flags)
    finally:
        for name, value in before.items():
            getattr(faiss, f"set_deserialization_{name}")(value)
    _refuse_other_metric(engine, str(path))
    return engine
