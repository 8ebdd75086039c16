"""The thought explorer of a file of o1-model: what was measured of each query."""

import copy
import json
import random
import re

import pytest

from helpers.browser import NEEDED, WIDTHS, Browser
from o1_bench import explore
from o1_bench.__main__ import main
from o1_records import Document, InputError, Query
from o1_records.beir import write_beir

HOSTILE = "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"
COUNT, SHOWN = 30, 12
ROWS = {"no thought": "baseline", "mixture": "system", "thoughts alone": "system"}
ROWS |= {f"{name} thoughts": "control" for name in ("empty", "other", "filler", "copy")}


def confirmation():
    """What `o1-model confirm` writes of 30 queries; texts are full of HTML."""
    draw, documents = random.Random(5), [f"d{n}" for n in range(40)]
    values = {name: [draw.choice((0.0, 0.3, 0.5, 1.0)) for _ in range(COUNT)] for name in ROWS}
    values["mixture"][3] = values["no thought"][3]
    gain = {"mean": 0.01, "low": -0.02, "high": 0.03}
    queries = []
    for n in range(COUNT):
        relevant = {draw.choice(documents): 2}
        found = {name: draw.sample(documents, 10) for name, kind in ROWS.items() if kind != "control"}
        thoughts = [f"thought {n} {HOSTILE}"] if n else []
        tokens = 12.0 if n else 0.0
        text = f"question {n} {HOSTILE}"
        queries.append(
            {"text": text, "thoughts": thoughts, "tokens": tokens, "relevant": relevant, "found": found}
        )
    return {
        "embedder": "bm25", "thinker": "llm </script><b>", "search": "bm25", "document_weight": 0.0,
        "mixture": {"weight": 0.3, "reading": "document"}, "calibrated_on": "words/dev",
        "collection": "words", "split": "test", "documents": 40,
        "query_ids": [f"q{n}/é<b>" for n in range(COUNT)],
        "measure": "nDCG@10", "tokens": 11.6, "held_out": False, "queries": queries,
        "rows": [
            {"name": name, "kind": kind, "mean": sum(own) / COUNT, "gain": gain, "values": own}
            for (name, kind), own in zip(ROWS.items(), values.values(), strict=True)
        ],
    }  # fmt: skip


def write(path, told):
    path.write_text(json.dumps(told))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("confirmed")
    told = confirmation()
    write(folder / "test.json", told)
    documents = [Document(doc_id=f"d{n}", text=f"document {n} {HOSTILE} " + "x" * 1000) for n in range(40)]
    queries = [Query(query_id="q", text="-")]
    write_beir(folder / "words", documents=documents, queries=queries, qrels={})
    found = explore(folder / "test.json", folder / "plain.html")
    assert explore(folder / "test.json", folder / "explore.html", collection=folder / "words") == found
    return folder, told, found


def data_of(page, name="data"):
    text = page.read_text("utf-8")
    return json.loads(re.search(f'<script type="application/json" id="{name}">(.*?)</script>', text)[1])


def test_what_thinking_did_is_counted_as_the_file_says(made):
    folder, told, found = made
    before, after = (row["values"] for row in told["rows"][:2])
    gains = [b - a for a, b in zip(before, after, strict=True)]
    assert found == ("bm25 + llm </script><b>, mixture", "no thought", "nDCG@10", *(
        sum(each) for each in ([g > 0 for g in gains], [g < 0 for g in gains], [g == 0 for g in gains])
    ))  # fmt: skip
    assert min(found.gained, found.lost, found.same) > 0
    data = data_of(folder / "explore.html")
    assert [name for name, *_ in data["readings"]] == [
        "mixture",
        *(n for n, k in ROWS.items() if k == "control"),
    ]
    assert [query[6] for query in data["queries"]] == [
        [row["values"][n] for row in told["rows"]] for n in range(COUNT)
    ]
    text = (folder / "explore.html").read_text("utf-8")
    assert HOSTILE not in text
    assert len(re.findall("<script", text)) == len(re.findall("</script>", text)) == 2 + 2


@pytest.mark.parametrize(
    ("weight", "of_documents", "rows", "shown"),
    [
        (0.3, 0.0, [], "mixture"),
        (0.0, 0.0, ["mixture"], "thoughts alone"),
        (0.0, 0.4, ["mixture"], "documents think"),
        (0.3, 0.4, [], "mixture, documents think"),
    ],
)
def test_the_row_that_would_be_used_is_the_one_that_is_shown(tmp_path, weight, of_documents, rows, shown):
    told = confirmation()
    told["mixture"]["weight"], told["document_weight"] = weight, of_documents
    told["rows"] = [row for row in told["rows"] if row["name"] not in rows]
    if of_documents:
        base = told["rows"][0]
        told["rows"] += [
            base | {"name": n, "kind": "system"} for n in ("documents think", "mixture, documents think")
        ]
    found = explore(write(tmp_path / "c.json", told), tmp_path / "e.html")
    assert found.result.endswith(f", {shown}")


