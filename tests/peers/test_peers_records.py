"""Files that we write, as their real readers load them: BEIR's, FlagEmbedding's, datasets', a trainer's."""

import json

import pytest
from beir.datasets.data_loader import GenericDataLoader
from datasets import load_dataset
from FlagEmbedding.abc.finetune.embedder import AbsEmbedderDataArguments
from FlagEmbedding.abc.finetune.embedder.AbsDataset import AbsEmbedderTrainDataset
from msgspec import structs

from o1_records import (
    Document,
    Example,
    InputWarning,
    Qrel,
    Query,
    Source,
    Thought,
    beir,
    flagembedding,
    tevatron,
    triplets,
    write_jsonl,
)
from o1_records.__main__ import main

pytestmark = pytest.mark.peers


def document(name, text=""):
    return Document(doc_id=name, text=text or f"text {name}")


def thought(query_id):
    return Thought(query_id=query_id, thought_id="t", text=f"about {query_id}", source=Source(model="m"))


# the first row lacks what later ones have, from which `datasets` takes its columns
PLAIN = [
    Example(query=Query(query_id=f"a{n}", text=f"plain {n}"), positives=(document(f"p{n}"),))
    for n in range(3)
]
RICH = [
    Example(
        query=Query(query_id=f"b{n}", text=f"rich {n}", instruction="Find it."),
        positives=(document(f"q{n}"), Document(doc_id=f"r{n}", text="text", title=f"title {n}")),
        negatives=tuple(document(f"n{n}{k}") for k in range(1 + n)),
        teacher_scores=tuple(float(k) for k in range(3 + n)),
        thought=thought(f"b{n}"),
        dataset="rich",
        group_size=2,
        batch_size=4,
    )
    for n in range(3)
]
EXAMPLES = [*PLAIN, *RICH]


@pytest.fixture
def loaded(tmp_path):
    """Loads a file as `datasets` does, which takes the columns from its first 10 MB."""

    def load(path, kind="json"):
        cache = str(tmp_path / "cache")
        return load_dataset(kind, data_files=str(path), split="train", cache_dir=cache)

    return load


def test_beir_loads_what_write_beir_writes(tmp_path):
    documents = [
        document("d1"),
        Document(doc_id="d2", text="two", title="a title"),
        document("7", "ünï\u2028code"),
    ]
    queries = [Query(query_id="q1", text="one"), Query(query_id="q2", text="two")]
    qrels = {
        "test": [Qrel(query_id="q1", doc_id="d2", relevance=2), Qrel(query_id="q1", doc_id="7", relevance=0)]
    }
    beir.write_beir(tmp_path, documents=documents, queries=queries, qrels=qrels)
    corpus, asked, judged = GenericDataLoader(str(tmp_path)).load(split="test")
    assert corpus == {d.doc_id: {"text": d.text, "title": d.title} for d in documents}
    assert asked == {"q1": "one"}
    assert judged == {"q1": {"d2": 2, "7": 0}}


def test_flagembedding_loads_and_draws_from_rows_of_different_fields(tmp_path):
    flagembedding.write(tmp_path / "rows.jsonl", RICH)
    arguments = AbsEmbedderDataArguments(
        train_data=[str(tmp_path / "rows.jsonl")], cache_path=str(tmp_path / "cache"), train_group_size=3,
        query_instruction_for_retrieval="", query_instruction_format="{}{}", knowledge_distillation=True,
    )  # fmt: skip
    dataset = AbsEmbedderTrainDataset(arguments, None)
    assert len(dataset) == 3
    for place, example in enumerate(RICH):
        query, passages, scores = dataset[place]
        assert query == f"Find it.{example.query.text}"
        known = {d.full_text: s for d, s in zip(
            (*example.positives, *example.negatives), example.teacher_scores, strict=True
        )}  # fmt: skip
        assert len(passages) == 3
        assert all(known[text] == score for text, score in zip(passages, scores, strict=True))


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "parquet"])
@pytest.mark.parametrize("kind", [flagembedding, tevatron])
def test_datasets_loads_rows_of_different_fields_whichever_come_first(tmp_path, loaded, kind, suffix):
    told = EXAMPLES
    if kind is tevatron:  # it has no place for an instruction, and refuses one
        told = [structs.replace(e, query=structs.replace(e.query, instruction="")) for e in EXAMPLES]
    kind.write(tmp_path / f"rows.{suffix}", told)
    rows = loaded(tmp_path / f"rows.{suffix}", "parquet" if suffix == "parquet" else "json")
    assert len(rows) == len(EXAMPLES)
    if kind is flagembedding:
        assert [row["query"] for row in rows] == [example.query.text for example in EXAMPLES]
        assert [row["pos"] for row in rows] == [[d.full_text for d in e.positives] for e in EXAMPLES]
        assert [row["prompt"] for row in rows] == [e.query.instruction for e in EXAMPLES]
    else:
        assert [row["query_id"] for row in rows] == [example.query.query_id for example in EXAMPLES]
        assert [len(row["negative_passages"] or []) for row in rows] == [len(e.negatives) for e in EXAMPLES]


