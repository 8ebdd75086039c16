"""What is looked at before the first step of a training."""

import json
import pickle
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TrainingArguments

from o1_model import Embedder
from o1_model.training.arguments import DataArguments, ModelArguments
from o1_model.training.checks import (
    WITHOUT_EFFECT,
    check_batches,
    check_evaluation,
    check_examples,
    check_saving,
    check_starts,
    check_terms,
    lengths,
    place,
    refuse_settings,
    refuse_unsafe_files,
    spelt_control_tokens,
    table,
)
from o1_model.training.data import JointCollator
from o1_model.training.objective import Objective
from o1_model.training.train import train
from o1_records import Document, Example, InputError, Query, Source, Thought, read_jsonl, write_jsonl


def example(number=0, *, text="open a file", thought="zip", negatives=0, positives=1):
    query = Query(query_id=f"q{number}", text=text)
    own = Thought(query_id=query.query_id, thought_id="t", text=thought, source=Source(model="m"))
    return Example(
        query=query,
        thought=own if thought else None,
        positives=tuple(Document(doc_id=f"p{number}.{n}", text="open file") for n in range(positives)),
        negatives=tuple(Document(doc_id=f"n{number}.{n}", text="close file") for n in range(negatives)),
    )


def test_an_example_without_a_positive_is_named_with_its_line(tmp_path):
    path = tmp_path / "e.jsonl"
    write_jsonl(path, [example(1), example(2, positives=0)])
    lines = path.read_text().splitlines()
    path.write_text(f"\n{lines[0]}\n\n{lines[1]}\n")
    examples = list(read_jsonl(path, Example))
    with pytest.raises(InputError, match=r"e\.jsonl:4: query 'q2' has no positive document"):
        check_examples(examples, str(path), negatives=1, batch=4)
    assert place(None, 1) == "example 2"


def test_a_thought_of_another_query_is_refused_with_its_line(tmp_path):
    path = tmp_path / "e.jsonl"
    write_jsonl(path, [example(1), example(2)])
    path.write_text(path.read_text().replace('"thought":{"query_id":"q2"', '"thought":{"query_id":"q1"'))
    with pytest.raises(InputError, match=r"e\.jsonl:2: thought 't' belongs to query 'q1', not to 'q2'"):
        list(read_jsonl(path, Example))


def test_missing_negatives_are_counted():
    examples = [example(1, negatives=3), example(2, negatives=1), example(3)]
    said = check_examples(examples, None, negatives=3, batch=1)
    assert said == [
        "2 of 3 examples have fewer than the 3 negatives asked for (1 have none): "
        "their other negatives are the documents of the batch"
    ]
    assert check_examples(examples[:1], None, negatives=3, batch=1) == []


def test_nothing_to_tell_apart_is_refused():
    with pytest.raises(InputError, match=r"e\.jsonl: no example has a negative, and a batch of 1"):
        check_examples([example(1), example(2)], "e.jsonl", negatives=15, batch=1)
    with pytest.raises(InputError, match=r"e\.jsonl: holds no examples"):
        check_examples([], "e.jsonl", negatives=15, batch=1)


def test_examples_without_a_thought_are_counted():
    said = check_examples([example(1, thought=""), example(2)], None, negatives=0, batch=2)
    assert said == ["1 of 2 examples have no thought: they train only v_q"]


def test_lengths_tell_what_the_layout_cuts(llama):
    # 12 tokens of a query and of a thought, 192 of a document
    examples = [
        example(1, text="open " * 13, thought="zip " * 12),
        example(2, text="open " * 12, thought="", negatives=2),
    ]
    found = lengths(examples, llama.tokenizer, llama.layout, negatives=1)
    assert [(part.kind, part.texts, part.longest, part.limit, part.cut) for part in found] == [
        ("query", 2, 13, 12, 0.5),
        ("thought", 1, 12, 12, 0.0),
        ("document", 2, 2, 192, 0.0),
    ]
    assert table(found, 2).splitlines()[1].split() == ["query", "2", "12", "13", "12", "50.0%"]


