"""The members of a committee on the command line: `[NAME=]KIND[:ARGUMENT]`, and their options."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import Stemmer

from o1_records import Document, InputError, MissingExtraError, quoted
from o1_records.kit.cluster import Cluster, cluster_of
from o1_records.kit.command import EVERYTHING, at_least, reads, writes
from o1_records.kit.models import model_digest
from o1_records.kit.text import TOKENIZERS
from o1_vote._job import Files
from o1_vote.measure import OF_CORPUS
from o1_vote.members.bm25 import BM25Member
from o1_vote.members.cross_encoder import CrossEncoderMember
from o1_vote.members.dense import DTYPES, Loading, SentenceTransformerMember
from o1_vote.members.protocol import LazyMember, Retriever
from o1_vote.members.scores import ScoreFileMember, read_score_file
from o1_vote.members.static import Model2VecMember, StaticMember
from o1_vote.members.vector_cache import VectorCache
from o1_vote.settings import SUFFIX

_METAVAR = "[NAME=]bm25|static|m2v:MODEL|st:MODEL|ce:MODEL|scores:FILE"
_MANY = 100_000
"""Documents from which on embedding them takes so long that the user is told."""


class Kind(NamedTuple):
    """What a kind of member needs: an argument, a distribution, the extra that brings it, options."""

    takes_argument: bool
    distribution: str = ""
    extra: str = ""
    options: tuple[str, ...] = ()


_MODEL_OPTIONS = ("device", "dtype", "batch", "max_length", "revision")
KINDS = {
    "bm25": Kind(False, "bm25s", options=("language", "split_identifiers", "tokenizer")),
    "static": Kind(False, "wordllama", "static"),
    "m2v": Kind(True, "model2vec", "static", ("max_length", "revision")),
    "st": Kind(True, "sentence-transformers", "dense", (*_MODEL_OPTIONS, "query_prompt", "document_prompt")),
    "ce": Kind(True, "sentence-transformers", "dense", _MODEL_OPTIONS),
    "scores": Kind(True),
}
_SPEED = ("device", "batch")
"""Options that change no score."""
_DEFAULTS: dict[str, Any] = {
    "language": "english", "split_identifiers": False, "tokenizer": "words", "device": None, "dtype": "auto",
    "batch": None, "max_length": None, "revision": None, "query_prompt": None, "document_prompt": None,
}  # fmt: skip


class Spec(NamedTuple):
    """One `--member` as it was given."""

    name: str
    kind: str
    argument: str
    named: bool


def declare(command: ArgumentParser) -> None:
    """Add the options that say who is in the committee."""
    reads(
        command,
        "--member",
        required=True,
        action="append",
        type=spec,
        metavar=_METAVAR,
        inside=EVERYTHING,
        beside=[SUFFIX],
        paths=_paths,
        help="a member (repeat): MODEL is a folder or a hub id, FILE ballots or a TREC run, ce reads pairs",
    )
    writes(command, "--cache", folder=True, help="folder that keeps vectors and BM25 indexes for other runs")
    add = command.add_argument
    add("--split-identifiers", action="store_true", help="bm25: split snake_case and camelCase")
    add(
        "--language",
        choices=(*Stemmer.algorithms(), "none"),
        metavar="LANGUAGE",
        default="english",
        help="bm25: stemmer and stop words, of any of PyStemmer's languages, or none",
    )
    add(
        "--tokenizer",
        choices=TOKENIZERS,
        default="words",
        help="bm25: words, with pairs of characters where there are no spaces; characters, with single ones; "
        "code, with identifiers, single letters and operators",
    )
    add("--device", help="st, ce: cpu, cuda:1, ... or several with commas; by default the best available")
    add(
        "--dtype",
        choices=DTYPES,
        default="auto",
        help="st, ce: auto is bfloat16 for st where the device has instructions for it, else float32",
    )
    add(
        "--batch",
        type=at_least(1),
        help="st, ce: a batch holds the tokens of so many texts of --max-length (or of 256); by default 32, "
        "on a CPU 4 for each thread",
    )
    add(
        "--max-length",
        type=at_least(1),
        help="m2v, st, ce: most tokens read of a text; by default the model's own limit",
    )
    add("--revision", help="m2v, st, ce: of a hub id")
    add(
        "--query-prompt",
        help="st: goes before queries and thoughts, with {instruction} for that of the query; by default the "
        "model's own, and the query's instruction in its place",
    )
    add("--document-prompt", help="st: goes before documents; by default the model's own")


def cluster(args: Namespace) -> Cluster | None:
    """Return the cluster of `--ray`; its workers keep what they need with the job."""
    chosen = cluster_of(args, "o1-vote")
    if chosen is not None and args.cache:
        raise InputError("--cache has no effect with --ray, whose workers read from OUT.job; leave it out")
    return chosen


def spec(text: str) -> Spec:
    """Split `[NAME=]KIND[:ARGUMENT]`; the whole text is the name where none is given."""
    head, equals, tail = text.partition("=")
    named = bool(equals and ":" not in head)
    name, rest = (head, tail) if named else (text, text)
    kind, _, argument = rest.partition(":")
    if not name or kind not in KINDS or bool(argument) != KINDS[kind].takes_argument:
        raise ArgumentTypeError(
            f"{quoted(text)} is none of bm25, static, m2v:MODEL, st:MODEL, ce:MODEL, scores:FILE, NAME=KIND"
        )
    return Spec(name, kind, argument, named)


def members(
    args: Namespace, corpus: Files[Document], *, whole_corpus: bool
) -> list[LazyMember | ScoreFileMember]:
    """Return the members, none of them loaded; `whole_corpus` says whether they will score all of it.

    Raises InputError or MissingExtraError now for what can be known now, and not when the other members have
    voted for hours.
    """
    _refuse_options_without_effect(args)
    found: list[LazyMember | ScoreFileMember] = []
    for given in args.member:
        if given.kind == "scores":
            found += read_score_file(given.argument, given.name if given.named else "")
        else:
            found.append(_lazy(given, args, corpus, whole_corpus))
    return found


def _paths(specs: Iterable[Spec]) -> list[str]:
    """Return the files and folders that members are read from; a hub id is neither."""
    given = [each for each in specs if each.argument]
    return [each.argument for each in given if each.kind == "scores" or Path(each.argument).exists()]


def _refuse_options_without_effect(args: Namespace) -> None:
    useful = {option for given in args.member for option in KINDS[given.kind].options}
    for option, default in _DEFAULTS.items():
        if option not in useful and getattr(args, option) != default:
            kinds = " or ".join(name for name, kind in KINDS.items() if option in kind.options)
            raise InputError(
                f"--{option.replace('_', '-')} has no effect without a member of kind {kinds}; leave it out"
            )


def _lazy(given: Spec, args: Namespace, corpus: Files[Document], whole_corpus: bool) -> LazyMember:
    kind = KINDS[given.kind]
    if kind.extra and importlib.util.find_spec(kind.distribution.replace("-", "_")) is None:
        names = {"static": "The static member", "m2v": "A model2vec member"}
        raise MissingExtraError(
            "o1-vote", kind.extra, names.get(given.kind, "A sentence-transformers member")
        )
    parts = [given.kind, importlib.metadata.version(kind.distribution)]
    if given.argument:
        parts.append(model_digest(given.argument, args.revision))
    parts += [f"{option} {getattr(args, option)!r}" for option in kind.options if option not in _SPEED]
    load = functools.partial(_load, given, args, corpus)
    # BM25's statistics are of the whole corpus whatever is measured
    return LazyMember(given.name, " ".join(parts), load, whole_corpus or given.kind == "bm25")


def _load(
    given: Spec,
    args: Namespace,
    corpus: Files[Document],
    documents: Mapping[str, Document],
    folder: Path | None,
) -> Retriever:
    name, kind, argument, _ = given
    if kind == "bm25":
        return BM25Member(
            documents,
            name=name,
            language=args.language,
            split_identifiers=args.split_identifiers,
            tokenizer=args.tokenizer,
            saved=_saved_bm25(args, corpus, folder),
        )
    if getattr(args, "measure", "") in OF_CORPUS and len(documents) >= _MANY:
        print(
            f"{name} reads {len(documents)} documents; with --measure thought only those that are judged",
            file=sys.stderr,
        )
    kept = args.cache or folder
    cache = VectorCache(kept / "vectors.sqlite") if kept else None
    if kind == "static":
        return StaticMember(documents, name=name, cache=cache)
    if kind == "m2v":
        return Model2VecMember(
            argument,
            documents,
            name=name,
            cache=cache,
            max_length=args.max_length,
            revision=args.revision,
        )
    devices = tuple(args.device.split(",")) if args.device else ()
    loading = Loading(devices, args.dtype, args.batch, args.max_length, args.revision)
    if kind == "ce":
        return CrossEncoderMember(argument, documents, name=name, cache=cache, loading=loading)
    return SentenceTransformerMember(
        argument,
        documents,
        name=name,
        query_prompt=args.query_prompt,
        document_prompt=args.document_prompt,
        cache=cache,
        loading=loading,
    )


def _saved_bm25(args: Namespace, corpus: Files[Document], job: Path | None) -> Path | None:
    """Return where the index is kept: for other runs, or with --ray for the other workers of this one."""
    if not args.cache:
        return job and job / "bm25" if getattr(args, "ray", None) is not None else None
    version = importlib.metadata.version("bm25s")
    how = f"{corpus.fingerprint} {args.language} {args.split_identifiers} {args.tokenizer} {version}"
    folder: Path = args.cache / f"bm25-{hashlib.sha256(how.encode()).hexdigest()[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder
