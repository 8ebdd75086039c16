"""A training step: ours against the plain way, and a large contrastive batch against its largest part.

    python benchmarks/train.py                # 8 queries x 16 passages, both vocabularies; then 64 x 16
    python benchmarks/train.py --queries 4 --group 4 --layers 2 --steps 1 --vocabularies 4096 --large 8

A Qwen2 of 25 M parameters (at a vocabulary of 16,384) with LoRA r 32 on all projections, fp32, AdamW;
query and thought up to 256 tokens, passages up to 192, with lengths like those of MS MARCO's queries and
passages and of LLM-written thoughts. Every line of JSON comes from a process of its own: {name, items,
seconds, items_per_s, cpu_seconds, peak_rss_mb}; items are real tokens, without padding. Lines with
"ratio" compare.

"plain" is what one writes with transformers and peft: the queries with their thoughts in one padded batch
through the causal LM with `output_hidden_states=True`, so that all logits in fp32 and the states of all
layers are there; all passages in one padded batch (through the base model, without logits: with them the
large vocabulary would need 15 GB more); the last layer's states at the read-outs; one backward pass.
"ours" is a step of JointTrainer's in one pass, "ours_half" the same with the activations of every second
layer computed again (--activation_checkpointing_kwargs '{"every_n_layers": 2}'), "ours_cached" in two passes
(GradCache).
"micro" encodes, forwards and backwards, the largest parts of the large batch alone.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

QUERY_AND_THOUGHT, PASSAGE = 256, 192
CHUNK_TOKENS = 2048
OURS = ("ours", "ours_half", "ours_cached")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--queries", type=int, default=8)
    parser.add_argument("--group", type=int, default=16, help="passages a query")
    parser.add_argument("--large", type=int, default=64, help="queries of the large batch")
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[16_384, 151_936])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--way", choices=sorted(WAYS), help="measure one way in this process")
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measure(args)))
        return
    for vocabulary in args.vocabularies:
        compare(args, vocabulary)
    large(args, args.vocabularies[0])


def compare(args: argparse.Namespace, vocabulary: int) -> None:
    """Ours against the plain way at one vocabulary."""
    lines = {way: run(args, way, vocabulary, args.queries) for way in ("plain", *OURS)}
    for way in OURS:
        speed = lines[way]["items_per_s"] / lines["plain"]["items_per_s"]
        memory = lines[way]["peak_rss_mb"] / lines["plain"]["peak_rss_mb"]
        print(
            json.dumps(
                {"ratio": way, "vocabulary": vocabulary, "speed": round(speed, 2), "memory": round(memory, 3)}
            )
        )


def large(args: argparse.Namespace, vocabulary: int) -> None:
    """The memory of a large batch in two passes against that of its largest part."""
    whole, part = (run(args, way, vocabulary, args.large) for way in ("ours_cached", "micro"))
    # beside the whole process, what stands above the loaded model: Python and torch are in both
    above = {line["name"]: line["peak_rss_mb"] - line["loaded_rss_mb"] for line in (whole, part)}
    ratio = {
        "ratio": f"{args.large} x {args.group} passages",
        "memory": round(whole["peak_rss_mb"] / part["peak_rss_mb"], 3),
        "memory_above_the_model": round(above["ours_cached"] / above["micro"], 3),
    }
    print(json.dumps(ratio))


def run(args: argparse.Namespace, way: str, vocabulary: int, queries: int) -> dict[str, Any]:
    """One way in a process of its own."""
    given = {"group": args.group, "layers": args.layers, "steps": args.steps}
    flags = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, __file__, "--way", way, "--vocabularies", str(vocabulary), *flags]
    done = subprocess.run(
        [*command, "--queries", str(queries)], stdout=subprocess.PIPE, text=True, check=True
    )
    print(done.stdout.strip(), flush=True)
    line: dict[str, Any] = json.loads(done.stdout)
    return line


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Time `steps` steps of one way; the first batch of another seed warms up."""
    import torch

    torch.manual_seed(0)
    embedder = model_of(args.vocabularies[0], args.layers)
    batches = [batch_of(embedder, args.queries, args.group, seed) for seed in range(args.steps)]
    warm = batch_of(embedder, 1, 2, seed=99)
    trained = [p for p in embedder.backbone.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4)
    step = WAYS[args.way]
    step(embedder, warm)
    optimiser.step()
    loaded = current_mb()
    start, cpu = time.perf_counter(), time.process_time()
    for batch in batches:
        optimiser.zero_grad()
        step(embedder, batch)
        optimiser.step()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    items = sum(batch.real_tokens for batch in batches)
    return {
        "name": args.way,
        "vocabulary": args.vocabularies[0],
        "parameters": sum(p.numel() for p in embedder.backbone.lm.parameters()) - sum(map(numel, trained)),
        "batch": f"{args.queries} x {args.group}",
        "items": items,
        "seconds": round(seconds, 3),
        "items_per_s": round(items / seconds, 1),
        "cpu_seconds": round(cpu, 3),
        "real_token_share": round(items / sum(seen(args.way, batch) for batch in batches), 3),
        "loaded_rss_mb": round(loaded, 1),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def plain(embedder: Any, batch: Any) -> None:
    """One padded pass over everything, all logits and all states."""
    import torch
    from torch.nn import functional as F

    lm = embedder.backbone.lm.train()
    asked = padded(batch.query_rows)
    output = lm(
        input_ids=asked["ids"],
        attention_mask=asked["mask"],
        labels=asked["labels"],
        output_hidden_states=True,
    )
    rows = torch.arange(len(asked["ids"]))
    states = output.hidden_states[-1]
    passages = padded(document_rows(batch))
    documents = lm.model(
        input_ids=passages["ids"], attention_mask=passages["mask"], output_hidden_states=True
    )
    everyone = torch.arange(len(passages["ids"]))
    found = F.normalize(documents.hidden_states[-1][everyone, passages["last"]], dim=-1)
    target = batch.judgements.rows[:, 0]
    embed = sum(
        F.cross_entropy(F.normalize(states[rows, asked[place]], dim=-1) @ found.T / 0.02, target)
        for place in ("first", "last")
    )
    (0.8 * embed / 2 + 0.2 * output.loss).backward()


def ours(embedder: Any, batch: Any) -> None:
    joint_step(embedder, batch, cached=False)


def ours_half(embedder: Any, batch: Any) -> None:
    from o1_model.training.joint import JointModel

    JointModel(embedder.backbone, embedder.layout).activation_checkpointing_enable(every_n_layers=2)
    joint_step(embedder, batch, cached=False)


def ours_cached(embedder: Any, batch: Any) -> None:
    joint_step(embedder, batch, cached=True)


def joint_step(embedder: Any, batch: Any, *, cached: bool) -> None:
    """The step that JointTrainer takes."""
    import torch

    from o1_model.training.gradcache import Plan, cached_step, direct_step
    from o1_model.training.joint import JointModel
    from o1_model.training.objective import Objective

    model = JointModel(embedder.backbone, embedder.layout).train()
    step = cached_step if cached else direct_step
    plan = Plan(Objective(), step=0, n_labels=batch.n_labels)
    step(model, batch, plan, lambda loss, last: loss.backward(), torch.device("cpu"))


def micro(embedder: Any, batch: Any) -> None:
    """The largest part alone, forwards and backwards."""
    from o1_model.training.joint import JointModel

    model = JointModel(embedder.backbone, embedder.layout).train()
    # a query part has logits besides
    for parts in (batch.queries, batch.documents):
        part = max(parts, key=lambda part: part.mask.numel())
        first, last, think = model(part, batch.n_labels)
        ((first + last).sum() + think).backward()


WAYS: dict[str, Callable[[Any, Any], None]] = {
    "plain": plain,
    "ours": ours,
    "ours_half": ours_half,
    "ours_cached": ours_cached,
    "micro": micro,
}


def model_of(vocabulary: int, layers: int) -> Any:
    """A Qwen2 with an adapter, and a tokenizer with a word a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    from o1_model.backbone import Backbone
    from o1_model.checkpoint.lora import Lora, add_lora
    from o1_model.embedder import Embedder
    from o1_model.layout import new_layout

    # four places are left for the control tokens, as in a padded vocabulary
    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{n}": n for n in range(3, vocabulary - 4)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    layout = new_layout(
        tokenizer, query_length=32, thought_length=QUERY_AND_THOUGHT - 32 - 6, document_length=PASSAGE - 3
    )
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=448,
        intermediate_size=1280,
        num_hidden_layers=layers,
        num_attention_heads=7,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
    )
    backbone = Backbone(Qwen2ForCausalLM(config), layout.control_ids)
    add_lora(backbone, Lora())
    return Embedder(backbone, layout, tokenizer)


def batch_of(embedder: Any, queries: int, group: int, seed: int) -> Any:
    """Text with the lengths of MS MARCO's queries and passages (log-normal) and of LLM-written thoughts."""
    from o1_model.training.data import JointCollator
    from o1_records import Document, Example, Query, Source, Thought

    draw = random.Random(seed)
    size = len(embedder.tokenizer) - 8

    def text(length: float) -> str:
        return " ".join(f"w{draw.randrange(3, size)}" for _ in range(max(1, int(length))))

    def passage(name: str) -> Document:
        return Document(doc_id=name, text=text(draw.lognormvariate(4.2, 0.42)))

    examples = [
        Example(
            query=Query(query_id=f"q{n}", text=text(draw.lognormvariate(1.8, 0.4))),
            positives=(passage(f"p{n}"),),
            negatives=tuple(passage(f"n{n}-{m}") for m in range(group - 1)),
            thought=Thought(
                query_id=f"q{n}", thought_id="t", text=text(draw.gauss(140, 50)), source=Source(model="m")
            ),
        )
        for n in range(queries)
    ]
    collator = JointCollator(
        tokenizer=embedder.tokenizer, layout=embedder.layout, negatives=group - 1, chunk_tokens=CHUNK_TOKENS
    )
    return collator(examples)["batch"]


def padded(rows: Any) -> dict[str, Any]:
    """Rows padded on the right to the longest, as a data collator does."""
    import torch

    width = max(len(row.ids) for row in rows)
    ids, labels = torch.full((len(rows), width), 2), torch.full((len(rows), width), -100)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row.ids)] = torch.tensor(row.ids)
        mask[number, : len(row.ids)] = 1
        labels[number, row.labels.start : row.labels.stop] = torch.tensor(
            row.ids[row.labels.start : row.labels.stop]
        )
    ends = {name: torch.tensor([getattr(row, name) for row in rows]) for name in ("first", "last")}
    return {"ids": ids, "mask": mask, "labels": labels, **ends}


def document_rows(batch: Any) -> list[Any]:
    """The rows of the passages, in the order of the examples."""
    from o1_model.layout import Row

    rows = [
        Row(tuple(ids[: int(mask.sum())].tolist()), int(last), int(last), range(0))
        for part in batch.documents
        for ids, mask, last in zip(part.input_ids, part.mask, part.last, strict=True)
    ]
    return [rows[place] for place in batch.document_order.argsort().tolist()]


def seen(way: str, batch: Any) -> int:
    """Tokens that the model reads, padding included."""
    if way != "plain":
        return int(batch.padded_tokens)
    return sum(padded(rows)["ids"].numel() for rows in (batch.query_rows, document_rows(batch)))


def numel(tensor: Any) -> int:
    return int(tensor.numel())


def current_mb() -> float:
    """Memory of this process now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
