"""One offline HTML page about an election: light and dark, narrow and wide, no script."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import msgspec

from o1_records import InputError, Thought, atomic_write, open_queries, quoted, read_jsonl
from o1_records.kit.job import Database
from o1_records.kit.text import words
from o1_vote.election.survey import BINS, Disputed, Survey, Written
from o1_vote.members.scores import sheets_by_query
from o1_vote.settings import Settings, read_settings, recounted
from o1_vote.tally import ranks, refuse_weights_of_nobody

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1e23; --soft: #5d6673; --line: #d9dee5; --back: #fff;
  --bar: #2f6fb3; --mark: #e8f1fb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa4b1; --line: #363c45;
  --back: #16191d; --bar: #6aa7e6; --mark: #1f2d3d; } }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem; background: var(--back);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); font-size: .9rem; } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: normal; }
th { color: var(--soft); font-weight: 600; font-size: .85rem; } td.n, th.n { text-align: right; }
.bar { display: block; height: .6rem; margin-top: .45rem; background: var(--bar);
  border-radius: 2px; } td.bars { width: 45%; } tr.won { background: var(--mark); }
details { border-bottom: 1px solid var(--line); padding: .5rem 0; } summary { cursor: pointer; }
"""


def report(
    ballots: str | Path,
    *,
    thoughts: str | Path,
    queries: str | Path,
    out: str | Path,
    **counting: object,
) -> int:
    """Write the page about the election in a file of ballots; returns how many queries it had.

    Args:
        ballots: JSONL that `elect` wrote, with its settings beside it.
        thoughts: JSONL of the thoughts.
        queries: JSONL of the queries, or a BEIR folder.
        out: the HTML page to write.
        **counting: fields of `Counting` that are to be other than in the election; None is as there.

    Raises InputError for a file without ballots, settings of other ballots, a weight of nobody and a thought
    that is there twice.
    """
    settings = read_settings(ballots)
    how, told = recounted(settings, **counting)
    survey = Survey()
    members: set[str] = set()
    with Database("", _THOUGHTS) as db:
        _keep_thoughts(db, thoughts)
        for query_id, sheets in sheets_by_query(ballots):
            members.update(sheets)
            verdict = how.decide(sheets)
            survey.add(query_id, sheets, verdict)
            sql = "SELECT thought_id, model, words FROM thought WHERE query_id = ?"
            written = {name: Written(model, count) for name, model, count in db.rows(sql, query_id)}
            survey.count_thoughts(sheets, verdict.winner, written)
        if not survey.queries:
            raise InputError(f"{ballots}: has no ballot, so there is nothing to report; is it elect's file?")
        refuse_weights_of_nobody(how.weights, sorted(members))
        shown = {dispute.query_id for dispute in survey.disputed}
        texts = {query.query_id: query.text for query in open_queries(queries) if query.query_id in shown}
        candidates: defaultdict[str, dict[str, Thought]] = defaultdict(dict)
        for query_id in shown:
            for (body,) in db.rows("SELECT body FROM thought WHERE query_id = ?", query_id):
                thought = msgspec.json.decode(body, type=Thought)
                candidates[query_id][thought.thought_id] = thought
    files = {"ballots": ballots, "thoughts": thoughts, "queries": queries}
    inputs = {name: str(path) for name, path in files.items()} | (settings.inputs if settings else {})
    with atomic_write(out) as file:
        file.write(page(survey, texts, candidates, how=told, settings=settings, inputs=inputs).encode())
    return survey.queries


_THOUGHTS = """CREATE TABLE thought (query_id TEXT, thought_id TEXT, model TEXT, words INTEGER, body BLOB,
    PRIMARY KEY (query_id, thought_id)) WITHOUT ROWID"""


def _keep_thoughts(db: Database, thoughts: str | Path) -> None:
    with db.transaction():
        for thought in read_jsonl(thoughts, Thought):
            row = (thought.source.model, len(words(thought.text)), msgspec.json.encode(thought))
            if not db.execute(
                "INSERT OR IGNORE INTO thought VALUES (?,?,?,?,?)", *thought.key, *row
            ).rowcount:
                raise InputError(
                    f"{thoughts}: thought {quoted(thought.key)} is there twice; keep one of them"
                )


