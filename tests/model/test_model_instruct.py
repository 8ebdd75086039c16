"""Instruct models that think: asked through their own chat template, stopped, kept from what is avoided."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.openai_server import openai_server
from helpers.tiny import CHAT_TEMPLATE, byte_tokenizer, save_chat_model, save_model
from o1_model import Thinking
from o1_model.retriever.instruct import Instruct, tokens_with
from o1_model.retriever.thinker import style_name, style_of
from o1_model.retriever.thinkers import ChatServer, CheckpointThinker, GivenThoughts, open_thinker
from o1_records import InputError, Query, Source, Thought
from o1_records.styles import QUERY_STYLES, Style

QUERIES = [Query(query_id=f"q{n}", text=text) for n, text in enumerate(["open a zip", "sort", "read it all"])]
PLAIN = Style(instruction="Say more about {text}", max_tokens=12)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    return save_chat_model(tmp_path_factory.mktemp("chat") / "tiny-chat")


@pytest.fixture(scope="module")
def reference(chat_model):
    lm = AutoModelForCausalLM.from_pretrained(chat_model)
    return lm.eval(), AutoTokenizer.from_pretrained(chat_model)


def generated(reference, text, style, **how):
    """What transformers itself writes."""
    lm, tokenizer = reference
    messages = [{"role": "user", "content": style.ask(text)}]
    prompt = (
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) + style.prefix
    )
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    out = lm.generate(**ids, do_sample=False, max_new_tokens=style.max_tokens, pad_token_id=256, **how)
    return [token for token in out[0, ids["input_ids"].shape[1] :].tolist() if token != 256]


def test_greedy_thoughts_are_those_that_transformers_writes(chat_model, reference):
    thinker = Instruct(chat_model, PLAIN, device="cpu")
    own = thinker.think(QUERIES, thinker.usual)
    for query, thoughts in zip(QUERIES, own, strict=True):
        expected = generated(reference, query.text, PLAIN)
        assert [list(each.token_ids) for each in thoughts] == [expected]
        assert thoughts[0].thought_id == f"{query.query_id}#0"
        assert thoughts[0].source.completion_tokens == len(expected)
        assert thoughts[0].source.model == "tiny-chat"
    alone = [thinker.think([query], thinker.usual)[0] for query in QUERIES]
    assert alone == own  # whatever else is in the batch
    assert (thinker.tokens > 0, thinker.seconds > 0) == (True, True)


def test_thoughts_are_heard_while_they_are_written(chat_model):
    thinker = Instruct(chat_model, PLAIN, device="cpu")
    thinking = Thinking(samples=2, max_tokens=12, temperature=3.0, seed=1)
    heard = {0: [], 1: []}
    own = thinker.think_aloud(QUERIES[0], thinking, lambda sample, text: heard[sample].append(text))
    assert own == thinker.think(QUERIES[:1], thinking)[0]
    for sample, thought in enumerate(own):
        assert len(heard[sample]) > 3
        whole = [text for text in heard[sample] if thought.text.startswith(text)]
        assert whole == heard[sample]  # no half of a character


def test_what_a_style_avoids_is_never_written(chat_model, reference):
    free = Instruct(chat_model, PLAIN, device="cpu")
    said = {chr(token) for own in free.think(QUERIES, free.usual) for each in own for token in each.token_ids}
    letters = tuple(sorted(letter for letter in said if letter.isascii() and letter.isprintable()))[:3]
    style = Style(instruction=PLAIN.instruction, max_tokens=12, avoid=letters)
    held = free.asking(style)
    banned = tokens_with(held.tokenizer, letters)
    own = held.think(QUERIES, held.usual)
    assert not {token for each in own for t in each for token in t.token_ids} & set(banned)
    for query, thoughts in zip(QUERIES, own, strict=True):
        expected = generated(reference, query.text, style, suppress_tokens=banned)
        assert [list(each.token_ids) for each in thoughts] == [expected]
    # the model is the same one, and the other style is as it was
    assert held._lm is free._lm
    assert free.fingerprint != held.fingerprint


def test_an_answer_that_is_begun_ends_at_its_stop(chat_model):
    plain = Instruct(chat_model, PLAIN, device="cpu")
    begun = Style(instruction=PLAIN.instruction, prefix="so: ", max_tokens=12)
    text = (
        plain.asking(begun).think(QUERIES[:1], Thinking(samples=1, max_tokens=12, temperature=0))[0][0].text
    )
    stop = text[4]
    stopped = plain.asking(Style(instruction=PLAIN.instruction, prefix="so: ", stop=(stop,), max_tokens=12))
    own = stopped.think(QUERIES[:1], stopped.usual)[0]
    assert own[0].text == text[: text.index(stop)].strip()
    assert own[0].source.finish_reason == "stop"
    assert len(own[0].token_ids) < 12


def test_samples_differ_and_depend_on_the_seed_alone(chat_model):
    thinker = Instruct(chat_model, PLAIN, device="cpu")
    hot = Thinking(samples=3, max_tokens=12, temperature=1.0, seed=5)
    own = thinker.think(QUERIES, hot)
    assert len({each.text for each in own[0]}) > 1
    assert thinker.think(QUERIES[::-1], hot)[::-1] == own
    other = Thinking(samples=3, max_tokens=12, temperature=1.0, seed=6)
    assert thinker.think(QUERIES, other) != own


def test_a_shorter_thought_is_the_beginning_of_a_longer_one(chat_model):
    thinker = Instruct(chat_model, PLAIN, device="cpu")
    long = thinker.think(QUERIES, Thinking(samples=2, max_tokens=12, temperature=1.0))
    short = thinker.think(QUERIES, Thinking(samples=2, max_tokens=5, temperature=1.0))
    for a, b in zip(long, short, strict=True):
        assert [each.token_ids[:5] for each in a] == [each.token_ids for each in b]
        assert [thinker.text(each.token_ids[:5]) for each in a] == [each.text for each in b]


def test_a_chat_server_is_asked_once_for_equal_queries():
    with openai_server(chat=lambda body: f"about {body['messages'][0]['content'].split()[-1]}") as server:
        thinker = open_thinker(f"{server.url}#big", PLAIN)
        assert isinstance(thinker, ChatServer)
        twice = [*QUERIES, Query(query_id="again", text="sort")]
        own = thinker.think(twice, thinker.usual)
    assert [each.text for thoughts in own for each in thoughts] == [
        "about zip",
        "about sort",
        "about all",
        "about sort",
    ]
    assert own[3][0].query_id == "again"
    assert len(server.asked) == 3
    assert {body["max_tokens"] for body in server.asked} == {12}
    assert own[0][0].source.completion_tokens == 2


def test_thoughts_of_a_file_are_found_by_what_the_query_asks():
    source = Source(model="somebody")
    given = [Thought(query_id="q0", thought_id="q0#0", text="a", source=source)]
    thinker = GivenThoughts(given, queries=QUERIES)
    same = Query(query_id="other", text="open a zip")
    own = thinker.think([QUERIES[0], same, QUERIES[1]], thinker.usual)
    assert [[each.text for each in thoughts] for thoughts in own] == [["a"], ["a"], []]
    assert own[1][0].query_id == "other"


def test_the_thinker_that_is_meant_is_opened(chat_model, llama, tmp_path):
    assert isinstance(open_thinker(chat_model, "snippet", device="cpu"), Instruct)
    assert isinstance(open_thinker(llama), CheckpointThinker)
    for name, style, how, complaint in [
        (chat_model, None, {}, "say what the instruct model is asked for: style, one of snippet"),
        (chat_model, "poem", {}, "unknown style 'poem'; choose one of"),
        (chat_model, "snippet", {"concurrency": 3}, "leave it out"),
        ("http://localhost:1/v1", "snippet", {}, "name the model behind the address"),
        (llama, "snippet", {}, "has a style of its own|opened already"),
        (tmp_path / "nothing", "snippet", {}, "neither a folder nor a model id"),
    ]:
        with pytest.raises(InputError, match=complaint):
            open_thinker(name, style, **how)
    assert style_of("snippet") is QUERY_STYLES["snippet"]
    assert (style_name(QUERY_STYLES["snippet"]), style_name(PLAIN)[:7]) == ("snippet", "sha256:")


def test_a_prompt_that_does_not_fit_is_refused(chat_model, tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    short = save_model(tmp_path / "short", "qwen2", tokenizer=tokenizer, max_position_embeddings=48)
    thinker = Instruct(short, PLAIN, device="cpu")
    with pytest.raises(InputError, match="but short takes 48"):
        thinker.think([Query(query_id="long", text="x" * 60)], thinker.usual)


def test_the_dtype_is_part_of_what_a_thought_is(chat_model):
    plain = Instruct(chat_model, PLAIN, device="cpu")
    half = Instruct(chat_model, PLAIN, device="cpu", dtype=torch.bfloat16)
    assert plain.fingerprint["dtype"] == "float32"
    assert half.fingerprint["dtype"] == "bfloat16"
    assert np.array_equal([len(own) for own in half.think(QUERIES, half.usual)], [1, 1, 1])
