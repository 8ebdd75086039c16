"""What stands around the training of a small annotator: the split, the agreement, the script."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from o1_records import Hit, InputError, Query, read_jsonl, write_jsonl
from o1_records.trec import read_run, write_run

sys.path.insert(0, str(Path(__file__).parents[2] / "runs"))
import annotator
from annotator_agreement import counted, exact, kappa, label, with_interval

SCRIPT = Path(annotator.__file__).with_suffix(".sh")

SCORED = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 5), st.none() | st.integers(1, 5)), min_size=1, max_size=40
)


def chat(query_id, doc_id, score, asked="judge"):
    messages = (
        {"role": "user", "content": f"{asked} {query_id} {doc_id}"},
        {"role": "assistant", "content": f"<score>{score}</score>"},
    )
    return annotator.Chat(query_id=query_id, doc_id=doc_id, score=score, messages=messages)


class Job:
    """Ten queries of four candidates; the large annotator gave no score to the last of each."""

    def __init__(self, root):
        self.root, self.out = root, root / "out"
        self.chat, self.queries, self.run = root / "chat.jsonl", root / "queries.jsonl", root / "run.trec"
        names = [f"q{n}" for n in range(10)]
        self.pairs = [(name, f"d{n}") for name in names for n in range(4)]
        write_jsonl(self.queries, [Query(query_id=name, text=name) for name in names])
        write_run(self.run, [Hit(query_id=q, doc_id=d, score=-float(d[1]), rank=1) for q, d in self.pairs])
        self.large = [chat(q, d, 1 + int(d[1]) * 2) for q, d in self.pairs if d != "d3"]
        write_jsonl(self.chat, self.large)

    def split(self, **changed):
        options = {"held_out": 0.3, "seed": 0, "recipe": "", "out": self.out, **changed}
        annotator.split(self.chat, self.queries, self.run, **options)
        kept_out = read_jsonl(options["out"] / "heldout" / "queries.jsonl", Query)
        return {query.query_id for query in kept_out}

    def learnt(self):
        return list(read_jsonl(self.out / "data" / "train.jsonl", annotator.Turns))

    def agree(self, **small):
        given = []
        for name, chats in small.items():
            write_jsonl(self.root / f"{name}.jsonl", chats)
            given.append((name, str(self.root / f"{name}.jsonl")))
        result = self.root / "agreement.json"
        annotator.agree(self.chat, self.out / "heldout" / "run.trec", given, result)
        return json.loads(result.read_bytes())


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path)


@pytest.mark.parametrize("seed", range(5))
def test_a_query_is_learnt_from_or_held_out_and_no_pair_is_lost(job, seed):
    kept_out = job.split(seed=seed)
    assert len(kept_out) == 3
    learnt = [(turns.prompt, turns.completion) for turns in job.learnt()]
    assert learnt == [(c.messages[:1], c.messages[1:]) for c in job.large if c.query_id not in kept_out]
    held = [(hit.query_id, hit.doc_id) for hit in read_run(job.out / "heldout" / "run.trec")]
    assert held == [pair for pair in job.pairs if pair[0] in kept_out]  # also those without a score


def test_the_lot_is_the_seeds(job, tmp_path):
    lots = [[job.split(seed=seed, out=tmp_path / f"{n}-{seed}") for seed in range(4)] for n in range(2)]
    assert lots[0] == lots[1]
    assert any(lot != lots[0][0] for lot in lots[0])


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_both_sides_have_a_query(job, share):
    assert len(job.split(held_out=share)) == (1 if share < 0.5 else 9)
    assert job.learnt()


def test_a_folder_made_of_something_else_is_not_mixed(job):
    job.split()
    job.split()
    for changed in ({"seed": 1}, {"recipe": "another model"}, {"held_out": 0.5}):
        with pytest.raises(InputError, match="made of other files, model or flags"):
            job.split(**changed)
    write_jsonl(job.chat, job.large[:-1])
    with pytest.raises(InputError, match="made of other files, model or flags"):
        job.split()


def test_files_that_do_not_belong_together_are_refused_and_leave_the_folder_free(job):
    hits = list(read_run(job.run))
    write_run(job.run, [hit for hit in hits if hit.doc_id != "d1"])
    with pytest.raises(InputError, match=r"has no query 'q\d' with document 'd1'"):
        job.split()
    write_run(job.run, hits)
    write_jsonl(job.queries, [Query(query_id="other", text="x")])
    with pytest.raises(InputError, match="lacks queries of"):
        job.split()
    write_jsonl(job.queries, [Query(query_id=f"q{n}", text="x") for n in range(10)])
    assert len(job.split()) == 3


def test_bad_shares_few_queries_and_scores_beyond_five_are_refused(job):
    for share in (0.0, 1.0, -1.0):
        with pytest.raises(InputError, match="--held-out"):
            job.split(held_out=share)
    write_jsonl(job.chat, [made for made in job.large if made.query_id == "q0"])
    with pytest.raises(InputError, match="a split needs two"):
        job.split()
    job.chat.write_bytes(msgspec.json.encode(job.large[0]).replace(b'"score":1', b'"score":6'))
    with pytest.raises(InputError, match=r"chat\.jsonl:1"):
        job.split()


@given(SCORED)
def test_measures_are_those_of_a_plain_count_and_of_scikit_learn(scored):
    large = {(f"q{q}", f"d{n}"): mine for n, (q, mine, _) in enumerate(scored)}
    small = {(f"q{q}", f"d{n}"): theirs for n, (q, _, theirs) in enumerate(scored) if theirs}
    counts = counted(large, small).sum(0)
    assert exact(counts) == pytest.approx(sum(mine == theirs for _, mine, theirs in scored) / len(scored))
    labels = [theirs and (mine >= 3) == (theirs >= 3) for _, mine, theirs in scored]
    assert label(counts) == pytest.approx(sum(map(bool, labels)) / len(scored))
    both = [(mine, theirs) for _, mine, theirs in scored if theirs]
    if len({score for pair in both for score in pair}) < 2:
        assert np.isnan(kappa(counts))
    else:
        mine, theirs = zip(*both, strict=True)
        expected = cohen_kappa_score(mine, theirs, labels=[1, 2, 3, 4, 5], weights="quadratic")
        assert kappa(counts) == pytest.approx(expected)


def test_a_query_of_more_pairs_of_a_kind_says_no_more():
    rng = np.random.default_rng(0)
    counts = np.zeros((30, 5, 6), dtype=np.int64)
    for query in range(30):
        counts[query, rng.integers(5), rng.integers(6)] = 1
    for measure in (exact, label, kappa):
        value, low, high = with_interval(measure, counts)
        assert low < value < high
        assert with_interval(measure, 7 * counts) == pytest.approx([value, low, high])


def test_an_annotator_agrees_with_itself_and_differs_from_itself_by_nothing():
    counts = counted({("q1", "d1"): 1, ("q2", "d1"): 5}, {("q1", "d1"): 1, ("q2", "d1"): 5})
    assert with_interval(exact, counts) == (1.0, 1.0, 1.0)
    assert with_interval(kappa, counts) == (1.0, 1.0, 1.0)
    assert with_interval(exact, counts, counts) == (0.0, 0.0, 0.0)


def test_what_only_one_side_scored_is_counted_and_a_missing_score_is_a_disagreement(job, capsys):
    kept_out = sorted(job.split())
    held = [made for made in job.large if made.query_id in kept_out]
    extra = chat(kept_out[0], "d3", 2)
    result = job.agree(same=held, part=[*held[:4], extra], none=[])
    assert (result["queries"], result["pairs"]) == (3, 12)
    columns = ("both", "only_large", "only_small", "neither")
    counts = {name: [row[key] for key in columns] for name, row in result["annotators"].items()}
    assert counts == {
        "same": [9, 0, 0, 3],
        "part": [4, 5, 1, 2],
        "none": [0, 9, 0, 3],
        "constant": [9, 0, 3, 0],
    }
    rows = result["annotators"]
    assert [rows[name]["valid"] for name in ("same", "part", "none")] == pytest.approx([9 / 12, 5 / 12, 0])
    assert [rows[name]["exact"][0] for name in ("same", "part", "none")] == pytest.approx([1, 4 / 9, 0])
    assert rows["none"]["kappa"] is None
    # of the scores 1, 3, 5 that are equally frequent the constant is the smallest
    assert result["constant"] == 1
    assert rows["constant"]["exact"][0] == rows["constant"]["label"][0] == pytest.approx(1 / 3)
    assert rows["same"]["exact_over_constant"][0] == pytest.approx(2 / 3)
    assert [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines()[-4:]] == [
        "| same",
        "| part",
        "| none",
        "| constant",
    ]


def test_an_annotator_that_was_asked_something_else_is_refused(job):
    name = min(job.split())
    with pytest.raises(InputError, match=f"asked otherwise about query '{name}' with document 'd0'"):
        job.agree(small=[chat(name, "d0", 1, asked="guess")])
    learnt = next(made for made in job.large if made.query_id not in job.split())
    with pytest.raises(InputError, match="is not among the pairs that are held out"):
        job.agree(small=[learnt])


PROGRAMS = {
    # writes the held-out chats of the large annotator, or none, as TOLD says
    "o1-synth": """
