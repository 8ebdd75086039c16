"""A contrastive step of a language model with LoRA beside the peers that cache gradients.

O1_LLM is the folder of the model. Parts are 2,048 tokens of ours and 8 texts of the others: that is the most
for sentence-transformers, as each of its columns has one text of each query.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from harness import Size, main, passages
from train import JOB


def prepare(folder: Path, size: Size) -> None:
    """Write the language model in float32, and a batch of real text for each step."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    llm = os.environ["O1_LLM"]
    AutoModelForCausalLM.from_pretrained(llm, dtype=torch.float32).save_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(llm)
    tokenizer.chat_template = None  # sentence-transformers would put every text into it
    tokenizer.save_pretrained(folder / "model")
    queries, group = size["queries"], size["group"]
    texts = iter(passages(queries * group * size["steps"], words=50))
    batches = [
        [[query, *(next(texts) for _ in range(group))] for query in passages(queries, words=6, seed=step + 1)]
        for step in range(size["steps"])
    ]
    (folder / "batches.json").write_text(json.dumps(batches))


STEP = dataclasses.replace(
    JOB,
    name="train, a language model",
    file=__file__,
    what="{queries} queries x {group} documents of some 50 words, O1_LLM, LoRA, steps: {steps}",
    sides={
        name: JOB.sides[name]
        for name in ("ours, GradCache", "sentence-transformers, cached", "Tevatron, GradCache")
    },
    prepare=prepare,
    full={"queries": 8, "group": 16, "part": 8, "steps": 1},
    smoke={"queries": 2, "group": 2, "part": 2, "steps": 2},
    repeats=1,
    variable="O1_LLM",
)
JOBS = (STEP,)

if __name__ == "__main__":
    main(*JOBS)