def test_terms_without_their_data_are_refused_or_told():
    examples = [example(1, negatives=1), example(2, thought="")]
    assert check_terms(examples, None, Objective()) == []
    with pytest.raises(InputError, match=r"e\.jsonl: no example has a teacher score; leave out --teacher"):
        check_terms(examples, "e.jsonl", Objective(teacher="kl"))
    redapter = Objective(redapter_from=0)
    (said,) = check_terms(examples, None, redapter, layout="instruct")
    assert said == "1 of 2 examples have no reasoning query or thought, for --redapter_from"
    with pytest.raises(InputError, match="no example has a reasoning query or thought"):
        check_terms(examples[1:], None, redapter, layout="reference")


def test_redapter_of_two_read_outs_needs_a_thought():
    asked = msgspec.structs.replace(example(1, thought=""), reasoning_query="which module opens archives")
    redapter = Objective(redapter_from=0)
    assert check_terms([asked], None, redapter, layout="instruct") == []
    with pytest.raises(InputError, match=r"has a thought \(the layout o1 reads no reasoning query"):
        check_terms([asked], None, redapter, layout="o1")


def test_the_best_checkpoint_is_kept_by_a_figure_that_is_measured(tmp_path):
    def wanted(metric):
        return TrainingArguments(output_dir=str(tmp_path), use_cpu=True, metric_for_best_model=metric)

    check_evaluation(wanted(None), measured=[])
    check_evaluation(wanted("eval_nDCG@10"), measured=["nDCG@10"])
    with pytest.raises(InputError, match=r"by 'nDCG@10_thoughts': the evaluation measures nDCG@10$"):
        check_evaluation(wanted("nDCG@10_thoughts"), measured=["nDCG@10"])
    with pytest.raises(InputError, match="the evaluation needs eval_collection"):
        check_evaluation(wanted("nDCG@10"), measured=[])


def test_evaluation_needs_something_to_measure_on(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, eval_strategy="steps", eval_steps=1)
    check_evaluation(args, measured=["nDCG@10"])
    with pytest.raises(InputError, match="eval_strategy needs eval_collection"):
        check_evaluation(args, measured=[])


# what the Trainer reads, or ours: each has an effect here
HONOURED = [
    "output_dir", "per_device_train_batch_size", "num_train_epochs", "max_steps", "learning_rate",
    "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args", "weight_decay",
    "adam_beta1", "adam_beta2", "adam_epsilon", "optim_target_modules", "gradient_accumulation_steps",
    "max_grad_norm", "bf16", "fp16", "tf32", "activation_checkpointing", "activation_checkpointing_kwargs",
    "gradient_checkpointing", "gradient_checkpointing_kwargs", "logging_strategy", "logging_steps",
    "logging_first_step", "log_on_each_node", "log_level", "log_level_replica", "disable_tqdm", "report_to",
    "run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id",
    "eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "save_only_model", "save_strategy",
    "save_steps", "save_on_each_node", "save_total_limit", "enable_jit_checkpoint",
    "load_best_model_at_end", "metric_for_best_model", "greater_is_better", "ignore_data_skip",
    "restore_callback_states_from_checkpoint", "full_determinism", "seed", "data_seed", "use_cpu",
    "accelerator_config", "dataloader_drop_last", "dataloader_num_workers", "dataloader_pin_memory",
    "dataloader_persistent_workers", "dataloader_prefetch_factor", "dataloader_multiprocessing_context",
    "remove_unused_columns", "ddp_backend", "ddp_timeout", "fsdp", "fsdp_config", "deepspeed", "debug",
    "skip_memory_metrics", "do_eval", "local_rank",
]  # fmt: skip


def test_every_field_of_transformers_is_read_or_refused():
    known = [field.name for field in fields(TrainingArguments)]
    assert sorted([*HONOURED, *WITHOUT_EFFECT]) == sorted(known)