echo "o1-synth $*" >> "$CALLS"
while [ $# -gt 0 ]; do [ "$1" = --distill ] && distill=$2; shift; done
: > "$distill"
exit ${SYNTH_EXIT:-0}
""",
    # dies in the middle the first time
    "trl": """
echo "trl $*" >> "$CALLS"
while [ $# -gt 0 ]; do [ "$1" = --output_dir ] && folder=$2; shift; done
if [ ! -d "$folder/checkpoint-9" ]; then mkdir -p "$folder/checkpoint-9" "$folder/checkpoint-10"; exit 9; fi
touch "$folder/model.safetensors"
""",
}


@pytest.fixture
def script(job):
    """Run runs/annotator.sh with programs that only write down how they were called."""
    folder = job.root / "bin"
    folder.mkdir()
    for name, body in {**PROGRAMS, "python": f'\nexec {sys.executable} "$@"\n'}.items():
        (folder / name).write_text(f"#!/bin/sh{body}")
        (folder / name).chmod(0o755)
    calls = job.root / "calls"
    files = {"CHAT": job.chat, "QUERIES": job.queries, "CORPUS": "corpus.jsonl", "CANDIDATES": job.run}

    def call(*flags, **environment):
        calls.write_text("")
        settings = {**files, "MODEL": "tiny", "OUT": job.out, "CALLS": calls, **environment}
        settings = {name: str(value) for name, value in settings.items() if value is not None}
        done = subprocess.run(
            ["bash", SCRIPT, *flags],
            env={"PATH": f"{folder}:/usr/bin:/bin", **settings},
            cwd=job.root,
            capture_output=True,
            text=True,
        )
        return done, calls.read_text().splitlines()

    return call


needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@needs_bash
def test_the_script_goes_on_where_a_kill_stopped_the_training(script, job):
    done, calls = script("--use_cpu", ANNOTATE="--max-tokens 9")
    assert done.returncode == 9
    assert not (job.out / "model").exists()
    assert [call.split()[0] for call in calls] == ["o1-synth", "trl"]
    assert "--resume_from_checkpoint" not in calls[1]
    done, calls = script("--use_cpu", ANNOTATE="--max-tokens 9")
    assert done.returncode == 0, done.stderr
    assert [call.split()[0] for call in calls] == ["o1-synth", "trl", "o1-synth"]
    assert calls[1].endswith(f"--resume_from_checkpoint {job.out}/training/checkpoint-10 --use_cpu")
    assert "--transformers tiny" in calls[0]
    assert f"--transformers {job.out}/model" in calls[2]
    assert calls[0].endswith("--temperature 0 --redraws 0 --max-tokens 9")
    assert "| after | 0.000 |" in done.stdout
    done, calls = script("--use_cpu", ANNOTATE="--max-tokens 9")
    assert [call.split()[0] for call in calls] == ["o1-synth", "o1-synth"]


@needs_bash
def test_another_engine_runs_the_small_one(script, job):
    script()
    _, calls = script(ENGINE="vllm")
    assert "--vllm tiny" in calls[0]
    assert f"--vllm {job.out}/model" in calls[2]


@needs_bash
def test_pairs_without_a_score_do_not_stop_the_script_and_bad_input_does(script):
    script()
    assert script(SYNTH_EXIT=3)[0].returncode == 0
    assert script(SYNTH_EXIT=4)[0].returncode != 0


@needs_bash
def test_another_model_or_flag_needs_another_folder(script):
    script()
    for done, calls in (script(MODEL="other"), script("--max_steps", "3")):
        assert done.returncode == 4
        assert "choose another folder" in done.stderr
        assert calls == []


@needs_bash
def test_the_script_says_what_it_needs(script):
    done, calls = script(CORPUS=None)
    assert (done.returncode, calls) == (2, [])
    assert done.stderr.startswith("set CORPUS\n")
    assert "HELD_OUT=0.1" in done.stderr
