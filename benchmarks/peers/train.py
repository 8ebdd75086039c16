"""Contrastive steps with LoRA: ours against sentence-transformers, FlagEmbedding and Tevatron.

A random Llama with adapters (peft) of rank 32 that begin equal, in-batch and hard negatives, temperature
0.02, AdamW, float32; texts with lengths like those of MS MARCO. The losses of all steps and the norms of
their gradients have to agree. "ours" keeps the graph of the batch; "ours, GradCache" takes two passes, as
the cached loss does and Tevatron's trainer with `--grad_cache`. FlagEmbedding's `sub_batch_size` keeps the
graph of every part, but pads each part by itself. Peers collate with their own collators, outside of the
time, as ours does.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import Arrays, Job, Side, Size, Work, main, refuse_difference

VOCABULARY, TEMPERATURE, RATE = 16_384, 0.02, 1e-3


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
        for _ in range(size["steps"])
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


def steps(count: int, trained: list[Any], loss_of: Callable[[int], Any]) -> Work:
    """Return the work: `count` steps. `loss_of(n)` runs forward and backward of batch n, returns its loss."""
    import torch

    optimiser = torch.optim.AdamW(trained, lr=RATE, weight_decay=0)

    def work() -> Arrays:
        losses, norms = [], []
        for number in range(count):
            optimiser.zero_grad()
            losses.append(loss_of(number).item())
            norms.append(torch.nn.utils.get_total_norm(each.grad for each in trained).item())
            optimiser.step()
        return {"losses": np.array(losses), "norms": np.array(norms)}

    return work


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

        def loss_of(number: int) -> Any:
            plan = Plan(objective, step=number, n_labels=0)
            told = step(
                model, batches[number], plan, lambda loss, _last: loss.backward(), torch.device("cpu")
            )
            return told["loss"]

        return steps(len(batches), trained, loss_of)

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
        scale = 1 / TEMPERATURE
        loss = (
            kinds.CachedMultipleNegativesRankingLoss(model, scale=scale, mini_batch_size=size["part"])
            if cached
            else kinds.MultipleNegativesRankingLoss(model, scale=scale)
        )
        batches = [
            [model.preprocess(list(column)) for column in zip(*batch, strict=True)]
            for batch in batches_of(folder)
        ]

        def loss_of(number: int) -> Any:
            value = loss([dict(column) for column in batches[number]], torch.zeros(0))
            value.backward()
            return value

        return steps(len(batches), trained, loss_of)

    return start


def flag_embedding(*, parts: bool) -> Callable[[Path, Size], Work]:
    """FlagEmbedding's trainer of decoders: its model, its adapters, its collator."""

    def start(folder: Path, size: Size) -> Work:
        from FlagEmbedding.abc.finetune.embedder import AbsEmbedderCollator
        from FlagEmbedding.finetune.embedder.decoder_only.base.arguments import (
            DecoderOnlyEmbedderModelArguments,
        )
        from FlagEmbedding.finetune.embedder.decoder_only.base.load_model import get_model
        from FlagEmbedding.finetune.embedder.decoder_only.base.modeling import BiDecoderOnlyEmbedderModel
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        arguments = DecoderOnlyEmbedderModelArguments(
            model_name_or_path=str(folder / "model"), lora_rank=32, lora_alpha=64, lora_dropout=0.0
        )
        base = get_model(arguments, str(folder), resize=False, resize_tokens=0)
        part = size["part"] if parts else -1
        model = BiDecoderOnlyEmbedderModel(
            base, tokenizer=tokenizer, temperature=TEMPERATURE, sentence_pooling_method="last_token",
            normalize_embeddings=True, sub_batch_size=part,
        ).train()  # fmt: skip
        trained = same_adapters(model.named_parameters())
        collator = AbsEmbedderCollator(
            tokenizer=tokenizer, query_max_len=512, passage_max_len=512, sub_batch_size=part
        )
        batches = [
            collator([(query, texts, None) for query, *texts in batch]) for batch in batches_of(folder)
        ]

        def loss_of(number: int) -> Any:
            value = model(**batches[number]).loss
            value.backward()
            return value

        return steps(len(batches), trained, loss_of)

    return start