OTHER = {
    "label_smoothing_factor": 0.1, "neftune_noise_alpha": 5.0, "resume_from_checkpoint": "checkpoint-1",
    "liger_kernel_config": {"rope": True}, "torch_compile_backend": "eager", "torch_compile_mode": "default",
    "torch_empty_cache_steps": 3, "include_num_input_tokens_seen": "all", "per_device_eval_batch_size": 3,
    "eval_accumulation_steps": 2, "include_for_metrics": ["inputs"], "hub_token": "x", "hub_model_id": "a/b",
    "hub_strategy": "end", "hub_revision": "v1", "train_sampling_strategy": "group_by_length",
    "length_column_name": "tokens", "label_names": ["labels"], "ddp_bucket_cap_mb": 5,
}  # fmt: skip


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_a_setting_that_would_be_passed_over_is_refused(tmp_path, name):
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    refuse_settings(args)
    # transformers itself refuses or changes some of them; what counts is what it leaves
    setattr(args, name, OTHER.get(name, not getattr(args, name)))
    with pytest.raises(InputError, match=f"{name} would have no effect: .*; leave it out"):
        refuse_settings(args)


def test_batches_that_are_split_again_are_refused(tmp_path):
    split = {"accelerator_config": {"split_batches": True}}
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **split)
    with pytest.raises(InputError, match="split_batches and dispatch_batches would split batches again"):
        refuse_settings(args)


def test_a_place_to_report_to_that_is_not_installed_is_one_sentence(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=["wandb"])
    if find_spec("wandb") is None:
        with pytest.raises(InputError, match=r"report_to wandb: .*pip install wandb"):
            refuse_settings(args)
    args.report_to = ["nowhere"]
    with pytest.raises(InputError, match=r"report_to nowhere: .*nowhere is not supported"):
        refuse_settings(args)


def test_torchrun_on_cpus_that_do_not_see_each_other_is_refused(tmp_path, monkeypatch):
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"torchrun started 2 processes that do not see .*--use_cpu"):
        refuse_settings(args)


def test_documents_that_are_blank_or_share_an_id_are_counted():
    first, second = example(1, negatives=1), example(2, negatives=1)
    first = msgspec.structs.replace(first, negatives=(Document(doc_id="n", text=" "),))
    second = msgspec.structs.replace(second, positives=(Document(doc_id="p1.0", text="sort a list"),))
    assert check_examples([first, second], None, negatives=1, batch=2) == [
        "1 documents of examples are blank; they train as they are",
        "1 doc_ids have several texts (such as 'p1.0'): documents are told apart by their texts, "
        "not by their ids",
    ]
    blank = msgspec.structs.replace(first, positives=(Document(doc_id="n", text=" "),))
    with pytest.raises(InputError, match="example 1: the positives of query 'q1' are blank"):
        check_examples([blank], None, negatives=1, batch=2)


def test_batches_of_one_dataset_need_several():
    examples = [example(n) for n in range(3)]
    with pytest.raises(
        InputError, match="same_dataset would have no effect: all 3 examples are of no dataset"
    ):
        check_batches(examples, same_dataset=True)
    named = [msgspec.structs.replace(e, dataset="nq") for e in examples]
    with pytest.raises(InputError, match="all 3 examples are of the dataset 'nq'"):
        check_batches(named, same_dataset=True)
    sized = [msgspec.structs.replace(e, batch_size=n) for n, e in enumerate(examples, start=2)]
    assert check_batches(sized, same_dataset=True) == []
    (said,) = check_batches(sized, same_dataset=False)
    assert said == "3 examples have a batch_size, which only --same_dataset reads"


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(InputError, match="per_device_train_batch_size must be at least 1, got 0"):
        check_examples([example(1, negatives=1)], None, negatives=1, batch=0)


def test_a_resume_that_would_not_be_exact_is_told(tmp_path):
    objective = Objective(own_thoughts=0.5, own_thoughts_every=10)
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, save_steps=25)
    (said,) = check_saving(objective, args)
    assert said.startswith("save_steps 25 is not a multiple of own_thoughts_every 10")
    args.save_steps = 20
    assert check_saving(objective, args) == []
    assert (
        check_saving(Objective(), TrainingArguments(output_dir=str(tmp_path), use_cpu=True, save_steps=25))
        == []
    )


