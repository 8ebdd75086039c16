"""The flags of `o1-model train`: from the command line, from a YAML or JSON file, or from both."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import yaml  # type: ignore[import-untyped]
from transformers import HfArgumentParser
from transformers import TrainingArguments as _TrainingArguments

from o1_model.training.objective import Objective, refuse_changed_defaults, refuse_out_of_range
from o1_records import InputError, quoted

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class ModelArguments:
    """What to train (the names are FlagEmbedding's and Tevatron's)."""

    _argument_group_name = "model"

    model_name_or_path: str = field(
        metadata={"help": "folder or hub id of a causal LM or a BERT, or an adapter of ours to train on"}
    )
    layout: Literal["o1", "reference", "instruct"] = field(
        default="o1",
        metadata={"help": "o1 has two read-outs, reference one, instruct has no thoughts"},
    )
    readout: Literal["token", "mean"] = field(
        default="token", metadata={"help": "the state at the last control token, or the mean"}
    )
    attention: Literal["causal", "prefix"] = field(
        default="causal", metadata={"help": "prefix suits encoders: in both directions up to the first <emb>"}
    )
    query_length: int = field(default=64, metadata={"help": "tokens of a query"})
    thought_length: int = field(default=64, metadata={"help": "tokens of a thought"})
    document_length: int = field(default=192, metadata={"help": "tokens of a document"})
    instruction: str = field(default="", metadata={"help": "for queries without one of their own"})
    query_prompt: str | None = field(
        default=None,
        metadata={"help": "text before a query, with {instruction} in its place; else as the layout has it"},
    )
    document_prompt: str = field(default="", metadata={"help": "text before every document"})
    latent_steps: int = field(
        default=0,
        metadata={"help": "states of latent thinking whose mean a vector without a thought is; LaSER has 3"},
    )
    row_end: Literal["eos", "none"] = field(
        default="eos",
        metadata={"help": "what closes a row of the layout instruct; with none its last token is read"},
    )
    dtype: Literal["float32", "bfloat16", "auto"] = field(
        default="float32",
        metadata={"help": "of the weights, auto as they are stored; an adapter trains in float32 on any"},
    )
    dropout: float | None = field(default=None, metadata={"help": "instead of the backbone's own rate"})
    lora_rank: int = field(
        default=0, metadata={"help": "of an adapter on all projections; 0 trains the whole model"}
    )
    lora_alpha: int = field(default=64, metadata={"help": "scale of the adapter"})
    lora_dropout: float = field(default=0.1, metadata={"help": "dropout of the adapter"})
    lora_targets: list[str] = field(
        default_factory=list,
        metadata={"help": "names of the projections with an adapter, such as q_proj; all unless given"},
    )
    merge: bool = field(default=False, metadata={"help": "add the adapter to the weights at the end"})
    ema_decay: float = field(
        default=0.0,
        metadata={"help": "measure and save the moving average of the weights, with 0.999 say; 0: the last"},
    )
    load_in_4bit: bool = field(
        default=False,
        metadata={"help": "hold the frozen base in 4 bits under an adapter (QLoRA; not run so far)"},
    )

    def __post_init__(self) -> None:
        """Raise InputError for values out of range."""
        refuse_out_of_range(
            self,
            dropout=(self.dropout is None or 0 <= self.dropout < 1, "at least 0 and below 1"),
            lora_rank=(self.lora_rank >= 0, "at least 0"),
            lora_alpha=(self.lora_alpha > 0, "above 0"),
            lora_dropout=(0 <= self.lora_dropout < 1, "at least 0 and below 1"),
            ema_decay=(0 <= self.ema_decay < 1, "at least 0 and below 1"),
            latent_steps=(self.latent_steps >= 0, "at least 0"),
        )
        if self.row_end == "none" and self.layout != "instruct":
            raise InputError(f"row_end none is for the layout instruct; {self.layout} closes rows with <emb>")
        if not self.lora_rank:
            refuse_changed_defaults(self, "lora_rank", "lora_alpha", "lora_dropout", "merge")
            if self.lora_targets:
                raise InputError("lora_targets would have no effect without lora_rank; give that too")


@dataclass(frozen=True)
class DataArguments:
    """What to train on."""

    _argument_group_name = "data"

    train_data: list[str] = field(
        metadata={
            "help": "JSONL files, or folders of them, of Example records (o1-vote elect writes them) or of "
            "FlagEmbedding's or Tevatron's rows; NAME=FILE names the dataset of its examples"
        }
    )
    max_examples: list[str] = field(
        default_factory=list,
        metadata={"help": "most examples of every dataset (N) or of one (NAME=N), drawn once, by seed"},
    )
    data_weights: list[str] = field(
        default_factory=list,
        metadata={"help": "NAME=W: turns of each of a dataset's examples in an epoch; 0.5: half have one"},
    )
    positives: int = field(default=1, metadata={"help": "positives of an example in a step; 0 is all"})
    negatives: int = field(default=15, metadata={"help": "maximum number of hard negatives per example"})
    draw: Literal["random", "first"] = field(
        default="random",
        metadata={"help": "draw other positives and negatives at each turn, or always take the first"},
    )
    same_dataset: bool = field(
        default=False,
        metadata={"help": "a batch holds examples of one dataset, group_size and batch_size (ReasonEmbed)"},
    )
    batch_size_scale: int = field(
        default=1,
        metadata={"help": "times the batch_size of examples that have one: 8 for ReasonEmbed's on one GPU"},
    )
    thought_dropout: float = field(
        default=0.0, metadata={"help": "share of thoughts left out; the public O1 code has 0.1"}
    )
    mine_every: int = field(
        default=0,
        metadata={"help": "steps between two minings of hard negatives with the model in training; 0: none"},
    )
    mine_corpus: str | None = field(
        default=None,
        metadata={"help": "BEIR folder or JSONL of documents to mine, beside those of the examples"},
    )
    mine_range_max: int = field(
        default=100, metadata={"help": "how many of the best documents of a query are looked at"}
    )
    mine_relative_margin: float = field(
        default=0.05,
        metadata={"help": "how far below the lowest positive a mined negative scores, as a share of that"},
    )
    chunk_tokens: int = field(default=2048, metadata={"help": "padded tokens of one forward pass"})
    grad_cache: bool = field(
        default=False, metadata={"help": "two passes a step: vectors, not activations, bound the batch"}
    )

    def __post_init__(self) -> None:
        """Take a single path for a list of one. Raises InputError for values out of range."""
        for name in ("train_data", "max_examples", "data_weights"):
            value = getattr(self, name)
            if isinstance(value, str | Path):
                object.__setattr__(self, name, [str(value)])
        refuse_out_of_range(
            self,
            train_data=(len(self.train_data) > 0, "at least one file"),
            max_examples=(all(n >= 1 for n in self.most_examples.values()), "at least 1 each"),
            data_weights=(all(w > 0 for w in self.weights.values()), "above 0 each"),
            positives=(self.positives >= 0, "at least 0"),
            batch_size_scale=(self.batch_size_scale >= 1, "at least 1"),
            negatives=(self.negatives >= 0, "at least 0"),
            thought_dropout=(0 <= self.thought_dropout <= 1, "between 0 and 1"),
            chunk_tokens=(self.chunk_tokens >= 1, "at least 1"),
            mine_every=(self.mine_every >= 0, "at least 0"),
            mine_range_max=(self.mine_range_max >= 1, "at least 1"),
            mine_relative_margin=(0 <= self.mine_relative_margin < 1, "at least 0 and below 1"),
        )
        if not self.mine_every:
            refuse_changed_defaults(
                self, "mine_every", "mine_corpus", "mine_range_max", "mine_relative_margin"
            )

    @property
    def paths(self) -> list[Path]:
        """The files and folders of `train_data`, without the names given to them."""
        return [path for _, path in map(named_file, self.train_data)]

    @property
    def most_examples(self) -> dict[str, int]:
        """`max_examples` by dataset; "" is every other one."""
        return _by_name("max_examples", self.max_examples, int)

    @property
    def weights(self) -> dict[str, float]:
        """`data_weights` by dataset."""
        return _by_name("data_weights", self.data_weights, float, named=True)


@dataclass(frozen=True)
class EvalArguments:
    """What to measure retrieval on while training; `--eval_steps` says how often."""

    _argument_group_name = "evaluation"

    eval_collection: str | None = field(
        default=None, metadata={"help": "BEIR folder; turns on evaluation and keeping the best checkpoint"}
    )
    eval_split: str = field(default="dev", metadata={"help": "name of its qrels/<split>.tsv"})
    eval_queries: int = field(default=200, metadata={"help": "maximum number of its queries"})
    eval_documents: int = field(
        default=5000, metadata={"help": "maximum number of its documents; the relevant ones always stay"}
    )
    eval_samples: int = field(
        default=1, metadata={"help": "thoughts per query, by the model; 0 measures without thinking"}
    )

    def __post_init__(self) -> None:
        """Raise InputError for values out of range."""
        refuse_out_of_range(
            self,
            eval_queries=(self.eval_queries >= 1, "at least 1"),
            eval_documents=(self.eval_documents >= 1, "at least 1"),
            eval_samples=(self.eval_samples >= 0, "at least 0"),
        )


@dataclass
class TrainingArguments(_TrainingArguments):
    """transformers' arguments, under a heading of their own in --help, and `new_job`."""

    _argument_group_name = "training (transformers' TrainingArguments)"

    new_job: bool = field(
        default=False,
        metadata={"help": "move an earlier training with other settings aside; nothing is deleted"},
    )

    def __post_init__(self) -> None:
        """Read `--fsdp true`: a flag is text, and transformers expects a bool."""
        if str(self.fsdp).lower() == "true":
            self.fsdp = True  # type: ignore[assignment]
        super().__post_init__()  # type: ignore[no-untyped-call]


