"""Elect the best thought of each query by a committee of retrievers.

`nominate` gathers what stands for election, `cast` lets a member measure it, a rule such as `majority`
counts, `elect` does all three. Importing this loads no model library: members load theirs when they are
made.
"""

from o1_vote.ballot import cast, nominate
from o1_vote.bm25 import BM25Member
from o1_vote.curate import elect
from o1_vote.dense import SentenceTransformerMember
from o1_vote.retriever import Retriever
from o1_vote.static import StaticMember
from o1_vote.tally import majority

__version__ = "0.1.0"

__all__ = [
    "BM25Member",
    "Retriever",
    "SentenceTransformerMember",
    "StaticMember",
    "cast",
    "elect",
    "majority",
    "nominate",
]