def tevatron(*, cached: bool) -> Callable[[Path, Size], Work]:
    """Tevatron's dense model with its adapters and collator; with the GradCache that its trainer takes."""

    def start(folder: Path, size: Size) -> Work:
        from grad_cache import GradCache
        from tevatron.retriever.arguments import DataArguments, ModelArguments, TevatronTrainingArguments
        from tevatron.retriever.collator import TrainCollator
        from tevatron.retriever.gc_trainer import SimpleContrastiveLoss, get_dense_rep, split_dense_inputs
        from tevatron.retriever.modeling import DenseModel
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        model = DenseModel.build(
            ModelArguments(
                model_name_or_path=str(folder / "model"), pooling="last", normalize=True,
                temperature=TEMPERATURE, lora=True, lora_r=32, lora_alpha=64, lora_dropout=0.0,
            ),
            TevatronTrainingArguments(output_dir=str(folder / "trained")),
        ).train()  # fmt: skip
        trained = same_adapters(model.named_parameters())
        arguments = DataArguments(query_max_len=512, passage_max_len=512, pad_to_multiple_of=None)
        collator = TrainCollator(arguments, tokenizer)
        batches = [
            collator([((query,), [(text,) for text in texts]) for query, *texts in batch])
            for batch in batches_of(folder)
        ]
        contrast = SimpleContrastiveLoss()
        cache = GradCache(
            models=[model, model],
            chunk_sizes=size["part"],
            # its trainer leaves the temperature out here
            loss_fn=lambda queries, documents: contrast(queries / TEMPERATURE, documents),
            split_input_fn=split_dense_inputs,
            get_rep_fn=get_dense_rep,
        )

        def loss_of(number: int) -> Any:
            queries, documents = batches[number]
            if cached:
                return cache({"query": queries}, {"passage": documents})
            value = model(query=queries, passage=documents).loss
            value.backward()
            return value

        return steps(len(batches), trained, loss_of)

    return start


def agree(found: dict[str, Arrays], _size: Size) -> dict[str, str]:
    (_, own), *others = found.items()
    if not own["losses"][0] > 0:
        raise SystemExit(f"the losses are {own['losses']}")
    shared = {}
    for side, each in others:
        losses = refuse_difference("losses", own["losses"], each["losses"], 1e-4)
        ratios = each["norms"] / own["norms"]
        shared[side] = f"{losses}, {refuse_difference('gradients', np.ones_like(ratios), ratios, 1e-3)}"
    return shared


def count_documents(size: Size) -> int:
    return int(size["queries"] * size["group"] * size["steps"])


SENTENCE_TRANSFORMERS = ["sentence-transformers", "peft", "torch"]
FLAG_EMBEDDING = ["FlagEmbedding", "peft", "torch"]
TEVATRON = ["tevatron", "GradCache", "peft", "torch"]
JOB = Job(
    name="train",
    file=__file__,
    what="{queries} queries x {group} documents, Llama of {layers} layers, LoRA, steps: {steps}",
    unit="documents",
    items=count_documents,
    sides={
        "ours": Side(ours(cached=False), ["o1-model", "peft", "torch"], "float32"),
        "ours, GradCache": Side(ours(cached=True), ["o1-model", "peft", "torch"], "float32"),
        "ours, GradCache of 512 tokens": Side(
            ours(cached=True, chunk_tokens=512), ["o1-model", "peft", "torch"], "float32"
        ),
        "sentence-transformers, cached": Side(
            sentence_transformers(cached=True), SENTENCE_TRANSFORMERS, "float32"
        ),
        "sentence-transformers": Side(sentence_transformers(cached=False), SENTENCE_TRANSFORMERS, "float32"),
        "FlagEmbedding, parts": Side(flag_embedding(parts=True), FLAG_EMBEDDING, "float32"),
        "FlagEmbedding": Side(flag_embedding(parts=False), FLAG_EMBEDDING, "float32"),
        "Tevatron, GradCache": Side(tevatron(cached=True), TEVATRON, "float32"),
        "Tevatron": Side(tevatron(cached=False), TEVATRON, "float32"),
    },
    prepare=prepare,
    agree=agree,
    full={"queries": 8, "group": 8, "layers": 4, "part": 8, "steps": 2},
    smoke={"queries": 2, "group": 3, "layers": 1, "part": 2, "steps": 2},
    goal=2,
)
JOBS = (JOB,)

if __name__ == "__main__":
    main(*JOBS)
