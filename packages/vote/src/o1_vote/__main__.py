"""The `o1-vote` command: elect thoughts by a committee, and curate what a retriever is trained on."""

from __future__ import annotations

import sys

import o1_vote
from o1_records.kit.command import Program
from o1_vote.commands import calibrate, decontaminate, dedup, elect, explain, mine, pairs, report, stats

main = Program(
    "o1-vote",
    {
        "elect": (elect, "elect a thought for each query and write training examples"),
        "explain": (explain, "say what every member said about a query, and why the winner won"),
        "report": (report, "write one HTML page about an election"),
        "pairs": (pairs, "write preference pairs of thoughts, for TRL's trainers"),
        "calibrate": (calibrate, "weight members by their agreement with held-out relevance"),
        "mine": (mine, "mine hard negatives and write training examples"),
        "dedup": (dedup, "remove duplicates and near-duplicates within and across files"),
        "decontaminate": (decontaminate, "remove what overlaps with a test set"),
        "stats": (stats, "count what examples hold"),
    },
    version=o1_vote.__version__,
    description=__doc__,
)

if __name__ == "__main__":
    sys.exit(main())
