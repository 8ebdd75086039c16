"""Names, suites, protocols, and where files are looked for."""

import json
import os
import subprocess
import sys

import pytest

from o1_bench.datasets.suites import (
    ENTRIES,
    SUITES,
    entry_of,
    expand,
    fetch,
    load,
    load_collection,
    load_collections,
    load_from_irds,
    protocol_of,
)
from o1_bench.protocol import PROTOCOLS
from o1_bench.score import parse_measures
from o1_records import InputError

COMMIT = "d56462d0e63a25450459c4f213e49ffdb866f7f9"


@pytest.fixture
def root(tmp_path):
    """SciFact as fetched from the hub, and one task of R2MED."""
    tables = {
        "scifact/corpus": [{"_id": "d1", "title": "A", "text": "a"}],
        "scifact/queries": [{"_id": "1", "text": "brains"}],
        "scifact/qrels/test": [{"query-id": "1", "corpus-id": "d1", "score": 1.0}],
        "R2MED/Biology/corpus": [{"id": "d1", "text": "a"}, {"id": "d1", "text": "b"}],
        "R2MED/Biology/query": [{"id": "1", "text": "lamps"}],
        "R2MED/Biology/qrels": [{"q_id": "1", "p_id": "d1", "score": 1}],
    }
    for name, rows in tables.items():
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    note = tmp_path / "scifact/.cache/huggingface/download/qrels/test.jsonl.metadata"
    note.parent.mkdir(parents=True)
    note.write_text(f"{COMMIT}\nabc\n1712656091.123\n")
    return tmp_path


def test_the_suites_are_those_of_the_papers():
    assert len(SUITES["o1-standard"]) == len(SUITES["bright"]) == 12
    assert len(SUITES["r2med"]) == len(SUITES["bright-long"]) == 8
    plain = [name.partition("@")[0] for name in SUITES["reasonembed"]]
    assert set(plain) == {*SUITES["bright"], *SUITES["r2med"]}
    assert sum(name.startswith("beir/") for name in SUITES["o1-standard"]) == 8
    assert {name.partition("@")[0] for suite in SUITES.values() for name in suite} <= set(ENTRIES)


def test_suite_o1_is_what_the_public_code_evaluates():
    """scripts/eval.sh at 28b4583: MS MARCO with titles, dev, dl19 and dl20, and ten sets of BEIR."""
    named = [name.partition("@") for name in SUITES["o1"]]
    passages = [(name, protocol) for name, _, protocol in named if name.startswith("msmarco")]
    assert passages == [
        ("msmarco-titles/dev", "o1-dev"), ("msmarco-titles/dl19", "o1-dl"), ("msmarco-titles/dl20", "o1-dl"),
    ]  # fmt: skip
    sets = [name.removeprefix("beir/") for name, _, protocol in named if protocol == "o1-beir"]
    assert sets == (
        [
            "fiqa",
            "nfcorpus",
            "scidocs",
            "scifact",
            "trec-covid",
            "webis-touche2020",
            "dbpedia-entity",
            "nq",
            "hotpotqa",
            "fever",
        ]
    )
    measures = {measure for name in SUITES["o1"] for measure in protocol_of(name).measures}
    assert measures == {"nDCG@10", "RR@10", "R@1000"}  # every grade of 1 or more is relevant
    identical = {name for name in SUITES["o1"] if protocol_of(name).ignore_identical_ids}
    assert identical == {f"beir/{name}@o1-beir" for name in sets}
    # both are named, and the TREC track's own stands beside it
    assert protocol_of("msmarco/dl19").name == "trec-dl"
    assert "R(rel=2)@1000" in protocol_of("msmarco/dl19").measures


def test_suite_reasonembed_has_its_prompt_and_its_token_limits():
    limits = {name: protocol_of(name).max_length for name in SUITES["reasonembed"]}
    assert {limit for name, limit in limits.items() if name.startswith("bright/")} == {8192}
    assert {limit for name, limit in limits.items() if name.startswith("r2med/")} == {512}
    prompts = {protocol_of(name).query_prompt for name in SUITES["reasonembed"]}
    assert prompts == {"Instruct: {instruction}\nQuery: "}


def test_every_collection_has_a_protocol_that_can_be_computed_and_a_source():
    assert all(parse_measures(entry.protocol.measures) for entry in ENTRIES.values())
    assert all(parse_measures(protocol.measures) for protocol in PROTOCOLS.values())
    assert all(entry.source and entry.folder for entry in ENTRIES.values())
    pinned = [entry.repository.revision for entry in ENTRIES.values() if entry.repository]
    assert all(len(revision) == 40 for revision in pinned)


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("msmarco/dev", ["RR@10", "R@50", "R@1000"]),
        ("msmarco/dl19", ["nDCG@10", "RR(rel=2)@10", "AP(rel=2)@1000", "R(rel=2)@1000"]),
        ("beir/scifact", ["nDCG@10", "RR@10", "R@100"]),
        ("beir/msmarco", ["nDCG@10", "RR@10", "R@100"]),
        ("bright-long/biology", ["R@1", "nDCG@10"]),
        ("bright/biology", ["nDCG@10", "R@100"]),
    ],
)
def test_the_first_measure_is_the_published_one(name, protocol):
    assert list(protocol_of(name).measures) == protocol


