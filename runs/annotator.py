"""A small annotator learns from a large one's trajectories: its data, and how well the two agree.

    python runs/annotator.py split --chat CHAT.jsonl --queries Q --candidates RUN.trec --out FOLDER
    python runs/annotator.py merge FOLDER/training FOLDER/merged
    python runs/annotator.py agree --chat CHAT.jsonl --candidates FOLDER/heldout/run.trec \
        --small tuned TUNED.jsonl --out agreement.json

`runs/annotator.sh` calls them, with the training between. CHAT.jsonl, TUNED.jsonl: what
`o1-synth remix annotate --distill` wrote. A query is in the training data or held out, never both.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from annotator_agreement import Interval, Pair, counted, exact, kappa, label, with_interval

from o1_records import (
    InputError,
    Record,
    atomic_write,
    open_queries,
    quoted,
    read_jsonl,
    run_command,
    sha256_file,
    write_jsonl,
)
from o1_records.trec import read_run, write_run

MEASURES = {"exact": exact, "label": label, "kappa": kappa}
Message = dict[str, str]


class Chat(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an annotator was asked about a pair, what it wrote, and the score in that."""

    key_fields = ("query_id", "doc_id")
    query_id: str
    doc_id: str
    score: Annotated[int, msgspec.Meta(ge=1, le=5)]
    messages: Annotated[tuple[Message, ...], msgspec.Meta(min_length=2)]

    @property
    def pair(self) -> Pair:
        """What it is about."""
        return self.query_id, self.doc_id


