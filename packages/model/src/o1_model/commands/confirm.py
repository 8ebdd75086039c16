"""`o1-model confirm`: what a calibrated retriever gains on queries that had no part in its calibration."""

from __future__ import annotations

import threading
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from o1_model.commands.calibrate import dtype_of, ended, retriever, shown
from o1_records.kit.command import at_least, between, gentle, new_job, reads, writes

if TYPE_CHECKING:
    from o1_model.retriever.confirm import Confirmation


def declare(command: ArgumentParser) -> None:
    """Add the calibration, what it is of, and the judgements."""
    reads(command, "--calibration", required=True, help="what `o1-model calibrate` wrote")
    retriever(command)
    reads(command, "--collection", required=True, help="a BEIR folder")
    command.add_argument("--split", default="test", help="split to measure on")
    command.add_argument("--max-queries", type=at_least(10), help="use only so many of its queries")
    reads(
        command,
        "--document-thoughts",
        once=True,
        help="JSONL of DocumentThought records, where the calibration gives them a weight",
    )
    command.add_argument(
        "--weight", type=between(0, 1), help="of thoughts in queries, instead of the calibration's"
    )
    command.add_argument(
        "--document-weight", type=between(0, 1), help="of thoughts in documents, instead of the calibration's"
    )
    command.add_argument("--device", help="cpu, cuda, cuda:1; by default cuda if there is one")
    writes(
        command,
        "--out",
        required=True,
        help="all rows with the value of every query, JSON. OUT.job has the thoughts so far",
    )
    new_job(command)


def run(args: Namespace) -> int:
    """Measure; print every row."""
    from o1_model.retriever.confirm import confirm

    stop = threading.Event()
    with gentle(stop):
        found = confirm(
            args.calibration,
            args.model,
            args.thinker,
            args.collection,
            split=args.split,
            queries=args.max_queries,
            document_thoughts=args.document_thoughts,
            document_vectors=args.document_vectors,
            weight=args.weight,
            document_weight=args.document_weight,
            device=args.device,
            dtype=dtype_of(args),
            out=args.out,
            new_job=args.new_job,
            stop=stop,
            progress=True,
        )
    return ended(args, None if found is None else table(found))


def table(found: Confirmation) -> str:
    """Return a confirmation as text."""
    weights = f"weight {found.mixture.weight:g}, reading {found.mixture.reading}"
    if found.document_weight:
        weights += f", documents' thoughts {found.document_weight:g}"
    chosen = f", chosen on {found.calibrated_on}" if found.calibrated_on else ", not all of it calibrated"
    lines = [
        f"{found.embedder} + {found.thinker}, {found.search}; {len(found.query_ids)} queries ({found.split}) "
        f"and {found.documents} documents of {found.collection}",
        f"{weights}{chosen}; {found.tokens:.1f} tokens a query",
        "",
        f"{found.measure:40}    mean       gain   95 % interval",
        *(
            f"  {('control: ' if row.kind == 'control' else '') + row.name:38}{row.mean:8.4f}"
            + ("" if row.kind == "baseline" else f"   {shown(row.gain)}")
            for row in found.rows
        ),
    ]
    return "\n".join(lines) + "\n"