def test_a_name_finds_its_folder_protocol_and_revision(root):
    loaded = load("beir/scifact", root)
    assert loaded.name == "beir/scifact/test"
    assert loaded.excluded == {"1": {"1"}}
    assert loaded.revision == f"mteb/scifact@{COMMIT}"


def test_a_copy_without_the_hubs_notes_claims_no_revision(root):
    loaded = load("r2med/Biology", root)
    assert loaded.revision == "1 repeated documents merged, the last one kept"


def test_collections_are_loaded_one_after_the_other_and_once(root):
    names = ["beir/scifact", "r2med/Biology", "beir/scifact"]
    assert [one.name for one in load_collections(names, root)] == ["beir/scifact/test", "r2med/Biology"]


def test_a_suites_name_stands_for_its_members():
    assert expand(["r2med", "r2med/Biology", "cosqa"]) == [*SUITES["r2med"], "cosqa"]


def test_a_folder_that_is_not_there_is_named_with_what_belongs_there(root):
    with pytest.raises(InputError, match=r"BRIGHT: no such folder.*fetch bright/pony.*examples/pony-\*"):
        load("bright/pony", root)
    with pytest.raises(InputError, match=r"no such folder.*msmarco-test2019-queries\.tsv.*collection\.tsv"):
        load("msmarco/dl19", root)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("bright/biolgy", "bright/biology"),
        ("scifact", "beir/scifact"),
        ("../../etc/passwd", "o1"),
        ("/etc/passwd", "o1"),
        ("", "o1"),
    ],
)
def test_an_unknown_name_is_refused_before_anything_is_read(name, near, tmp_path):
    with pytest.raises(InputError, match=f"unknown collection .*; did you mean .*{near}"):
        next(load_collections(["beir/scifact", name], tmp_path))


def test_what_is_not_on_the_hub_or_in_ir_datasets_says_so(tmp_path):
    with pytest.raises(InputError, match=r"cosqa: is not on the hub.*code_idx_map\.txt"):
        fetch("cosqa", tmp_path)
    with pytest.raises(InputError, match="ir_datasets does not have it"):
        load_from_irds("r2med/Biology")
    assert entry_of("msmarco-titles/dev").irds is None


def test_a_path_may_end_in_a_name(root):
    by_path = load_collection(root / "beir" / "scifact", "test")
    assert (by_path.name, by_path.excluded) == ("beir/scifact/test", {"1": {"1"}})
    with pytest.raises(InputError, match="r2med/Biology has a split of its own"):
        load_collection(root / "r2med" / "Biology", "dev")
    with pytest.raises(InputError, match="a collection is a BEIR folder, or ROOT/NAME such as data/"):
        load_collection(root / "elsewhere", "test")


def test_the_package_imports_nothing_that_only_loaders_need():
    code = "import o1_bench, o1_bench.datasets.suites, sys; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"pyarrow", "huggingface_hub", "ir_datasets", "torch", "pandas", "datasets", "httpx"}
    assert not heavy & set(modules)


def test_scifact_is_loaded_by_name_from_the_published_data():
    if "O1_DATA" not in os.environ:
        pytest.skip("set O1_DATA to a folder with the BEIR folder scifact")
    loaded = load("beir/scifact", os.environ["O1_DATA"])
    assert (len(loaded), len(loaded.queries), len(loaded.qrels)) == (5183, 300, 339)


@pytest.mark.parametrize(
    ("package", "call", "feature", "extra"),
    [
        ("huggingface_hub", "fetch('r2med/Biology', '.')", "Fetching from the hub", "hub"),
        ("ir_datasets", "load_from_irds('beir/nq')", "ir_datasets' cache", "irds"),
        ("pyarrow", "load('beir/nq', sys.argv[1])", "Parquet (corpus.parquet)", "hub"),
    ],
)
def test_a_missing_extra_is_named_with_what_to_type(tmp_path, package, call, feature, extra):
    (tmp_path / "nq" / "qrels").mkdir(parents=True)
    (tmp_path / "nq" / "qrels" / "test.tsv").write_text("1\td1\t1\n")
    (tmp_path / "nq" / "queries.jsonl").write_text('{"_id": "1", "text": "who"}\n')
    (tmp_path / "nq" / "corpus.parquet").write_bytes(b"")
    # None in sys.modules is Python's own way to say that a module cannot be imported
    code = f"import sys; sys.modules['{package}'] = None; from o1_bench.datasets.suites import *; {call}"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    said = f"MissingExtraError: {feature} needs an extra: pip install 'o1-bench[{extra}]'"
    assert said in done.stderr
