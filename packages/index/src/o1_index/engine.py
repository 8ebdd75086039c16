"""The calls into FAISS: make, fill, search, change, read and write an engine. Its errors become InputErrors.

An engine is a FAISS index in host memory. Scores are FAISS's: inner products, or squared distances.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from o1_index.documents import Rows
from o1_index.threads import guard_forks, refuse_broken_fork
from o1_index.vectors import Matrix
from o1_records import InputError, MissingExtraError

Scores = NDArray[np.float32]

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
    guard_forks()
    refuse_broken_fork()
    return faiss


@contextlib.contextmanager
def refusals(place: str) -> Iterator[None]:
    """Turn FAISS's RuntimeError (it raises no other) into an InputError that begins with `place`."""
    try:
        yield
    except RuntimeError as error:
        raise _refusal(place, error) from error


def _refusal(place: str, error: RuntimeError) -> InputError:
    # "Error in <signature> at <file>:<line>: <what is wrong>"
    reason = re.sub(r"^Error in .*? at \S+:\d+: ", "", str(error), flags=re.DOTALL)
    return InputError(f"{place}: FAISS refuses: {reason.strip()}")


# --- kinds --------------------------------------------------------------------------------------------

_CAGRA = re.compile(r"CAGRA(\d*)")  # not a string of FAISS's index_factory


def is_cagra(factory: str) -> bool:
    """Return whether a factory is a graph that is built on a GPU (CAGRA64: 64 links a document)."""
    return _CAGRA.fullmatch(factory) is not None


