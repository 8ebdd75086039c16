"""`o1-model verify`: does a checkpoint give its certificate's vectors, a trained thinker its thoughts?"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from o1_model.commands import options
from o1_records import InputError
from o1_records.kit.command import EVERYTHING, reads

RUNTIMES = ("o1", "sentence-transformers")


def declare(command: ArgumentParser) -> None:
    """Add which checkpoint, and where to try it."""
    options.checkpoint(command, "a checkpoint, or a trained thinker")
    reads(command, "--base", inside=EVERYTHING, type=str, help="where a trained thinker's base is now")
    command.add_argument(
        "--runtime", action="append", choices=RUNTIMES, help="repeatable; by default o1, or the server"
    )
    command.add_argument(
        "--server",
        metavar="URL",
        help="a server of this model: TEI, vLLM, o1-model serve; gets OPENAI_API_KEY, if set",
    )


def run(args: Namespace) -> int:
    """Print a line for each runtime; exits 4 when one differs."""
    if options.has_adapter(args.model):
        return _thinker(args)
    if args.base:
        raise InputError(f"{args.model}: --base is for a trained thinker; leave it out")
    from o1_model.verify import RUNTIMES as KNOWN
    from o1_model.verify import in_server, verify

    names = args.runtime or ([] if args.server else ["o1"])
    runtimes = [KNOWN[name] for name in names] + ([in_server(args.server)] if args.server else [])
    code = 0
    for runtime in runtimes:
        verdict = verify(args.model, runtime, revision=args.revision)
        figures = (
            f"{verdict.checked} vectors, lowest cosine {verdict.lowest_cosine:.6f}, "
            f"{verdict.order:.1%} of the documents in order"
        )
        print(f"{verdict.runtime}: {'fail' if verdict.difference else 'pass'} ({figures})")
        if verdict.difference:
            print(f"  {verdict.difference}")
            code = 4
    return code


def _thinker(args: Namespace) -> int:
    """Let a trained thinker write its examples again."""
    from o1_model.retriever.instruct import Instruct
    from o1_model.retriever.thinkers import open_thinker
    from o1_model.retriever.trained import FILE_NAME, examples_of, read_trained

    if args.runtime or args.server:
        raise InputError(f"{args.model}: a trained thinker is verified here; leave out --runtime, --server")
    trained = read_trained(Path(args.model))
    if trained is None or not trained.examples:
        raise InputError(f"{args.model}: no {FILE_NAME} with examples; nothing to compare with")
    thinker = open_thinker(args.model, base=args.base, device="cpu")
    written = examples_of(thinker, [each.query for each in trained.examples])
    others = [now for now, then in zip(written, trained.examples, strict=True) if now != then]
    same = len(trained.examples) - len(others)
    print(f"{'fail' if others else 'pass'} ({same} of {len(trained.examples)} thoughts are as written)")
    for each in others:
        print(f"  {each.query!r}: {each.thought!r}")
    if isinstance(thinker, Instruct) and thinker.base_digest != trained.base_digest:
        here, then = thinker.base_digest[:12], trained.base_digest[:12]
        print(f"  the base here has the digest {here}; they were written on {trained.base} with {then}")
    return 4 if others else 0
