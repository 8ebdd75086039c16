"""The thought explorer: which results it takes, what it counts, and what is on its page."""

import json
import random
import re

import numpy as np
import pytest

from helpers.browser import NEEDED, WIDTHS, Browser
from o1_bench import Collection, Options, explore, load_result, run
from o1_bench.__main__ import main
from o1_bench.reporting.explore import _json
from o1_bench.results.result import RUN
from o1_bench.results.trace import TRACE, load_trace
from o1_records import Document, InputError, Qrel, Query, Source, Thought, write_jsonl

WORDS = ("open", "close", "zip", "archive", "socket", "parse", "date", "copy", "folder", "sort", "list")
HOSTILE = "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"
KINDS = ("empty", "shuffled", "filler", "copy")
COUNT = 60


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of BM25 with two thoughts mixed in and all controls; texts are full of HTML."""
    draw, folder = random.Random(3), tmp_path_factory.mktemp("explore")
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(2, 6))) for _ in range(COUNT)]
    queries = [Query(query_id=f"q{n}/é<b>", text=" ".join(draw.choices(WORDS, k=2))) for n in range(30)]
    asked = Collection(
        name="words/test",
        documents=[Document(doc_id=f"d{n}", text=f"{text} {HOSTILE}") for n, text in enumerate(texts)],
        queries=queries,
        qrels=[
            Qrel(query_id=query.query_id, doc_id=f"d{draw.randrange(COUNT)}", relevance=draw.randint(1, 3))
            for query in queries
        ],
    )
    thoughts = [
        Thought(
            query_id=query.query_id,
            thought_id=str(n),
            text=f"{' '.join(draw.choices(WORDS, k=3))}\n{HOSTILE}",
            source=Source(model="llm </script><b>", completion_tokens=5 + 10 * n),
        )
        for query in queries[:-1]
        for n in range(2)
    ]
    write_jsonl(folder / "t.jsonl", thoughts)
    done = run(
        "bm25", folder / "out", collection=asked, thoughts=folder / "t.jsonl", controls=True, think_ms=70,
        options=Options(mix=(0.3,)),
    )  # fmt: skip
    results = {result.name: result for result in done["words/test"]}
    found = explore(folder / "out", folder / "explore.html")
    return folder, results, found


def data_of(page, name="data"):
    text = page.read_text("utf-8")
    return json.loads(re.search(f'<script type="application/json" id="{name}">(.*?)</script>', text)[1])


def test_what_thinking_did_is_counted_as_the_results_say(made):
    folder, results, found = made
    before, after = results["BM25"], results["BM25, 0.3 thought"]
    gains = [after.per_query["nDCG@10"][q] - value for q, value in before.per_query["nDCG@10"].items()]
    assert found == ("BM25, 0.3 thought", "BM25", "nDCG@10", *(
        sum(each) for each in ([g > 0 for g in gains], [g < 0 for g in gains], [g == 0 for g in gains])
    ))  # fmt: skip
    assert found.gained > 0 < found.lost
    data = data_of(folder / "explore.html")
    assert data["before"] == before.metrics["nDCG@10"]
    assert {name: mean for name, _, _, mean in data["readings"]} == {
        "thoughts": after.metrics["nDCG@10"],
        **{kind: results[f"BM25, 0.3 {kind} thought"].metrics["nDCG@10"] for kind in KINDS},
    }
    assert [name for name, *_ in data["readings"]] == ["thoughts", *KINDS]  # in this order
    # the curve over the weights begins without thoughts and passes through the run
    curve = dict(zip(data["weights"], data["ndcg"], strict=True))
    assert curve[0] == pytest.approx(before.metrics["nDCG@10"], abs=1e-6)
    assert curve[0.3] == pytest.approx(after.metrics["nDCG@10"], abs=1e-6)
    assert curve[1] == pytest.approx(results["BM25, thought alone"].metrics["nDCG@10"], abs=1e-6)
    assert data["differing"] == 0


def test_every_text_of_others_is_data_that_no_text_can_end(made):
    text = (made[0] / "explore.html").read_text("utf-8")
    assert HOSTILE not in text
    assert len(re.findall("<script", text)) == len(re.findall("</script>", text)) == 2 + 2
    assert "default-src 'none'" in text
    assert re.findall(r"@import|url\(|https?://(?!www\.w3\.org)", re.sub(r"<script type=.*", "", text)) == []


def test_the_command_writes_the_same_page_and_says_what_it_counted(made, tmp_path, capsys):
    folder, _, found = made
    result = folder / "out" / "words-test" / "bm25-0.3-thought"
    for path in (folder / "out", result, result / "result.json"):
        command = ["explore", "--result", str(path), "--out", str(tmp_path / "e.html")]
        assert main(command) == 0
        assert (tmp_path / "e.html").read_bytes() == (folder / "explore.html").read_bytes()
        said = capsys.readouterr()
        assert said.out == (
            f"BM25, 0.3 thought against BM25, nDCG@10: {found.gained} queries gain, {found.lost} lose, "
            f"{found.same} stay as they were\n"
        )
        assert "open it in a browser" in said.err
    assert main(["explore", "--result", str(result), "--out", str(result / TRACE)]) == 4
    assert "would overwrite the input of --result" in capsys.readouterr().err


def test_anything_on_the_same_collection_can_be_compared_with(made, tmp_path):
    folder, results, _ = made
    other = folder / "out" / "words-test" / "bm25-and-thought"
    found = explore(folder / "out", tmp_path / "e.html", against=other, title="Which way?")
    assert found.against == "BM25 + thought"
    data = data_of(tmp_path / "e.html")
    assert data["title"] == "Which way?"
    assert data["before"] == results["BM25 + thought"].metrics["nDCG@10"]
    assert (data["plain"], data_of(folder / "explore.html")["plain"]) == (False, True)
    control = folder / "out" / "words-test" / "bm25-0.3-copy-thought"
    assert explore(control, tmp_path / "c.html", against=folder / "out" / "words-test" / "bm25").gained == 0


def test_what_cannot_be_explored_is_refused_with_what_to_do(made, tmp_path, capsys):
    folder, _, _ = made
    here = folder / "out" / "words-test"
    with pytest.raises(InputError, match=r"bm25-and-thought: has no trace.json; run it again"):
        explore(here / "bm25-and-thought", tmp_path / "e.html")
    with pytest.raises(InputError, match=r"has 12 results; name one of them: "):
        explore(here / "bm25-0.3-thought", tmp_path / "e.html", against=folder / "out")
    with pytest.raises(InputError, match="no result without thoughts is beside it; name one, with --against"):
        explore(here / "bm25-0.3-copy-thought", tmp_path / "e.html")
    (tmp_path / "copy").mkdir()
    for name in ("result.json", "run.trec", "qrels.trec", "excluded.jsonl"):
        (tmp_path / "copy" / name).write_bytes((here / "bm25-0.3-thought" / name).read_bytes())
    trace = json.loads((here / "bm25-0.3-thought" / TRACE).read_text())
    trace["queries"][0]["own"][0] += 0.5
    (tmp_path / "copy" / TRACE).write_text(json.dumps(trace))
    with pytest.raises(InputError, match="the score does not follow from its parts; remove the file and run"):
        explore(tmp_path / "copy", tmp_path / "e.html", against=here / "bm25")
    assert not (tmp_path / "e.html").exists()


# --- in the browser -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def opened(browser, made, width=1280, scheme="light"):
    browser.open((made[0] / "explore.html").as_uri(), width, scheme)
    return browser


SEARCH = "document.getElementById('search')"
ORDER = "document.getElementById('order')"
SELECTED = "document.querySelector('[aria-selected=true]')"
ROWS = "[...document.querySelectorAll('#list .row')]"
SIDE = "[...document.querySelectorAll('[data-side={}] .doc')].map(each => each.dataset.doc)"


@NEEDED
@pytest.mark.extra
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_it_fits_its_window_shows_html_as_text_says_nothing_and_fetches_nothing(browser, made, width, scheme):
    opened(browser, made, width, scheme)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("window.innerWidth") == width
    # every query, every document of both sides and every thought is looked at
    for at in range(30):
        browser.evaluate(f"explorer.choose(explorer.queries[{at}].id)")
        for place in range(browser.evaluate("document.querySelectorAll('.doc').length") if at < 2 else 1):
            browser.evaluate(f"document.querySelectorAll('.doc')[{place}]?.click()")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.title") == "What thinking did: BM25, 0.3 thought"
    browser.evaluate("explorer.choose(explorer.queries[0].id)")
    assert HOSTILE in browser.evaluate("document.querySelector('.thought pre').textContent")
    assert HOSTILE in browser.evaluate("document.querySelector('.whole').textContent")
    assert browser.evaluate("document.querySelectorAll('main script, main img, main b b').length") == 0
    assert browser.fetched() == {(made[0] / "explore.html").as_uri()}
    assert browser.said() == []


@NEEDED
@pytest.mark.extra
def test_the_browser_ranks_as_python_does_at_every_weight(browser, made):
    opened(browser, made)
    folder = made[0] / "out" / "words-test"
    for reading, kind in enumerate(("", *(f"{kind}-" for kind in KINDS))):
        path = folder / f"bm25-0.3-{kind}thought"
        told = load_trace(path, load_result(path).files[RUN])
        asked = "explorer.ranked(explorer.told(q).read[{}], w).slice(0, 10).map(d => [d.id, d.score])"
        found = browser.evaluate(
            f"explorer.queries.map(q => explorer.data.weights.map(w => {asked.format(reading)}))"
        )
        for query, by_weight in zip(told.queries, found, strict=True):
            every = query.scores(told.weights)
            for weight, scores, hits in zip(told.weights, every, by_weight, strict=True):
                assert [doc_id for doc_id, _ in hits] == query.first(weight)
                of = dict(zip(query.doc_ids, scores.tolist(), strict=True))
                assert [score for _, score in hits] == [of[doc_id] for doc_id, _ in hits]  # to the last bit


@NEEDED
@pytest.mark.extra
def test_filters_search_orders_and_keys_choose_queries(browser, made):
    opened(browser, made)
    found = made[2]
    assert browser.evaluate(f"{ROWS}.length") >= 8
    gains = browser.evaluate("explorer.queries.map(q => q.gain)")
    assert browser.evaluate(f"{SELECTED}.querySelector('b').textContent") == f"+{max(gains):.3f}"
    for kind, count in (("gain", found.gained), ("loss", found.lost), ("same", found.same), ("all", 30)):
        browser.click(f"[data-filter={kind}]")
        assert browser.evaluate("document.getElementById('count').textContent").startswith(f"{count} quer")
        assert browser.evaluate(f"document.querySelector('[data-filter={kind}]').ariaPressed") == "true"
    browser.evaluate(f"{SEARCH}.focus()")
    browser.type("Q7/")
    assert browser.evaluate(f"{ROWS}.length") == 1
    browser.evaluate(f"{SEARCH}.value = ''; {SEARCH}.dispatchEvent(new Event('input'))")
    browser.evaluate(f"{ORDER}.value = 'loss'; {ORDER}.dispatchEvent(new Event('change'))")
    browser.click("#list .row")
    assert browser.evaluate(f"{SELECTED}.querySelector('b').textContent") == f"−{-min(gains):.3f}"
    for key, place in {"ArrowDown": "2", "End": "30", "ArrowUp": "29", "Home": "1"}.items():
        browser.press(key)
        assert browser.evaluate(f"{SELECTED}.ariaPosInSet") == place
        active = browser.evaluate("document.activeElement.getAttribute('aria-activedescendant')")
        assert browser.evaluate(f"{SELECTED}.id") == active
    browser.press("Enter")
    assert browser.evaluate("document.activeElement.id") == "detail"
    assert browser.said() == []


@NEEDED
@pytest.mark.extra
def test_slider_controls_documents_and_points_can_be_clicked(browser, made):
    opened(browser, made)
    data = data_of(made[0] / "explore.html")
    stored = browser.evaluate(SIDE.format("right"))
    assert browser.evaluate("document.getElementById('weight-says').textContent") == "0.3, that of the run"
    browser.evaluate("document.getElementById('weight').focus()")
    browser.press("Home")
    assert browser.evaluate("document.getElementById('weight-says').textContent") == "0"
    assert browser.evaluate(SIDE.format("right")) == browser.evaluate(SIDE.format("left")) != stored
    assert f"all queries at this weight: {data['ndcg'][0]:.3f}" in browser.evaluate(
        "document.getElementById('mean-says').textContent"
    )
    browser.press("End")
    assert browser.evaluate("document.getElementById('weight-says').textContent") == "1"
    for _ in range(len(data["weights"]) - 1 - data["weights"].index(0.3)):
        browser.press("ArrowLeft")
    assert browser.evaluate(SIDE.format("right")) == stored
    browser.click("[data-reading=empty]")
    assert browser.evaluate(SIDE.format("right")) == browser.evaluate(SIDE.format("left"))
    assert browser.evaluate("document.activeElement.dataset.reading") == "empty"
    browser.click("[data-reading=thoughts]")
    browser.click("[data-side=right] li:nth-child(2) .doc")
    assert browser.evaluate("document.querySelector('#why h3 .code').textContent") == stored[1]
    assert browser.evaluate("document.querySelectorAll('#why tbody tr').length") == 4  # query, thoughts, sum
    assert browser.evaluate("document.querySelectorAll('#why .piece').length") > 0
    adds = [float(each.replace("−", "-")) for each in browser.evaluate(
        "[...document.querySelectorAll('#why tbody tr td:last-child')].map(e => e.textContent)"
    )]  # fmt: skip
    assert sum(adds[:-1]) == pytest.approx(adds[-1], abs=0.003)
    said = browser.evaluate("document.querySelector('#why .why').textContent").replace("−", "-")
    told = re.search(r"Beside (d\d+), .* gives it (\S+), the thoughts (\S+), together (\S+)\.", said)
    assert float(told[2]) + float(told[3]) == pytest.approx(float(told[4]), abs=0.0021)
    before = browser.evaluate("location.hash")
    browser.evaluate("document.getElementById('by-score').scrollIntoView()")
    box = browser.evaluate("document.getElementById('by-score').getBoundingClientRect().toJSON()")
    assert browser.evaluate("document.querySelectorAll('.lines path').length") >= 10
    for x in np.linspace(box["x"] + 34, box["x"] + box["width"] - 8, 60):
        where = {"x": float(x), "y": box["y"] + 8 + (box["height"] - 26) / 2}
        for kind in ("mousePressed", "mouseReleased"):
            browser.ask("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **where)
    assert browser.evaluate("location.hash") != before
    assert browser.said() == []


@NEEDED
@pytest.mark.extra
def test_a_query_has_an_address_and_prints_whole(browser, made):
    path = made[0] / "explore.html"
    browser.open(f"{path.as_uri()}#{'q5%2F%C3%A9%3Cb%3E'}", 717, "dark")
    assert browser.evaluate("document.querySelector('#detail .code').textContent") == "q5/é<b>"
    browser.ask("Emulation.setEmulatedMedia", media="print")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.evaluate("document.documentElement.scrollWidth") <= 717
    cut = (
        "[...document.querySelectorAll('#detail *')].filter(each => each.offsetParent && "
        "getComputedStyle(each).overflow !== 'visible' && each.scrollHeight > each.clientHeight + 1).length"
    )
    assert browser.evaluate(cut) == 0
    assert browser.evaluate("document.querySelector('.chooser').offsetParent") is None
    assert len(browser.ask("Page.printToPDF", printBackground=True)["data"]) > 20_000
    browser.ask("Emulation.setEmulatedMedia", media="")


@NEEDED
@pytest.mark.extra
def test_five_thousand_queries_are_drawn_at_once(browser, made, tmp_path):
    page, chunks = made[0] / "explore.html", []
    text, data, docs = page.read_text("utf-8"), data_of(page), data_of(page, "chunk-0")["docs"]
    held = [query for number in range(2) for query in data_of(page, f"chunk-{number}")["queries"]]
    rows = [[f"{row[0]} {n}", *row[1:]] for n in range(167) for row in data["queries"]][:5000]
    for start in range(0, 5000, data["chunk"]):
        chunk = {"docs": docs, "queries": [held[at % 30] for at in range(start, start + data["chunk"])]}
        chunks.append((f"chunk-{start // data['chunk']}", chunk))
    blocks = [_json(name, each) for name, each in [("data", data | {"queries": rows}), *chunks]]
    start, end = text.index('<script type="application/json"'), text.index('<script>"use strict"')
    (tmp_path / "many.html").write_text(text[:start] + "\n".join(blocks) + text[end:], "utf-8")
    browser.open((tmp_path / "many.html").as_uri(), 1280)
    assert browser.evaluate("document.getElementById('count').textContent") == "5,000 queries of 5,000"
    assert browser.evaluate(f"{ROWS}.length") < 40  # only those that are seen are there
    timed = """(async () => {
      const began = performance.now();
      %s;
      await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
      return performance.now() - began;
    })()"""
    steps = {
        "search": f"{SEARCH}.value = 'q'; {SEARCH}.dispatchEvent(new Event('input'))",
        "scroll": "document.getElementById('list').scrollTop = 150000",
        "choose": "explorer.choose(explorer.queries[4321].id)",
    }
    times = {name: round(browser.evaluate(timed % step)) for name, step in steps.items()}
    times["load"] = browser.evaluate("performance.timing.domComplete - performance.timing.responseEnd")
    print("milliseconds:", times)
    assert browser.evaluate(f"{SELECTED}.id") == "q4321"
    assert max(times.values()) < 3000  # a free machine takes a tenth of it
    assert browser.said() == []
