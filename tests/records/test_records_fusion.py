import pytest
from hypothesis import given
from hypothesis import strategies as st

from o1_records import InputError, rank
from o1_records.kit.fusion import SCALES, fused

DENSE = {"q": {"a": 0.9, "b": 0.5, "c": 0.1}}
LEXICAL = {"q": {"b": 12.0, "d": 2.0}}


def order(scores):
    return [hit.doc_id for hit in rank("q", scores)]


def test_reciprocal_ranks_are_summed_with_their_weights():
    found = fused([DENSE, LEXICAL], [2.0, 1.0])["q"]
    assert found == {
        "a": pytest.approx(2 / 61),
        "b": pytest.approx(2 / 62 + 1 / 61),
        "c": pytest.approx(2 / 63),
        "d": pytest.approx(1 / 62),
    }


def test_min_max_is_bge_reasoners_fusion_of_three_quarters_and_one():
    found = fused([DENSE, LEXICAL], [0.75, 0.25], method="minmax")["q"]
    assert found == pytest.approx({"a": 0.75, "b": 0.75 * 0.5 + 0.25, "c": 0.0, "d": 0.0})


def test_a_run_with_equal_scores_says_yes_to_all_of_them():
    assert fused([{"q": {"a": 3.0, "b": 3.0}}], method="minmax") == {"q": {"a": 1.0, "b": 1.0}}
    assert fused([{"q": {"a": 3.0, "b": 3.0}}], method="z") == {"q": {"a": 0.0, "b": 0.0}}


def test_a_document_that_a_run_lacks_is_never_better_than_one_it_has():
    """With z-scores, 0 would be the mean: better than half of what was found."""
    found = fused([DENSE, LEXICAL], method="z")["q"]
    scaled = SCALES["z"]("q", LEXICAL["q"])
    assert found["a"] == pytest.approx(SCALES["z"]("q", DENSE["q"])["a"] + min(scaled.values()))


def test_a_query_of_one_run_alone_keeps_its_order():
    found = fused([{"q": {"a": 1.0}}, {"r": {"x": 2.0, "y": 1.0}}], method="minmax")
    assert order(found["r"]) == ["x", "y"]
    assert found["q"] == {"a": 1.0}


@pytest.mark.parametrize("method", SCALES)
@given(  # apart by more than float32, in which `rank` compares, makes equal
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(-320, 320).map(lambda n: n / 64), min_size=1)
)
def test_a_single_run_keeps_its_order(method, scores):
    assert order(fused([{"q": scores}], method=method)["q"])[0] in {
        doc_id for doc_id, score in scores.items() if score == max(scores.values())
    }


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"method": "vote"}, "unknown fusion 'vote'; choose one of rrf, minmax, z, sum"),
        ({"weights": [1.0]}, "1 weights for 2 runs; give one for each"),
    ],
)
def test_what_cannot_be_fused_is_named(changed, said):
    with pytest.raises(InputError, match=said):
        fused([DENSE, LEXICAL], **changed)
