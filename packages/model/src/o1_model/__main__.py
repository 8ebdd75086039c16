"""The `o1-model` command: train, think, embed, gate, calibrate, confirm, serve, verify, average."""

from __future__ import annotations

import sys

from o1_model import __version__
from o1_model.commands import average, calibrate, confirm, embed, gate, serve, think, train, verify
from o1_records.kit.command import Program

main = Program(
    "o1-model",
    {
        "train": (train, "joint training; --help lists transformers' flags too"),
        "think": (think, "write thoughts about queries"),
        "embed": (embed, "write vectors of a corpus or of queries"),
        "gate": (gate, "learn for which queries thinking pays"),
        "calibrate": (calibrate, "find out whether thinking pays for a retriever, and how much of it"),
        "confirm": (confirm, "measure what was calibrated on queries that chose nothing"),
        "serve": (serve, "serve /v1/embeddings"),
        "average": (average, "make one checkpoint of several, by the mean of their weights"),
        "verify": (verify, "compare a checkpoint's vectors with its certificate"),
    },
    version=__version__,
    description=__doc__,
)

if __name__ == "__main__":
    sys.exit(main())