def page(
    survey: Survey,
    queries: Mapping[str, str],
    thoughts: Mapping[str, Mapping[str, Thought]],
    *,
    how: str,
    settings: Settings | None = None,
    inputs: Mapping[str, str] | None = None,
) -> str:
    """Return the page. `queries` and `thoughts` have the texts of the disputed queries."""
    elected = survey.queries - sum(winner is None for winner in survey.winners.values())
    share = elected / survey.queries if survey.queries else 0
    step = 2 / BINS
    alphas = {f"{-1 + b * step:.1f} to {-1 + (b + 1) * step:.1f}": survey.alphas[b] for b in range(BINS)}
    disputes = "".join(
        _dispute(each, queries.get(each.query_id, ""), thoughts.get(each.query_id, {}))
        for each in survey.disputed
    )
    body = [
        "<h1>An election of thoughts</h1>",
        f"<p>{survey.queries:,} queries, {escape(how)}: {elected:,} ({share:.1%}) carry a thought. "
        f"Mean agreement (Krippendorff's alpha of ranks) {_number(survey.alpha.value)}.</p>",
        _section("How it was held", _settings(settings, inputs or {})),
        _section("How queries were decided", _bars(survey.reasons)),
        _section("Thoughts by model", _models(survey), _MODELS),
        _section("Gain over the query alone", _gains(survey), _GAINS),
        _section("Models side by side", _duels(survey), _DUELS),
        _section("Thoughts without content", _controls(settings), _CONTROLS),
        _section("Agreement of the members", _pairs(survey), _ALPHA),
        _section("Agreement by query", _bars(alphas), "Queries that have thoughts, by alpha."),
        _section("Members", _members(survey), _MEMBERS),
        _section("Raw scores", _scores(survey), _SCORES),
        _section("The most disputed queries", disputes),
    ]
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>An election of thoughts</title><style>{_STYLE}</style></head><body>"
    )
    return head + "\n".join(filter(None, body)) + "</body></html>\n"


_ALPHA = (
    "Alpha of every two members over all candidates, the query alone included; 1 is the same order, 0 chance."
)
_SCORES = "Means over queries that have thoughts, each on its member's own scale."
_MODELS = "Queries it wrote about, its thoughts, those elected, and mean words of all and of the elected."
_GAINS = "Mean score of a model's thoughts less that of the query alone, and how many score higher."
_DUELS = "Of the queries that both wrote about: whose thought was elected."
_CONTROLS = (
    "How often a text that says nothing would have been elected as the only thought of its query, and how "
    "often without the tolerance that it sets."
)
_MEMBERS = "How often a member put the winner first, and how often the query alone, ties included."


def _section(title: str, content: str, note: str = "") -> str:
    told = f'<p class="soft">{escape(note)}</p>' if note else ""
    return f"<h2>{escape(title)}</h2>{told}{content}" if content else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], won: int | None = None) -> str:
    """Return a table of cells that are HTML already; the first column is text, the others are numbers."""

    def cells(kind: str, row: Sequence[str]) -> str:
        marks = ["" if place == 0 else ' class="n"' for place in range(len(row))]
        return "".join(f"<{kind}{m}>{cell}</{kind}>" for m, cell in zip(marks, row, strict=True))

    lines = [
        f"<tr{' class=won' if place == won else ''}>{cells('td', row)}</tr>" for place, row in enumerate(rows)
    ]
    return f'<div class="wide"><table><tr>{cells("th", head)}</tr>{"".join(lines)}</table></div>'


def _bars(values: Mapping[str, float]) -> str:
    """Return a bar for each value: counts, or shares of 1 shown in percent."""
    most = max(values.values(), default=0) or 1
    rows = [
        f'<tr><td>{escape(name)}</td><td class="n">{_count(value)}</td><td class="bars">'
        f'<span class="bar" style="width:{100 * value / most:.1f}%"></span></td></tr>'
        for name, value in values.items()
    ]
    return f'<div class="wide"><table>{"".join(rows)}</table></div>' if rows else ""


def _pairs(survey: Survey) -> str:
    rows = [
        [f"{escape(one)} and {escape(other)}", _number(mean.value)]
        for (one, other), mean in survey.pairs.items()
    ]
    return _table(["members", "alpha"], rows) if rows else ""