def named_file(value: str) -> tuple[str, Path]:
    """Return the name ("" if it has none) and the path of `NAME=FILE` or `FILE`."""
    name, _, path = value.partition("=")
    return ("", Path(value)) if path == "" or Path(value).exists() else (name, Path(path))


def _by_name(
    flag: str, values: Sequence[str], number: Callable[[str], Number], *, named: bool = False
) -> dict[str, Number]:
    found: dict[str, Number] = {}
    for value in values:
        name, _, text = value.rpartition("=")
        if name in found or (named and not name):
            raise InputError(f"{flag}: expected NAME={text or 'N'}, each name once, got {quoted(value)}")
        try:
            found[name] = number(text)
        except ValueError as error:
            raise InputError(f"{flag}: {quoted(text)} in {quoted(value)} is not a number") from error
    return found


Arguments = tuple[ModelArguments, DataArguments, EvalArguments, Objective, TrainingArguments]
BEST_METRIC = "eval_nDCG@10"


def parse(argv: Sequence[str]) -> Arguments:
    """Read `[FILE.yaml | FILE.json] --flag value ...`; flags override the file.

    Exits with 2 for a wrong command line. Raises InputError for a wrong file or values that do not
    go together.
    """
    parser = _Parser(
        (ModelArguments, DataArguments, EvalArguments, Objective, TrainingArguments),
        prog="o1-model train",
        usage="o1-model train [FILE.yaml | FILE.json] --flag value ...",
        allow_abbrev=False,
    )
    flags = list(argv)
    if flags and Path(flags[0]).suffix in (".yaml", ".yml", ".json"):
        flags = [*parser.flags_of_file(flags[0]), *flags[1:]]
    known, unknown = parser.parse_known_args(flags)
    if unknown:
        parser.refuse(unknown)
    if known.eval_collection:
        parser.set_defaults(**_evaluation_defaults(known))
    try:
        parsed: Any = parser.parse_args_into_dataclasses(flags, look_for_args_file=False)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"the settings do not go together: {error}") from error
    except ImportError as error:
        raise InputError(f"a setting needs what is not installed: {error}") from error
    return tuple(parsed)


