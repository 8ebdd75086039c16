"""When does thinking pay? A table and a picture of what `o1-model confirm` measured on several collections.

    o1-model calibrate --thinker dev.jsonl --search bm25 --collection C --split dev --out C.calibration.json
    o1-model confirm --calibration C.calibration.json --thinker test.jsonl --collection C --out C.json
    python benchmarks/thinking.py C.json D.json ... [--picture gain.svg]

A column for each file. A figure is the mean of nDCG@10; below the first row stand the differences to it with
their 95 % interval, and the p of a paired permutation test after Holm over all differences of the table that
are no controls. A weight of 0 is a calibration that refused to think: its mixture is the query alone. The
last line counts where the mixture gains, loses, and beats every control.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import msgspec

from o1_bench.compare import Comparison, holm, paired_test
from o1_model.retriever.confirm import Confirmation

NONE, MIXTURE = "no thought", "mixture"
ORDER = (
    MIXTURE, "documents think", "mixture, documents think", "thoughts alone", "empty thoughts",
    "other thoughts", "filler thoughts", "copy thoughts", "other documents' thoughts",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, help="what o1-model confirm wrote")
    parser.add_argument("--picture", type=Path, help="SVG: gain of the mixture against tokens a query")
    parser.add_argument("--names", nargs="+", help="of the thinkers in the picture, one for each file")
    args = parser.parse_args()
    found = [msgspec.json.decode(path.read_bytes(), type=Confirmation) for path in args.files]
    compared = compare(found)
    print(table(found, compared))
    print(verdict(found, compared))
    if args.names and len(args.names) != len(found):
        parser.error(f"{len(args.names)} names for {len(found)} files")
    if args.picture:
        names = args.names or [each.thinker for each in found]
        args.picture.write_text(picture(found, names, compared), encoding="utf-8")


def compare(found: Sequence[Confirmation]) -> dict[tuple[int, str], tuple[Comparison, float]]:
    """Each row of each file against no thought, and the p that Holm leaves of it (1 for controls)."""
    tests, systems = {}, []
    for place, each in enumerate(found):
        values = {row.name: dict(zip(each.query_ids, row.values, strict=True)) for row in each.rows}
        for row in each.rows[1:]:
            tests[place, row.name] = paired_test(values[row.name], values[NONE])
            if row.kind == "system":
                systems.append((place, row.name))
    corrected = dict(zip(systems, holm([tests[key].p_value for key in systems]), strict=True))
    return {key: (test, corrected.get(key, 1.0)) for key, test in tests.items()}


def table(found: Sequence[Confirmation], compared: dict[tuple[int, str], tuple[Comparison, float]]) -> str:
    heads = [
        f"{each.collection}, {each.embedder if each.search == 'dense' else each.search}" for each in found
    ]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---|' * len(found)}"]
    weights = [f"{each.mixture.weight:g}, {each.document_weight:g}" for each in found]
    counts = [f"{len(each.query_ids)}, {each.tokens:.0f}" for each in found]
    lines.append(f"| weight of thoughts, of documents' | {' | '.join(weights)} |")
    lines.append(f"| queries, tokens a query | {' | '.join(counts)} |")
    lines.append(f"| {NONE} | {' | '.join(f'{each.rows[0].mean:.3f}' for each in found)} |")
    for name in ORDER:
        if any((place, name) in compared for place in range(len(found))):
            cells = [cell(each, name, compared.get((place, name))) for place, each in enumerate(found)]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(each: Confirmation, name: str, compared: tuple[Comparison, float] | None) -> str:
    if compared is None:
        return "as no thought" if name == MIXTURE else ""
    test, p_value = compared
    row = next(row for row in each.rows if row.name == name)
    said = f"{row.mean:.3f}: {test.difference:+.3f} ({test.low:+.3f} to {test.high:+.3f})"
    return said if row.kind == "control" else f"{said}, p {max(p_value, test.floor):.4f}"


def verdict(found: Sequence[Confirmation], compared: dict[tuple[int, str], tuple[Comparison, float]]) -> str:
    gains = losses = beats = 0
    relative = []
    for place, each in enumerate(found):
        if (place, MIXTURE) not in compared:
            relative.append(0.0)
            continue
        test, p_value = compared[place, MIXTURE]
        gains += p_value < 0.05 and test.difference > 0
        losses += p_value < 0.05 and test.difference < 0
        controls = [row.mean for row in each.rows if row.kind == "control" and row.name.endswith(" thoughts")]
        beats += all(each.rows[0].mean + test.difference > mean for mean in controls)
        relative.append(test.difference / each.rows[0].mean)
    return (
        f"\nthe mixture gains on {gains} of {len(found)} and loses on {losses} (p < .05 after Holm); it "
        f"beats every control on {beats}; {sum(relative) / len(relative):+.1%} on average"
    )


def picture(
    found: Sequence[Confirmation],
    thinker_of: Sequence[str],
    compared: dict[tuple[int, str], tuple[Comparison, float]],
) -> str:
    """One point a file: tokens a query to the right, gain and interval upwards; 0 where not to think."""
    width, height, left, bottom = 640, 360, 60, 40
    points = []
    for place, each in enumerate(found):
        test = compared[place, MIXTURE][0] if (place, MIXTURE) in compared else None
        gain = (test.difference, test.low, test.high) if test else (0.0, 0.0, 0.0)
        points.append((each.tokens, gain, f"{each.collection} {each.search}", thinker_of[place]))
    most = max((tokens for tokens, *_ in points), default=1) * 1.25
    low = min([0.0, *(gain[1] for _, gain, *_ in points)]) - 0.01
    high = max([0.0, *(gain[2] for _, gain, *_ in points)]) + 0.01

    def x(tokens: float) -> float:
        return left + (width - left - 10) * tokens / most

    def y(gain: float) -> float:
        return (height - bottom) * (high - gain) / (high - low)

    thinkers = list(dict.fromkeys(thinker_of))
    colours = ["#4269d0", "#ff725c", "#3ca951", "#a463f2", "#efb118"]
    marks = [
        f'<line x1="{x(tokens):.1f}" x2="{x(tokens):.1f}" y1="{y(gain[1]):.1f}" y2="{y(gain[2]):.1f}" '
        f'stroke="{colours[thinkers.index(thinker) % 5]}"/>'
        f'<circle cx="{x(tokens):.1f}" cy="{y(gain[0]):.1f}" r="4" '
        f'fill="{colours[thinkers.index(thinker) % 5]}"><title>{name}</title></circle>'
        f'<text x="{x(tokens) + 6:.1f}" y="{y(gain[0]) - 4:.1f}" font-size="10">{name}</text>'
        for tokens, gain, name, thinker in points
    ]
    legend = [
        f'<text x="{left + 10}" y="{14 + 13 * n}" font-size="11" fill="{colours[n % 5]}">{thinker}</text>'
        for n, thinker in enumerate(thinkers)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">'
        f'<rect width="{width}" height="{height}" fill="white"/>'
        f'<line x1="{left}" x2="{width - 10}" y1="{y(0):.1f}" y2="{y(0):.1f}" stroke="#888"/>'
        f'<text x="4" y="{y(0):.1f}" font-size="11">no gain</text>'
        f'<text x="{width / 2}" y="{height - 8}" font-size="11">tokens thought a query</text>'
        f'<text x="4" y="12" font-size="11">gain</text>{"".join(legend)}{"".join(marks)}</svg>\n'
    )


if __name__ == "__main__":
    main()
