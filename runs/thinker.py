"""A thinker learns which of its thoughts help retrieval: expert iteration, DPO, GRPO, with TRL's trainers.

    python runs/thinker.py gold   --out FOLDER ...                   documents in the place of thoughts
    python runs/thinker.py elect  --thoughts FILE --out FOLDER ...   reward samples, elect the best
    python runs/thinker.py clone  FOLDER ... --out ADAPTER ...       learn what those wrote (SFT)
    python runs/thinker.py prefer FOLDER --out ADAPTER ...           prefer the best over the worst (DPO)
    python runs/thinker.py reward --out ADAPTER ...                  sample and be rewarded (GRPO)
    python runs/thinker.py merge  ADAPTER --out MODEL                the next thinker
    python runs/thinker.py publish ADAPTER ... --out FOLDER ...      one adapter for others to use

FILE: `o1-model think --model MODEL --style STYLE --samples 8 --temperature 1`. A thought is worth what the
mixture gains with it over the query alone (`o1_model.retriever.reward`), under an embedder that stays as
it is. `runs/thinker.sh` runs all of it, and measures before and after. Needs o1-model and trl>=1.16.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from o1_model.backbone import load_lm, load_tokenizer
from o1_model.retriever.embedders import open_embedder
from o1_model.retriever.instruct import Instruct
from o1_model.retriever.judged import Judged, open_judged
from o1_model.retriever.retriever import ThinkingRetriever
from o1_model.retriever.reward import MEASURES, Reward, elect
from o1_model.retriever.thinker import style_of
from o1_model.retriever.trained import Trained, add_adapter, base_of, examples_of, write_trained
from o1_records import InputError, Thought, atomic_write, read_jsonl, run_command
from o1_records.kit.chat import ChatTokens, until
from o1_records.kit.models import model_digest
from o1_records.mixture import READINGS, Mixture
from o1_records.styles import QUERY_STYLES, Style

ELECTED, PAIRS, REPORT = "elected.jsonl", "pairs.jsonl", "report.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one stage; returns the exit code."""
    return run_command(_main, argv)


