"""Every job against its peers: a table, a picture, and the figures as JSON.

Half an hour on two cores, more with O1_LLM.

    python benchmarks/peers/all.py --out peers            # peers.md, peers.json, peers.svg
    python benchmarks/peers/all.py --out docs/peers --page docs/performance.md   # its figures, too
    python benchmarks/peers/all.py --only search score
    python benchmarks/peers/all.py --smoke                # does every file run? tiny inputs, in one process

Peers that are not installed, and jobs without any, are listed with what is missing. An error of a job, or
results that do not agree, ends this with 1 after the other jobs.
"""

from __future__ import annotations

import argparse
import html
import importlib
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness import cpu_has, run

START, END = "<!-- figures of benchmarks/peers/all.py -->", "<!-- end of the figures -->"
FILES = (
    "embed", "think", "train", "train_llm", "mine", "elect", "synth", "search", "score", "bm25", "serve",
    "imports",
)  # fmt: skip


def smoke(files: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the lines of all jobs of the files, which run in this process."""
    for name in files:
        module = importlib.import_module(name)
        for job in module.JOBS:
            yield from (row.line() for row in run(job, smoke=True))


def measured(files: Sequence[str], limit: float, errors: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the lines of all jobs of the files, a process each; what fails or takes too long is noted."""
    for name in files:
        began = time.perf_counter()
        command = [sys.executable, str(Path(__file__).with_name(f"{name}.py"))]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            try:
                lines, _ = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                process.kill()
                lines, _ = process.communicate()
                errors.append(f"{name}.py took more than {limit:.0f} s")
        if process.returncode > 0:
            errors.append(f"{name}.py ended with {process.returncode}")
        yield from map(json.loads, lines.splitlines())
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="path of the files to write, without an ending")
    parser.add_argument("--page", type=Path, help="a page whose figures are replaced by those of this run")
    parser.add_argument("--only", nargs="+", choices=FILES, default=[], help="files of jobs")
    parser.add_argument("--limit", type=float, default=1200, help="seconds that a file may take")
    parser.add_argument("--smoke", action="store_true", help="tiny inputs, in one process: does it run?")
    args = parser.parse_args()
    lines: list[dict[str, Any]] = []
    errors: list[str] = []
    files = args.only or FILES
    for line in smoke(files) if args.smoke else measured(files, args.limit, errors):
        print(json.dumps(line), flush=True)
        lines.append(line)
    report = {"machine": machine(), "rows": lines, "errors": errors}
    if args.out:
        args.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(table(report))
        args.out.with_suffix(".svg").write_text(picture(lines))
    else:
        print(table(report))
    if args.page:
        page = args.page.read_text()
        before, start, rest = page.partition(START)
        _, end, after = rest.partition(END)
        if not end:
            sys.exit(f"{args.page} has no place for figures: {START} and {END}")
        alt = "How many times as fast as the fastest peer each job is; a tick is the goal."
        shown = f"![{alt}]({args.out.with_suffix('.svg').name})\n\n" if args.out else ""
        args.page.write_text(f"{before}{start}\n{shown}{summary(report)}\n{table(report)}{end}{after}")
    sys.exit(1 if errors else 0)


def machine() -> str:
    """Return what this was measured on, as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    told = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in told if line.startswith("model name"))
    model = next(names, platform.machine())
    wide = next((name for name in ("avx512_bf16", "avx512f", "avx2") if cpu_has(name)), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores {model} ({wide}), {memory:.0f} GiB, "
        f"load {os.getloadavg()[0]:.1f} at the end, Python {platform.python_version()}, "
        f"commit {commit.stdout.strip()}"
    )


# --- table and picture ----------------------------------------------------------------------------------


def by_job(lines: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the lines of sides that ran, by job, ours first; jobs without a peer that ran are left out."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if "skipped" not in line:
            found.setdefault(line["job"], []).append(line)
    return {name: own for name, own in found.items() if len(own) > 1}


def best_peer(sides: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the fastest side that is not one of ours, where there is one."""
    peers = [side for side in sides if not side["side"].startswith(("ours", "o1_"))]
    return max(peers, key=lambda side: side["items_per_s"], default=None)


