import math
import random
import struct

import ir_measures
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from o1_bench.score import by_query, from_dict, means, parse_measure, provider, score, to_dict
from o1_records import Hit, InputError, Metric, Qrel

MEASURES = [parse_measure(name) for name in ("nDCG@10", "RR@10", "R@100", "RR", "AP", "Success@5")]
TREC_NAMES = {
    "nDCG@10": "ndcg_cut_10",
    "R@100": "recall_100",
    "RR": "recip_rank",
    "AP": "map",
    "Success@5": "success_5",
}


KS = (1, 3, 5, 7, 10, 49, 100)


def random_pair(rng):
    """Judgements and a run with ties, unjudged documents, missing and unknown queries."""
    ids = [f"d{number}" for number in range(rng.choice([3, 12, 150]))] + ["é", "Z", "z", "d１"]
    qrels, run = {}, {}
    for number in range(rng.randint(1, 5)):
        judged = rng.sample(ids, rng.randint(1, len(ids)))
        qrels[f"q{number}"] = {doc_id: rng.choice([-1, 0, 0, 1, 2, 3]) for doc_id in judged}
    for query_id in [*qrels, "nobody judged this"]:
        if rng.random() < 0.8:
            found = rng.sample(ids, rng.randint(1, len(ids)))
            levels = rng.choice([2, 5, 1000])
            noise = rng.choice([0.0, 1e-12])  # differences that float32 does not see
            run[query_id] = {doc_id: rng.randrange(levels) / 7 + noise * rng.random() for doc_id in found}
    return qrels, run


def as_records(qrels, run, rng):
    judgements = [
        Qrel(query_id=query_id, doc_id=doc_id, relevance=relevance)
        for query_id, judged in qrels.items()
        for doc_id, relevance in judged.items()
    ]
    hits = [
        Hit(query_id=query_id, doc_id=doc_id, score=value, rank=1)
        for query_id, scores in run.items()
        for doc_id, value in scores.items()
    ]
    rng.shuffle(hits)
    return judgements, hits


def float32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def random_exclusions(qrels, run, rng):
    """Documents, retrieved or not, judged or not, that are never counted for a query."""
    ids = sorted({doc_id for docs in (*qrels.values(), *run.values()) for doc_id in docs})
    return {
        query_id: set(rng.sample(ids, rng.randint(0, min(4, len(ids)))))
        for query_id in [*qrels, "nobody judged this"]
        if rng.random() < 0.5
    }


def plain_values(judged, scores, rel=1):
    """The measures in plain Python, from their definitions; `rel` is the least relevance that counts."""
    order = sorted(scores, key=lambda doc_id: (float32(scores[doc_id]), doc_id), reverse=True)
    gains = [max(0, judged.get(doc_id, 0)) for doc_id in order]
    found = [judged.get(doc_id, 0) >= rel for doc_id in order]
    ideal = sorted((gain for gain in judged.values() if gain > 0), reverse=True)
    relevant = sum(gain >= rel for gain in judged.values())
    first = next((place for place, good in enumerate(found, 1) if good), None)
    precisions = [sum(found[:place]) / place for place, good in enumerate(found, 1) if good]

    def dcg(values):
        return sum(gain / math.log2(place + 2) for place, gain in enumerate(values[:10]))

    values = {
        "nDCG@10": dcg(gains) / dcg(ideal) if ideal else 0.0,
        "RR": 1 / first if first else 0.0,
        "AP": sum(precisions) / relevant if relevant else 0.0,
    }
    for k in KS:
        values[f"RR@{k}"] = 1 / first if first and first <= k else 0.0
        values[f"R@{k}"] = sum(found[:k]) / relevant if relevant else 0.0
        values[f"Success@{k}"] = float(any(found[:k]))
    return values


def test_a_thousand_random_runs_agree_with_trec_eval_and_with_the_definitions():
    rng = random.Random(20)
    compared = 0
    for _ in range(1000):
        qrels, run = random_pair(rng)
        judgements, hits = as_records(qrels, run, rng)
        excluded = random_exclusions(qrels, run, rng)
        metrics = score(judgements, hits, measures=MEASURES, excluded=excluded)
        ours, mean = by_query(metrics), means(metrics)
        left = {q: {d: s for d, s in docs.items() if d not in excluded.get(q, ())} for q, docs in run.items()}
        rounded = {q: {d: float32(s) for d, s in docs.items()} for q, docs in left.items() if docs}
        trec = pytrec_eval.RelevanceEvaluator(qrels, set(TREC_NAMES.values())).evaluate(rounded)
        for query_id, judged in qrels.items():
            for measure, name in TREC_NAMES.items():
                expected = trec[query_id][name] if query_id in trec else 0.0
                assert abs(ours[measure][query_id] - expected) <= 1e-9
            plain = plain_values(judged, left.get(query_id, {}))
            for measure in map(str, MEASURES):
                assert abs(ours[measure][query_id] - plain[measure]) <= 1e-9
                compared += 1
        for measure, values in ours.items():
            assert values.keys() == qrels.keys()
            assert abs(mean[measure] - sum(values.values()) / len(qrels)) <= 1e-9
    assert compared > 5000


