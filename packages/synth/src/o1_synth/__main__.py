"""The `o1-synth` command: thoughts of a language model about queries, keyed and resumable."""

from __future__ import annotations

import sys

import o1_synth
from o1_records.kit.command import Program
from o1_synth.commands import export, status, think
from o1_synth.commands.remix import STEPS

main = Program(
    "o1-synth",
    {
        "think": (think, "write several thoughts about each query"),
        "remix": (STEPS, "make training data from documents: clean, write, mine, annotate"),
        "status": (status, "print the state of a job"),
        "export": (export, "write the thoughts that a job has so far"),
    },
    version=o1_synth.__version__,
    description=__doc__,
)

if __name__ == "__main__":
    sys.exit(main())
