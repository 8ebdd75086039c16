"""The how-to pages about LangChain and LlamaIndex run, and their vectors are those of the library."""

from pathlib import Path

import numpy as np
import pytest

from helpers.documents import follow
from helpers.served import running
from helpers.tiny import byte_tokenizer, save_model, save_sentence_model
from o1_model import Embedder, Thinking
from o1_model.retriever.calibration import Calibration
from o1_model.retriever.embedders import open_embedder
from o1_model.retriever.identity import digest_of
from o1_model.retriever.thinkers import open_thinker
from o1_records.mixture import Mixture
from o1_records.styles import QUERY_STYLES

pytestmark = pytest.mark.peers

PAGES = Path(__file__).parents[2] / "docs" / "how-to"
QUERY = "open a zip file"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the pages name, and what stands under the names of big models."""
    folder = tmp_path_factory.mktemp("page")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    thinker = save_model(folder / "chat", "qwen2", tokenizer=tokenizer)
    embedder = save_sentence_model(folder, ["open", "a", "zip", "file", "path", "rename", "new"])
    Embedder.from_backbone(save_model(folder / "plain")).save_pretrained(folder / "retriever")
    style = QUERY_STYLES["snippet"]
    opened, thinks = open_embedder(embedder, device="cpu"), open_thinker(thinker, style, device="cpu")
    Calibration(
        embedder=opened.name, embedder_digest=digest_of(opened.fingerprint),
        thinker=thinks.name, thinker_digest=digest_of(thinks.fingerprint),
        style=style, thinking=Thinking(samples=1, max_tokens=12, temperature=0), mixture=Mixture(weight=0.5),
        collection="none", split="dev", queries=1, documents=1, base=0, gains={}, controls={}, by_weight={},
        shares=[], tokens=0, ms_thinking=0, ms_embedding=0, why="made up",
    ).save(folder / "calibration.json")  # fmt: skip
    small = {
        "sentence-transformers/all-MiniLM-L6-v2": embedder,
        "Qwen/Qwen2.5-Coder-1.5B-Instruct": thinker,
        'from_pretrained("retriever")': 'from_pretrained("retriever", device="cpu")',
    }
    return folder, small


@pytest.fixture(scope="module")
def followed(place):
    """Follow a page beside its server; gives the names that it defined."""
    folder, small = place
    model = Embedder.from_pretrained(folder / "retriever", device="cpu")
    address, stop = running(model, names=("retriever",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield lambda name: follow(PAGES / f"{name}.md", folder, {**small, "http://127.0.0.1:8080": address})
    stop()


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5)


def mixes(retriever):
    """Thoughts change the query's vector, so that what is compared below is a mixture."""
    plain = retriever.encode_query(QUERY, thoughts=[])
    return retriever.mixture.weight == 0.5 and np.abs(retriever.encode_query(QUERY) - plain).max() > 1e-3


def test_the_page_about_langchain(followed):
    page = followed("langchain")
    retriever, checkpoint = page["retriever"], page["checkpoint"]
    assert mixes(retriever)
    close(page["embeddings"].embed_query(QUERY), retriever.encode_query(QUERY))
    assert page["found"][0].page_content in (
        "with zipfile.ZipFile(path) as archive: ...",
        "os.rename(old, new)",
    )
    thinking = checkpoint.encode_query(QUERY, think=Thinking(samples=3))
    close(page["thinking"].embed_query(QUERY), thinking)
    close(page["queries"].embed_query(QUERY), thinking)
    close(page["both"].embed_query(QUERY), thinking)
    for each in ("documents", "both", "thinking"):
        close(page[each].embed_documents([QUERY]), checkpoint.encode_document([QUERY]))


def test_the_page_about_llamaindex(followed):
    page = followed("llamaindex")
    retriever, checkpoint = page["retriever"], page["checkpoint"]
    assert mixes(retriever)
    close(page["embedding"].get_query_embedding(QUERY), retriever.encode_query(QUERY))
    scores = retriever.encode_document(page["texts"]) @ retriever.encode_query(QUERY)
    assert page["found"][0].score == pytest.approx(scores.max(), abs=1e-5)
    thinking = checkpoint.encode_query(QUERY, think=Thinking(samples=3))
    close(page["thinking"].get_query_embedding(QUERY), thinking)
    close(page["queries"].get_query_embedding(QUERY), thinking)
    close(page["documents"].get_text_embedding(QUERY), checkpoint.encode_document(QUERY))
    scores = checkpoint.encode_document(page["texts"]) @ thinking
    assert page["asked"][0].score == pytest.approx(scores.max(), abs=1e-5)
