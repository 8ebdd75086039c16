"""Dense indexes on FAISS that never return a wrong answer quietly.

`build` an index from vectors and ids, `search` and `save` it; `open_index` checks every byte before FAISS
sees it. `exact_search` is the same search in numpy. Importing this package does not import FAISS.
"""

from o1_index.build import build, build_from
from o1_index.hits import Hits
from o1_index.index import Index, exact_search, open_index, place
from o1_index.vector_store import VectorStore

__version__ = "0.1.0"

__all__ = ["Hits", "Index", "VectorStore", "build", "build_from", "exact_search", "open_index", "place"]
