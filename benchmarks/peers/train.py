"""Contrastive steps with LoRA: ours against sentence-transformers' (cached) MultipleNegativesRankingLoss.

A random Llama with adapters (peft) of rank 32 that begin equal, in-batch and hard negatives, temperature
0.02, AdamW, float32; texts with lengths like those of MS MARCO. The losses of two steps have to agree.
"ours" keeps the graph of the batch; "ours, GradCache" takes two passes, as the cached loss does.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import Arrays, Job, Side, Size, Work, main, refuse_difference

VOCABULARY, TEMPERATURE, RATE, STEPS = 16_384, 0.02, 1e-3, 2


def prepare(folder: Path, size: Size) -> None:
    """Write a model whose tokens are words, and batches of queries with their documents."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{n}": n for n in range(3, VOCABULARY - 4)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder / "model")
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=448, intermediate_size=1280, num_hidden_layers=size["layers"],
        num_attention_heads=7, num_key_value_heads=1, tie_word_embeddings=True, max_position_embeddings=512,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    random = np.random.default_rng(0)

    def text(mean: float, spread: float) -> str:
        length = min(180, max(2, int(random.lognormal(mean, spread))))
        return " ".join(f"w{word}" for word in random.integers(3, VOCABULARY - 4, length))

    batches = [
        [[text(1.8, 0.4), *(text(4.2, 0.42) for _ in range(size["group"]))] for _ in range(size["queries"])]
        for _ in range(STEPS)
    ]
    (folder / "batches.json").write_text(json.dumps(batches))


def batches_of(folder: Path) -> list[list[list[str]]]:
    """Return batches of examples: a query, its positive, its negatives."""
    found: list[list[list[str]]] = json.loads((folder / "batches.json").read_text())
    return found


def same_adapters(parameters: Any) -> list[Any]:
    """Give every first matrix of an adapter numbers that depend on its name alone; return what trains."""
    import torch

    trained = []
    for name, parameter in parameters:
        if not parameter.requires_grad:
            continue
        trained.append(parameter)
        if "lora_A" in name:
            place = name.partition("layers.")[2].partition(".lora_A")[0]
            generator = torch.Generator().manual_seed(zlib.crc32(place.encode()))
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[1])
    return trained


def ours(*, cached: bool, chunk_tokens: int = 2048) -> Callable[[Path, Size], Work]:
    def start(folder: Path, size: Size) -> Work:
        import torch

        from o1_model import Embedder
        from o1_model.checkpoint.lora import Lora, add_lora
        from o1_model.training.data import JointCollator
        from o1_model.training.gradcache import Plan, cached_step, direct_step
        from o1_model.training.joint import JointModel
        from o1_model.training.objective import Objective
        from o1_records import Document, Example, Query

        # rows are the words of a text and nothing else, and are read at their last one
        embedder = Embedder.from_backbone(folder / "model", name="instruct", eos=None)
        add_lora(embedder.backbone, Lora(dropout=0.0))
        trained = same_adapters(embedder.backbone.named_parameters())
        optimiser = torch.optim.AdamW(trained, lr=RATE, weight_decay=0)
        collator = JointCollator(
            tokenizer=embedder.tokenizer,
            layout=embedder.layout,
            negatives=size["group"] - 1,
            chunk_tokens=chunk_tokens,
        )
        batches = [
            collator(
                [
                    Example(
                        query=Query(query_id=f"q{number}", text=query),
                        positives=(Document(doc_id=f"p{number}", text=positive),),
                        negatives=tuple(
                            Document(doc_id=f"n{number}-{n}", text=text) for n, text in enumerate(negatives)
                        ),
                    )
                    for number, (query, positive, *negatives) in enumerate(batch)
                ]
            )["batch"]
            for batch in batches_of(folder)
        ]
        objective = Objective(embed_weight=1.0, thought_weight=0.0, temperature=TEMPERATURE)
        model = JointModel(embedder.backbone, embedder.layout).train()
        step = cached_step if cached else direct_step

        def work() -> Arrays:
            losses = []
            for number, batch in enumerate(batches):
                optimiser.zero_grad()
                plan = Plan(objective, step=number, n_labels=0)
                told = step(model, batch, plan, lambda loss, _last: loss.backward(), torch.device("cpu"))
                optimiser.step()
                losses.append(float(told["loss"]))
            return {"losses": np.array(losses)}

        return work

    return start


def sentence_transformers(*, cached: bool) -> Callable[[Path, Size], Work]:
    def start(folder: Path, size: Size) -> Work:
        import torch
        from peft import LoraConfig
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer import losses as kinds
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

        transformer = Transformer(str(folder / "model"))
        pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken")
        model = SentenceTransformer(modules=[transformer, pooling], device="cpu")
        names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        model.add_adapter(LoraConfig(r=32, lora_alpha=64, lora_dropout=0.0, target_modules=names))
        model.train()
        trained = same_adapters(model.named_parameters())
        optimiser = torch.optim.AdamW(trained, lr=RATE, weight_decay=0)
        scale = 1 / TEMPERATURE
        loss = (
            kinds.CachedMultipleNegativesRankingLoss(model, scale=scale, mini_batch_size=size["mini"])
            if cached
            else kinds.MultipleNegativesRankingLoss(model, scale=scale)
        )
        batches = [
            [model.preprocess(list(column)) for column in zip(*batch, strict=True)]
            for batch in batches_of(folder)
        ]

        def work() -> Arrays:
            found = []
            for batch in batches:
                optimiser.zero_grad()
                value = loss([dict(column) for column in batch], torch.zeros(0))
                value.backward()
                optimiser.step()
                found.append(value.item())
            return {"losses": np.array(found)}

        return work

    return start


def agree(found: dict[str, Arrays], _size: Size) -> dict[str, str]:
    own = found["ours"]["losses"]
    if not own[0] > 0:
        raise SystemExit(f"the losses are {own}")
    return {
        side: refuse_difference("losses", own, each["losses"], 1e-4)
        for side, each in found.items()
        if side != "ours"
    }


NEEDS = ["sentence-transformers", "peft", "torch"]
JOB = Job(
    name="train",
    file=__file__,
    what="{queries} queries x {group} documents, Llama of {layers} layers, LoRA, two steps",
    unit="documents",
    items=lambda size: size["queries"] * size["group"] * STEPS,
    sides={
        "ours": Side(ours(cached=False), ["o1-model", "peft", "torch"], "float32"),
        "ours, GradCache": Side(ours(cached=True), ["o1-model", "peft", "torch"], "float32"),
        "ours, GradCache of 512 tokens": Side(
            ours(cached=True, chunk_tokens=512), ["o1-model", "peft", "torch"], "float32"
        ),
        "sentence-transformers, cached": Side(sentence_transformers(cached=True), NEEDS, "float32"),
        "sentence-transformers": Side(sentence_transformers(cached=False), NEEDS, "float32"),
    },
    prepare=prepare,
    agree=agree,
    full={"queries": 8, "group": 8, "layers": 4, "mini": 32},
    smoke={"queries": 2, "group": 3, "layers": 1, "mini": 2},
    goal=2,
)
JOBS = (JOB,)

if __name__ == "__main__":
    main(*JOBS)
