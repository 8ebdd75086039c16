"""The files of a training: names, weights, most examples, and rows of other projects."""

import json

import pytest

from o1_model.training.arguments import DataArguments, parse
from o1_model.training.files import chosen_examples, read_files
from o1_records import Document, Example, InputError, MissingExtraError, Query, write_jsonl


def examples(prefix, count, **settings):
    return [
        Example(
            query=Query(query_id=f"{prefix}{n}", text=f"{prefix} {n}"),
            positives=(Document(doc_id=f"{n}", text=f"about {prefix} {n}"),),
            **settings,
        )
        for n in range(count)
    ]


@pytest.fixture
def folder(tmp_path):
    write_jsonl(tmp_path / "nq.jsonl", examples("nq", 6))
    write_jsonl(tmp_path / "code.jsonl.gz", examples("code", 4))
    write_jsonl(tmp_path / "both.jsonl", [*examples("x", 2, dataset="x"), *examples("y", 3)])
    return tmp_path


def names(files):
    return [(file.dataset, [example.dataset for example in file.examples]) for file in files]


def test_several_files_name_the_datasets_of_their_examples(folder):
    data = DataArguments([str(folder / "nq.jsonl"), f"python={folder / 'code.jsonl.gz'}"])
    assert names(read_files(data)) == [("nq", ["nq"] * 6), ("python", ["python"] * 4)]
    assert data.paths == [folder / "nq.jsonl", folder / "code.jsonl.gz"]
    # what an example says itself stands
    found = names(read_files(DataArguments([str(folder)])))
    assert found == [("both", ["x"] * 2 + ["both"] * 3), ("code", ["code"] * 4), ("nq", ["nq"] * 6)]


def test_a_single_file_gives_no_name_unless_it_has_one(folder):
    assert names(read_files(DataArguments(str(folder / "nq.jsonl")))) == [("nq", [""] * 6)]
    assert names(read_files(DataArguments([f"nq={folder / 'nq.jsonl'}"]))) == [("nq", ["nq"] * 6)]


def test_a_name_with_an_equals_sign_in_it_is_a_file(folder):
    write_jsonl(folder / "k=3.jsonl", examples("k", 1))
    assert names(read_files(DataArguments(str(folder / "k=3.jsonl")))) == [("k=3", [""])]


def test_two_files_of_one_name_are_refused(folder):
    with pytest.raises(InputError, match="two files are called 'nq'; name one of them, NAME=FILE"):
        read_files(DataArguments([str(folder / "nq.jsonl"), f"nq={folder / 'code.jsonl.gz'}"]))
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: the folder has no \.jsonl file"):
        read_files(DataArguments(str(folder / "empty")))
    with pytest.raises(InputError, match="train_data must be at least one file"):
        DataArguments([])


def test_most_examples_of_a_dataset_are_drawn_by_seed(folder):
    def chosen(*most, seed=0):
        data = DataArguments([str(folder / "nq.jsonl"), str(folder / "code.jsonl.gz")], max_examples=most)
        return [example.query.query_id for example in chosen_examples(read_files(data), data, seed=seed)]

    assert len(chosen()) == 10
    assert [name[:2] for name in chosen("3")] == ["nq"] * 3 + ["co"] * 3
    assert [name[:2] for name in chosen("3", "code=1")] == ["nq"] * 3 + ["co"]
    assert chosen("nq=4")[4:] == ["code0", "code1", "code2", "code3"]
    assert chosen("3") == chosen("3") == sorted(chosen("3"), key=chosen().index)
    assert len({tuple(chosen("3", seed=seed)) for seed in range(9)}) > 1


