"""The gate: signals that cost nothing, a threshold to a budget, and what bounds its quality."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from o1_model import Thinking
from o1_model.__main__ import main
from o1_model.batch import collate
from o1_model.layout import prompt_row, query_row, query_text, text_ids
from o1_model.thinking.gate import NAMES, Gate, Signal, calibrate, curve, load_gate
from o1_records import InputError, Metric, Query, write_jsonl
from o1_records.vectors import VectorSet

QUERIES = [
    Query(query_id=f"q{n}", text=t) for n, t in enumerate(["open a zip file", "sort", "", "list keys"])
]


@torch.no_grad()
def test_signals_are_those_of_the_plain_passes(embedder):
    banned = sorted({*embedder.decoder.suppress, *embedder.layout.control_ids})
    ids = text_ids(embedder.tokenizer, [query_text(embedder.layout, query) for query in QUERIES])
    for signal, query, own in zip(embedder.signals(QUERIES), QUERIES, ids, strict=True):
        assert signal.query_id == query.query_id
        states = embedder.backbone.encode(_batch(query_row(embedder.layout, own)), embedder.layout)[0]
        raw = states.mean(dim=0) if embedder.layout.readout == "mean" else states[-1]
        assert signal.norm == pytest.approx(float(raw.norm()), rel=1e-4)
        states = embedder.backbone.encode(_batch(prompt_row(embedder.layout, own)), embedder.layout)[0]
        logits = embedder.backbone.logits(states[-1:])[0]
        logits[banned] = -torch.inf
        expected = torch.distributions.Categorical(logits=logits[~logits.isinf()]).entropy()
        assert signal.entropy == pytest.approx(float(expected), rel=1e-4)
        assert signal.margin is None


def _batch(row):
    return collate([row], 0)


def signals_of(columns):
    return [
        Signal(query_id=f"q{n}", norm=norm, entropy=entropy, margin=margin)
        for n, (norm, entropy, margin) in enumerate(columns)
    ]


def test_the_signal_that_tells_the_gain_is_found():
    random = np.random.default_rng(0)
    columns = random.normal(size=(60, 3))
    gains = {f"q{n}": 0.3 if margin < -0.5 else -0.1 for n, (_, _, margin) in enumerate(columns)}
    signals = signals_of(columns.tolist())
    gate = calibrate(signals, gains, budget=1.0)
    assert (gate.signal, gate.above) == ("margin", False)
    assert {s.query_id for s in signals if gate(s)} == {q for q, gain in gains.items() if gain > 0}


case = st.integers(1, 25).flatmap(
    lambda n: st.tuples(
        st.lists(st.tuples(*[st.integers(-3, 3).map(float)] * 3), min_size=n, max_size=n),
        st.lists(st.floats(-1, 1), min_size=n, max_size=n),
        st.floats(0, 1),
    )
)


@settings(max_examples=60)
@given(case)
def test_a_gate_keeps_its_budget_and_no_other_cut_gains_more(drawn):
    columns, values, budget = drawn
    signals = signals_of(columns)
    gains = {f"q{n}": value for n, value in enumerate(values)}
    gate = calibrate(signals, gains, budget)
    thinking = [signal for signal in signals if gate(signal)]
    assert len(thinking) <= budget * len(signals)
    total = sum(gains[signal.query_id] for signal in thinking)
    for name in NAMES:
        for above in (True, False):
            for cut in {getattr(signal, name) for signal in signals}:
                other = Gate(signal=name, above=above, threshold=cut)
                chosen = [gains[signal.query_id] for signal in signals if other(signal)]
                if len(chosen) <= budget * len(signals):
                    assert sum(chosen) <= total + 1e-9
    assert total >= 0


@settings(max_examples=60)
@given(case)
def test_the_oracle_bounds_every_gate_and_a_full_random_budget_is_always_thinking(drawn):
    columns, values, budget = drawn
    gains = {f"q{n}": value for n, value in enumerate(values)}
    half, whole = curve(signals_of(columns), gains, [budget, 1.0])
    for point in (half, whole):
        assert point.gate <= point.oracle + 1e-9
    assert whole.held_out <= whole.oracle + 1e-9
    assert whole.random == pytest.approx(np.mean(values))
    assert half.oracle <= whole.oracle + 1e-9


def test_what_noise_seems_to_gain_is_not_there_for_other_queries():
    random = np.random.default_rng(1)
    columns, values = random.normal(size=(400, 3)), random.normal(size=400)
    gains = {f"q{n}": value for n, value in enumerate(values)}
    (point,) = curve(signals_of(columns.tolist()), gains, [0.3])
    assert point.gate > 0.02
    assert point.held_out < point.gate / 2


def test_margins_come_from_the_caller():
    gate = Gate(signal="margin", above=False, threshold=0.1)
    signal = Signal(query_id="q0", norm=1.0, entropy=1.0)
    with pytest.raises(InputError, match=r"'q0': this gate needs the margin .* gate.given\(margins\)"):
        gate(signal)
    known = gate.given({"q0": 0.05, "q1": 0.2})
    assert known(signal) and not known(replace(signal, query_id="q1"))


def test_what_cannot_be_calibrated_is_refused():
    signals = signals_of([(1.0, 1.0, 1.0)] * 2)
    with pytest.raises(InputError, match="1 queries have no gain, first 'q1'"):
        calibrate(signals, {"q0": 1.0}, 0.5)
    with pytest.raises(InputError, match="the budget must be between 0 and 1, got 3"):
        calibrate(signals, {"q0": 1.0, "q1": 1.0}, 3)
    with pytest.raises(InputError, match="no queries"):
        calibrate([], {}, 0.5)


def test_a_saved_gate_is_the_same_and_another_file_is_refused(tmp_path):
    for gate in (
        Gate(signal="norm", above=True, threshold=None),
        Gate(signal="margin", above=False, threshold=1 / 3),
    ):
        gate.save(tmp_path / "gate.json")
        assert load_gate(tmp_path / "gate.json") == gate
    (tmp_path / "gate.json").write_text('{"signal": "mood"}')
    with pytest.raises(InputError, match="is this a file of `o1-model gate`"):
        load_gate(tmp_path / "gate.json")


def test_the_commands_calibrate_and_use_a_gate(llama, tmp_path, capsys):
    llama.save_pretrained(tmp_path / "model")
    write_jsonl(tmp_path / "queries.jsonl", QUERIES)
    for name, values in (("without", [0.5, 0.5, 0.5, 0.5]), ("with", [0.9, 0.1, 0.9, 0.1])):
        metrics = [Metric(measure="nDCG@10", value=v, query_id=f"q{n}") for n, v in enumerate(values)]
        write_jsonl(tmp_path / f"{name}.jsonl", [*metrics, Metric(measure="nDCG@10", value=0.5)])
    # the margins alone tell the two groups apart
    lines = [
        f"q{n} Q0 d{k} {k + 1} {score} t"
        for n, gap in enumerate([0.1, 0.9, 0.2, 0.8])
        for k, score in enumerate([1.0, 1 - gap])
    ]
    (tmp_path / "run.trec").write_text("\n".join(lines) + "\n")
    model = [
        "--model",
        str(tmp_path / "model"),
        "--device",
        "cpu",
        "--queries",
        str(tmp_path / "queries.jsonl"),
    ]
    gate = str(tmp_path / "gate.json")
    command = [
        "gate",
        *model,
        "--without",
        str(tmp_path / "without.jsonl"),
        "--with",
        str(tmp_path / "with.jsonl"),
    ]
    assert main([*command, "--hits", str(tmp_path / "run.trec"), "--budget", "0.5", "--out", gate]) == 0
    table = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert table[0] == ["budget", "nDCG@10, gate", "held out", "random", "oracle"]
    half = dict(zip(table[0], table[6], strict=True))
    assert (half["budget"], half["random"], half["oracle"]) == ("0.5", "0.5000", "0.7000")
    learnt = json.loads((tmp_path / "gate.json").read_bytes())
    chosen = load_gate(gate)
    margins = {"q0": 0.1, "q1": 0.9, "q2": 0.2, "q3": 0.8}
    opens = [chosen.given(margins)(signal) for signal in llama.signals(QUERIES)]
    assert opens == [True, False, True, False], learnt

    think = [
        "--think",
        "--samples",
        "2",
        "--max-tokens",
        "4",
        "--gate",
        gate,
        "--hits",
        str(tmp_path / "run.trec"),
    ]
    assert main(["embed", *model, *think, "--out", str(tmp_path / "vectors")]) == 0
    found = VectorSet(tmp_path / "vectors").load()
    thinking = Thinking(samples=2, max_tokens=4)
    expected = np.where(
        np.array(opens)[:, None], llama.encode_query(QUERIES, think=thinking), llama.encode_query(QUERIES)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)
    capsys.readouterr()
    assert main(["embed", *model, "--gate", gate, "--out", str(tmp_path / "v2")]) == 4
    assert "a gate decides for think" in capsys.readouterr().err