@pytest.mark.parametrize("rel", [1, 2, 3])
def test_every_cutoff_and_relevance_agrees_with_the_definitions(rel):
    """RR@k is made of RR, so that it needs an oracle of its own."""
    names = [f"{name}(rel={rel})@{k}" for name in ("RR", "R", "Success") for k in KS]
    names += [f"AP(rel={rel})", f"RR(rel={rel})", "nDCG@10"]
    rng = random.Random(rel)
    for _ in range(60):
        qrels, run = random_pair(rng)
        found = by_query(score(qrels, run, measures=[parse_measure(name) for name in names]))
        for query_id, judged in qrels.items():
            plain = plain_values(judged, run.get(query_id, {}), rel)
            for name in names:
                value = found[str(parse_measure(name))][query_id]
                assert abs(value - plain[name.replace(f"(rel={rel})", "")]) <= 1e-9, name


def test_one_tool_computes_what_is_published():
    names = ("nDCG@10", "RR@10", "RR(rel=2)@10", "R@1000", "AP", "Success@5")
    assert {provider(parse_measure(name)) for name in names} == {"pytrec_eval"}


def test_what_lies_beyond_every_cutoff_is_not_looked_at_and_changes_nothing():
    """With cutoffs only, rankings are cut before they are scored; AP sees all of them."""
    cut = [parse_measure(name) for name in ("nDCG@3", "RR@2", "R@5", "P@4", "AP@3", "Judged@2")]
    whole = [parse_measure(name) for name in ("AP", "P(judged_only=True)@2", "NumRet")]
    rng = random.Random(3)
    for _ in range(100):
        qrels, run = random_pair(rng)
        alone, beside = score(qrels, run, measures=cut), score(qrels, run, measures=cut + whole)
        assert by_query(alone).items() <= by_query(beside).items()
    for measure in whole:
        alone = score({"q": {"c": 1}}, {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}, measures=[measure])
        beside = score({"q": {"c": 1}}, {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}, measures=[measure, cut[0]])
        assert means(alone)[str(measure)] == means(beside)[str(measure)] > 0


def test_every_measure_breaks_a_tie_towards_the_larger_doc_id():
    metrics = score({"q": {"b": 1}}, {"q": {"a": 0.5, "b": 0.5}}, measures=MEASURES)
    assert means(metrics) == dict.fromkeys(map(str, MEASURES), 1.0)
    metrics = score({"q": {"a": 1}}, {"q": {"a": 0.5, "b": 0.5}}, measures=MEASURES)
    assert means(metrics)["RR@10"] == means(metrics)["RR"] == means(metrics)["AP"] == 0.5


def test_scores_that_are_equal_as_float32_are_a_tie():
    metrics = score({"q": {"b": 1}}, {"q": {"a": 1.0 + 1e-12, "b": 1.0}})
    assert means(metrics)["RR@10"] == 1.0


def test_a_query_that_retrieved_nothing_counts_zero():
    metrics = score({"q1": {"d": 1}, "q2": {"d": 1}}, {"q1": {"d": 1.0}})
    assert by_query(metrics)["nDCG@10"] == {"q1": 1.0, "q2": 0.0}
    assert means(metrics) == {"nDCG@10": 0.5, "RR@10": 0.5, "R@100": 0.5}
    assert means(score({"q1": {"d": 1}}, [])) == {"nDCG@10": 0.0, "RR@10": 0.0, "R@100": 0.0}


def test_a_query_that_nobody_judged_is_left_out():
    metrics = score({"q": {"d": 1}}, {"q": {"d": 1.0}, "other": {"x": 1.0}})
    assert {metric.query_id for metric in metrics} == {"q", None}