def _main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    stages = parser.add_subparsers(required=True)
    for name, work, about in (
        ("gold", gold, "take the relevant documents as thoughts: what a thinker would write that knew them"),
        ("elect", elect_thoughts, "reward sampled thoughts, elect the best of each query"),
        ("clone", clone, "learn the elected thoughts, or the documents (TRL's SFT)"),
        ("prefer", prefer, "learn to prefer the best thought over the worst (TRL's DPO)"),
        ("reward", reward_online, "sample thoughts and learn from their rewards (TRL's GRPO)"),
        ("merge", merge, "add an adapter to its model's weights"),
        ("publish", publish, "join the adapters of all stages to one on the first base, with a certificate"),
    ):
        stage = stages.add_parser(name, help=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        stage.set_defaults(work=work)
        if name == "clone":
            stage.add_argument("folders", type=Path, nargs="+", help="what `elect` and `gold` wrote")
        if name == "prefer":
            stage.add_argument("folder", type=Path, help="what `elect` wrote")
        if name == "merge":
            stage.add_argument("adapter", type=Path, help="what any stage of training or `publish` wrote")
            stage.add_argument("--base", help="where its base is, if not where the adapter says")
        if name == "publish":
            stage.add_argument("adapters", type=Path, nargs="+", help="in the order of their training")
            stage.add_argument("--model", required=True, help="the model that the first was trained on")
            stage.add_argument("--base", required=True, help="what others know that model by: a hub id")
            stage.add_argument("--style", required=True, choices=QUERY_STYLES, help="what it is asked for")
            stage.add_argument("--query", action="append", default=[], help="for an example; repeatable")
        stage.add_argument("--out", type=Path, required=True, help="what is written; must not exist")
        if name not in ("merge", "publish"):
            stage.add_argument("--model", required=True, help="the thinker: a folder or a hub id")
        if name in ("gold", "elect", "reward"):
            _asking(stage)
        if name in ("elect", "reward"):
            _judging(stage)
        if name == "elect":
            stage.add_argument(
                "--thoughts", type=Path, required=True, help="samples, JSONL of Thought records"
            )
            stage.add_argument("--least-gap", type=float, default=0.01, help="between the thoughts of a pair")
        if name in ("clone", "prefer", "reward"):
            _training(stage, lr={"clone": 1e-4, "prefer": 2e-5, "reward": 2e-5}[name])
        if name == "reward":
            stage.add_argument("--samples", type=int, default=8, help="thoughts a query and step")
    args = parser.parse_args(argv)
    if args.out.exists():
        raise InputError(f"{args.out} exists; choose another --out")
    done: int = args.work(args)
    return done


def _asking(stage: argparse.ArgumentParser) -> None:
    stage.add_argument("--collection", type=Path, required=True, help="a BEIR folder")
    stage.add_argument("--split", default="train", help="of its judgements; never those that are reported")
    stage.add_argument("--max-queries", type=int, help="use only so many of its queries")
    stage.add_argument(
        "--style", choices=sorted(QUERY_STYLES), required=True, help="what the thinker is asked for"
    )


def _judging(stage: argparse.ArgumentParser) -> None:
    stage.add_argument("--embedder", required=True, help="anything that o1-model embed takes")
    stage.add_argument("--weight", type=float, default=0.3, help="of the thought in the mixture")
    stage.add_argument("--reading", choices=READINGS, default="document", help="of the thought")
    stage.add_argument("--measure", choices=MEASURES, default="margin", help="what a thought should improve")


def _training(stage: argparse.ArgumentParser, *, lr: float) -> None:
    stage.add_argument("--learning-rate", type=float, default=lr, help="of the adapter")
    stage.add_argument("--epochs", type=float, default=1.0, help="passes over the data")
    stage.add_argument("--max-steps", type=int, default=-1, help="instead of epochs")
    stage.add_argument("--batch", type=int, default=8, help="rows of a device")
    stage.add_argument("--accumulate", type=int, default=1, help="batches of a step")
    stage.add_argument("--rank", type=int, default=16, help="of LoRA, on all linear layers")
    stage.add_argument("--use-cpu", action="store_true", help="also where there is a GPU")
    stage.add_argument("--seed", type=int, default=0, help="of everything drawn")


# --- documents in the place of thoughts ---------------------------------------------------------------


def gold(args: argparse.Namespace) -> int:
    """Write the relevant documents of each query as what to answer, those that fit into a thought."""
    style, judged = style_of(args.style), open_judged(args.collection, args.split, queries=args.max_queries)
    tokenizer = load_tokenizer(args.model)
    prompt, documents = _prompts(args.model, style), judged.documents
    pairs = {
        (query.text, documents[place].text.strip())
        for query, relevant in zip(judged.queries, judged.relevant, strict=True)
        for place in relevant
    }
    fitting = sorted(
        (q, text) for q, text in pairs if 0 < len(tokenizer(text)["input_ids"]) < style.max_tokens
    )
    if not fitting:
        raise InputError(f"{args.collection}: no relevant document has less than {style.max_tokens} tokens")
    rows = [{"prompt": prompt(query), "completion": text + _end(style)} for query, text in fitting]
    report = {"queries": len(judged.queries), "documents": len(rows), "too_long": len(pairs) - len(rows)}
    return _written(args.out, {ELECTED: rows}, report)


# --- thoughts that were sampled, rewarded -------------------------------------------------------------


def elect_thoughts(args: argparse.Namespace) -> int:
    """Write what TRL trains on: the elected thoughts, pairs of best and worst, and a report."""
    style, judged, reward = _rewarding(args)
    thoughts: dict[str, list[Thought]] = {}
    for thought in read_jsonl(args.thoughts, Thought):
        thoughts.setdefault(thought.query_id, []).append(thought)
    found = elect(reward, judged, thoughts)
    if not found.elected:
        raise InputError(
            f"{args.thoughts}: no thought is worth more than the controls; {dict(found.lost_to)}"
        )
    text_of = {query.query_id: query.text for query in judged.queries}
    prompt = _prompts(args.model, style)
    end = _end(style)
    rows = [(each, prompt(text_of[each.query_id])) for each in found.elected]
    ended = {
        (thought.query_id, thought.text)
        for own in thoughts.values()
        for thought in own
        if thought.source.finish_reason == "stop"
    }

    def whole(query_id: str, text: str) -> str:
        return text + end if (query_id, text) in ended else text  # one that was cut does not end here

    elected = [{"prompt": asked, "completion": whole(each.query_id, each.text)} for each, asked in rows]
    pairs = [
        {
            "prompt": asked,
            "chosen": whole(each.query_id, each.text),
            "rejected": whole(each.query_id, each.worse),
        }
        for each, asked in rows
        if each.worse and each.gap >= args.least_gap
    ]
    report = {
        "queries": found.queries,
        "elected": len(elected),
        "pairs": len(pairs),
        "lost_to": dict(found.lost_to),
        "mean_reward": sum(each.reward for each in found.elected) / len(elected),
        "measure": args.measure,
        "weight": args.weight,
        "reading": args.reading,
    }
    return _written(args.out, {ELECTED: elected, PAIRS: pairs}, report)


def _end(style: Style) -> str:
    """Return how an answer that continues the style's prefix ends: a fence stands on a line of its own."""
    return f"\n{style.stop[0]}" if style.prefix and style.stop else ""


def _written(out: Path, files: dict[str, list[dict[str, str]]], report: dict[str, Any]) -> int:
    """Write the rows that TRL reads, and the report, in a folder that is whole or absent."""
    partial = _partial(out)
    partial.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        with atomic_write(partial / name) as file:
            file.writelines(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
    with atomic_write(partial / REPORT) as file:
        file.write(json.dumps(report, indent=1).encode())
    partial.rename(out)
    print(json.dumps(report))
    return 0


def _rewarding(args: argparse.Namespace) -> tuple[Style, Judged, Reward]:
    mixture = Mixture(weight=args.weight, reading=args.reading)
    retriever = ThinkingRetriever(open_embedder(args.embedder), mixture=mixture)
    judged = open_judged(args.collection, args.split, queries=args.max_queries)
    return style_of(args.style), judged, Reward(retriever, judged, measure=args.measure)


def _prompts(model: str, style: Style) -> Callable[[str], str]:
    """Return what makes a prompt of a query, as the thinker is asked when it serves."""
    chat = ChatTokens(load_tokenizer(model), name=model)
    return lambda text: chat.text([{"role": "user", "content": style.ask(text)}], style.prefix)


# --- TRL ----------------------------------------------------------------------------------------------


def clone(args: argparse.Namespace) -> int:
    """Learn the thoughts of all folders: the loss is the thought's alone."""
    from trl import SFTConfig, SFTTrainer

    settings = SFTConfig(
        **_settings(args),
        completion_only_loss=True,
        max_length=None,
        train_sampling_strategy="group_by_length",  # a batch is padded to its longest row
    )
    trainer = SFTTrainer(
        model=args.model,
        args=settings,
        train_dataset=_rows(*(folder / ELECTED for folder in args.folders)),
        peft_config=_lora(args),
    )
    return _trained(trainer, args)


def prefer(args: argparse.Namespace) -> int:
    """Learn to prefer the best thought of a query over its worst."""
    from trl import DPOConfig, DPOTrainer

    settings = DPOConfig(**_settings(args), max_length=None)
    trainer = DPOTrainer(
        model=args.model, args=settings, train_dataset=_rows(args.folder / PAIRS), peft_config=_lora(args)
    )
    return _trained(trainer, args)


def reward_online(args: argparse.Namespace) -> int:
    """Sample thoughts, reward them by retrieval, learn."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    style, judged, reward = _rewarding(args)
    prompt = _prompts(args.model, style)
    rows = [{"prompt": prompt(query.text), "query_id": query.query_id} for query in judged.queries]

    def gain(completions: list[str], query_id: list[str], **_: Any) -> list[float]:
        stops = style.stop if style.prefix else ()
        texts = [style.clean(until(said, stops), continued=bool(style.prefix)) for said in completions]
        return [float(each) for each in reward(query_id, texts)]

    settings = GRPOConfig(
        **_settings(args),
        num_generations=args.samples,
        max_completion_length=style.max_tokens,
        temperature=1.0,
    )
    trainer = GRPOTrainer(
        model=args.model,
        reward_funcs=gain,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        peft_config=_lora(args),
    )
    return _trained(trainer, args)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "output_dir": str(_partial(args.out)),
        "learning_rate": args.learning_rate,
        "num_train_epochs": args.epochs,
        "max_steps": args.max_steps,
        "per_device_train_batch_size": args.batch,
        "gradient_accumulation_steps": args.accumulate,
        "lr_scheduler_type": "cosine",
        "use_cpu": args.use_cpu,
        "bf16": not args.use_cpu,
        "gradient_checkpointing": not args.use_cpu,
        "seed": args.seed,
        "logging_steps": 5,
        "save_strategy": "no",
        "report_to": [],
    }


def _lora(args: argparse.Namespace) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=args.rank, lora_alpha=2 * args.rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def _rows(*paths: Path) -> Any:
    from datasets import Dataset

    lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    return Dataset.from_list([json.loads(line) for line in lines])


def _trained(trainer: Any, args: argparse.Namespace) -> int:
    """Train, then write the adapter and the history, whole or not at all."""
    trainer.train()
    partial = _partial(args.out)
    trainer.save_model(str(partial))
    trainer.accelerator.wait_for_everyone()  # until the whole adapter is written
    if not trainer.is_world_process_zero():
        return 0
    history = json.dumps(trainer.state.log_history, indent=1)
    (partial / "history.json").write_text(history, encoding="utf-8")
    partial.rename(args.out)
    return 0


def _partial(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")


def merge(args: argparse.Namespace) -> int:
    """Write the model with the adapter in its weights, and its tokenizer."""
    base = args.base or base_of(args.adapter)[0]
    partial = _partial(args.out)
    add_adapter(load_lm(base), args.adapter).save_pretrained(str(partial))
    load_tokenizer(base).save_pretrained(str(partial))
    partial.rename(args.out)
    return 0


def publish(args: argparse.Namespace) -> int:
    """Write one adapter that adds what all of them add, in bfloat16, and what `o1-model verify` compares."""
    if not args.query:
        raise InputError("give one or more --query, for the examples that a copy is verified with")
    style = style_of(args.style)
    partial = _partial(args.out)
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir(parents=True)
    join_adapters(args.adapters, partial, base=args.base)
    thinker = Instruct(partial, style, base=args.model, device="cpu")
    examples, digest = examples_of(thinker, args.query), model_digest(args.model)
    trained = Trained(style=style, base=args.base, base_digest=digest, examples=examples)
    write_trained(trained, partial)
    partial.rename(args.out)
    return 0


def join_adapters(folders: Sequence[Path], out: Path, *, base: str) -> None:
    """Write the sum of LoRA adapters as one: their matrices side by side, each scaled as it is used."""
    import torch
    from safetensors.torch import load_file, save_file

    configs = [json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")) for folder in folders]
    weights = [load_file(folder / "adapter_model.safetensors") for folder in folders]
    for folder, each in zip(folders, weights, strict=True):
        if each.keys() != weights[0].keys():
            raise InputError(f"{folder}: adapts other layers than {folders[0]}")
    joined = {}
    for name in weights[0]:
        if ".lora_A." in name:
            scales = [config["lora_alpha"] / config["r"] for config in configs]
            parts = [scale * each[name].float() for scale, each in zip(scales, weights, strict=True)]
            joined[name] = torch.cat(parts, dim=0).bfloat16()
        elif ".lora_B." in name:
            joined[name] = torch.cat([each[name].float() for each in weights], dim=1).bfloat16()
        else:
            raise InputError(f"{folders[0]}: {name} is not a matrix of LoRA")
    rank = sum(config["r"] for config in configs)
    config = {**configs[0], "r": rank, "lora_alpha": rank, "base_model_name_or_path": base, "revision": None}
    save_file(joined, out / "adapter_model.safetensors", metadata={"format": "pt"})
    (out / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
