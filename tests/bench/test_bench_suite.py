import re

import pytest

from o1_bench import Collection, save_result, write_report
from o1_bench.compare import holm, paired_test, paired_test_over_tasks
from o1_bench.datasets.averages import AVERAGES
from o1_bench.datasets.suites import ENTRIES, SUITES
from o1_bench.protocol import PROTOCOLS
from o1_bench.reporting.leaderboard import leaderboard, published
from o1_bench.reporting.rows import by_collection, gain_by_length, over_tasks
from o1_bench.reporting.words import suite_table, table
from o1_bench.results.result import Milliseconds, System
from o1_bench.score import parse_measure
from o1_records import Document, InputError, Qrel, Query, Source, Thought, rank

TASKS = {"bright/biology": 24, "bright/pony": 10, "cosqa": 30}
PLACES = {
    "BM25": lambda number: 3,
    "thinking": lambda number: 9 if number == 5 else 1 if number % 2 else 3,
    "filler": lambda number: 2 if number % 3 == 1 else 3,
}


def collection(name, count):
    return Collection(
        name=name,
        documents=[Document(doc_id=f"d{n}", text=f"text {n} of {name}") for n in range(count)],
        queries=tuple(Query(query_id=f"q{n}", text=f"find {n}") for n in range(count)),
        qrels=tuple(Qrel(query_id=f"q{n}", doc_id=f"d{n}", relevance=1) for n in range(count)),
        instruction="Given a post, retrieve passages that help.",
        protocol=PROTOCOLS["bright" if name.startswith("bright/") else "plain"],
    )


def hits_at(place_of, count):
    for number in range(count):
        others = [f"d{n}" for n in range(count) if n != number]
        others.insert(place_of(number) - 1, f"d{number}")
        yield from rank(f"q{number}", {doc_id: -place for place, doc_id in enumerate(others[:10])})


def thoughts(count):
    for n in range(count):
        yield Thought(query_id=f"q{n}", thought_id="t", text="word " * (n + 1), source=Source(model="m"))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    return [
        save_result(
            folder / task / name,
            System(
                name=name,
                kind="control" if name == "filler" else "system",
                milliseconds=Milliseconds(think=100.0 if name == "thinking" else None, search=1.0),
                index_bytes=2**21,
                device="cpu",
            ),
            collection=collection(task, count),
            hits=hits_at(place_of, count),
            thoughts=thoughts(count) if name == "thinking" else (),
            k=10,
        )
        for task, count in TASKS.items()
        for name, place_of in PLACES.items()
    ]


def test_every_task_counts_the_same_in_an_average(results):
    base, thinking, filler = over_tasks(results)
    main = [r.metrics["nDCG@10"] for r in results if r.name == "thinking"]
    assert thinking.average == pytest.approx(sum(main) / 3)
    assert thinking.against.difference == pytest.approx(thinking.average - base.average)
    assert thinking.against.low < thinking.against.difference < thinking.against.high
    assert thinking.against.queries == sum(TASKS.values())
    assert (base.is_baseline, base.against, thinking.direction) == (True, None, "up")
    assert (thinking.milliseconds, filler.kind) == (101.0, "control")


def test_p_values_are_corrected_over_tasks_and_systems_together(results):
    raw = []
    for group in by_collection(results).values():
        base, *others = (result.per_query["nDCG@10"] for result in group)
        raw += [paired_test(values, base).p_value for values in others]
    rows = over_tasks(results)
    found = [row.rows[task].p_value for task in TASKS for row in rows if not row.is_baseline]
    assert found == pytest.approx(holm(raw))


def test_a_system_without_all_tasks_has_no_average_and_a_baseline_must_have_them(results):
    partly = [r for r in results if (r.name, r.collection.name) != ("filler", "cosqa")]
    filler = over_tasks(partly)[2]
    assert (filler.average, filler.against) == (None, None)
    assert list(filler.rows) == ["bright/biology", "bright/pony"]
    with pytest.raises(InputError, match=r"cosqa: .*'filler'.* must run on every task"):
        over_tasks(partly, baseline="filler")
    with pytest.raises(InputError, match="there are no results"):
        over_tasks([])


def test_the_suites_test_agrees_with_the_plain_one_on_one_task_and_finds_nothing_in_nothing(results):
    a, b = (r.per_query["nDCG@10"] for r in results[:2])
    plain, over = paired_test(b, a), paired_test_over_tasks({"t": b}, {"t": a})
    assert over.difference == pytest.approx(plain.difference)
    assert (over.wins, over.ties, over.losses) == (plain.wins, plain.ties, plain.losses)
    assert over.p_value == pytest.approx(plain.p_value, abs=0.02)
    assert over.low == pytest.approx(plain.low, abs=0.02)
    same = paired_test_over_tasks({"t": a, "u": b}, {"t": a, "u": b})
    assert (same.p_value, same.low, same.high) == (1.0, 0.0, 0.0)
    with pytest.raises(InputError, match="not scored on the same queries"):
        paired_test_over_tasks({"t": a}, {"u": a})


def test_a_small_task_weighs_as_much_as_a_large_one():
    large = {f"q{n}": 0.0 for n in range(1000)}
    a = {"large": large, "small": {"q": 1.0, "r": 1.0}}
    b = {"large": large, "small": {"q": 0.0, "r": 0.0}}
    test = paired_test_over_tasks(a, b)
    assert (test.difference, test.low, test.high) == (0.5, 0.5, 0.5)
    assert test.p_value == pytest.approx(0.5, abs=0.03)  # two signs: half of all throws are as large