def test_excluded_documents_leave_the_ranking_before_it_is_ranked():
    qrels, run = (
        {"q": {"good": 1}, "r": {"bad": 1}},
        {
            "q": {"bad": 3.0, "good": 1.0},
            "r": {"bad": 1.0},
        },
    )
    metrics = score(qrels, run, excluded={"q": {"bad", "absent"}, "r": {"bad"}, "unknown": {"x"}})
    assert by_query(metrics)["RR@10"] == {"q": 1.0, "r": 0.0}
    assert run["q"] == {"bad": 3.0, "good": 1.0}  # the caller's dictionary stays as it was


def test_metrics_come_by_measure_in_the_order_of_the_qrels_with_the_mean_last():
    metrics = score({"b": {"d": 1}, "a": {"d": 0}}, {"b": {"d": 1.0}}, measures=MEASURES[:2])
    assert metrics == [
        Metric(measure="nDCG@10", value=1.0, query_id="b"),
        Metric(measure="nDCG@10", value=0.0, query_id="a"),
        Metric(measure="nDCG@10", value=0.5),
        Metric(measure="RR@10", value=1.0, query_id="b"),
        Metric(measure="RR@10", value=0.0, query_id="a"),
        Metric(measure="RR@10", value=0.5),
    ]


def test_gains_of_one_measure_do_not_reach_another():
    qrels, run = {"q": {"a": 1, "b": 2}}, {"q": {"a": 2.0, "b": 1.0}}
    measures = [parse_measure(name) for name in ("nDCG(gains={1:9})@10", "nDCG@10", "RR@10")]
    together = means(score(qrels, run, measures=measures))
    alone = {}
    for measure in measures:
        alone |= means(score(qrels, run, measures=[measure]))
    assert together == alone
    assert together["nDCG@10"] == pytest.approx((1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3)))


def test_a_sum_measure_is_summed():
    metrics = score(
        {"q": {"a": 1}, "r": {"a": 1, "b": 1}},
        {"q": {"a": 1.0}, "r": {"a": 1.0}},
        measures=[ir_measures.NumRel],
    )
    assert means(metrics) == {"NumRel": 3.0}


def test_dictionaries_of_beir_mteb_and_ranx_go_in_and_come_out():
    qrels, run = {"q1": {"d1": 1}, "q2": {"d7": 2}}, {"q1": {"d1": 0.5, "d2": 0.25}, "q2": {"d7": 1.0}}
    hits = list(from_dict(run))
    assert to_dict(hits) == run
    judgements = [
        Qrel(query_id=q, doc_id=d, relevance=r) for q, docs in qrels.items() for d, r in docs.items()
    ]
    assert to_dict(judgements) == qrels
    assert score(qrels, run) == score(judgements, hits)
    scores = by_query(score(qrels, run))["nDCG@10"]  # {query_id: value}, as trec_eval's evaluate gives them
    assert scores == {"q1": 1.0, "q2": 1.0}
    tool = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut_10"}).evaluate(run)
    assert {query_id: values["ndcg_cut_10"] for query_id, values in tool.items()} == scores


@given(
    st.dictionaries(
        st.sampled_from("abc"),
        st.dictionaries(st.sampled_from("uvwxyz"), st.sampled_from([0.0, 0.5, 1.0]), min_size=1),
        min_size=1,
    ),
    st.randoms(),
)
def test_the_order_of_hits_does_not_matter(run, rng):
    qrels = {"a": {"u": 1, "v": 2}, "b": {"w": 1}}
    hits = list(from_dict(run))
    shuffled = rng.sample(hits, len(hits))
    assert score(qrels, hits) == score(qrels, shuffled) == score(qrels, run)
    assert to_dict(shuffled) == run


def test_a_document_that_stands_twice_is_named():
    hit = Hit(query_id="q1", doc_id="d7", score=1.0, rank=1)
    with pytest.raises(InputError, match="duplicate document 'd7' for query 'q1'"):
        score({"q1": {"d7": 1}}, [hit, hit])
    qrel = Qrel(query_id="q1", doc_id="d7", relevance=1)
    with pytest.raises(InputError, match="duplicate document 'd7' for query 'q1'"):
        score([qrel, qrel], [hit])


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e39])
def test_a_score_that_is_not_finite_is_named(bad):
    with pytest.raises(InputError, match="query 'q1', document 'd2'"):
        score({"q1": {"d1": 1}}, {"q1": {"d1": 1.0, "d2": bad}})


@pytest.mark.parametrize("qrels", [[], {}, {"q": {}}])
def test_judgements_are_needed(qrels):
    with pytest.raises(InputError, match="no judgements"):
        score(qrels, {"q": {"d": 1.0}})


