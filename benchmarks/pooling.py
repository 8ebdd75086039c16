"""Memory bandwidth of pooling ragged batches, forward and backward, against a padded batch with a mask.

    python benchmarks/pooling.py                         # sizes that suit the device
    python benchmarks/pooling.py --rows 16 --longest 8192 --dim 4096 --dtype bfloat16

One JSON line each: {name, device, way, dtype, rows, tokens, dim, bytes, seconds, gb_per_s, share}. `bytes`
is what must move at least: every token that is pooled read once and every vector written (forward), every
gradient written once (backward). `share` is that bandwidth by the one measured, in the same run, for
copying a tensor of the batch's size. `way` says what ran: Triton on a GPU, torch on a CPU. The baseline is
the usual `(hidden * mask).sum(1) / mask.sum(1)`, then `normalize`, over the same rows padded to the longest
(lengths are uniform between a fourth of it and all of it); its share counts the bytes of the tokens alone,
so that it shows what padding costs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor
from torch.nn.functional import normalize

from o1_model.encoding import pooling

REPEATS = 15


def main() -> None:
    args = arguments()
    device = torch.device(args.device)
    dtype = getattr(torch, args.dtype)
    lengths = torch.randint(args.longest // 4, args.longest + 1, (args.rows,))
    lengths[0] = args.longest
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to(device)
    hidden = torch.randn(int(offsets[-1]), args.dim, device=device, dtype=dtype)
    copy = bandwidth_of_copying(hidden)
    about = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "dtype": args.dtype,
        "rows": args.rows,
        "tokens": len(hidden),
        "dim": args.dim,
    }
    print(json.dumps({"name": "copy", **about, "gb_per_s": round(copy / 1e9, 1)}))
    way = "triton" if hidden.is_cuda and pooling._has_triton() else "torch"
    position = (lengths // 2).to(device)
    start, stop = position // 2, position
    ours: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
        "mean": (lambda x: pooling.pool_mean(x, offsets), len(hidden)),
        "mean, first half of the columns": (
            lambda x: pooling.pool_mean(x, offsets, dim=args.dim // 2), len(hidden) // 2,
        ),
        "position-weighted mean": (lambda x: pooling.pool_weighted(x, offsets), len(hidden)),
        "thought span": (
            lambda x: pooling.pool_span(x, offsets, start, stop), int((stop - start).sum()),
        ),
        "last token": (lambda x: pooling.pool_last(x, offsets), args.rows),
        "token at a position": (lambda x: pooling.pool_token(x, offsets, position), args.rows),
    }  # fmt: skip
    for name, (pool, read) in ours.items():
        report(name, pool, hidden, read, copy, {"way": way, **about})
    padded, mask = pad(hidden, offsets)
    report(
        "mean, padded with a mask", lambda x: padded_mean(x, mask), padded, len(hidden), copy,
        {"way": "torch", **about},
    )  # fmt: skip


def report(
    name: str, pool: Callable[[Tensor], Tensor], hidden: Tensor, read: int, copy: float, about: dict
) -> None:
    token = about["dim"] * hidden.element_size()
    forward = read * token + pool(hidden).numel() * 4
    leaf = hidden.detach().requires_grad_()
    pooled = pool(leaf)
    gradient = torch.randn_like(pooled)
    # what must be written is the gradient of all tokens, zero or not
    backward = about["tokens"] * token + 2 * pooled.numel() * 4

    def back() -> None:
        leaf.grad = None
        pooled.backward(gradient, retain_graph=True)

    for direction, work, size in (("forward", lambda: pool(hidden), forward), ("backward", back, backward)):
        seconds = seconds_of(work, hidden.device)
        line = {"name": f"{name}, {direction}", **about, "bytes": size, "seconds": round(seconds, 7)}
        speed = size / seconds
        print(
            json.dumps({**line, "gb_per_s": round(speed / 1e9, 1), "share": round(speed / copy, 3)}),
            flush=True,
        )


def bandwidth_of_copying(hidden: Tensor) -> float:
    """Bytes a second, read and written, of copying a tensor of this size."""
    other = torch.empty_like(hidden)
    return 2 * hidden.numel() * hidden.element_size() / seconds_of(lambda: other.copy_(hidden), hidden.device)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Median time of a call; on a GPU between events, with nothing of it in the caches."""
    for _ in range(3):
        work()
    seconds = []
    if device.type != "cuda":
        for _ in range(REPEATS):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        return median(seconds)
    flush = torch.empty(512 * 2**20, dtype=torch.uint8, device=device)
    for _ in range(REPEATS):
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # the queue is never empty, so that launching is not measured
        torch.cuda._sleep(1_000_000)
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        seconds.append(start.elapsed_time(end) / 1000)
    return median(seconds)


def pad(hidden: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    rows = hidden.tensor_split(offsets[1:-1].cpu())
    padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    lengths = offsets.diff()
    mask = torch.arange(padded.shape[1], device=hidden.device)[None] < lengths[:, None]
    return padded, mask


def padded_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = mask[:, :, None].float()
    return normalize((hidden.float() * weights).sum(dim=1) / weights.sum(dim=1), dim=1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=here)
    parser.add_argument("--rows", type=int, help="default: 1,024 on a GPU, 64 on a CPU")
    parser.add_argument("--longest", type=int, default=512, help="tokens of the longest row")
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--dtype", default="bfloat16" if here == "cuda" else "float32")
    args = parser.parse_args()
    args.rows = args.rows or (64 if args.device == "cpu" else 1024)
    torch.manual_seed(0)
    return args


if __name__ == "__main__":
    main()
