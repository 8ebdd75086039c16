"""Elect the best thought of each query by a committee of retrievers, and curate training data.

`nominate` joins what belongs together, `cast` lets a member measure it, a rule such as `majority` counts,
`elect` does all three. `mine` finds hard negatives. Importing this loads no model library: members load
theirs when they are made.
"""

from o1_vote.curation.negatives import Mining, mine
from o1_vote.election.elect import cast, elect
from o1_vote.election.nominate import nominate
from o1_vote.members.bm25 import BM25Member
from o1_vote.members.dense import Loading, SentenceTransformerMember
from o1_vote.members.protocol import Retriever, Searcher
from o1_vote.members.static import StaticMember
from o1_vote.tally import majority

__version__ = "0.1.0"

__all__ = [
    "BM25Member",
    "Loading",
    "Mining",
    "Retriever",
    "Searcher",
    "SentenceTransformerMember",
    "StaticMember",
    "cast",
    "elect",
    "majority",
    "mine",
    "nominate",
]
