"""The report in a real headless Chromium."""

import pytest

from helpers.browser import NEEDED, WIDTHS, Browser
from o1_bench import Collection, save_result, write_report
from o1_bench.datasets.suites import SUITES
from o1_bench.reporting.examples import worked_examples
from o1_bench.results.result import Milliseconds, System
from o1_records import Document, Qrel, Query, Source, Thought, rank

TASKS = ("bright/biology", "bright/pony", "cosqa")
COUNT = 16

pytestmark = [pytest.mark.extra, NEEDED]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def collection(name):
    return Collection(
        name=name,
        documents=[Document(doc_id=f"d{n}", text=f"<b>text</b> {n} " * 20) for n in range(COUNT)],
        queries=tuple(Query(query_id=f"q{n}", text=f"find {n}") for n in range(COUNT)),
        qrels=tuple(Qrel(query_id=f"q{n}", doc_id=f"d{n}", relevance=1) for n in range(COUNT)),
    )


def hits_at(place_of):
    for number in range(COUNT):
        others = [f"d{n}" for n in range(COUNT) if n != number]
        others.insert(place_of(number) - 1, f"d{number}")
        yield from rank(f"q{number}", {doc_id: -place for place, doc_id in enumerate(others[:10])})


SYSTEMS = {
    "a baseline with a rather long name that has to break": lambda number: 3,
    "thinking": lambda number: 9 if number == 5 else 1 if number % 2 else 3,
}
THOUGHTS = [
    Thought(
        query_id=f"q{n}", thought_id="t", text="a<script>document.title='run'</script> word " * (n + 1),
        source=Source(model="m"),
    )
    for n in range(COUNT)
]  # fmt: skip


