"""The model card: what a checkpoint was trained on and how, what was measured, how to load it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers

from o1_model.checkpoint.certificate import CERTIFICATE, read_certificate
from o1_records import Example, atomic_write

FILE_NAME = "README.md"


@dataclass(frozen=True)
class Lengths:
    """Tokens of one kind of text, and how many of them the layout keeps. `cut` is the share that is cut."""

    kind: str
    texts: int
    median: float
    longest: int
    limit: int
    cut: float


@dataclass(frozen=True)
class Card:
    """The contents of a card.

    `settings` are those that differ from the defaults, by flag. `figures` are what each evaluation found
    and `saved` what the saved weights reach (empty: nothing was measured), under the Trainer's names;
    `measured_on` says on what.
    """

    base_model: str
    data: str
    data_sha256: str
    examples: Sequence[Example]
    lengths: Sequence[Lengths]
    settings: Mapping[str, Any]
    processes: int
    steps: int = 0
    figures: Sequence[Mapping[str, float]] = ()
    saved: Mapping[str, float] = field(default_factory=dict)
    measured_on: str = ""

    def write(self, folder: Path) -> None:
        """Write README.md beside the weights."""
        name = folder.resolve().name
        parts = [
            self._front(),
            f"# {name}",
            self._what(),
            _use(name),
            elsewhere(folder),
            self._measured(),
            self._data(),
            self._how(),
        ]
        with atomic_write(folder / FILE_NAME) as file:
            file.write("\n\n".join(part for part in parts if part).encode() + b"\n")

    def _front(self) -> str:
        on_the_hub = not Path(self.base_model).exists()
        return _front([f"base_model: {json.dumps(self.base_model)}"] if on_the_hub else [])

    def _what(self) -> str:
        adapter = "lora_rank" in self.settings and "merge" not in self.settings
        decay = self.settings.get("ema_decay")
        average = f" Its weights are their moving average in training (decay {decay})." if decay else ""
        return (
            f"A retriever that can think before it embeds, trained from `{_short(self.base_model)}` "
            f"by o1-model {version('o1-model')} in {self.steps:,} steps."
            f"{' It is an adapter: loading it loads that model too.' if adapter else ''}{average}"
        )

    def _measured(self) -> str:
        names = [name.removeprefix("saved_") for name in self.saved if "nDCG" in name]
        if not names:
            return "## Figures\n\nNothing was measured in this training."
        rows = [
            *(
                [f"{line['step']:,}", *(f"{line[f'eval_{name}']:.4f}" for name in names)]
                for line in self.figures
            ),
            ["saved", *(f"{self.saved[f'saved_{name}']:.4f}" for name in names)],
        ]
        head = ["step", *(name.replace("_thoughts", " with its own thoughts") for name in names)]
        return f"## Figures\n\nOn {self.measured_on}.\n\n{_table(head, rows)}"

    def _data(self) -> str:
        thoughts = sum(example.thought is not None for example in self.examples)
        negatives = sum(len(example.negatives) for example in self.examples) / len(self.examples)
        sets = Counter(example.dataset for example in self.examples if example.dataset)
        counts = ", ".join(f"{name} ({count:,})" for name, count in sets.most_common())
        of = f" Datasets: {counts}." if sets else ""
        rows = [
            [part.kind, f"{part.median:.0f}", f"{part.longest:,}", f"{part.limit:,}", f"{part.cut:.1%}"]
            for part in self.lengths
        ]
        head = ["tokens of a", "median", "longest", "kept", "cut"]
        return (
            f"## Data\n\n`{_short(self.data)}` (sha256 of its examples `{self.data_sha256}`): "
            f"{len(self.examples):,} examples, {thoughts:,} with a thought, {negatives:.1f} negatives each "
            f"on average.{of}\n\n{_table(head, rows)}"
        )

    def _how(self) -> str:
        settings = "\n".join(f"{name}: {json.dumps(value)}" for name, value in self.settings.items())
        number = "1 process" if self.processes == 1 else f"{self.processes} processes"
        return (
            "## Settings\n\nAs `o1-model train FILE.yaml` reads them; all others have their defaults.\n\n"
            f"```yaml\n{settings}\n```\n\n"
            f"{number}, PyTorch {torch.__version__}, transformers {transformers.__version__}."
        )


def write_plain_card(folder: Path) -> None:
    """Write README.md of a checkpoint that was not saved by a training; an existing card stays."""
    path = folder / FILE_NAME
    if path.exists():
        return
    name = folder.resolve().name
    what = f"A retriever that can think before it embeds, saved by o1-model {version('o1-model')}."
    with atomic_write(path) as file:
        file.write(
            "\n\n".join([_front([]), f"# {name}", what, _use(name), elsewhere(folder)]).encode() + b"\n"
        )


def elsewhere(folder: str | Path) -> str:
    """Return the part of a card about other runtimes (Markdown); "" for a folder without a certificate."""
    if not (Path(folder) / CERTIFICATE).exists():
        return ""
    certificate = read_certificate(folder)
    if certificate.refusal:
        there = f"It does not load in sentence-transformers: {certificate.refusal}."
    else:
        there = (
            "sentence-transformers 6 or later gives the same vectors, without thoughts and without "
            "remote code:\n\n```python\nfrom sentence_transformers import SentenceTransformer\n\n"
            f"model = SentenceTransformer({json.dumps(Path(folder).resolve().name)})\n"
            'queries = model.encode_query(["..."])\n'
            'documents = model.encode_document(["..."])\n```'
        )
    check = (
        f"`{CERTIFICATE}` holds the vectors of eight fixed texts; `o1-model verify` compares a runtime "
        "or a server (`--server URL`) with them."
    )
    return f"## Elsewhere\n\n{there}\n\n{check}"


def _front(lines: Sequence[str]) -> str:
    """Return the front matter, which model hubs read."""
    common = ["library_name: o1-model", "pipeline_tag: feature-extraction", "tags: [retrieval, embeddings]"]
    return "\n".join(["---", *common, *lines, "---"])


def _use(name: str) -> str:
    return f"""## Use

```python
from o1_model import Embedder, Thinking

model = Embedder.from_pretrained({json.dumps(name)})
queries = model.encode_query(["..."])                               # without thinking
queries = model.encode_query(["..."], think=Thinking(samples=3))    # with its own thoughts
documents = model.encode_document(["..."])
scores = queries @ documents.T
```"""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _short(path: str) -> str:
    """Return a hub id unchanged and the last part of a path: a machine's folders mean nothing elsewhere."""
    return Path(path).resolve().name if Path(path).exists() else path
