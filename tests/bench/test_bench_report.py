import re
from html.parser import HTMLParser

import pytest

from o1_bench import Collection, save_result, write_report
from o1_bench.compare import paired_test
from o1_bench.reporting.examples import worked_examples
from o1_bench.reporting.rows import side_by_side
from o1_bench.reporting.words import choose_focus, milliseconds, p_value, signed, summary, table
from o1_bench.results.result import Milliseconds, System
from o1_records import Document, InputError, Qrel, Query, Source, Thought, rank

COUNT = 24
COLLECTION = Collection(
    name="tiny/test",
    documents=[Document(doc_id=f"d{n}", text=f"<b>function</b> {n}") for n in range(COUNT)],
    queries=tuple(Query(query_id=f"q{n}", text=f"find function {n}") for n in range(COUNT)),
    qrels=tuple(Qrel(query_id=f"q{n}", doc_id=f"d{n}", relevance=1) for n in range(COUNT)),
)


def hits_at(place_of):
    """A run that puts the relevant document of query n at the given place (from 1)."""
    for number in range(COUNT):
        others = [f"d{n}" for n in range(COUNT) if n != number]
        others.insert(place_of(number) - 1, f"d{number}")
        yield from rank(f"q{number}", {doc_id: -p for p, doc_id in enumerate(others[:10])})


PLACES = {
    "plain": lambda number: 3,
    "thinking": lambda number: 9 if number == 5 else 1 if number % 2 else 3,
    "same, slower": lambda number: 4 if number == 0 else 2 if number == 1 else 3,
    "filler": lambda number: 1 if number % 3 == 1 else 3,
    "answer": lambda number: 1,
}
KINDS = {"filler": "control", "answer": "oracle"}
NOTES = {"answer": "oracle: uses the answer's own docstring"}


@pytest.fixture
def results(tmp_path):
    return [
        save_result(
            tmp_path / f"r{number}",
            System(
                name=name,
                kind=KINDS.get(name, "system"),
                note=NOTES.get(name, ""),
                encoder={"model": "tiny"},
                milliseconds=Milliseconds(think=99.0 * number, embed=2.0, search=1.0),
            ),
            collection=COLLECTION,
            hits=hits_at(place_of),
        )
        for number, (name, place_of) in enumerate(PLACES.items())
    ]


THOUGHTS = [
    Thought(
        query_id=f"q{number}",
        thought_id="t",
        text=f"it is <script>alert({number})</script>",
        source=Source(model="m"),
    )
    for number in range(COUNT)
]


def examples():
    before, after = hits_at(PLACES["plain"]), hits_at(PLACES["thinking"])
    return worked_examples(COLLECTION, before=before, after=after, thoughts=THOUGHTS)


class Page(HTMLParser):
    """Collects what a browser would fetch or run, the ids, and the text."""

    def __init__(self, text):
        super().__init__()
        self.fetched, self.ids, self.tags, self.text = [], [], set(), ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            if name in {"src", "href", "xlink:href", "action", "data", "srcset", "poster"}:
                self.fetched.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_data(self, data):
        self.text += data


@pytest.mark.extra
def test_a_report_is_one_file_that_asks_nobody_for_anything(tmp_path, results):
    write_report(tmp_path / "r.html", results, examples=examples())
    text = (tmp_path / "r.html").read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert [url for url in page.fetched if not url.startswith(("#", "data:,"))] == []
    assert re.findall(r"@import|url\((?!#)", text) == []
    assert len(page.ids) == len(set(page.ids)) > 10
    targets = [url[1:] for url in page.fetched if url.startswith("#")]
    targets += re.findall(r"url\(#([^)]*)\)", text)
    assert targets
    assert set(targets) <= set(page.ids)


@pytest.mark.extra
def test_pictures_take_their_colours_from_the_page(tmp_path, results):
    write_report(tmp_path / "r.html", results)
    drawn = re.findall(r"<svg.*?</svg>", (tmp_path / "r.html").read_text(), re.DOTALL)
    assert len(drawn) > 6
    for picture in drawn:
        assert re.findall(r"(?<!href=\")#[0-9a-fA-F]{6}\b", picture) == []
        assert "var(--" in picture


@pytest.mark.extra
def test_texts_of_others_are_shown_and_never_run(tmp_path, results):
    write_report(tmp_path / "r.html", results, examples=examples(), title="a < b & c")
    page = Page((tmp_path / "r.html").read_text())
    assert "it is <script>alert(1)</script>" in page.text
    assert "<b>function</b> 1" in page.text
    assert "a < b & c" in page.text


@pytest.mark.extra
def test_the_page_says_the_numbers_of_the_results(tmp_path, results):
    write_report(tmp_path / "r.html", results, baseline="plain")
    page = Page((tmp_path / "r.html").read_text())
    for result in results:
        assert result.name in page.text
        assert result.files["run.trec"] in page.text
        for value in result.metrics.values():
            assert f"{value:.3f}" in page.text
    for digest in COLLECTION.digests.values():
        assert digest in page.text
    assert "oracle: uses the answer's own docstring" in page.text
    for sentence in summary(side_by_side(results), side_by_side(results)[1]):
        assert sentence in page.text


@pytest.mark.extra
def test_the_same_results_give_the_same_bytes(tmp_path, results):
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, results, examples=examples())
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.extra
def test_one_result_without_times_makes_a_page_too(tmp_path):
    result = save_result(
        tmp_path / "r",
        System(name="only"),
        collection=COLLECTION,
        hits=hits_at(PLACES["plain"]),
    )
    write_report(tmp_path / "r.html", [result])
    page = Page((tmp_path / "r.html").read_text())
    assert "“only” scores nDCG@10 0.500." in page.text
    assert "Quality against time" not in page.text


