"""The members of a committee on the command line: `[NAME=]KIND[:ARGUMENT]`, and their options."""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from o1_records import Document, InputError, MissingExtraError, open_documents, quoted
from o1_records.command import at_least
from o1_vote import rerun
from o1_vote.bm25 import LANGUAGES, BM25Member
from o1_vote.cross_encoder import CrossEncoderMember
from o1_vote.curate import refuse_like_named
from o1_vote.dense import DTYPES, Loading, SentenceTransformerMember
from o1_vote.hub import digest_of_model
from o1_vote.model2vec import Model2VecMember
from o1_vote.paths import files_of
from o1_vote.retriever import Retriever
from o1_vote.scores import ScoreFileMember, read_score_file
from o1_vote.static import StaticMember
from o1_vote.vector_cache import VectorCache

KINDS = {"bm25": False, "static": False, "m2v": True, "st": True, "ce": True, "scores": True}
"""Whether a kind of member takes an argument."""
_PACKAGES = {"bm25": "bm25s", "static": "wordllama", "m2v": "model2vec"}
_NEEDS = {
    "static": ("wordllama", "static", "The static member"),
    "m2v": ("model2vec", "static", "A model2vec member"),
    "st": ("sentence_transformers", "dense", "A sentence-transformers member"),
    "ce": ("sentence_transformers", "dense", "A sentence-transformers member"),
}
_METAVAR = "[NAME=]bm25|static|m2v:MODEL|st:MODEL|ce:MODEL|scores:FILE"

Documents = Mapping[str, Document]


class Spec(NamedTuple):
    """One `--member` as it was given."""

    name: str
    kind: str
    argument: str
    named: bool


def declare(command: argparse.ArgumentParser, *, required: bool = True) -> None:
    """The options that say who is in the committee."""
    add = command.add_argument
    add(
        "--member",
        required=required,
        action="append",
        default=[],
        type=spec,
        metavar=_METAVAR,
        help="a member (repeat): MODEL is a folder or a hub id, FILE ballots or a TREC run, ce reads pairs",
    )
    add("--cache", type=Path, help="folder that keeps vectors and BM25 indexes for other runs")
    add("--split-identifiers", action="store_true", help="bm25: split snake_case and camelCase")
    add("--language", choices=LANGUAGES, default="english", help="bm25: stemmer and stop words")
    add(
        "--device",
        help="st, ce: cpu, cuda:1, ... or several with commas (default: the best there is)",
    )
    add("--dtype", choices=DTYPES, default="auto", help="st, ce (auto: st in bfloat16 where that is faster)")
    add(
        "--batch",
        type=at_least(1),
        default=32,
        help="st, ce: a batch holds the tokens of so many texts of --max-length (or of 256)",
    )
    add("--max-length", type=at_least(1), help="m2v, st, ce: tokens a text (default: the model's own)")
    add("--revision", help="m2v, st, ce: of a hub id")
    add("--query-prompt", default="", help="st: goes before queries and thoughts")
    add("--document-prompt", default="", help="st: goes before documents")


def spec(text: str) -> Spec:
    """Split `[NAME=]KIND[:ARGUMENT]`; the whole text is the name where none is given."""
    head, equals, tail = text.partition("=")
    named = bool(equals and ":" not in head)
    name, rest = (head, tail) if named else (text, text)
    kind, _, argument = rest.partition(":")
    if not name or kind not in KINDS or bool(argument) != KINDS[kind]:
        raise argparse.ArgumentTypeError(
            f"{quoted(text)} is none of bm25, static, m2v:MODEL, st:MODEL, ce:MODEL, scores:FILE, NAME=KIND"
        )
    return Spec(name, kind, argument, named)


