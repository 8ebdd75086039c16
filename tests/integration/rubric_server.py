"""A stand-in for a large annotator: a real OpenAI-compatible server that judges by shared words.

No LLM is at hand where the tests run, so what they show is that the path works and is measured
right, not what an LLM would say. From 1 (no word of the query is in the document) to 5 (all are).
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

_spec = importlib.util.spec_from_file_location(
    "fault_server", Path(__file__).parents[1] / "faults" / "server.py"
)
_fault_server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fault_server)


def judged(request: dict, text: str = "") -> str:
    """The analysis and the score that a prompt of `o1-synth remix annotate` asks for."""
    fences = re.findall(r"(`{3,})\n(.*?)\n\1", request["messages"][-1]["content"], re.DOTALL)
    query, document = (fenced.split() for _, fenced in fences[-2:])
    found = [word in document for word in query]
    verdicts = [f"{word}: {'yes' if there else 'no'}" for word, there in zip(query, found, strict=True)]
    score = 1 + 4 * sum(found) // len(query)
    return f"Is it in the document? {', '.join(verdicts)}.\n<score>{score}</score>"


def rubric_server():
    """The server, started in a thread; `base_url` is its address and `rubric` its model, `stop()` ends it."""
    return _fault_server.FaultServer(say=judged, models=[{"id": "rubric"}], keep=False).start()
