"""Stream a large collection: ours against a dictionary of all texts.

    python benchmarks/collection.py                  # 8,841,823 passages, as MS MARCO has; 3 GB
    python benchmarks/collection.py 300000 --folder /somewhere

Writes generated passages as a real `collection.tsv` in a temporary folder. Every line of JSON comes
from a process of its own that reads the file: {name, items, seconds, items_per_s, peak_rss_mb}.
"ours" makes a Collection: reads, checks the ids, digests. "dictionary" is the plain way (BEIR's
loader): id -> {title, text} in memory, nothing checked.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DOCUMENTS = 8_841_823
TEXT = (
    "the presence of communication amid scientific minds was equally important to the success of the "
    "project as scientific intellect was and what that success truly meant is hundreds of thousands "
    "of lives; cooking times depend on the oven and on the size of the pan, so that a thermometer is "
    "the only instrument"
)


def ours(folder: Path) -> int:
    from o1_bench.datasets.msmarco import load_msmarco

    return len(load_msmarco(folder))


def dictionary(folder: Path) -> int:
    corpus = {}
    with open(folder / "collection.tsv", encoding="utf-8") as file:
        for line in file:
            doc_id, text = line.rstrip("\n").split("\t")
            corpus[doc_id] = {"title": "", "text": text}
    return len(corpus)


WAYS = {"ours": ours, "dictionary": dictionary}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("documents", type=int, nargs="?", default=DOCUMENTS)
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes")
    parser.add_argument("--way", choices=WAYS, help="read an existing folder in this process")
    args = parser.parse_args()
    if args.way:
        measure(args.way, args.folder)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        write(Path(name), args.documents)
        for way in WAYS:
            subprocess.run([sys.executable, __file__, "--way", way, "--folder", name], check=True)


def write(folder: Path, count: int) -> None:
    """The passages are some 310 bytes long, as MS MARCO's are."""
    with open(folder / "collection.tsv", "w", encoding="utf-8") as file:
        for number in range(count):
            cut = number % len(TEXT)
            file.write(f"{number}\t{TEXT[cut:]} {TEXT[:cut]}\n")
    (folder / "queries.dev.small.tsv").write_text("q\twhat was important to the success\n")
    (folder / "qrels.dev.small.tsv").write_text(f"q\t0\t{count - 1}\t1\n")


def measure(way: str, folder: Path) -> None:
    began = time.perf_counter()
    count = WAYS[way](folder)
    seconds = time.perf_counter() - began
    figures = {"name": f"collection, {way}", "items": count, "seconds": round(seconds, 2)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**figures, "items_per_s": round(count / seconds), "peak_rss_mb": round(peak)}))


if __name__ == "__main__":
    main()