def new_engine(dim: int, factory: str, *, distance: bool = False) -> Any:
    """Return an empty engine that ranks by inner product, or by squared distance.

    That of "CAGRA..." is a graph in host memory, for `o1_index.gpu.cagra` to fill.

    Raises InputError for an unknown factory, and for one that ranks otherwise than it is asked to.
    """
    faiss = load_faiss()
    place = f"factory {factory!r}"
    if match := _CAGRA.fullmatch(factory):
        links = int(match[1] or 64)
        if links < 4 or links % 2:
            raise InputError(f"{place}: the number of links must be even and at least 4, such as CAGRA64")
        metric = faiss.METRIC_L2 if distance else faiss.METRIC_INNER_PRODUCT
        graph = faiss.IndexHNSWCagra(dim, links // 2, metric)
        graph.base_level_only = False  # so that it is walked, and added to, as any HNSW
        return graph
    with refusals(f"{place} with {dim} dimensions"):
        engine = faiss.index_factory(
            dim, factory, faiss.METRIC_L2 if distance else faiss.METRIC_INNER_PRODUCT
        )
    refuse_other_metric(engine, place, distance=distance)
    if isinstance(faiss.downcast_index(engine), faiss.IndexIDMap):
        raise InputError(f"{place}: this package keeps the ids itself; leave IDMap out")
    return engine


def refuse_other_metric(engine: Any, place: str, *, distance: bool) -> None:
    """Raise InputError for an engine that ignores the metric it was asked for.

    Some rank by distance whatever they are asked, and return the worst documents first.
    """
    faiss = load_faiss()
    metric = faiss.METRIC_L2 if distance else faiss.METRIC_INNER_PRODUCT
    if any(part.metric_type != metric for part in _parts(engine)):
        raise InputError(
            f"{place}: FAISS ranks by distance here, not by inner product; choose another factory, or the "
            "metric l2"
        )


def by_distance(engine: Any) -> bool:
    """Return whether an engine ranks by squared distance."""
    return bool(engine.metric_type == load_faiss().METRIC_L2)


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


def is_exact(engine: Any) -> bool:
    """Return whether a search visits every document and compares its very numbers."""
    faiss = load_faiss()
    return isinstance(_own_class(faiss, engine), faiss.IndexFlat)


def _own_class(faiss: Any, engine: Any) -> Any:
    """Return an engine as an object of its own class; asking FAISS for it takes as long as a small search."""
    return engine if type(engine) is not faiss.Index else faiss.downcast_index(engine)


def graph_of(engine: Any) -> Any | None:
    """Return the graph (HNSW, NSG) that an engine walks; None where there is none."""
    faiss = load_faiss()
    for part in _parts(engine):
        if isinstance(part, faiss.IndexHNSW | faiss.IndexNSG):
            return part
    return None


def lists_of(engine: Any) -> int:
    """Return the number of inverted lists; 0 where there are none."""
    faiss = load_faiss()
    return max((int(part.nlist) for part in _parts(engine) if isinstance(part, faiss.IndexIVF)), default=0)


def takes_all_at_once(engine: Any) -> bool:
    """Return whether documents can be added only once, all together (NSG)."""
    faiss = load_faiss()
    return any(isinstance(part, faiss.IndexNSG) for part in _parts(engine))


def unreachable(engine: Any) -> Rows:
    """Return the rows of an HNSW graph that no search can reach, from its entry along its links.

    Outliers are among them: everybody's links go to nearer ones. None for other engines.
    """
    faiss = load_faiss()
    graph = graph_of(engine)
    if not isinstance(graph, faiss.IndexHNSW) or not graph.ntotal:
        return np.zeros(0, dtype=np.int64)
    hnsw = graph.hnsw
    links, begins = faiss.vector_to_array(hnsw.neighbors), faiss.vector_to_array(hnsw.offsets)[:-1]
    levels, widths = faiss.vector_to_array(hnsw.levels), faiss.vector_to_array(hnsw.cum_nneighbor_per_level)
    seen = np.zeros(graph.ntotal, dtype=np.bool_)
    seen[hnsw.entry_point] = True
    for level in range(hnsw.max_level, -1, -1):
        places = np.arange(widths[level], widths[level + 1])  # of a row's links on this level
        front = np.flatnonzero(seen & (levels > level))
        while len(front):
            found = []
            for start in range(0, len(front), 65_536):
                near = links[begins[front[start : start + 65_536], None].astype(np.int64) + places]
                near = np.unique(near[near >= 0])
                near = near[~seen[near]]
                seen[near] = True
                found.append(near)
            front = np.concatenate(found)
    return np.flatnonzero(~seen)


# --- searching ----------------------------------------------------------------------------------------


def search(engine: Any, vectors: Any, k: int, parameters: Any = None) -> tuple[Scores, Rows]:
    """Return scores and rows [queries, k] in host memory; row -1 where nothing more was found.

    `vectors` are contiguous float32: an array, or a torch tensor that the engine can reach.
    """
    faiss = load_faiss()
    scores = np.empty((len(vectors), k), dtype=np.float32)
    rows = np.empty((len(vectors), k), dtype=np.int64)
    if isinstance(_own_class(faiss, engine), faiss.IndexHNSW):
        # a graph stops when it has looked at as many candidates as efSearch says, be k larger or not
        parameters = parameters or faiss.SearchParametersHNSW(efSearch=engine.hnsw.efSearch)
        parameters.efSearch = max(parameters.efSearch, k)
    try:
        engine.search_c(
            len(vectors), _address(vectors), k, faiss.swig_ptr(scores), faiss.swig_ptr(rows), parameters
        )
    except RuntimeError as error:
        raise _refusal("search", error) from error
    return scores, rows


def nearest(queries: Matrix, documents: Matrix, k: int, *, distance: bool) -> tuple[Scores, Rows]:
    """Return what an exact search of a plain matrix [documents, dim] finds, as `search` does."""
    faiss = load_faiss()
    scores = np.empty((len(queries), k), dtype=np.float32)
    rows = np.empty((len(queries), k), dtype=np.int64)
    knn = faiss.knn_L2sqr if distance else faiss.knn_inner_product
    arrays = [faiss.swig_ptr(array) for array in (queries, documents)]
    results = [faiss.swig_ptr(array) for array in (scores, rows)]
    if len(documents):
        knn(*arrays, queries.shape[1], len(queries), len(documents), k, *results)
    else:
        rows[:], scores[:] = -1, np.inf if distance else -np.inf
    return scores, rows


def inner_products(engine: Any, queries: Matrix, rows: Rows) -> Scores | None:
    """Return the exact inner products of queries with rows [queries, any] of an engine that holds vectors.

    None for an engine that holds codes. The score of row -1 means nothing.
    """
    faiss = load_faiss()
    storage = list(_parts(engine))[-1]
    if not isinstance(storage, faiss.IndexFlat):
        return None
    rows = np.ascontiguousarray(rows)
    scores = np.empty(rows.shape, dtype=np.float32)
    faiss.fvec_inner_products_by_idx(
        faiss.swig_ptr(scores), faiss.swig_ptr(queries), storage.get_xb(), faiss.swig_ptr(rows),
        queries.shape[1], len(queries), rows.shape[1],
    )  # fmt: skip
    return scores


class Selection(NamedTuple):
    """Where to search for some rows only: an engine, its search parameters, and whether it compares all."""

    engine: Any
    parameters: Any
    whole: bool = False


SCANNED = 10_000
"""Up to so many rows that a filter allows, all of them are compared: approximate search would miss some."""

_VISITED = 32  # a graph compares about so many documents for each that it keeps as a candidate


def selecting(engine: Any, allowed: NDArray[np.bool_]) -> Selection | None:
    """Return how to search the rows that a mask [ntotal] allows; None if the engine cannot leave rows out.

    The fewer rows are allowed, the more of the engine is visited for each hit: lists and candidates grow by
    the share that is left out, up to all of them. A graph is left for an exact scan where that is cheaper, as
    in Lucene.
    """
    faiss = load_faiss()
    engine = faiss.downcast_index(engine)
    count = int(np.count_nonzero(allowed))
    selector = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
    graph = engine if isinstance(engine, faiss.IndexHNSW | faiss.IndexNSG) else None
    if graph is not None and isinstance(faiss.downcast_index(graph.storage), faiss.IndexFlatCodes):
        wider = _candidates(graph) * len(allowed) / max(count, 1)
        if isinstance(graph, faiss.IndexNSG) or count <= max(SCANNED, _VISITED * wider):
            return Selection(graph.storage, faiss.SearchParameters(sel=selector), whole=True)
    parameters = _selecting(faiss, engine, selector, len(allowed), count)
    return None if parameters is None else Selection(engine, parameters)


def _selecting(faiss: Any, engine: Any, selector: Any, rows: int, count: int) -> Any:
    # parameters of a search replace all of the engine's own, so each of them is repeated here
    engine = faiss.downcast_index(engine)
    wider = rows / max(count, 1)
    if isinstance(engine, faiss.IndexPreTransform):
        inner = _selecting(faiss, engine.index, selector, rows, count)
        return inner and faiss.SearchParametersPreTransform(index_params=inner)
    if isinstance(engine, faiss.IndexRefine):
        inner = _selecting(faiss, engine.base_index, selector, rows, count)
        return inner and faiss.IndexRefineSearchParameters(k_factor=engine.k_factor, base_index_params=inner)
    if isinstance(engine, faiss.IndexIVF):
        probes = engine.nlist if count <= SCANNED else min(engine.nlist, int(np.ceil(engine.nprobe * wider)))
        options = {"sel": selector, "nprobe": probes, "max_codes": engine.max_codes}
        if isinstance(engine, faiss.IndexIVFPQ):
            return faiss.IVFPQSearchParameters(**options)
        if isinstance(engine, faiss.IndexIVFRaBitQ):
            return faiss.IVFRaBitQSearchParameters(**options, qb=engine.qb)
        if isinstance(engine, faiss.IndexIVFFlat | faiss.IndexIVFScalarQuantizer | faiss.IndexIVFPQFastScan):
            return faiss.SearchParametersIVF(**options)
        return None
    if isinstance(engine, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(sel=selector, efSearch=int(np.ceil(_candidates(engine) * wider)))
    if isinstance(engine, faiss.IndexRaBitQ):
        return faiss.RaBitQSearchParameters(sel=selector, qb=engine.qb)
    if isinstance(engine, faiss.IndexFlat | faiss.IndexScalarQuantizer):
        return faiss.SearchParameters(sel=selector)
    return None


def _candidates(graph: Any) -> int:
    return int(graph.hnsw.efSearch if hasattr(graph, "hnsw") else graph.nsg.search_L)


def scan(engine: Any, queries: Matrix, rows: Rows, k: int) -> tuple[Scores, Rows] | None:
    """Return the k best of some rows, all of which are compared; None for an engine that cannot give them.

    Of codes, what they stand for is compared.
    """
    faiss = load_faiss()
    engine = faiss.downcast_index(engine)
    if isinstance(engine, faiss.IndexPreTransform):
        return scan(engine.index, _transformed(engine, queries), rows, k)
    if isinstance(engine, faiss.IndexRefine):
        return scan(engine.refine_index, queries, rows, k)
    if isinstance(engine, faiss.IndexHNSW | faiss.IndexNSG):
        return scan(engine.storage, queries, rows, k)
    if not isinstance(engine, faiss.IndexFlatCodes | faiss.IndexFastScan):
        return None
    try:
        vectors = vectors_at(engine, rows)
    except InputError:  # some codes cannot be turned into vectors
        return None
    scores, found = nearest(queries, vectors, k, distance=by_distance(engine))
    return scores, np.where(found >= 0, rows[found], -1) if len(rows) else found


def _transformed(engine: Any, queries: Matrix) -> Matrix:
    faiss = load_faiss()
    for place in range(engine.chain.size()):
        queries = faiss.downcast_VectorTransform(engine.chain.at(place)).apply(queries)
    return queries


def within(engine: Any, queries: Matrix, limit: float, place: str) -> tuple[NDArray[Any], Scores, Rows]:
    """Return all rows that score above a limit (of squared distances: below), as FAISS's range_search does.

    Every document is visited, also by approximate engines.

    Raises InputError for an engine whose ranges are incomplete or wrong.
    """
    faiss = load_faiss()
    engine = faiss.downcast_index(engine)
    parameters = None
    if isinstance(engine, faiss.IndexPreTransform):
        return within(engine.index, _transformed(engine, queries), limit, place)
    if isinstance(engine, faiss.IndexRefine):
        return within(engine.refine_index, queries, limit, place)
    if isinstance(engine, faiss.IndexHNSW | faiss.IndexNSG):
        return within(engine.storage, queries, limit, place)
    if isinstance(engine, faiss.IndexIVFFlat | faiss.IndexIVFScalarQuantizer | faiss.IndexIVFPQ):
        kind = (
            faiss.IVFPQSearchParameters if isinstance(engine, faiss.IndexIVFPQ) else faiss.SearchParametersIVF
        )
        parameters = kind(nprobe=engine.nlist)
    elif not isinstance(engine, faiss.IndexFlat | faiss.IndexScalarQuantizer | faiss.IndexPQ):
        raise InputError(
            f"{place}: FAISS finds only a part of the documents or compares estimates; search for the k best "
            "or use a factory of whole vectors or of SQ or PQ codes"
        )
    # torch_utils, where a user has imported it, keeps FAISS's own method under the other name
    range_search = getattr(engine, "range_search_numpy", engine.range_search)
    with refusals(place):
        limits, scores, rows = range_search(queries, limit, params=parameters)
    return limits, scores, rows


# --- search parameters --------------------------------------------------------------------------------


def set_parameters(engine: Any, parameters: str) -> None:
    """Set search parameters such as "nprobe=16".

    Raises InputError for one that the engine does not have, and for numbers of lists or candidates below 1:
    nothing would be found.
    """
    if not parameters:
        return
    for name, _, value in (part.strip().partition("=") for part in parameters.split(",")):
        counts = name.removeprefix("quantizer_") in ("nprobe", "efSearch", "k_factor", "k_factor_rf")
        if counts and re.fullmatch(r"-?[0-9.]+", value) and float(value) < 1:
            raise InputError(f"parameters {parameters!r}: {name} must be 1 or more, got {value}")
    with refusals(f"parameters {parameters!r}"):
        faiss = load_faiss()
        # the GPU's class knows the CPU's parameters too, the CPU's class not the GPU's
        space = getattr(faiss, "GpuParameterSpace", faiss.ParameterSpace)()
        space.set_index_parameters(engine, parameters)


def parameter_values(engine: Any) -> dict[str, list[int]]:
    """Return the search parameters of an engine that trade recall for time, with values worth trying.

    Values ascend; the last parameter is the one that is tried most finely.
    """
    # faiss.ParameterSpace lists them too, but its Python vectors are freed before they can be read
    faiss = load_faiss()
    engine = faiss.downcast_index(engine)
    if isinstance(engine, faiss.IndexPreTransform):
        return parameter_values(engine.index)
    if isinstance(engine, faiss.IndexRefine):
        return {"k_factor_rf": [1, 2, 4, 8, 16], **parameter_values(engine.base_index)}
    if isinstance(engine, faiss.IndexIVF):
        return {"nprobe": [2**power for power in range(int(engine.nlist).bit_length())]}
    if isinstance(engine, faiss.IndexHNSW):
        return {"efSearch": [2**power for power in range(4, 13)]}
    return {}


# --- changing -----------------------------------------------------------------------------------------


def train(engine: Any, sample: Matrix, factory: str) -> None:
    """Train an engine on a sample of the documents. Raises InputError for a sample that is too small."""
    with refusals(f"training factory {factory!r} with {len(sample)} vectors"):
        engine.train_c(len(sample), load_faiss().swig_ptr(sample))


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


def reserve(engine: Any, rows: int) -> None:
    """Make room for the rows to come, in engines that keep all codes in one array.

    Otherwise the array grows by doubling, and needs twice its size for a moment.
    """
    for part in _parts(engine):
        if isinstance(part, load_faiss().IndexFlatCodes):
            used = part.codes.size()
            part.codes.resize(used + rows * part.code_size)
            part.codes.resize(used)


_WINDOW = 2**26  # numbers that are reconstructed at a time, 256 MiB


def vectors_at(engine: Any, rows: Rows) -> Matrix:
    """Return the vectors [rows, dim] that an engine holds; of codes, what they stand for.

    Raises InputError for an engine that cannot give them back.
    """
    faiss = load_faiss()
    engine = faiss.downcast_index(engine)
    rows = np.ascontiguousarray(rows, dtype=np.int64)
    found = np.empty((len(rows), engine.d), dtype=np.float32)
    # FAISS's own functions (_c): torch_utils, where a user has imported it, replaces the others
    with refusals("vectors cannot be read back"):
        if not any(isinstance(part, faiss.IndexIVF) for part in _parts(engine)):
            engine.reconstruct_batch_c(len(rows), faiss.swig_ptr(rows), faiss.swig_ptr(found))
            return found
        # inverted lists have no table of rows: FAISS walks through all of them for each window of rows
        order = np.argsort(rows, kind="stable")
        width = max(1, _WINDOW // max(engine.d, 1))
        windows = rows[order] // width
        for places in np.split(order, np.flatnonzero(np.diff(windows)) + 1) if len(rows) else ():
            groups = [places] if len(places) >= 16 else places[:, None]
            for group in groups:
                start, end = int(rows[group].min()), int(rows[group].max()) + 1
                window = np.empty((end - start, engine.d), dtype=np.float32)
                engine.reconstruct_n_c(start, end - start, faiss.swig_ptr(window))
                found[group] = window[rows[group] - start]
    return found


def emptied(engine: Any) -> Any:
    """Return a copy of an engine without its rows; what it was trained to is kept."""
    faiss = load_faiss()
    with refusals("copying the trained engine"):
        copy = faiss.clone_index(engine)
        copy.reset()
    return copy


def absorb(engine: Any, other: Any, place: str) -> None:
    """Move the rows of another engine behind those of this one, which was trained alike.

    Raises InputError for engines that were trained otherwise, and for those that FAISS cannot merge.
    """
    faiss = load_faiss()
    trained = [faiss.serialize_index(emptied(each)).tobytes() for each in (engine, other)]
    if trained[0] != trained[1]:
        raise InputError(
            f"{place}: was trained on other vectors, or with another factory; build shards like one index "
            "(`o1-index shards`), or search them together without merging"
        )
    with refusals(f"{place}: cannot be merged, build it from all vectors, or search the shards together"):
        engine.check_compatible_for_merge(other)
        # lists keep the numbers of their rows, which go on; elsewhere rows are numbered as they come
        engine.merge_from(other, engine.ntotal if lists_of(engine) else 0)


def compact(engine: Any, keep: NDArray[np.bool_]) -> None:
    """Take the rows that a mask [ntotal] does not keep out of an engine; the others move up, in their order.

    A graph is built again. Raises InputError for an engine that cannot do it; then nothing has changed.
    """
    faiss = load_faiss()
    engine = faiss.downcast_index(engine)
    if isinstance(engine, faiss.IndexPreTransform):
        compact(engine.index, keep)
        engine.ntotal = engine.index.ntotal
    elif isinstance(engine, faiss.IndexRefine):
        compact(engine.base_index, keep)
        compact(engine.refine_index, keep)
        engine.ntotal = engine.base_index.ntotal
    elif isinstance(engine, faiss.IndexHNSW | faiss.IndexNSG):
        vectors = vectors_at(engine, np.flatnonzero(keep))
        engine.reset()
        if len(vectors):
            add(engine, vectors, "compact")
    elif isinstance(engine, faiss.IndexIVF):
        with refusals("compact"):
            engine.remove_ids(faiss.IDSelectorBitmap(np.packbits(~keep, bitorder="little")))
        _renumber(engine, np.cumsum(keep) - 1)
        engine.ntotal = int(np.count_nonzero(keep))
    else:
        with refusals("compact"):
            engine.remove_ids(faiss.IDSelectorBitmap(np.packbits(~keep, bitorder="little")))


def _renumber(engine: Any, new: Rows) -> None:
    """Give the rows in inverted lists other numbers."""
    faiss = load_faiss()
    lists = engine.invlists
    for number in range(int(engine.nlist)):
        size = lists.list_size(number)
        if size:
            ids = faiss.rev_swig_ptr(lists.get_ids(number), size)
            ids[:] = new[ids]


# --- on disk ------------------------------------------------------------------------------------------


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
    for part in _parts(engine):
        if isinstance(part, faiss.IndexIVFPQFastScan):
            # FAISS (1.15.1) does not set it when it reads one, and crashes when vectors are read back
            part.fine_quantizer = part.pq
    return engine


def adopted(path: Path) -> tuple[Any, NDArray[np.int64], str, bool]:
    """Read a FAISS file that somebody else wrote.

    Returns the engine with rows 0, 1, ..., the number that stood for each row, the factory as far as its name
    can be told, and whether it ranks by distance.

    Raises InputError for a file that FAISS cannot read, and for a metric that this package does not have.
    """
    faiss = load_faiss()
    engine = owner = read_engine(path)
    numbers = np.arange(engine.ntotal, dtype=np.int64)
    while isinstance(engine, faiss.IndexIDMap):
        numbers = faiss.vector_to_array(engine.id_map)[numbers]
        engine = faiss.downcast_index(engine.index)
        engine.referenced_objects = [owner]  # the map owns what is in it, and must live as long
    for part in _parts(engine):
        if isinstance(part, faiss.IndexIVF) and not isinstance(engine, faiss.IndexRefine):
            numbers = numbers if engine is not owner else _own_numbers(part, str(path))
    distance = by_distance(engine)
    refuse_other_metric(engine, str(path), distance=distance)
    try:
        tools = importlib.import_module("faiss.contrib.factory_tools")
        factory = tools.reverse_index_factory(engine)
    except (AssertionError, NotImplementedError, AttributeError):
        factory = type(engine).__name__
    return engine, numbers, factory, distance


def _own_numbers(ivf: Any, place: str) -> NDArray[np.int64]:
    """Give the documents in inverted lists the rows 0, 1, ...; return the number that each had."""
    faiss = load_faiss()
    sizes = [ivf.invlists.list_size(number) for number in range(int(ivf.nlist))]
    ids = [
        faiss.rev_swig_ptr(ivf.invlists.get_ids(number), size) for number, size in enumerate(sizes) if size
    ]
    numbers = np.sort(np.concatenate(ids)) if ids else np.zeros(0, dtype=np.int64)
    if len(numbers) and (numbers[0] < 0 or (numbers[1:] == numbers[:-1]).any()):
        raise InputError(
            f"{place}: ids in its inverted lists are negative or repeated; they name no documents"
        )
    for part in ids:
        part[:] = np.searchsorted(numbers, part)
    return numbers