def test_the_suites_table_has_a_column_a_task(results):
    lines = suite_table(results).splitlines()
    assert lines[0].split()[:8] == ["run", *TASKS, "mean", "of", "3", "ms/query"]
    assert lines[1].split()[:5] == ["BM25", "0.500", "0.500", "0.500", "0.500"]
    assert lines[3].startswith("filler (control)")
    with pytest.raises(InputError, match="measured on different"):
        table(results)


def test_gain_is_shown_against_the_length_of_thoughts(results):
    rows = over_tasks(results)[1].rows
    row, base = rows["bright/biology"], results[0]
    bins = gain_by_length(row, base)
    assert [one.words for one in bins] == sorted(one.words for one in bins)
    assert sum(one.gain.queries for one in bins) == 24
    mean = sum(one.gain.difference * one.gain.queries for one in bins) / 24
    assert mean == pytest.approx(row.against.difference)
    assert gain_by_length(over_tasks(results)[2].rows["bright/biology"], base) == []


def test_published_figures_name_known_collections_and_their_sources():
    known = {*(entry.name for entry in ENTRIES.values()), *(average.name for average in AVERAGES)}
    for each in published():
        assert each.collection in known, each
        assert each.protocol in PROTOCOLS or "not stated" in each.protocol or "older task" in each.protocol
        assert 0 < each.value < 1
        assert each.source
        assert str(parse_measure(each.measure)) == each.measure
    keys = [(e.collection, e.measure, e.system, e.source) for e in published()]
    assert len(keys) == len(set(keys))


def test_averages_of_published_tasks_are_as_published():
    """A slip of the hand in a copied table would show here."""
    values = {(e.system, e.source, e.collection): e.value for e in published() if e.measure == "nDCG@10"}
    compared = 0
    named = {average.name: average for average in AVERAGES}
    for (system, source, name), published_average in values.items():
        if name not in named:
            continue
        found = named[name].of({task: values.get((system, source, task)) for task in named[name].collections})
        if found is not None:
            compared += 1
            assert found == pytest.approx(published_average, abs=0.001), (system, name)
    assert compared > 30


def test_ours_stand_beside_published_figures_where_there_are_some(results):
    board = leaderboard(results)
    assert [(c.collection, c.measure) for c in board.columns] == [
        ("bright/biology", "nDCG@10"), ("bright/pony", "nDCG@10"), ("cosqa", "nDCG@10"),
    ]  # fmt: skip
    assert [column.collection for column in board.alone] == ["cosqa"]
    ours = [entry for entry in board.entries if entry.ours]
    assert [entry.system for entry in ours] == ["thinking", "BM25"]  # no control, no oracle
    theirs = {entry.system: entry.values for entry in board.entries if not entry.ours}
    assert theirs["ReasonEmbed Qwen3-8B"] == (0.555, 0.164, None)
    last = [entry.values[1] for entry in board.entries]
    assert last == sorted(last, reverse=True)


def test_a_collection_that_nothing_was_published_of_has_ours(results):
    of_cosqa = [result for result in results if result.collection.name == "cosqa"]
    board = leaderboard(of_cosqa)
    assert [(entry.system, entry.ours) for entry in board.entries] == [("thinking", True), ("BM25", True)]
    assert (board.apart, board.sources, len(board.alone)) == ((), [], 1)
    assert leaderboard([result for result in of_cosqa if result.system.kind == "control"]) is None


def test_a_whole_published_suite_gets_its_average(tmp_path):
    made = [
        save_result(
            tmp_path / task, System(name="mine"), collection=collection(task, 10),
            hits=hits_at(PLACES["BM25"], 10),
        )
        for task in SUITES["bright"]
    ]  # fmt: skip
    board = leaderboard(made)
    columns = [column.collection for column in board.columns]
    assert columns[12:] == ["BRIGHT", "BRIGHT StackExchange", "BRIGHT Theorem", "BRIGHT Coding"]
    (ours,) = [entry for entry in board.entries if entry.ours]
    assert ours.values[12:] == pytest.approx([0.5] * 4)
    (bm25,) = [entry for entry in board.entries if entry.system == "BM25"]
    assert bm25.values[12] == 0.145
    # its groups are the means of the tasks that were published
    assert bm25.values[13] == pytest.approx(sum(bm25.values[:7]) / 7)
    # by MTEB's older task
    assert {entry.source for entry in board.apart} == {"LaSER, its paper"}


@pytest.mark.extra
def test_a_report_of_a_suite_has_every_task_and_its_pictures(tmp_path, results):
    write_report(tmp_path / "r.html", results, title="A suite")
    text = (tmp_path / "r.html").read_text()
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids)) > 10
    for task in TASKS:
        assert f'aria-label="{task}"' in text
    assert "“thinking” scores 0.7" in text
    assert "Gain against thought length" in text
    assert "ReasonEmbed Qwen3-8B" in text
    assert "(arXiv 2510.08252)" in text
    assert "corrected over all tasks and systems" in text
    assert "index 2 MiB" in text
    assert "10 hits per query; nDCG@10 by ir-measures, pytrec_eval" in text
    with pytest.raises(InputError, match="no result is called 'x'"):
        write_report(tmp_path / "r.html", results, focus="x")