def late(count):
    """Examples of more than 10 MB, of which only the last has negatives, scores, a group size, a thought."""
    for n in range(count):
        rich = n == count - 1
        yield Example(
            query=Query(query_id=f"q{n}", text=f"{n} " + "x" * 4000),
            positives=(document(f"p{n}"),),
            negatives=(document(f"n{n}"),) if rich else (),
            teacher_scores=(1.0, 0.5) if rich else (),
            group_size=2 if rich else None,
            thought=thought(f"q{n}") if rich else None,
        )


@pytest.mark.filterwarnings("ignore::o1_records.InputWarning")
@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "parquet"])
@pytest.mark.parametrize("kind", [flagembedding, tevatron])
def test_datasets_loads_rows_of_which_the_first_10_mb_are_empty_lists(tmp_path, loaded, kind, suffix):
    kind.write(tmp_path / f"rows.{suffix}", late(3000))
    rows = loaded(tmp_path / f"rows.{suffix}", "parquet" if suffix == "parquet" else "json")
    assert len(rows) == 3000
    column = "neg" if kind is flagembedding else "negative_passages"
    named = "query" if kind is flagembedding else "query_id"
    found = [row[named].removeprefix("q").split()[0] for row in rows if row[column]]
    assert found == ["2999"]


def test_datasets_loads_our_own_records_from_parquet_whichever_come_first(tmp_path, loaded):
    """JSONL has no types; Parquet has those of the records."""
    write_jsonl(tmp_path / "e.jsonl", late(3000))
    command = ["convert", "--type", "example", str(tmp_path / "e.jsonl"), str(tmp_path / "e.parquet")]
    assert main(command) == 0
    rows = loaded(tmp_path / "e.parquet", "parquet")
    assert [row["query"]["query_id"] for row in rows] == [f"q{n}" for n in range(3000)]
    assert rows[2999]["negatives"][0]["doc_id"] == "n2999"
    assert rows[2999]["thought"]["text"] == "about q2999"
    assert (rows[0]["negatives"], rows[0]["thought"]) == ([], None)


def test_triplets_and_pairs_train_a_model(tmp_path, loaded):
    """sentence-transformers reads columns by their place, and all rows need the same."""
    import torch
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import ContrastiveLoss, MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", "rich", "text", "title", *(str(n) for n in range(9))]
    tokenizer = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with pytest.warns(InputWarning, match="left out 1 examples with fewer than 2 negatives"):
        triplets.write(tmp_path / "t.jsonl", RICH, negatives=2)
    with pytest.warns(InputWarning, match="a file of pairs has no place for it: thought"):
        triplets.write_pairs(tmp_path / "p.jsonl", EXAMPLES)
    rows = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert {tuple(row) for row in rows} == {("anchor", "positive", "negative_1", "negative_2", "scores")}
    for path, loss in (("t.jsonl", MultipleNegativesRankingLoss), ("p.jsonl", ContrastiveLoss)):
        data = loaded(tmp_path / path)
        data = data.remove_columns("scores") if "scores" in data.column_names else data
        torch.manual_seed(0)
        embedding = StaticEmbedding(tokenizer, embedding_weights=torch.randn(len(words), 8).numpy())
        model = SentenceTransformer(modules=[embedding], device="cpu")
        before = embedding.embedding.weight.detach().clone()
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path / "out"), max_steps=2, per_device_train_batch_size=2, report_to=[],
            use_cpu=True, disable_tqdm=True, save_strategy="no",
        )  # fmt: skip
        SentenceTransformerTrainer(model, arguments, train_dataset=data, loss=loss(model)).train()
        assert not torch.equal(before, embedding.embedding.weight.detach())