def changed(*groups: Any) -> dict[str, Any]:
    """Return the settings that differ from their defaults, by flag."""
    values: dict[str, Any] = {}
    for group in groups:
        own: dict[str, Any] = vars(group)
        if isinstance(group, _TrainingArguments):
            own = group.to_dict()  # type: ignore[no-untyped-call]
        for known in fields(group):
            default = known.default if known.default_factory is MISSING else known.default_factory()
            if known.init and own[known.name] != getattr(default, "value", default):
                values[known.name] = own[known.name]
    return values


def _evaluation_defaults(known: Any) -> dict[str, Any]:
    """Return what a collection to evaluate on turns on, unless the user says otherwise."""
    saved = str(getattr(known.save_strategy, "value", known.save_strategy))
    return {
        "eval_strategy": saved if saved in ("steps", "epoch") else "steps",
        # the untrained model: what a training gained
        "eval_on_start": True,
        # the best checkpoint can only be kept when there is one for each evaluation
        "eval_steps": known.save_steps,
        "save_steps": known.save_steps if known.eval_steps is None else known.eval_steps,
        "load_best_model_at_end": saved != "no",
        "metric_for_best_model": BEST_METRIC,
        "greater_is_better": True,
    }


class _Parser(HfArgumentParser):
    """HfArgumentParser whose errors name the file and line that a value came from."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._places: dict[tuple[str, str], str] = {}

    def flags_of_file(self, path: str) -> Iterator[str]:
        """Yield the flags that a file of settings stands for."""
        known = self._known()
        for name, (line, value) in _settings(Path(path)).items():
            place = f"{path}:{line}"
            if name not in known:
                raise InputError(f"{place}: unknown setting {quoted(name)}{_nearest(name, known)}")
            for text in [value] if isinstance(value, str) else value:
                self._places[name, text] = place
            yield from [f"--{name}={value}"] if isinstance(value, str) else [f"--{name}", *value]

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Exit at unknown arguments."""
        flag = unknown[0].partition("=")[0]
        if not flag.startswith("-"):
            self.error(f"unexpected argument {flag!r}; give a file of settings first, then --flag value")
        nearest = _nearest(flag.lstrip("-").replace("-", "_"), self._known(), "--")
        self.error(f"unknown flag {flag}{nearest}")

    def error(self, message: str) -> NoReturn:
        """Raise InputError for a value from a file; exit with 2 for one from the command line."""
        flag = re.match(r"argument --(\w+)", message)
        for (name, text), place in self._places.items():
            if flag and name == flag[1] and repr(text) in message:
                raise InputError(f"{place}: {message}")
        super().error(message)
        raise SystemExit(2)

    def _known(self) -> list[str]:
        return [known.name for group in self.dataclass_types for known in fields(group) if known.init]


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML in which 1e-4 is a number, as in JSON."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _settings(path: Path) -> dict[str, tuple[int, str | list[str]]]:
    """Return each setting of a YAML or JSON file with its line, as text like that of a command line.

    JSON is read as YAML, which it is. `null` leaves a setting at its default.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8").replace("\t", " "), Loader=_Loader)
    except (yaml.YAMLError, UnicodeError) as error:
        raise InputError(f"{path}: neither YAML nor JSON: {error}") from error
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"{path}: expected `name: value` lines, one for each setting")
    settings: dict[str, tuple[int, str | list[str]]] = {}
    for key, node in root.value:
        name, line = str(key.value).replace("-", "_"), key.start_mark.line + 1
        if name in settings:
            raise InputError(f"{path}:{line}: duplicate setting {name}; keep one of them")
        if node.tag != "tag:yaml.org,2002:null":
            settings[name] = (line, _text(node))
    return settings


def _text(node: Any) -> str | list[str]:
    if isinstance(node, yaml.ScalarNode):
        # as written: YAML would read `eval_strategy: no` as false
        return str(node.value)
    if isinstance(node, yaml.SequenceNode):
        return [str(item.value) for item in node.value]
    return json.dumps(yaml.constructor.SafeConstructor().construct_document(node))


def _nearest(name: str, known: Sequence[str], prefix: str = "") -> str:
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {prefix}{close[0]}?" if close else ""
