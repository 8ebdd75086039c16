"""`runs/annotator.sh` from end to end with TRL's own SFT, on a tiny model (nox -s trl).

The large annotator is a stand-in (rubric_server.py) that judges by shared words; the small one is a
random two-layer LLaMA. That the small one comes to agree is not asked of it: that what it says is
measured is.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from o1_records import Document, Hit, Query, write_jsonl
from o1_records.trec import write_run
from o1_synth.__main__ import main

sys.path.insert(0, str(Path(__file__).parent))
from rubric_server import rubric_server

pytestmark = pytest.mark.trl

SCRIPT = Path(__file__).parents[2] / "runs" / "annotator.sh"
WORDS = [
    *("zip", "file", "open", "read", "path", "name", "list", "sort", "key", "text", "line", "word", "date"),
    *("time", "zone", "json", "parse", "dump", "load", "copy", "move", "hash", "byte", "lock", "thread"),
]
QUERIES, CANDIDATES = 60, 5
SPECIALS = ["<|end|>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}"
    "{% if message.role == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# for two cores: no bf16, every step a few short chats
FLAGS = [
    *("--use_cpu", "--bf16", "false", "--gradient_checkpointing", "false"),
    *("--num_train_epochs", "3", "--learning_rate", "3e-3", "--per_device_train_batch_size", "8"),
    *("--gradient_accumulation_steps", "1", "--logging_steps", "5", "--save_steps", "40"),
]


def write_collection(folder):
    """Queries of four words; candidates that hold from none to all of them."""
    rng = random.Random(0)
    queries, documents, hits = [], [], []
    for number in range(QUERIES):
        words = rng.sample(WORDS, 4)
        others = [word for word in WORDS if word not in words]
        queries.append(Query(query_id=f"q{number}", text=" ".join(words)))
        for shared in rng.choices(range(5), k=CANDIDATES):
            text = [*rng.sample(words, shared), *rng.sample(others, 6 - shared)]
            rng.shuffle(text)
            documents.append(Document(doc_id=f"d{len(documents)}", text=" ".join(text)))
            rank = 1 + len(hits) % CANDIDATES
            hits.append(
                Hit(query_id=f"q{number}", doc_id=documents[-1].doc_id, score=-float(rank), rank=rank)
            )
    write_jsonl(folder / "queries.jsonl", queries)
    write_jsonl(folder / "corpus.jsonl", documents)
    write_run(folder / "run.trec", hits)


def write_model(folder, texts):
    """A random LLaMA with a byte-level tokenizer that knows the words of the texts."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=SPECIALS, show_progress=False, initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=SPECIALS[0],
        pad_token=SPECIALS[0],
        additional_special_tokens=SPECIALS[1:],
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A folder with what the large annotator was given, what it wrote, and the small model."""
    folder = tmp_path_factory.mktemp("annotator")
    write_collection(folder)
    server = rubric_server()
    try:
        arguments = ["--base-url", server.base_url, "--model", "rubric"]
        for name in ("queries.jsonl", "corpus.jsonl"):
            arguments += [f"--{name.partition('.')[0]}", str(folder / name)]
        arguments += ["--candidates", str(folder / "run.trec"), "--out", str(folder / "examples.jsonl")]
        assert main(["remix", "annotate", *arguments, "--distill", str(folder / "chat.jsonl")]) == 0
    finally:
        server.stop()
    chats = [msgspec.json.decode(line) for line in (folder / "chat.jsonl").read_bytes().splitlines()]
    assert len(chats) == QUERIES * CANDIDATES
    write_model(
        folder / "small", ["".join(message["content"] for message in chat["messages"]) for chat in chats]
    )
    return folder


def run(job, out, *flags):
    """Run the script; returns its agreement and what the trainer logged."""
    files = {
        "CHAT": "chat.jsonl",
        "QUERIES": "queries.jsonl",
        "CORPUS": "corpus.jsonl",
        "CANDIDATES": "run.trec",
    }
    environment = {
        **os.environ,
        **{name: str(job / file) for name, file in files.items()},
        "MODEL": str(job / "small"),
        "OUT": str(job / out),
        "HELD_OUT": "0.2",
        "ANNOTATE": "--max-tokens 48",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HF_HOME": str(job / "hub"),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        ["bash", SCRIPT, *FLAGS, *flags], env=environment, capture_output=True, text=True, cwd=job
    )
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout[-2000:])
    return json.loads((job / out / "agreement.json").read_bytes())["annotators"]


def losses(folder):
    """What the trainer logged, from its last checkpoint."""
    states = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime)
    return [entry["loss"] for entry in json.loads(states[-1].read_bytes())["log_history"] if "loss" in entry]


def test_a_random_model_learns_to_give_scores(job):
    rows = run(job, "full")
    logged = losses(job / "full" / "model")
    print(f"loss {logged[0]:.2f} to {logged[-1]:.2f}")
    assert logged[-1] < logged[0] / 3
    assert (rows["before"]["valid"], rows["before"]["kappa"]) == (0, None)
    assert rows["after"]["valid"] > 0.9
    pairs = 12 * CANDIDATES
    for row in rows.values():
        assert row["both"] + row["only_large"] + row["only_small"] + row["neither"] == pairs
        assert row["both"] + row["only_large"] == pairs  # the stand-in always gives a score
        assert all(row["exact"][place] is not None for place in range(3))


def test_the_loss_is_the_answers_alone(job):
    """TRL masks the prompt of such a data set, whatever the chat template knows."""
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    data = load_dataset(str(job / "full" / "data"), split="train", cache_dir=str(job / "cache"))
    config = SFTConfig(
        output_dir=str(job / "masked"), use_cpu=True, bf16=False, max_length=None, report_to="none"
    )
    trainer = SFTTrainer(model=str(job / "small"), args=config, train_dataset=data)
    tokenizer = trainer.processing_class
    row = trainer.train_dataset[0]
    learnt = [token for token, target in zip(row["input_ids"], row["labels"], strict=True) if target != -100]
    assert tokenizer.decode(learnt) == data[0]["completion"][0]["content"] + SPECIALS[0]


def test_an_adapter_becomes_a_whole_model(job):
    from transformers import AutoModelForCausalLM

    flags = [
        "--use_peft",
        "--lora_target_modules",
        "all-linear",
        "--max_steps",
        "4",
        "--learning_rate",
        "1e-2",
    ]
    rows = run(job, "adapter", *flags)
    assert rows["after"]["both"] + rows["after"]["only_large"] == 12 * CANDIDATES
    folder = job / "adapter" / "model"
    assert not (folder / "adapter_config.json").exists()
    small, merged = (AutoModelForCausalLM.from_pretrained(path) for path in (job / "small", folder))
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not small.state_dict()[name].equal(merged.state_dict()[name])
    assert small.get_input_embeddings().weight.equal(merged.get_input_embeddings().weight)
