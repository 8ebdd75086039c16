"""Tables for papers: letters of significance, seeds, a choice of measures, and the curve of nDCG@k."""

import csv
import io

import pytest

from o1_bench import Collection, load_result, save_result
from o1_bench.__main__ import main
from o1_bench.compare import holm, paired_test
from o1_bench.reporting.rows import chosen, over_tasks
from o1_bench.reporting.tables import results_table, written
from o1_bench.reporting.words import suite_table
from o1_bench.results.result import System
from o1_bench.results.verify import verify_result
from o1_bench.score import means, score
from o1_records import Document, InputError, Qrel, Query, rank

COUNT = 20
PLACES = {"base": 4, "best": 1, "near_100%": 2, "oracle": 1}


def run_with(*parts):
    return main([str(part) for part in parts])


def collection(name="tiny/test"):
    return Collection(
        name=name,
        documents=[Document(doc_id=f"d{n}", text=f"text {n} of {name}") for n in range(COUNT)],
        queries=[Query(query_id=f"q{n}", text=f"find {n}") for n in range(COUNT)],
        qrels=[Qrel(query_id=f"q{n}", doc_id=f"d{n}", relevance=1) for n in range(COUNT)],
    )


def hits(place):
    for number in range(COUNT):
        # every seventh query is hard for all
        at = 9 if number % 7 == 0 else place
        others = [f"d{n}" for n in range(COUNT) if n != number]
        others.insert(at - 1, f"d{number}")
        yield from rank(f"q{number}", {doc_id: -n for n, doc_id in enumerate(others)}, 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    for name, place in PLACES.items():
        kind = "oracle" if name == "oracle" else "system"
        save_result(
            folder / name, System(name=name, kind=kind), collection=collection(), hits=hits(place), k=10
        )
    return folder


@pytest.fixture
def results(folder):
    return [load_result(folder / name) for name in PLACES]


def test_letters_are_those_of_the_systems_that_are_beaten_after_correction(results):
    made = results_table(results[:3], measures=["nDCG@10"], letters=True)
    values = [result.per_query["nDCG@10"] for result in results[:3]]
    pairs = [(0, 1), (0, 2), (1, 2)]
    corrected = holm([paired_test(values[a], values[b]).p_value for a, b in pairs])
    assert max(corrected) < 0.05
    assert made.systems == (("base", "a"), ("best", "b"), ("near_100%", "c"))
    assert [cell.beats for (cell,) in made.cells] == ["", "ac", "a"]
    assert [cell.best for (cell,) in made.cells] == [False, True, False]
    assert "10,000 permutations, seed 0" in made.note


def test_no_letter_where_nothing_is_more_than_chance(results):
    same = results_table([results[1], results[3]], measures=["nDCG@10"], letters=True)
    assert [cell.beats for (cell,) in same.cells] == ["", ""]
    # an oracle is never the best of a column
    assert [cell.best for (cell,) in same.cells] == [True, False]


def test_latex_escapes_names_and_counts_its_columns(results):
    text = written(results_table(results, measures=["nDCG@10", "RR@10"], letters=True), "latex")
    lines = text.splitlines()
    assert lines[1] == r"\begin{tabular}{lrr}"
    rows = [line for line in lines if line.endswith(r"\\")]
    assert {line.count(" & ") for line in rows} == {2}
    (near,) = [line for line in rows if "near" in line]
    assert near.startswith(r"$c$ near\_100\% & ")
    best = f"{100 * results[1].metrics['nDCG@10']:.1f}"
    assert rf"\textbf{{{best}}}$^{{ac}}$" in text
    assert lines[-2] == r"\end{tabular}"
    assert lines[-1].startswith("% On tiny/test; the best of each column is bold")


def test_csv_and_markdown_have_the_same_numbers(results):
    made = results_table(results, measures=["nDCG@10"])
    rows = list(csv.DictReader(io.StringIO(written(made, "csv"))))
    assert {row["system"]: float(row["nDCG@10"]) for row in rows} == {
        result.name: result.metrics["nDCG@10"] for result in results
    }
    markdown = written(made, "markdown")
    assert f"| best | **{results[1].metrics['nDCG@10']:.3f}** |" in markdown
    with pytest.raises(InputError, match="unknown format 'word'"):
        written(made, "word")


def test_several_collections_get_their_average_and_seeds_their_spread(tmp_path):
    for name in ("bright/pony", "cosqa/test"):
        for seed, place in ((1, 2), (2, 4)):
            save_result(
                tmp_path / name / str(seed), System(name="mine", seed=seed), collection=collection(name),
                hits=hits(place), k=10,
            )  # fmt: skip
    found = [load_result(path.parent) for path in sorted(tmp_path.rglob("result.json"))]
    made = results_table(found)
    assert made.columns == ("bright/pony", "cosqa/test", "mean of 2")
    (cells,) = made.cells
    assert cells[0].value == cells[2].value == pytest.approx(cells[1].value)
    assert cells[0].spread > 0.1
    assert " ± " in written(made, "text")
    assert r"\pm" in written(made, "latex")


def test_a_system_that_names_its_measures_in_another_order_is_not_better_for_it(tmp_path):
    for name in ("one", "two"):
        for system, measures in (("a", ["nDCG@10", "R@100"]), ("b", ["R@100", "nDCG@10"])):
            save_result(
                tmp_path / name / system, System(name=system), collection=collection(name),
                hits=hits(4), k=10, measures=measures,
            )  # fmt: skip
    found = [load_result(path.parent) for path in sorted(tmp_path.rglob("result.json"))]
    a, b = results_table(found).cells
    assert [cell.value for cell in a] == [cell.value for cell in b]
    assert not any(cell.beats for cell in (*a, *b))
    first, second = over_tasks(found)
    assert first.average == second.average
    assert second.against.difference == 0
    lines = suite_table(found).splitlines()
    assert lines[1].split()[1:4] == lines[2].split()[1:4]


def test_the_command_prints_a_table_and_refuses_what_has_no_effect(folder, capsys):
    assert run_with("table", folder, "--format", "markdown", "--measures", "RR@10", "--letters") == 0
    assert capsys.readouterr().out.startswith("|  | RR@10 |\n| --- | ---: |\n| a base | ")
    assert run_with("table", folder, "--seed", "3") == 4
    assert "--seed has an effect only with --letters" in capsys.readouterr().err
    assert run_with("table", folder, "--measures", "AP") == 4
    assert "has no AP; it has nDCG@10, RR@10, R@100; run or score it again" in capsys.readouterr().err


def test_a_choice_of_measures_makes_the_first_one_the_main_one(results):
    kept = chosen(results, ["RR@10", "nDCG@10"])
    assert list(kept[0].metrics) == ["RR@10", "nDCG@10"]
    assert kept[0].per_query.keys() == kept[0].metrics.keys()


def test_a_result_has_the_curve_of_ndcg_and_verifies_it(folder, results):
    for result in results:
        found = means(score(collection().qrels, hits(PLACES[result.name]), measures=["nDCG@1", "nDCG@5"]))
        assert (result.curve[1], result.curve[5]) == (found["nDCG@1"], found["nDCG@5"])
    path = folder / "base" / "result.json"
    text = path.read_text()
    path.write_text(text.replace(f'"5": {results[0].curve[5]}', '"5": 0.75', 1))
    assert path.read_text() != text
    assert verify_result(folder / "base")[0].startswith("nDCG of the curve of 5: the result says 0.75")
    path.write_text(text)
    assert verify_result(folder / "base") == []
