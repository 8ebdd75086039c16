"""What o1-model measured of each query is what o1-bench's explorer shows."""

import numpy as np
import pytest

from o1_bench import explore
from o1_bench.results.confirmed import load_confirmed
from o1_model import calibrate, confirm
from o1_model.retriever.thinkers import GivenThoughts
from o1_records import Document, InputError, Qrel, Query, Source, Thought
from o1_records.beir import write_beir

WORDS = [f"word{n}" for n in range(60)]
N = 40


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """A query has one word of its document, which others have too; its thought has four."""
    folder, draw = tmp_path_factory.mktemp("explored") / "words", np.random.default_rng(0)
    texts = [draw.choice(WORDS, 8, replace=False).tolist() for _ in range(N)]
    documents = [Document(doc_id=f"d{n:02}", text=" ".join(text)) for n, text in enumerate(texts)]
    queries = [Query(query_id=f"q{n:02}", text=texts[n % N][0]) for n in range(2 * N)]
    qrels = [Qrel(query_id=f"q{n:02}", doc_id=f"d{n % N:02}", relevance=1) for n in range(2 * N)]
    write_beir(folder, documents=documents, queries=queries, qrels={"dev": qrels[:N], "test": qrels[N:]})
    thoughts = [
        Thought(
            query_id=query.query_id, thought_id=f"{query.query_id}#0", text=" ".join(texts[n % N][1:5]),
            source=Source(model="somebody", completion_tokens=4),
        )
        for n, query in enumerate(queries)
    ]  # fmt: skip
    return folder, thoughts


def test_a_calibration_and_its_confirmation_are_explored(collection, tmp_path):
    folder, thoughts = collection
    calibration = calibrate(
        None, GivenThoughts(thoughts), folder, search="bm25", out=tmp_path / "calibration.json",
        values=tmp_path / "values.json",
    )  # fmt: skip
    found = confirm(calibration, None, GivenThoughts(thoughts), folder, out=tmp_path / "test.json")
    assert calibration.mixture.weight > 0
    for name, base, after, collected in (
        ("test", found.rows[0], found.rows[1], folder),
        ("values", *load_confirmed(tmp_path / "values.json").rows[:2], None),
    ):
        shown = explore(tmp_path / f"{name}.json", tmp_path / f"{name}.html", collection=collected)
        gains = np.array(after.values) - base.values
        assert (shown.gained, shown.lost) == ((gains > 0).sum(), (gains < 0).sum())
        assert shown.gained > 0
        assert thoughts[-1 if name == "test" else 0].text in (tmp_path / f"{name}.html").read_text("utf-8")
    assert load_confirmed(tmp_path / "test.json").main().mean == found.rows[1].mean
    with pytest.raises(InputError, match="a calibration keeps means"):
        explore(tmp_path / "calibration.json", tmp_path / "c.html")