@pytest.mark.parametrize("name", ["redapter_from", "own_thoughts_from"])
def test_a_term_that_starts_after_the_last_step_is_refused_before_the_model_is_loaded(name, tmp_path):
    own = {"own_thoughts": 0.5} if name == "own_thoughts_from" else {}
    check_starts(Objective(**own, **{name: 2}), steps=3)
    # 12 examples in batches of 4, two a step: 2 steps an epoch, the second of one batch
    epochs = {"num_train_epochs": 1.5, "gradient_accumulation_steps": 2, "save_strategy": "no"}
    with pytest.raises(InputError, match=f"^{name} 3 would have no effect: the training has 3 steps, "):
        train(
            ModelArguments(str(tmp_path / "no-model")),
            DataArguments("none", negatives=0),
            TrainingArguments(str(tmp_path / "out"), per_device_train_batch_size=4, use_cpu=True, **epochs),
            objective=Objective(**own, **{name: 3}),
            examples=[example(number, text=f"open file {number}") for number in range(12)],
        )


PIECES = [
    "<emb>",
    "<thought>",
    "<query>",
    "<doc>",
    "[SEP]",
    "[CLS]",
    "[PAD]",
    "<|im_start|>",
    "open",
    " ",
    "\n",
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@pytest.fixture(scope="module")
def collator(plain_models):
    embedder = Embedder.from_backbone(plain_models["llama"], query_length=12, thought_length=12)
    return JointCollator(tokenizer=embedder.tokenizer, layout=embedder.layout, negatives=1)


@settings(max_examples=30)
@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_no_control_token_comes_from_a_text(collator, query, instruction, thought, document):
    layout = collator.layout
    texts = Example(
        query=Query(query_id="q", text=query, instruction=instruction),
        thought=Thought(query_id="q", thought_id="t", text=f"x{thought}", source=Source(model="m")),
        positives=(Document(doc_id="d", text=document, title=instruction),),
    )
    batch = collator([texts])["batch"]
    special = {*layout.control_ids, *collator.tokenizer.all_special_ids} - {collator.tokenizer.unk_token_id}
    (row,) = [part.input_ids[0].tolist() for part in batch.queries]
    controls = [layout.bos, layout.query, layout.emb, layout.thought, layout.eos, layout.emb]
    assert [token for token in row if token in special] == controls
    (row,) = [part.input_ids[0].tolist() for part in batch.documents]
    assert [token for token in row if token in special] == [layout.bos, layout.doc, layout.emb]


def test_texts_that_spell_control_tokens_are_told(llama):
    examples = [example(1, text="what is <emb> ?"), example(2)]
    (said,) = spelt_control_tokens(examples, llama.tokenizer, llama.layout)
    assert said.startswith("1 texts spell <query> or <emb> or <thought> or <doc>: they are read as ordinary")
    assert spelt_control_tokens(examples[1:], llama.tokenizer, llama.layout) == []


class Canary:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.write_text, (self.path, "the pickle ran"))


def test_a_pickle_instead_of_safetensors_never_runs(tmp_path, plain_models):
    canary = tmp_path / "canary"
    folder = copied(plain_models["llama"], tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(InputError, match=r"pytorch_model\.bin: is a pickle, which can run code"):
        refuse_unsafe_files(folder)
    with pytest.raises(InputError, match="cannot be loaded as a causal language model"):
        Embedder.from_backbone(folder)
    assert not canary.exists()
    pickle.loads((folder / "pytorch_model.bin").read_bytes())  # noqa: S301
    assert canary.exists(), "the canary itself must work"


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_models_own_code_never_runs(tmp_path, plain_models, file):
    canary = tmp_path / "canary"
    folder = copied(plain_models["llama"], tmp_path / "model")
    (folder / "own.py").write_text(f"open({str(canary)!r}, 'w').write('ran')\nclass Own: pass\n")
    content = json.loads((folder / file).read_text())
    if file == "config.json":
        content |= {
            "model_type": "own",
            "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"},
        }
    else:
        content |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"cannot be loaded as a .* without its own code"):
        Embedder.from_backbone(folder)
    if file == "config.json":
        with pytest.raises(InputError, match=r"config\.json: auto_map .* which this package never runs"):
            refuse_unsafe_files(folder)
    assert not canary.exists()


def test_one_process_with_several_gpus_is_refused(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    refuse_settings(args)
    args._n_gpu = 2
    with pytest.raises(InputError, match="2 GPUs; start one process for each with torchrun"):
        refuse_settings(args)


def copied(source, target):
    target.mkdir()
    for path in Path(source).iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target
