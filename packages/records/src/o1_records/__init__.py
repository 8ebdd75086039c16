"""The typed records that every o1-embedder package speaks, and the files they live in.

>>> from o1_records import Query, read_jsonl, write_jsonl
>>> import tempfile, pathlib
>>> path = pathlib.Path(tempfile.mkdtemp()) / "queries.jsonl"
>>> write_jsonl(path, [Query(query_id="q1", text="open a zip file")])
1
>>> list(read_jsonl(path, Query))
[Query(query_id='q1', text='open a zip file', instruction='')]
"""

from o1_records.files import (
    InputError,
    InputWarning,
    MissingExtraError,
    atomic_write,
    quoted,
    sha256_file,
)
from o1_records.inputs import open_documents, open_qrels, open_queries, open_run
from o1_records.jsonl import read_jsonl, write_jsonl
from o1_records.kit.command import refuse_overwriting, run_command
from o1_records.ranking import rank
from o1_records.types import (
    Ballot,
    Document,
    DocumentThought,
    Example,
    Exclusion,
    Hit,
    Metric,
    Qrel,
    Query,
    Record,
    Source,
    Thought,
)

__version__ = "0.1.0"

__all__ = [
    "Ballot",
    "Document",
    "DocumentThought",
    "Example",
    "Exclusion",
    "Hit",
    "InputError",
    "InputWarning",
    "Metric",
    "MissingExtraError",
    "Qrel",
    "Query",
    "Record",
    "Source",
    "Thought",
    "atomic_write",
    "open_documents",
    "open_qrels",
    "open_queries",
    "open_run",
    "quoted",
    "rank",
    "read_jsonl",
    "refuse_overwriting",
    "run_command",
    "sha256_file",
    "write_jsonl",
]