@pytest.fixture(scope="module", params=[1, 3], ids=["one collection", "a suite"])
def report(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    results = [
        save_result(
            folder / task / str(number),
            System(name=name, milliseconds=Milliseconds(think=90.0 * number, search=1.0)),
            collection=collection(task),
            hits=hits_at(place_of),
            thoughts=THOUGHTS if number else (),
        )
        for task in TASKS[: request.param]
        for number, (name, place_of) in enumerate(SYSTEMS.items())
    ]
    before, after = map(hits_at, SYSTEMS.values())
    examples = worked_examples(collection("x"), before=before, after=after, thoughts=THOUGHTS)
    write_report(folder / "report.html", results, examples=examples, title="Does thinking help?")
    return folder / "report.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_a_report_fits_its_window_says_nothing_and_fetches_nothing(browser, report, width, scheme):
    browser.open(report.as_uri(), width, scheme)
    assert browser.evaluate("document.title") == "Does thinking help?"
    # tables may scroll in their boxes, the page itself never sideways
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("window.innerWidth") == width
    assert browser.fetched() == {report.as_uri()}
    assert browser.said() == []


def test_light_and_dark_differ_and_both_can_be_read(browser, report):
    found = {}
    for scheme in ("light", "dark"):
        browser.open(report.as_uri(), 1280, scheme)
        colours = "getComputedStyle(document.body)"
        found[scheme] = [browser.evaluate(f"{colours}.{part}") for part in ("color", "backgroundColor")]
        assert contrast(*found[scheme]) > 7
    assert found["light"] != found["dark"]


def test_a_report_prints_on_pages_with_everything_on_them(browser, report):
    browser.open(report.as_uri(), 1280, "dark")
    browser.ask("Emulation.setEmulatedMedia", media="print")
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(255, 255, 255)"
    printed = browser.ask("Page.printToPDF", printBackground=True)["data"]
    assert len(printed) > 20_000
    browser.ask("Emulation.setEmulatedMedia", media="")


@pytest.fixture(scope="module")
def bright(tmp_path_factory):
    """A report of all of BRIGHT's tasks, with more runs than there is room for pictures of each."""
    folder = tmp_path_factory.mktemp("bright")
    systems = {"BM25": 3, **{f"thinking, variant {n}": 2 - n % 2 for n in range(8)}}
    results = [
        save_result(
            folder / task / str(number), System(name=name, milliseconds=Milliseconds(search=1.0 + number)),
            collection=collection(task), hits=hits_at(lambda _, place=place: place),
        )
        for task in SUITES["bright"]
        for number, (name, place) in enumerate(systems.items())
    ]  # fmt: skip
    quick = {"permutations": 200}
    write_report(folder / "suite.html", results, **quick)
    write_report(folder / "one.html", [r for r in results if r.collection.name == "bright/pony"], **quick)
    return folder


# how far cells stick out of the box that they are in, or of the page
OVERHANG = """
Math.max(0, ...[...document.querySelectorAll("th, td")]
  .filter(cell => cell.offsetParent !== null)
  .map(cell => cell.getBoundingClientRect().right
       - (cell.closest(".scroll") || document.body).getBoundingClientRect().right))
"""
SHOWN = """
[...document.querySelectorAll("th[data-task]")].filter(cell => cell.offsetParent !== null)
  .map(cell => cell.dataset.task)
"""


# tables that are wider than their box, without a hint below that they can be scrolled
UNSAID = """
[...document.querySelectorAll(".scroll")].filter(box => box.querySelector("table") && box.offsetParent
  && box.scrollWidth > box.clientWidth + 1
  && !(box.nextElementSibling?.matches(".hint") && box.nextElementSibling.offsetParent))
  .map(box => box.getAttribute("aria-label"))
"""
SCROLLING = """
[...document.querySelectorAll(".scroll")].filter(box => box.scrollWidth > box.clientWidth + 1).length
"""


def test_tables_that_scroll_say_so(browser, bright):
    for page in ("suite", "one"):
        for width in WIDTHS.values():
            browser.open((bright / f"{page}.html").as_uri(), width, "light")
            assert browser.evaluate(UNSAID) == []
        browser.open((bright / f"{page}.html").as_uri(), 390, "light")
        assert browser.evaluate(SCROLLING) > 0


def test_the_table_for_a_paper_is_on_the_page_and_not_on_paper(browser, bright):
    browser.open((bright / "suite.html").as_uri(), 1280, "light")
    seen = "document.querySelector('.latex').checkVisibility({contentVisibilityAuto: true})"
    assert browser.evaluate(seen) is False
    browser.click("summary")
    assert browser.evaluate(seen) is True
    shown = browser.evaluate("document.querySelector('.latex').textContent")
    assert "BRIGHT StackExchange" in shown
    assert shown.count(r" \\") == 1 + 9  # a head and nine systems
    assert browser.evaluate("document.documentElement.scrollWidth") <= 1280
    browser.ask("Emulation.setEmulatedMedia", media="print")
    assert browser.evaluate("document.querySelector('summary').offsetParent") is None
    browser.ask("Emulation.setEmulatedMedia", media="")


def test_all_of_brights_tasks_are_seen_at_once_on_a_desk(browser, bright):
    browser.open((bright / "suite.html").as_uri(), 1280, "light")
    assert browser.evaluate(SHOWN) == list(SUITES["bright"])
    assert browser.evaluate(OVERHANG) < 1


@pytest.mark.parametrize("page", ["suite", "one"])
def test_nothing_is_cut_off_on_paper(browser, bright, page):
    # the width of A4 between the browser's own margins
    browser.open((bright / f"{page}.html").as_uri(), 717, "light")
    browser.ask("Emulation.setEmulatedMedia", media="print")
    if page == "suite":
        assert browser.evaluate(SHOWN) == list(SUITES["bright"])
    assert browser.evaluate("document.documentElement.scrollWidth") <= 717
    assert browser.evaluate(OVERHANG) < 1
    browser.ask("Emulation.setEmulatedMedia", media="")


def test_only_so_many_runs_are_drawn_as_can_be_looked_at_and_the_rest_is_said(browser, bright):
    browser.open((bright / "one.html").as_uri(), 1280, "light")
    assert browser.evaluate("document.querySelectorAll('.gains .gain').length") == 6
    assert "6 of 8 runs are drawn; the table has the counts of all." in browser.evaluate(
        "document.body.textContent"
    )


def test_names_are_not_bold_because_bold_means_best(browser, bright):
    browser.open((bright / "suite.html").as_uri(), 1280, "light")
    weight = "[...document.querySelectorAll('{}')].map(e => +getComputedStyle(e).fontWeight)"
    assert max(browser.evaluate(weight.format("tbody th"))) < 600
    best = browser.evaluate(weight.format("td.best"))
    assert best
    assert min(best) >= 700


def contrast(*colours):
    """WCAG's contrast ratio of two `rgb(r, g, b)`."""
    levels = []
    for colour in colours:
        parts = [int(part) / 255 for part in colour[4:-1].split(",")]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        levels.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(levels) + 0.05) / (min(levels) + 0.05)
