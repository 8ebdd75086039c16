"""The report and the explanation: one query explained, all of them on a page."""

from html.parser import HTMLParser

import pytest

from o1_records import Ballot, Query, Source, Thought, write_jsonl

NASTY = "<script>alert(1)</script>"
QUERIES = [Query(query_id="q1", text=f"open {NASTY}"), Query(query_id="q2", text="sort numbers")]
THOUGHTS = [
    Thought(query_id=query, thought_id=name, text=text, source=Source(model="m"))
    for query, name, text in [
        ("q1", "a", f"a zip {NASTY} file"),
        ("q1", "b", "a folder"),
        ("q2", "a", "ascending"),
        ("q2", "b", "a list in order"),
    ]
]
SCORES = {
    "q1": {"bm25": {None: 1.0, "a": 3.0, "b": 2.0}, "dense": {None: 0.1, "a": 0.9, "b": 0.3}},
    "q2": {"bm25": {None: 2.0, "a": 1.0, "b": 0.0}, "dense": {None: 0.0, "a": 0.2, "b": 0.4}},
}


@pytest.fixture
def folder(tmp_path):
    write_jsonl(tmp_path / "queries.jsonl", QUERIES)
    write_jsonl(tmp_path / "thoughts.jsonl", THOUGHTS)
    ballots = [
        Ballot(query_id=query, thought_id=name, retriever=member, score=score)
        for member in ("bm25", "dense")
        for query, sheets in SCORES.items()
        for name, score in sheets[member].items()
    ]
    write_jsonl(tmp_path / "ballots.jsonl", ballots)
    return tmp_path


@pytest.fixture
def run(vote, folder):
    files = ["--ballots", "ballots.jsonl", "--thoughts", "thoughts.jsonl", "--queries", "queries.jsonl"]
    return lambda *words: vote(folder, *words, *files)


def test_an_explanation_has_every_candidate_and_every_members_word(run):
    done = run("explain", "q1", "--rule", "majority", "--no-abstain")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"query q1 open {NASTY}"
    assert "winner: a: the most points" in lines
    assert (
        "counted by majority --no-abstain; nothing beside the ballots says how the election counted" in lines
    )
    assert "* a by m: 1.0000 points" in lines
    assert "    bm25: 3.0000 (rank 1 of 3)" in lines
    assert "    dense: 0.3000 (rank 2 of 3)" in lines
    assert "  (no thought): is not a candidate" in lines
    assert "    a folder" in lines


def test_an_explanation_follows_the_terms_of_the_rule(run):
    rule = ["--rule", "mean-rank", "--least-agreement", "0.9"]
    told = run("explain", "q2", *rule, "--no-abstain").stdout
    assert "the members disagree: alpha" in told
    level = "winner: (no thought): the query alone is level with 'a', 'b', and a tie is not enough"
    assert level in run("explain", "q2", *rule).stdout
    assert "* (no thought)" in told
    unknown = run("explain", "q9")
    assert unknown.returncode == 4
    assert "has no query 'q9'" in unknown.stderr


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.links, self.text, self.open = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_offline_whole_and_shows_texts_as_text(folder, run):
    done = run("report", "--out", "page.html", "--rule", "majority")
    assert done.returncode == 0, done.stderr
    page = Page()
    page.feed((folder / "page.html").read_text())
    assert page.open == []
    assert page.links == []
    assert "script" not in page.tags
    told = " ".join("".join(page.text).split())
    assert f"a zip {NASTY} file" in told
    assert "2 queries, counted by majority; nothing beside the ballots says how" in told
    assert ": 1 (50.0%) carry a thought" in told
    assert "prefers-color-scheme: dark" in told
    assert "width=device-width" in (folder / "page.html").read_text()


def test_the_survey_counts_what_happened():
    from o1_vote.election.survey import Survey, Written
    from o1_vote.tally import decide, first_places

    survey = Survey()
    for name, sheets in SCORES.items():
        survey.add(name, sheets, decide(sheets, first_places, abstain=True))
        written = {t.thought_id: Written("m", len(t.text.split())) for t in THOUGHTS if t.query_id == name}
        survey.count_thoughts(sheets, survey.winners[name], written)
    assert survey.winners == {"q1": "a", "q2": None}
    assert survey.prefers_none["bm25"].value == 0.5
    assert survey.with_winner["dense"].value == 1
    assert survey.scores["bm25", "query alone"].value == 1.5
    (own,) = survey.models.values()
    assert (own.queries, own.thoughts, own.elected) == (2, 4, 1)
    assert own.words.value == 2.75
    assert own.elected_words.value == 4
    assert own.gain["dense"].value == pytest.approx((0.8 + 0.2 + 0.2 + 0.4) / 4)
    assert own.better["bm25"].value == 0.5
    assert [dispute.query_id for dispute in survey.disputed] == ["q2", "q1"]
    assert sum(survey.alphas.values()) == survey.queries == 2


def test_queries_without_a_thought_do_not_make_members_agree():
    from o1_vote.election.page import page
    from o1_vote.election.survey import Survey
    from o1_vote.tally import decide, first_places

    alone = {"bm25": {None: 9.0}, "dense": {None: 0.9}}
    counted = {}
    for empty in (0, 50):
        survey = counted[empty] = Survey()
        for name, sheets in [*SCORES.items(), *((f"e{i}", alone) for i in range(empty))]:
            survey.add(name, sheets, decide(sheets, first_places))
    few, many = counted[0], counted[50]
    assert many.queries == few.queries + 50
    assert many.reasons["there is no thought"] == 50
    assert many.alpha.value == few.alpha.value < 1
    assert many.pairs["bm25", "dense"].value == few.pairs["bm25", "dense"].value
    assert many.prefers_none["bm25"].value == few.prefers_none["bm25"].value
    assert many.scores["bm25", "query alone"].value == 1.5
    assert [dispute.query_id for dispute in many.disputed] == ["q2", "q1"]
    nothing = Survey()
    nothing.add("e", alone, decide(alone, first_places))
    assert "<h2>Members" not in page(nothing, {}, {}, how="majority")
