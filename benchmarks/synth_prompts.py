"""What a model writes instead of a thought, by template, before the checks and after them.

    python benchmarks/synth_prompts.py $O1_DATA/cosqa --base-url http://127.0.0.1:8000/v1 --model M
    python benchmarks/synth_prompts.py $O1_DATA/scifact --vllm MODEL --templates paper o1 --queries 30

Queries are drawn from the test split of a BEIR folder, exemplars from its train split. Lines of JSON: of the
texts of a template, how many the checks refuse and for what (`scaffold`, `leak` of an exemplar, `refusal`,
`echo`, ...), and how many max_tokens cut off; then the same job with the checks made and failures redrawn,
how many samples have no thought after that, or gave only near-copies of others, and all tokens so far.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections import Counter
from pathlib import Path

from o1_records import Thought, open_documents, open_qrels, open_queries, read_jsonl
from o1_synth import ChatExpert, Checks, Job, Prompt, Request, read_template, think
from o1_synth.checks import NAMES
from o1_synth.engine import VLLMExpert
from o1_synth.prompt import examples_of


def measure(args: argparse.Namespace, name: str, folder: Path) -> None:
    asked = sorted(open_queries(args.beir, "test"), key=lambda query: query.query_id)
    asked = random.Random(args.seed).sample(asked, min(args.queries, len(asked)))
    train = open_queries(args.beir, "train"), open_qrels(args.beir, "train"), open_documents(args.beir)
    judged = [qrel for split in ("train", "test") for qrel in open_qrels(args.beir, split)]
    prompt = Prompt(examples=examples_of(*train), qrels=judged, template=read_template(name))
    if args.vllm:
        expert = VLLMExpert(args.vllm, prompt=prompt, omit=args.omit)
    else:
        expert = ChatExpert(args.base_url, args.model, prompt=prompt, request=Request(omit=args.omit))
    checks, out = Checks(names=NAMES[:-1], prompt=prompt), folder / f"{name}.jsonl"
    queries = {query.query_id: query for query in asked}
    for made in (None, checks):
        summary = think(asked, expert, out=out, samples=args.samples, concurrency=args.concurrency,
                        progress=True, job=Job(checks=made))  # fmt: skip
        faults: Counter[str] = Counter()
        for thought in read_jsonl(out, Thought):
            sample, ended = int(thought.thought_id.rpartition("#")[2]), thought.source.finish_reason
            faults["cut off"] += ended == "length"
            fault = checks.fault(queries[thought.query_id], thought.text, ended, sample)
            faults[fault or "good"] += 1
        counts = {"template": name, "checks": made is not None, "thoughts": summary.thoughts}
        counts["near_copies"] = summary.exhausted
        spent = summary.spent.completion_tokens
        print(json.dumps({**counts, **faults, "without": summary.failures, "tokens": spent}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("beir", type=Path, help="a BEIR folder with a train and a test split")
    parser.add_argument("--base-url")
    parser.add_argument("--model")
    parser.add_argument("--vllm", help="a model that vLLM runs in this process")
    parser.add_argument("--templates", nargs="+", default=["paper", "o1"])
    parser.add_argument("--queries", type=int, default=30)
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--omit", nargs="*", default=[], help="fields to leave out of requests, such as seed")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of queries")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in args.templates:
            measure(args, name, Path(folder))


if __name__ == "__main__":
    main()
