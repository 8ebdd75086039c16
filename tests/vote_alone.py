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
    o1_vote = str(Path(sys.executable).parent / "o1-vote")
    outputs = ["--out", str(FOLDER / "examples.jsonl"), "--ballots", str(FOLDER / "ballots.jsonl")]
    subprocess.run([o1_vote, "elect", *arguments, "--member", "bm25", *outputs], check=True)
    (example,) = read_jsonl(FOLDER / "examples.jsonl", Example)
    if example.thought is None or example.thought.thought_id != "b":
        sys.exit(f"the wrong thought was elected: {example.thought}")
    told = [f"--{name}={FOLDER / name}.jsonl" for name in ("ballots", "thoughts", "queries")]
    subprocess.run([o1_vote, "explain", "q1", *told], check=True)
    subprocess.run([o1_vote, "report", *told, "--out", str(FOLDER / "report.html")], check=True)
    mined = ["--out", str(FOLDER / "mined.jsonl"), "--reasons", str(FOLDER / "unmined.jsonl")]
    examples = ["--examples", str(FOLDER / "examples.jsonl"), "--corpus", str(FOLDER / "corpus.jsonl")]
    subprocess.run([o1_vote, "mine", *examples, "--member", "bm25", *mined], check=True)
    subprocess.run([o1_vote, "stats", str(FOLDER / "mined.jsonl")], check=True)
    sys.stdout.write("o1-vote alone elected the right thought, without torch\n")


if __name__ == "__main__":
    main()