def test_weights_and_most_examples_are_of_datasets_that_there_are(folder):
    for flag, value in (("max_examples", "msmarco=3"), ("data_weights", "msmarco=0.5")):
        data = DataArguments([str(folder / "nq.jsonl"), str(folder / "code.jsonl.gz")], **{flag: [value]})
        with pytest.raises(
            InputError, match=f"{flag}: no example is of the dataset 'msmarco'; .*'code', 'nq'"
        ):
            chosen_examples(read_files(data), data, seed=0)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"max_examples": ["many"]}, "max_examples: 'many' in 'many' is not a number"),
        ({"max_examples": ["nq=0"]}, "max_examples must be at least 1 each"),
        ({"data_weights": ["2"]}, "data_weights: expected NAME=2, each name once, got '2'"),
        ({"data_weights": ["nq=1", "nq=2"]}, "data_weights: expected NAME=2, each name once, got 'nq=2'"),
        ({"data_weights": ["nq=-1"]}, "data_weights must be above 0 each"),
        ({"positives": -1}, "positives must be at least 0"),
        ({"batch_size_scale": 0}, "batch_size_scale must be at least 1"),
    ],
)
def test_values_out_of_range_are_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        DataArguments("x.jsonl", **settings)


def test_a_file_of_settings_has_lists(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "model_name_or_path: m\ntrain_data: [a.jsonl, nq=b.jsonl]\nmax_examples: 10\ndata_weights: [nq=0.5]\n"
    )
    _, data, *_ = parse([str(tmp_path / "c.yaml"), "--output_dir", str(tmp_path), "--use_cpu"])
    assert data.train_data == ["a.jsonl", "nq=b.jsonl"]
    assert (data.most_examples, data.weights) == ({"": 10}, {"nq": 0.5})


def test_rows_of_flagembedding_and_tevatron_are_read(tmp_path):
    row = {"query": "open a zip", "pos": ["zipfile"], "neg": ["tar", "gz"], "prompt": "find code"}
    scored = {"pos_scores": [2.0], "neg_scores": [1.0, 0.5], "train_group_size": 2, "batch_size": 64}
    uneven = {
        "query": "sort",
        "pos": ["sorted"],
        "neg": ["max"],
        "pos_scores": [1.0],
        "neg_scores": [],
        "x": 1,
    }
    (tmp_path / "leetcode.jsonl").write_text("\n".join(map(json.dumps, ({**row, **scored}, uneven))))
    passage = {"docid": 7, "title": "zip", "text": "archives"}
    tevatron = {
        "query_id": 1,
        "query": "zip",
        "positive_passages": [passage],
        "negative_passages": [],
        "n": 1,
    }
    (tmp_path / "nq.jsonl").write_text(json.dumps(tevatron))
    leetcode, nq = read_files(DataArguments(str(tmp_path)))
    first, second = leetcode.examples
    assert (first.query.text, first.query.instruction, first.dataset) == (
        "open a zip",
        "find code",
        "leetcode",
    )
    assert [d.text for d in (*first.positives, *first.negatives)] == ["zipfile", "tar", "gz"]
    assert (first.teacher_scores, first.group_size, first.batch_size) == ((2.0, 1.0, 0.5), 2, 64)
    assert second.teacher_scores == ()
    told = "fields of its rows that are not read, and in how many rows"
    assert list(leetcode.said) == [
        f"{tmp_path}/leetcode.jsonl: rows of FlagEmbedding",
        f"{tmp_path}/leetcode.jsonl: {told}: neg_scores (1), pos_scores (1), x (1)",
    ]
    assert nq.examples[0].positives == (Document(doc_id="7", title="zip", text="archives"),)
    assert list(nq.said) == [f"{tmp_path}/nq.jsonl: rows of Tevatron", f"{tmp_path}/nq.jsonl: {told}: n (1)"]


def test_a_line_that_is_nothing_known_is_named(tmp_path):
    (tmp_path / "e.jsonl").write_text('{"question": "x"}\n')
    with pytest.raises(InputError, match=r"e\.jsonl:1: .*question"):
        read_files(DataArguments(str(tmp_path / "e.jsonl")))


def test_a_lance_folder_is_one_file(tmp_path):
    (tmp_path / "nq.lance").mkdir()
    with pytest.raises((InputError, MissingExtraError), match=r"nq\.lance: .*not found|a Lance folder needs"):
        read_files(DataArguments([str(tmp_path / "nq.lance")]))
