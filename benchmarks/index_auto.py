"""What `auto` chooses for 1 M to 1 B vectors, by dimensions and memory, and what it takes.

    python benchmarks/index_auto.py

Nothing is built; sizes are those of FAISS's files, as `o1_index.auto` computes them.
"""

from __future__ import annotations

from o1_index.auto import choose
from o1_records import InputError

GIB = 2**30


def main() -> None:
    print("| vectors | dimensions | memory | factory | takes | why |\n|---|---|---|---|---|---|")
    for rows in (10**6, 10**7, 10**8, 10**9):
        for dim in (384, 1024):
            for memory in (16, 64, 256, 1024):
                try:
                    choice = choose(rows, dim, memory=memory * GIB)
                    cells = choice.factory, f"{choice.size / GIB:.1f} GiB", choice.reason
                except InputError as error:
                    cells = "none", "", str(error)
                print(f"| {rows:,} | {dim} | {memory} GiB |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
