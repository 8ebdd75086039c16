"""`o1-model calibrate`: find out whether thinking pays for a retriever, and how thoughts should enter it."""

from __future__ import annotations

import shlex
import sys
import threading
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from o1_model.commands.options import DTYPES
from o1_model.layout import FILE_NAME
from o1_records import InputError
from o1_records.kit.command import EVERYTHING, at_least, between, gentle, new_job, reads, writes
from o1_records.kit.http import is_address

if TYPE_CHECKING:
    from o1_model.retriever.calibration import Calibration, Gain

# of a model's folder, which may keep its own calibration
_READ = (
    "*.safetensors", "*.gguf", "*config*.json", "modules.json", FILE_NAME, "tokenizer*", "vocab*", "merges*",
    "*tokens*.json", "chat_template*", "*/*.safetensors",
)  # fmt: skip


def declare(command: ArgumentParser) -> None:
    """Add the retriever, the thinker, the judgements, and what to try."""
    retriever(command)
    command.add_argument(
        "--style", action="append", default=[], help="a style of thoughts to try; repeatable"
    )
    command.add_argument(
        "--search",
        choices=("dense", "bm25", "hybrid"),
        default="dense",
        help="score documents by vectors, by BM25 or by both",
    )
    command.add_argument(
        "--split-identifiers", action="store_true", help="BM25 breaks snake_case and camelCase"
    )
    reads(command, "--collection", required=True, help="a BEIR folder")
    command.add_argument("--split", default="dev", help="split to calibrate on; report another")
    command.add_argument("--max-queries", type=at_least(10), help="use only so many of its queries")
    command.add_argument("--samples", type=at_least(1), default=1, help="most thoughts per query")
    command.add_argument(
        "--max-tokens", type=at_least(1), help="most tokens of a thought; by default as the style says"
    )
    reads(command, "--document-thoughts", once=True, help="JSONL of DocumentThought records, to weigh too")
    command.add_argument(
        "--budget", type=between(0, 1), help="share of the queries that may think: calibrate a gate too"
    )
    command.add_argument("--device", help="cpu, cuda, cuda:1; by default cuda if there is one")
    writes(
        command,
        "--out",
        required=True,
        help="the calibration, JSON; in a checkpoint's folder call it o1_calibration.json. OUT.job has the "
        "thoughts so far",
    )
    writes(
        command,
        "--values",
        help="what thoughts did to each query, JSON, for `o1-bench explore`; measured at what is best for "
        "the other folds",
    )
    new_job(command)


def retriever(command: ArgumentParser) -> None:
    """Add the embedder, what it made already, and the thinker, for `confirm` too."""
    reads(
        command,
        "--model",
        inside=_READ,
        type=str,
        help="the embedder: a sentence-transformers model, a checkpoint, or http://HOST/v1#NAME",
    )
    command.add_argument(
        "--dtype",
        choices=DTYPES,
        help="of the embedder's weights; by default float32, as for `embed` and `serve`; auto is its own",
    )
    reads(
        command,
        "--document-vectors",
        inside=EVERYTHING,
        help="folder of the corpus's vectors that `o1-model embed` wrote with this embedder; by default the "
        "documents are embedded here",
    )
    reads(
        command,
        "--thinker",
        inside=_READ,
        type=str,
        required=True,
        help="an instruct model, a .gguf file, a checkpoint that thinks, http://HOST/v1#NAME, or a file of "
        "Thought records",
    )


def dtype_of(args: Namespace) -> str | None:
    """Return the dtype of the embedder; None where a server has it, or there is none."""
    if args.dtype is not None:
        if args.model is None:
            raise InputError("--dtype is for an embedder; give --model, or leave it out")
        return str(args.dtype)
    return None if args.model is None or is_address(args.model) else "float32"


def run(args: Namespace) -> int:
    """Calibrate; print what thoughts gain, what the controls do, and what it costs."""
    if args.model is None and args.search != "bm25":
        raise InputError(f"--search {args.search} needs an embedder; give --model")
    from o1_model.retriever.calibrate import calibrate

    stop = threading.Event()
    with gentle(stop):
        found = calibrate(
            args.model,
            args.thinker,
            args.collection,
            split=args.split,
            queries=args.max_queries,
            search=args.search,
            styles=args.style,
            samples=args.samples,
            max_tokens=args.max_tokens,
            document_thoughts=args.document_thoughts,
            document_vectors=args.document_vectors,
            split_identifiers=args.split_identifiers,
            budget=args.budget,
            device=args.device,
            dtype=dtype_of(args),
            out=args.out,
            values=args.values,
            new_job=args.new_job,
            stop=stop,
            progress=True,
        )
    return ended(args, None if found is None else table(found))


def ended(args: Namespace, text: str | None) -> int:
    """Print what was found or, where it was interrupted, how to go on; return the exit code."""
    if text is None:
        print(f"interrupted. To go on:\n{shlex.join(['o1-model', *args.typed])}", file=sys.stderr)
        return 3
    sys.stdout.write(text)
    return 0


def table(found: Calibration) -> str:
    """Return a calibration as text."""
    thinking, mixture = found.thinking, found.mixture
    lines = [
        f"{found.embedder} + {found.thinker}, {found.search}; {found.queries} queries ({found.split}) and "
        f"{found.documents} documents of {found.collection}",
        f"{found.measure} without thoughts: {found.base:.4f}",
        "",
        "gain on queries that chose nothing      mean   95 % interval",
        *(f"  thoughts in {kind:24}{shown(gain)}" for kind, gain in found.gains.items()),
        *(f"  control: {name:27}{shown(gain)}" for name, gain in found.controls.items()),
        "",
        "weight of thoughts  " + "".join(f"{weight:>8}" for weight in found.by_weight),
        "gain, not held out  " + "".join(f"{gain:+8.4f}" for gain in found.by_weight.values()),
        "",
        "share that thinks   " + "".join(f"{share.share:8.1f}" for share in found.shares),
        "gain, gate          " + "".join(f"{share.gate:+8.4f}" for share in found.shares),
        "gain, at random     " + "".join(f"{share.random:+8.4f}" for share in found.shares),
        "",
        f"cost of a query: {found.tokens:.1f} tokens and {found.ms_thinking:.1f} ms to think, "
        f"{found.ms_embedding:.1f} ms to embed, one at a time",
        f"weight {mixture.weight:g}, reading {mixture.reading}, {thinking.samples} of at most "
        f"{thinking.max_tokens} tokens; documents' thoughts {found.document_weight:g}",
        f"because {found.why}",
    ]
    if found.gate is not None:
        lines.append(f"gate: {found.gate}")
    return "\n".join(lines) + "\n"


def shown(gain: Gain) -> str:
    """Return a gain with its interval, in columns."""
    return f"{gain.mean:+8.4f}   {gain.low:+.4f} to {gain.high:+.4f}"