@pytest.mark.parametrize("text", ["nDCG10", "nDCG@ten", "nDCG@0", "R", "nDCG(foo=1)@3", "", "1+1"])
def test_an_unknown_measure_is_refused_with_examples(text):
    with pytest.raises(InputError, match="try nDCG@10"):
        parse_measure(text)


def test_a_measure_keeps_its_usual_name():
    assert str(parse_measure("MRR@10")) == "RR@10"
    assert str(parse_measure("RR(rel=2)@10")) == "RR(rel=2)@10"


# --- what the tools behind ir-measures cannot take ----------------------------------------------------


@pytest.mark.parametrize("lowest", [-1, -2, -7, -100])
def test_a_query_with_negative_judgements_only_counts_0_and_ends_no_process(lowest):
    """trec_eval wrote beyond its memory there."""
    qrels = {"q1": {"d1": lowest}, "q2": {"d1": 1, "d2": lowest}}
    run = {"q1": {"d1": 1.0}, "q2": {"d1": 1.0, "d2": 0.5}}
    names = ("nDCG@10", "RR@10", "R@100", "AP", "P@2", "Judged@2", "Bpref")
    found = by_query(score(qrels, run, measures=names))
    assert [found[name]["q1"] for name in names[:5]] == [0.0] * 5
    assert [found[name]["q2"] for name in names[:5]] == [1.0, 1.0, 1.0, 1.0, 0.5]


def test_judgements_below_minus_1_count_as_minus_1():
    names = ("nDCG@10", "AP", "Bpref", "Judged@3", "P(judged_only=True)@2")
    rng = random.Random(5)
    for _ in range(50):
        qrels, run = random_pair(rng)
        lower = {q: {d: -9 if r < 0 else r for d, r in judged.items()} for q, judged in qrels.items()}
        assert score(lower, run, measures=names) == score(qrels, run, measures=names)


def test_a_relevance_that_would_take_all_memory_is_refused():
    with pytest.raises(
        InputError, match="query 'q', document 'd2': relevance 5000000 is more than 1,000,000"
    ):
        score({"q": {"d1": 1, "d2": 5_000_000}}, {"q": {"d1": 1.0}})


def test_err_takes_ids_that_are_no_numbers():
    """gdeval knows numbers only; by hand: (2^r - 1) / 2^4, and the chance that nobody stopped before."""
    qrels = {"how to": {"d/1 x": 3, "é": 1}, "none": {"d/1 x": 1}}
    found = by_query(score(qrels, {"how to": {"é": 2.0, "d/1 x": 1.0}}, measures=["ERR@10", "nDCG@10"]))
    assert found["ERR@10"]["how to"] == pytest.approx(1 / 16 + 15 / 16 * 7 / 16 / 2, abs=1e-5)
    assert found["ERR@10"]["none"] == 0.0
    numbers = score({"1": {"2": 3, "3": 1}}, {"1": {"3": 2.0, "2": 1.0}}, measures=["ERR@10"])
    assert by_query(numbers)["ERR@10"]["1"] == found["ERR@10"]["how to"]


def test_err_without_perl_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="gdeval computes it, which needs Perl; install perl"):
        parse_measure("ERR@10")
    assert means(score({"q": {"d": 1}}, {"q": {"d": 1.0}}))["nDCG@10"] == 1.0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Accuracy@5", "BEIR's Accuracy@k is Success@k"),
        ("nDCG@0", "no installed package computes it"),
        ("R@-1", "measure 'R@-1'"),
        ("nDCG@x", "measure 'nDCG@x'"),
        ("RR(rel=0)@10", "rel must be 1 or more"),
        ("nDG@10", "try nDCG@10, RR@10"),
    ],
)
def test_a_measure_that_cannot_be_computed_is_refused_before_anything_is_read(name, said):
    with pytest.raises(InputError, match=said):
        score({"q": {"d": 1}}, {"q": {"d": 1.0}}, measures=[name])


def test_measures_are_taken_by_name_and_each_once():
    found = score({"q": {"d": 1}}, {"q": {"d": 1.0}}, measures=["nDCG@10", parse_measure("nDCG@10"), "R@1"])
    assert list(means(found)) == ["nDCG@10", "R@1"]


def test_capped_recall_divides_by_what_fits():
    judged = {f"d{n}": 1 for n in range(5)} | {"other": 0}
    run = {"q": {"d0": 3.0, "other": 2.0, "d1": 1.0}}
    found = means(score({"q": judged}, run, measures=["R_cap@2", "recall_cap@10", "R@10"]))
    assert found == {"R_cap@2": 0.5, "R_cap@10": 0.4, "R@10": 0.4}