def number(value: float) -> str:
    """Return three digits at least, and no exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(report: dict[str, Any]) -> str:
    """Return the figures in Markdown: a row for each side, ours first."""
    rows = [
        report["machine"],
        "",
        "| job | side | rate | ours, times | wall s, least (median) | CPU s | peak MB | agrees |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, sides in by_job(report["rows"]).items():
        for side in sides:
            versions = ", ".join(f"{package} {own}" for package, own in side["versions"].items())
            times = sides[0]["items_per_s"] / side["items_per_s"]
            what = f"**{name}**: {side['what']}" if side is sides[0] else ""
            cells = (
                what,
                f"{side['side']} ({', '.join(filter(None, (side['precision'], versions)))})",
                f"{number(side['items_per_s'])} {side['unit']}/s",
                f"{times:.2f}" if side is not sides[0] else "",
                f"{side['seconds_min']:.3g} ({side['seconds_median']:.3g})",
                f"{side['cpu_seconds']:.3g}",
                f"{side['peak_mb']:,}",
                side["agreement"],
            )
            rows.append(f"| {' | '.join(cells)} |")
    skipped = [
        f"- {row['job']}, {row['side']}: {row['skipped']}" for row in report["rows"] if "skipped" in row
    ]
    failed = [f"- {error}" for error in report["errors"]]
    for title, own in (("Not run:", skipped), ("Failed:", failed)):
        rows += ["", title, "", *own] if own else []
    return "\n".join(rows) + "\n"


def summary(report: dict[str, Any]) -> str:
    """Return a row for each job in Markdown: ours beside the fastest peer."""
    rows = [
        "| job | ours | fastest peer | times as fast (goal) | CPU s, ours / peer | peak MB, ours / peer |",
        "|---|---|---|---|---|---|",
    ]
    for name, (own, *others) in by_job(report["rows"]).items():
        if (peer := best_peer(others)) is None:
            continue
        ratio = own["items_per_s"] / peer["items_per_s"]
        cells = (
            f"{name}: {own['what']}",
            f"{number(own['items_per_s'])} {own['unit']}/s",
            f"{peer['side']}: {number(peer['items_per_s'])}",
            f"{ratio:.2f} ({own['goal']:.2g})",
            f"{own['cpu_seconds']:.3g} / {peer['cpu_seconds']:.3g}",
            f"{own['peak_mb']:,} / {peer['peak_mb']:,}",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def picture(lines: list[dict[str, Any]]) -> str:
    """Return an SVG: how many times as fast as the best peer we are, logarithmic; a tick is the goal."""
    bars = [(sides[0], peer) for sides in by_job(lines).values() if (peer := best_peer(sides))]
    height, left, width = 28, 250, 360
    middle = left + width / 3

    def at(ratio: float) -> float:
        return max(left, min(left + width, middle + math.log2(ratio) * width / 9))

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 {height * len(bars) + 50}" role="img" '
        'aria-label="How many times as fast as the best peer each job is">',
        "<style>text{font:13px system-ui,sans-serif;fill:#2b2721}.q{fill:#6b6255}"
        ".a{fill:#4c7a5a}.b{fill:#b0603c}line{stroke:#6b6255}@media(prefers-color-scheme:dark){text{fill:#efe9df}.q{fill:#b7ab98}}</style>",
    ]
    for number, (own, peer) in enumerate(bars):
        ratio, y = own["items_per_s"] / peer["items_per_s"], 34 + number * height
        start, end = sorted((middle, at(ratio)))
        kind = "a" if ratio >= 1 else "b"
        parts += [
            f'<text x="{left - 10}" y="{y + 13}" text-anchor="end">{html.escape(own["job"])}</text>',
            f'<rect x="{start:.1f}" y="{y}" width="{end - start:.1f}" height="18" class="{kind}"/>',
            f'<line x1="{at(own["goal"]):.1f}" x2="{at(own["goal"]):.1f}" y1="{y - 3}" y2="{y + 21}"/>',
            f'<text x="{left + width + 10}" y="{y + 13}" class="q">{ratio:.2f} times '
            f"{html.escape(peer['side'])}</text>",
        ]
    bottom = 34 + len(bars) * height
    for ratio in (1 / 8, 1 / 2, 1, 2, 8, 32):
        shown = f"{ratio:g}" if ratio >= 1 else f"1/{1 / ratio:g}"
        parts.append(f'<text x="{at(ratio):.1f}" y="18" class="q" text-anchor="middle">{shown}</text>')
    parts.append(f'<line x1="{middle}" x2="{middle}" y1="24" y2="{bottom}" stroke-dasharray="3 3"/></svg>')
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