def test_the_table_aligns_its_columns_and_labels_oracles(results):
    lines = table(results, baseline="plain").splitlines()
    assert lines[0].split()[:5] == ["run", "nDCG@10", "RR@10", "R@100", "ms/query"]
    assert lines[1].split() == ["plain", "0.500", "0.333", "1.000", "3.0", "baseline"]
    assert lines[4].startswith("filler (control) ")
    assert lines[5].startswith("answer (oracle) ")
    assert {line.index(".") for line in lines[1:6]} == {lines[1].index(".")}
    assert lines[6:] == [
        "p: 10,000 random sign flips and as many bootstrap samples, seed 0: no p-value below 0.0001, 0.0004 "
        "for the first of 4 after correction"
    ]


def test_too_few_permutations_to_tell_anything_from_chance_are_said(results):
    said = table(results, permutations=50).splitlines()[-1]
    assert said.endswith(
        "no p-value below 0.02, 0.078 for the first of 4 after correction, so that nothing can be told from "
        "chance; take 80 permutations or more"
    )


def test_differences_are_paired_and_corrected_for_their_number(results):
    rows = side_by_side(results, baseline="plain")
    assert [row.is_baseline for row in rows] == [True, False, False, False, False]
    by_hand = paired_test(results[1].per_query["nDCG@10"], results[0].per_query["nDCG@10"])
    assert rows[1].against == by_hand
    assert rows[1].p_value == pytest.approx(3 * by_hand.p_value, rel=0.5)
    assert rows[1].p_value > by_hand.p_value
    assert list(rows[1].gains) == sorted(rows[1].gains, reverse=True)
    assert sum(rows[1].gains) / COUNT == pytest.approx(by_hand.difference)
    assert [row.direction for row in rows] == ["", "up", "", "up", "up"]


def test_the_summary_speaks_of_the_best_run_that_is_fair_and_says_what_controls_gain(results):
    rows = side_by_side(results, baseline="plain")
    focus = choose_focus(rows, "")
    assert focus.result.name == "thinking"
    text = " ".join(summary(rows, focus))
    assert "On 24 queries of tiny/test, “thinking” scores nDCG@10 0.721, “plain” scores 0.500" in text
    assert "is more than chance" in text
    assert "after correction for 4 comparisons" in text
    assert "11 queries gain, 1 lose, 12 stay as they were" in text
    assert "A query takes 102 ms instead of 3.0 ms." in text
    assert "The best control, “filler”, scores 0.667: too close to tell apart" in text
    assert "“answer” scores 1.000: an oracle, which looks at the answer" in text


def test_the_summary_does_not_sell_chance_as_a_gain(results):
    rows = side_by_side(results, baseline="plain")
    text = " ".join(summary(rows, choose_focus(rows, "same, slower")))
    assert "may be chance" in text
    assert "more than chance (" not in text.split("The best control")[0]


def test_an_oracle_is_never_the_headline_by_itself(results):
    rows = side_by_side([results[0], results[4]])
    focus = choose_focus(rows, "")
    assert focus.result.name == "plain"
    opening, oracle = summary(rows, focus)
    assert opening == "On 24 queries of tiny/test, “plain” scores nDCG@10 0.500."
    assert oracle.startswith("“answer” scores 1.000: an oracle")


def test_results_that_do_not_belong_together_are_refused(tmp_path, results):
    with pytest.raises(InputError, match="no results"):
        table([])
    with pytest.raises(
        InputError, match="2 results are called 'plain' on tiny/test; give them different names, or a seed"
    ):
        table([results[0], results[0]])
    with pytest.raises(InputError, match="no result is called 'x'; there are 'plain', 'thinking'"):
        table(results, baseline="x")
    smaller = Collection(
        name="tiny/dev",
        documents=COLLECTION.documents,
        queries=COLLECTION.queries[:3],
        qrels=COLLECTION.qrels[:3],
    )
    other = save_result(tmp_path / "o", System(name="o"), collection=smaller, hits=rank("q0", {"d0": 1.0}))
    with pytest.raises(InputError, match="'o' and 'plain' were measured on different queries"):
        table([results[0], other])


def test_worked_examples_take_turns_between_gains_and_losses():
    found = examples()
    assert [example.query for example in found] == [
        "find function 1",
        "find function 5",
        "find function 11",
        "find function 13",
    ]
    best, worst = found[:2]
    assert (best.value_before, best.value_after) == (0.5, 1.0)
    assert worst.value_after < worst.value_before
    assert [document.relevant for document in best.before] == [False, False, True]
    assert [document.relevant for document in best.after] == [True, False, False]
    assert best.after[0].text == "<b>function</b> 1"
    assert best.thought == "it is <script>alert(1)</script>"


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.5, 400.0, [1, 10, 100]),
        (1.25, 8.0, [2, 5]),
        (6.0, 30.0, [10, 20]),
        (0.02, 0.06, [0.02, 0.05]),
    ],
)
def test_a_time_axis_has_ticks_however_narrow_it_is(low, high, ticks):
    from o1_bench.reporting.pictures import _ticks

    assert _ticks(low, high) == pytest.approx(ticks)


def test_numbers_read_well():
    assert [signed(n) for n in (0.0184, -0.0184, 0.0004, -0.0004)] == [
        "+0.018",
        "−0.018",
        "0.000",
        "0.000",
    ]
    assert [p_value(n) for n in (0.0001, 0.0124, 1.0)] == ["< 0.001", "0.012", "1.000"]
    assert [milliseconds(n) for n in (None, 0.0321, 2.04, 61.7, 12345.0)] == [
        "–",
        "0.032",
        "2.0",
        "62",
        "12,345",
    ]