def test_what_cannot_be_explored_is_refused_with_what_to_do(made, tmp_path, capsys):
    folder, told, _ = made
    page = tmp_path / "e.html"

    def refused(match, change, **how):
        other = copy.deepcopy(told)
        change(other)
        with pytest.raises(InputError, match=match):
            explore(write(tmp_path / "c.json", other), page, **how)
        assert not page.exists()

    def calibrated(other):
        other.clear()
        other.update(by_weight={}, ms_thinking=1.0)

    refused("a calibration keeps means, .* again with --values FILE", calibrated)
    refused("does not say what was asked; run `o1-model confirm` again", lambda each: each.update(queries=[]))
    refused("is not whole: 30 query_ids", lambda each: each["rows"][1]["values"].pop())
    refused("does not begin with no thought and a system", lambda each: each["rows"].reverse())
    refused("is this a file of `o1-model confirm`", lambda each: each["rows"][0].update(mean="much"))
    refused("by itself; leave out against", lambda each: None, against=folder / "test.json")
    refused("keeps no rankings", lambda each: each.update(held_out=True), collection=folder / "words")
    other = lambda each: each["queries"][0]["relevant"].update(zz=1)  # noqa: E731
    refused("has no document 'zz', which .* found; give the collection", other, collection=folder / "words")
    command = ["explore", "--result", str(folder / "test.json"), "--out", str(page)]
    assert main([*command, "--collection", str(folder / "words")]) == 0
    assert page.read_bytes() == (folder / "explore.html").read_bytes()
    assert "bm25 + llm </script><b>, mixture against no thought, nDCG@10: " in capsys.readouterr().out


# --- in the browser -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


SAYS = "document.getElementById('{}').textContent"
TEXTS = "[...document.querySelectorAll('{}')].map(each => each.textContent)"
SIDE = "[...document.querySelectorAll('[data-side={}] .doc')].map(each => each.dataset.doc)"


@NEEDED
@pytest.mark.extra
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_it_fits_its_window_shows_html_as_text_says_nothing_and_fetches_nothing(browser, made, width, scheme):
    folder, told, _ = made
    browser.open((folder / "explore.html").as_uri(), width, scheme)
    for at in range(COUNT):
        browser.evaluate(f"explorer.choose(explorer.queries[{at}].id)")
    for row in ("thoughts alone", "mixture"):
        browser.click(f'[data-row="{row}"]')
        assert browser.evaluate(SIDE.format("right")) == told["queries"][-1]["found"][row]
    assert browser.evaluate(SIDE.format("left")) == told["queries"][-1]["found"]["no thought"]
    browser.click("[data-side=right] li:nth-child(2) .doc")
    second = told["queries"][-1]["found"]["mixture"][1]
    assert browser.evaluate("document.querySelector('#why h3 .code').textContent") == second
    assert browser.evaluate("document.querySelector('.whole').textContent").startswith(
        f"document {second[1:]} {HOSTILE}"
    )
    assert browser.evaluate("document.querySelector('.thought pre').textContent") == f"thought 29 {HOSTILE}"
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.querySelectorAll('main script, main img, #weight').length") == 0
    assert browser.evaluate("document.title") == "What thinking did: bm25 + llm </script><b>"
    assert browser.fetched() == {(folder / "explore.html").as_uri()}
    assert browser.said() == []


@NEEDED
@pytest.mark.extra
def test_filters_and_values_are_those_of_the_file(browser, made):
    folder, told, found = made
    browser.open((folder / "plain.html").as_uri(), 1280)
    for kind, count in (("gain", found.gained), ("loss", found.lost), ("same", found.same), ("all", COUNT)):
        browser.click(f"[data-filter={kind}]")
        assert browser.evaluate("document.getElementById('count').textContent").startswith(f"{count} quer")
    browser.evaluate("explorer.choose('q7/é<b>')")
    values = browser.evaluate(TEXTS.format("#detail .figures tbody td:nth-child(2)"))
    assert values == [f"{row['values'][7]:.3f}" for row in told["rows"]]
    means = browser.evaluate(TEXTS.format("header .figures tbody td:nth-child(2)"))
    assert means == [f"{row['mean']:.3f}" for row in told["rows"]]
    browser.click("[data-side=left] .doc")
    assert "Its text is not on this page" in browser.evaluate(SAYS.format("why"))
    browser.evaluate("explorer.choose('q0/é<b>')")
    assert "No thought is mixed into this query" in browser.evaluate(SAYS.format("detail"))
    assert "Not kept are scores of documents" in browser.evaluate(
        "document.getElementById('notes').textContent"
    )
    assert browser.said() == []


@NEEDED
@pytest.mark.extra
def test_without_rankings_it_says_why(browser, tmp_path):
    told = confirmation() | {"held_out": True}
    for query in told["queries"]:
        query["found"] = {}
    explore(write(tmp_path / "values.json", told), tmp_path / "explore.html")
    browser.open((tmp_path / "explore.html").as_uri(), 390)
    assert "Which documents were found is not kept" in browser.evaluate(SAYS.format("detail"))
    assert "at what is best for the other folds" in browser.evaluate(
        "document.getElementById('notes').textContent"
    )
    assert browser.evaluate("document.querySelectorAll('.doc').length") == 0
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    assert browser.said() == []