class Turns(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What TRL trains on: the loss is the completion's alone."""

    prompt: tuple[Message, ...]
    completion: tuple[Message, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the steps; returns the exit code."""
    return run_command(_main, argv)


def _main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    steps = parser.add_subparsers(required=True, metavar="STEP")
    step = steps.add_parser("split", help="training data, and queries that are held out")
    step.add_argument("--chat", required=True, type=Path)
    step.add_argument("--queries", required=True, type=Path, help="JSONL of Query records, or a BEIR folder")
    step.add_argument("--candidates", required=True, type=Path, help="the run that was annotated")
    step.add_argument("--out", required=True, type=Path)
    step.add_argument("--held-out", type=float, default=0.1, help="share of the queries (default 0.1)")
    step.add_argument("--seed", type=int, default=0)
    step.add_argument("--recipe", default="", help="what else the folder is made with: model and flags")
    step.set_defaults(step=split)
    step = steps.add_parser("merge", help="a LoRA adapter and its model as one model")
    step.add_argument("adapter", type=Path)
    step.add_argument("out", type=Path)
    step.set_defaults(step=merge)
    step = steps.add_parser("agree", help="how well small annotators agree with the large one")
    step.add_argument("--chat", required=True, type=Path)
    step.add_argument("--candidates", required=True, type=Path, help="the pairs that are held out")
    step.add_argument("--small", required=True, nargs=2, action="append", metavar=("NAME", "CHAT.jsonl"))
    step.add_argument("--out", required=True, type=Path)
    step.set_defaults(step=agree)
    args = vars(parser.parse_args(argv))
    args.pop("step")(**args)
    return 0


def split(
    chat: Path, queries: Path, candidates: Path, out: Path, held_out: float, seed: int, recipe: str
) -> None:
    """Write `data/train.jsonl` for TRL, and queries and run of what is held out; by lot, by query.

    Raises InputError when the folder was made of something else, and for held-out pairs that are not
    among the candidates.
    """
    made_of = _made_of([chat, queries, candidates], [held_out, seed, recipe])
    if (out / "split.json").exists() and json.loads((out / "split.json").read_bytes()) != made_of:
        raise InputError(f"{out} was made of other files, model or flags (split.json); choose another folder")
    pairs = [made.pair for made in read_jsonl(chat, Chat)]
    kept_out = _drawn({query_id for query_id, _ in pairs}, held_out, seed)
    hits = [hit for hit in read_run(candidates) if hit.query_id in kept_out]
    asked = {(hit.query_id, hit.doc_id) for hit in hits}
    for pair in pairs:
        if pair[0] in kept_out and pair not in asked:
            raise InputError(f"{candidates}: has no {_shown(pair)}, of which {chat} tells; give its run")
    for folder in ("data", "heldout"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    held = (query for query in open_queries(queries) if query.query_id in kept_out)
    if write_jsonl(out / "heldout" / "queries.jsonl", held) < len(kept_out):
        raise InputError(f"{queries}: lacks queries of {chat}; give those that were annotated")
    write_run(out / "heldout" / "run.trec", hits)
    count = write_jsonl(out / "data" / "train.jsonl", _turns(chat, kept_out))
    with atomic_write(out / "split.json") as file:
        file.write(json.dumps(made_of, indent=1).encode())
    print(f"{count} trajectories to learn from; {len(kept_out)} queries, {len(hits)} pairs held out")


def merge(adapter: Path, out: Path) -> None:
    """Write the model that an adapter makes of its base, with its tokenizer."""
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    AutoPeftModelForCausalLM.from_pretrained(adapter).merge_and_unload().save_pretrained(out)
    AutoTokenizer.from_pretrained(adapter).save_pretrained(out)


def agree(chat: Path, candidates: Path, small: Sequence[tuple[str, str]], out: Path) -> None:
    """Print a table and write `out`: small annotators, and a constant one, beside the large one.

    The constant one gives the score that is most frequent in the training data. Raises InputError
    when a small one was asked something else about a pair than the large one.
    """
    asked = {(hit.query_id, hit.doc_id) for hit in read_run(candidates)}
    queries = {query_id for query_id, _ in asked}
    large = {made.pair: made for made in read_jsonl(chat, Chat) if made.query_id in queries}
    learnt = Counter(made.score for made in read_jsonl(chat, Chat) if made.query_id not in queries)
    if not large or not learnt:
        raise InputError(f"{chat}: has pairs of one side only; agreement needs training and held-out pairs")
    often = min(learnt, key=lambda score: (-learnt[score], score))
    scores = {pair: made.score for pair, made in large.items()}
    given = {name: _scores_of(Path(path), asked, large) for name, path in small}
    given["constant"] = dict.fromkeys(asked, often)
    constant = counted(scores, given["constant"])
    annotators: dict[str, Any] = {}
    for name, small_scores in given.items():
        counts = counted(scores, small_scores)
        both = len(scores.keys() & small_scores.keys())
        annotators[name] = {
            "valid": len(small_scores) / len(asked),
            "both": both,
            "only_large": len(scores) - both,
            "only_small": len(small_scores) - both,
            "neither": len(asked) - len(scores.keys() | small_scores.keys()),
            **{key: with_interval(measure, counts) for key, measure in MEASURES.items()},
            "exact_over_constant": with_interval(exact, counts, constant),
            "label_over_constant": with_interval(label, counts, constant),
        }
    result = {"queries": len(queries), "pairs": len(asked), "constant": often, "annotators": annotators}
    with atomic_write(out) as file:
        file.write(json.dumps(result, indent=1).encode())
    print("\n".join(_table(result)))


def _made_of(files: Sequence[Path], settings: Sequence[object]) -> dict[str, Any]:
    """What tells one folder's making from another: the files' digests, the settings."""
    inputs = {str(file): sha256_file(file) for file in files if file.is_file()}
    return {"inputs": inputs, "settings": [str(value) for value in settings]}


def _drawn(query_ids: set[str], share: float, seed: int) -> set[str]:
    """So many queries by lot, at least one and not all; a query's lot depends on its id and the seed."""
    if not 0 < share < 1:
        raise InputError(f"--held-out is {share}; it is a share of the queries, between 0 and 1")
    if len(query_ids) < 2:
        raise InputError(f"{len(query_ids)} queries have trajectories; a split needs two")
    count = min(max(round(share * len(query_ids)), 1), len(query_ids) - 1)
    lots = sorted(query_ids, key=lambda name: hashlib.sha256(f"{seed}\0{name}".encode()).digest())
    return set(lots[:count])


def _turns(chat: Path, kept_out: set[str]) -> Iterator[Turns]:
    for made in read_jsonl(chat, Chat):
        if made.query_id not in kept_out:
            yield Turns(prompt=made.messages[:-1], completion=made.messages[-1:])


def _scores_of(path: Path, asked: set[Pair], large: Mapping[Pair, Chat]) -> dict[Pair, int]:
    """The scores of a small annotator. Raises InputError for a pair or prompt that is not the large one's."""
    scores = {}
    for made in read_jsonl(path, Chat):
        if made.pair not in asked:
            raise InputError(f"{path}: {_shown(made.pair)} is not among the pairs that are held out")
        if made.pair in large and made.messages[:-1] != large[made.pair].messages[:-1]:
            raise InputError(
                f"{path}: was asked otherwise about {_shown(made.pair)} than the large annotator; "
                "annotate with the template, queries and corpus of the large one"
            )
        scores[made.pair] = made.score
    return scores


def _shown(pair: Pair) -> str:
    return f"query {quoted(pair[0])} with document {quoted(pair[1])}"


def _table(result: Mapping[str, Any]) -> Iterator[str]:
    """A row an annotator: shares and counts of pairs; value and interval of each measure."""
    queries, pairs, often = result["queries"], result["pairs"], result["constant"]
    yield f"{pairs} pairs of {queries} queries held out; the constant score is {often}"
    counts = ("both", "only_large", "only_small", "neither")
    measures = (*MEASURES, "exact_over_constant", "label_over_constant")
    columns = ("annotator", "valid", *counts, *measures)
    yield f"| {' | '.join(columns).replace('_', ' ')} |"
    yield "|---" * len(columns) + "|"
    for name, row in result["annotators"].items():
        cells = [
            f"{row['valid']:.3f}",
            *(str(row[key]) for key in counts),
            *(_cell(row[key]) for key in measures),
        ]
        yield f"| {name} | {' | '.join(cells)} |"


def _cell(measured: Interval | None) -> str:
    return "{:.3f} ({:.3f} to {:.3f})".format(*measured) if measured else "–"


if __name__ == "__main__":
    sys.exit(main())