def made_from(args: argparse.Namespace) -> dict[str, str]:
    """What the scores of the members depend on, the corpus aside."""
    made = {
        name: str(getattr(args, name)) for name in ("split_identifiers", "language", "dtype", "max_length")
    }
    made |= {name: str(getattr(args, name)) for name in ("revision", "query_prompt", "document_prompt")}
    for member in args.member:
        package = _version(_PACKAGES.get(member.kind, "sentence-transformers"))
        made[f"member {member.name}"] = f"{member.kind}:{member.argument} {package}"
        if member.kind == "scores":
            made[f"member {member.name} sha256"] = rerun.digest_of([Path(member.argument)])
        elif member.argument:
            made[f"member {member.name} sha256"] = digest_of_model(member.argument, args.revision)
    return made


def _refuse_missing(kind: str) -> None:
    """Here, and not when the other members have voted for hours."""
    if kind in _NEEDS:
        package, extra, purpose = _NEEDS[kind]
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError("o1-vote", extra, purpose)


class Committee:
    """The members that were asked for, each made when it is needed.

    `documents` are those that similarities are asked about (None: the whole corpus). `scratch` keeps
    vectors of this run where no `--cache` is given.
    """

    def __init__(
        self, args: argparse.Namespace, *, documents: Documents | None = None, scratch: Path | None = None
    ) -> None:
        refuse_like_named(member.name for member in args.member)
        self._args, self._scratch = args, scratch
        self._documents = documents
        self._recorded: dict[str, ScoreFileMember] = {}
        self._specs: dict[str, Spec] = {}
        for member in args.member:
            if member.kind != "scores":
                self._specs[member.name] = member
                continue
            for recorded in read_score_file(member.argument, member.name if member.named else ""):
                self._recorded[recorded.name] = recorded
        self.names = [*self._specs, *self._recorded]
        refuse_like_named(self.names)
        for spec in self._specs.values():
            _refuse_missing(spec.kind)

    def member(self, name: str) -> Retriever | ScoreFileMember:
        """Make a member. Raises InputError or MissingExtraError where that cannot be done."""
        return self._recorded[name] if name in self._recorded else self.retriever(name)

    def retriever(self, name: str) -> Retriever:
        """Make a member that reads texts; InputError for one of a score file."""
        if name not in self._specs:
            raise InputError(f"member {quoted(name)} is a score file, which cannot judge other texts")
        args, (_, kind, argument, _) = self._args, self._specs[name]
        if kind == "bm25":
            return BM25Member(
                open_documents(args.corpus),
                name=name,
                language=args.language,
                split_identifiers=args.split_identifiers,
                saved=self._saved_bm25(),
            )
        documents = self._documents if self._documents is not None else open_documents(args.corpus)
        if kind == "static":
            return StaticMember(documents, name=name, cache=self._cache())
        if kind == "m2v":
            return Model2VecMember(
                argument,
                documents,
                name=name,
                cache=self._cache(),
                max_length=args.max_length,
                revision=args.revision,
            )
        if kind == "ce":
            return CrossEncoderMember(
                argument, documents, name=name, cache=self._cache(), loading=self._loading()
            )
        return SentenceTransformerMember(
            argument,
            documents,
            name=name,
            query_prompt=args.query_prompt,
            document_prompt=args.document_prompt,
            cache=self._cache(),
            loading=self._loading(),
        )

    def _cache(self) -> VectorCache | None:
        folder = self._args.cache or self._scratch
        return VectorCache(folder / "vectors.sqlite") if folder else None

    def _saved_bm25(self) -> Path | None:
        if not self._args.cache:
            return None
        corpus = rerun.digest_of(files_of(self._args.corpus, ["corpus.jsonl"]))
        how = f"{corpus} {self._args.language} {self._args.split_identifiers} {_version('bm25s')}"
        folder: Path = self._args.cache / f"bm25-{hashlib.sha256(how.encode()).hexdigest()[:16]}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        return folder

    def _loading(self) -> Loading:
        args = self._args
        devices = tuple(args.device.split(",")) if args.device else ()
        return Loading(devices, args.dtype, args.batch, args.max_length, args.revision)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