def _members(survey: Survey) -> str:
    names = sorted({*survey.with_winner, *survey.prefers_none})
    rows = [
        [escape(name), _percent(survey.with_winner[name].value), _percent(survey.prefers_none[name].value)]
        for name in names
    ]
    return _table(["member", "winner first", "query alone first"], rows) if rows else ""


def _scores(survey: Survey) -> str:
    kinds = ["query alone", "all thoughts", "elected"]
    members = sorted({member for member, _ in survey.scores})
    rows = [[escape(m), *(_number(survey.scores[m, kind].value) for kind in kinds)] for m in members]
    return _table(["member", *kinds], rows) if rows else ""


def _settings(settings: Settings | None, inputs: Mapping[str, str]) -> str:
    rows = [[name, path] for name, path in inputs.items()]
    if settings:
        rows = [["measure", settings.measure], ["o1-vote", settings.version], *rows]
        if settings.relevance != 1:
            rows.append(["positives", f"judged {settings.relevance} or more"])
        for name, about in settings.members.items():
            tolerance = settings.counting.tolerance.get(name)
            told = [f"{what}: {value}" for what, value in about.items()]
            told += [] if tolerance is None else [f"tolerance: {tolerance:.4g}"]
            rows.append([f"member {name}", "; ".join(told)])
    cells = "".join(f"<tr><td>{escape(name)}</td><td>{escape(told)}</td></tr>" for name, told in rows)
    return f'<div class="wide"><table>{cells}</table></div>' if rows else ""


def _models(survey: Survey) -> str:
    head = ["model", "queries", "thoughts", "elected", "of queries", "words", "words of elected"]
    rows = [
        [
            escape(name),
            *(f"{count:,}" for count in (own.queries, own.thoughts, own.elected)),
            _percent(own.elected / own.queries),
            f"{own.words.value:.1f}",
            "" if math.isnan(own.elected_words.value) else f"{own.elected_words.value:.1f}",
        ]
        for name, own in sorted(survey.models.items())
    ]
    return _table(head, rows) if rows else ""


def _gains(survey: Survey) -> str:
    members = sorted({member for own in survey.models.values() for member in own.gain})
    rows = [
        [escape(name), *(f"{own.gain[m].value:+.3f} ({_percent(own.better[m].value)})" for m in members)]
        for name, own in sorted(survey.models.items())
        if own.gain
    ]
    return _table(["model", *map(escape, members)], rows) if rows else ""


def _duels(survey: Survey) -> str:
    rows = [
        [f"{escape(one)} and {escape(other)}", *(f"{won[name]:,}" for name in (one, other, "neither"))]
        for (one, other), won in sorted(survey.duels.items())
    ]
    return _table(["models", "the first", "the second", "neither"], rows) if rows else ""


def _controls(settings: Settings | None) -> str:
    rows = [
        [
            escape(kind),
            f"{own.queries:,}",
            _percent(own.won / own.queries),
            _percent(own.without / own.queries),
        ]
        for kind, own in (settings.controls if settings else {}).items()
    ]
    return _table(["text", "queries", "elected", "without the tolerance"], rows) if rows else ""


def _dispute(dispute: Disputed, text: str, thoughts: Mapping[str, Thought]) -> str:
    of_each = {member: ranks(scores) for member, scores in dispute.sheets.items()}
    names = sorted(next(iter(dispute.sheets.values())), key=lambda name: name or "")
    rows = []
    for name in names:
        told = f"<br>{escape(thoughts[name].text)}" if name is not None and name in thoughts else ""
        cells = [f"{own[name]:g} ({dispute.sheets[m][name]:.3g})" for m, own in of_each.items()]
        by = f" by {escape(thoughts[name].source.model)}" if name is not None and name in thoughts else ""
        rows.append([f"<b>{escape(name or 'no thought')}</b>{by}{told}", *cells])
    summary = (
        f"{escape(text)} <span class=soft>{escape(dispute.query_id)}, alpha {dispute.agreement:.2f}</span>"
    )
    table = _table(["rank (score)", *map(escape, of_each)], rows, names.index(dispute.verdict.winner))
    elected = f"Elected: {dispute.verdict.winner or 'no thought'}; {dispute.verdict.why}."
    why = f'<p class="soft">{escape(elected)}</p>'
    return f"<details><summary>{summary}</summary>{why}{table}</details>"


def _count(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else _percent(value)


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1%}"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"
