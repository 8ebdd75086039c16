"""`o1-synth remix`: training data for reasoning-intensive retrieval, in steps from files to files."""

from o1_synth.commands.remix import annotate, clean, mine, write

STEPS = {
    "clean": (clean, "keep the documents of a domain: ask yes or no about each (optional)"),
    "write": (write, "write queries from documents"),
    "mine": (mine, "find candidates for the queries, without the documents they were written from"),
    "annotate": (annotate, "score the candidates from 1 to 5, and make examples of them"),
}

__all__ = ["STEPS"]
