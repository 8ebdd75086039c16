"""Run by `nox -s "build(vote)"` beside nothing but the installed wheel: it elects, without torch."""

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

from o1_records import Document, Example, Qrel, Query, Source, Thought, read_jsonl, write_jsonl

FOLDER = Path(tempfile.mkdtemp())
TEXTS = {"a": "a folder on the desk", "b": "a zip archive has members"}


def main() -> None:
    for heavy in ("torch", "transformers", "sentence_transformers"):
        if importlib.util.find_spec(heavy) is not None:
            sys.exit(f"{heavy} is installed, so this proves nothing")
    source = Source(model="people")
    files = {
        "queries": [Query(query_id="q1", text="open a compressed folder")],
        "corpus": [
            Document(doc_id="d1", text="Read the members of a ZIP archive."),
            Document(doc_id="d2", text="Sort a list in ascending order."),
        ],
        "qrels": [Qrel(query_id="q1", doc_id="d1", relevance=1)],
        "thoughts": [
            Thought(query_id="q1", thought_id=name, text=text, source=source) for name, text in TEXTS.items()
        ],
    }
    arguments = []
    for name, records in files.items():
        write_jsonl(FOLDER / f"{name}.jsonl", records)
        arguments += [f"--{name}", str(FOLDER / f"{name}.jsonl")]
    command = [str(Path(sys.executable).parent / "o1-vote"), "elect", *arguments]
    subprocess.run([*command, "--member", "bm25", "--out", str(FOLDER / "examples.jsonl")], check=True)
    (example,) = read_jsonl(FOLDER / "examples.jsonl", Example)
    if example.thought is None or example.thought.thought_id != "b":
        sys.exit(f"the wrong thought was elected: {example.thought}")
    sys.stdout.write("o1-vote alone elected the right thought, without torch\n")


if __name__ == "__main__":
    main()
