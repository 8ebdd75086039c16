"""The averages that papers report, and published figures that are compared with nothing but their like."""

import pytest

from o1_bench import Collection, save_result
from o1_bench.datasets.averages import AVERAGES, averages_of, headline
from o1_bench.datasets.suites import ENTRIES, SUITES, protocol_of
from o1_bench.protocol import PROTOCOLS
from o1_bench.reporting.leaderboard import Published, leaderboard, published
from o1_bench.reporting.rows import over_tasks
from o1_bench.results.result import System
from o1_records import Document, Hit, Qrel, Query

NAMED = {average.name: average for average in AVERAGES}
BEIR = [ENTRIES[name].name for name in SUITES["beir"]]
FORUMS = [name for name in BEIR if "cqadupstack" in name]


def result(folder, collection, protocol, score=1.0, name="mine"):
    made = Collection(
        name=collection,
        documents=[Document(doc_id="d1", text="a"), Document(doc_id="d2", text="b")],
        queries=[Query(query_id="q1", text="a")],
        qrels=[Qrel(query_id="q1", doc_id="d1", relevance=1)],
        protocol=protocol,
    )
    first = ("d1", "d2") if score == 1.0 else ("d2", "d1")
    hits = [Hit(query_id="q1", doc_id=d, score=s, rank=1) for d, s in zip(first, (2.0, 1.0), strict=True)]
    return save_result(folder / collection / name, System(name=name), collection=made, hits=hits)


def test_cqadupstack_counts_once_in_beirs_average():
    assert (len(BEIR), len(FORUMS)) == (25, 12)
    average = NAMED["BEIR, 14 sets"]
    assert set(average.collections) == set(BEIR)
    assert len(average.sets) == 14
    # 1 everywhere but on the forums: they are one set of 14, not 12 collections of 25
    values = {name: 0.0 if name in FORUMS else 1.0 for name in BEIR}
    assert average.of(values) == pytest.approx(13 / 14)
    assert sum(average.weights.values()) == pytest.approx(1)
    assert len(NAMED["BEIR, 13 sets"].sets) == 13
    assert len(NAMED["BEIR, 15 sets"].sets) == 15
    assert NAMED["CQADupStack"].of(dict.fromkeys(FORUMS, 0.25)) == pytest.approx(0.25)


def test_bright_has_its_three_groups_and_r2med_its_eight_tasks():
    sizes = {name: len(NAMED[name].sets) for name in NAMED if name.startswith("BRIGHT") and "," not in name}
    assert sizes == {
        "BRIGHT": 12, "BRIGHT StackExchange": 7, "BRIGHT Coding": 2, "BRIGHT Theorem": 3, "BRIGHT long": 8,
    }  # fmt: skip
    assert set(NAMED["BRIGHT Coding"].collections) == {"bright/leetcode", "bright/pony"}
    assert len(NAMED["R2MED"].sets) == 8
    found = [average.name for average in averages_of(SUITES["bright"])]
    assert found == ["BRIGHT", "BRIGHT StackExchange", "BRIGHT Theorem", "BRIGHT Coding"]


def test_the_headline_is_the_papers_average_and_else_the_mean_of_sets():
    assert headline(BEIR).name == "BEIR, 14 sets"
    assert headline(["bright/pony", "cosqa/test"]).name == "mean of 2"
    odd = headline([*FORUMS, "cosqa/test"])
    assert (odd.name, odd.weights["cosqa/test"]) == ("mean of 2 sets", 0.5)
    assert odd.of({"cosqa/test": 1.0}) is None  # nothing is averaged over what is missing


def test_an_average_over_a_suite_and_its_test_give_the_forums_one_vote(tmp_path):
    protocol = PROTOCOLS["beir"]
    results = [
        result(tmp_path, name, protocol, score=0.0 if name in FORUMS else 1.0, name=system)
        for name in BEIR
        for system in ("base", "mine")
    ]
    row = next(row for row in over_tasks(results, permutations=100) if row.name == "mine")
    ndcg = 0.6309297535714575  # second of two
    assert row.average == pytest.approx((13 + ndcg) / 14)
    assert row.averages == {
        "BEIR, 13 sets": pytest.approx(1.0),
        "CQADupStack": pytest.approx(ndcg),
        "O1 Embedder's ten sets of BEIR": pytest.approx(1.0),
    }
    assert row.against.difference == 0.0


# --- published figures --------------------------------------------------------------------------------


def test_figures_on_passages_with_titles_stand_apart_from_ours_without(tmp_path):
    board = leaderboard([result(tmp_path, "msmarco/dev", protocol_of("msmarco/dev"))])
    shown = {entry.system: entry for entry in board.entries}
    apart = {entry.system: entry for entry in board.apart}
    assert {"mine", "BM25", "ANCE"} <= shown.keys()
    assert {"SimLM", "RepLLaMA"} <= apart.keys()
    assert not {"SimLM", "RepLLaMA"} & shown.keys()
    assert apart["RepLLaMA"].note.startswith("on msmarco-titles/dev, protocol msmarco")
    titled = leaderboard([result(tmp_path, "msmarco-titles/dev", protocol_of("msmarco-titles/dev"))])
    assert {"SimLM", "RepLLaMA"} <= {entry.system for entry in titled.entries}


def test_the_same_passages_by_the_papers_protocol_are_the_same_figures(tmp_path):
    name = "msmarco-titles/dev@o1-dev"
    board = leaderboard([result(tmp_path, "msmarco-titles/dev", protocol_of(name))])
    assert "RepLLaMA" in {entry.system for entry in board.entries}


def test_an_older_tasks_figures_are_never_among_the_comparable_ones(tmp_path):
    results = [result(tmp_path, name, PROTOCOLS["bright"]) for name in SUITES["bright"]]
    board = leaderboard(results)
    (laser,) = [entry for entry in board.apart if entry.system == "LaSER 8B"]
    assert "MTEB's older task, in which excluded documents count" in laser.note
    assert "LaSER 8B" not in {entry.system for entry in board.entries}


def test_whole_pages_lead_with_recall_at_one_as_published(tmp_path):
    results = [result(tmp_path, name, protocol_of(name)) for name in SUITES["bright-long"]]
    board = leaderboard(results)
    assert ("BRIGHT long", "R@1", "bright-long") in board.columns


def test_every_figure_has_a_source_and_a_protocol_that_is_known_or_told_in_words():
    families = {(e.protocol in PROTOCOLS) or " " in e.protocol for e in published()}
    assert families == {True}
    bm25 = [e for e in published() if e.system == "BM25" and e.collection == "BRIGHT"]
    assert ["weighs the terms of queries too" in e.note for e in bm25] == [True]


def test_figures_of_ones_own_can_be_added(tmp_path):
    other = Published(
        collection="msmarco/dev", measure="RR@10", system="theirs", value=0.5, protocol="msmarco", source="me"
    )
    board = leaderboard([result(tmp_path, "msmarco/dev", protocol_of("msmarco/dev"))], also=[other])
    assert "theirs" in {entry.system for entry in board.entries}
