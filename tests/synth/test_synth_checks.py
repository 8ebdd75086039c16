"""What is no thought is found, and what is one is left alone."""

from __future__ import annotations

import contextlib
import string
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o1_records import InputError, Query, Thought, read_jsonl
from o1_synth import ChatExpert, Checks, Job, Prompt, Retry, think
from o1_synth.checks import Known, Siblings, _scripts, is_echo, is_loop, is_other_script, is_scaffold, leaks
from o1_synth.job.draw import Failure
from o1_synth.refusal import is_refusal
from o1_synth.template import read_template

QUERY = "why does the sky look blue during the day"
THOUGHT = (
    "Sunlight is scattered by the molecules of the air, and short waves much more than long ones "
    "(Rayleigh scattering, with the fourth power of the frequency). So blue light reaches the eye "
    "from all directions, while red light goes straight on; at dusk the path is longer."
)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, I cannot assist with this request.",
        "Sorry, but I can't answer this.",
        "I cannot provide medical advice.",
        "As an AI language model, I do not have opinions.",
        "I am unable to answer.",
        "As an AI developed by a company and trained on text, I do not support any party.",
        "I'm Qwen, an AI designed by Alibaba Cloud.",
        "Such a text goes against our content policy.",
    ],
)
def test_refusals_are_known(text):
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        THOUGHT,
        "Sorry is a Justin Bieber song.",
        "I can see two ways to do it.",
        "I am a physicist's tool.",
        "BERT is pretrained as a language model and then fine-tuned on question answering data.",
        "GPT-2 is just a language model.",
        "Use it as a chatbot and connect it to Slack with a webhook.",
        "The app works as an assistant made by Google and runs offline.",
        "Selling alcohol near schools violates zoning guidelines in most states, and fines follow.",
        "Scraping the site goes against its terms of service.",
    ],
)
def test_what_only_begins_alike_is_no_refusal(text):
    assert not is_refusal(text)


def test_the_query_said_again_is_an_echo_and_one_new_idea_is_not():
    assert is_echo(QUERY, "Why does the sky look BLUE, during the day?")
    assert is_echo(QUERY, "the sky the sky the day")
    assert not is_echo(QUERY, "the sky looks blue because of Rayleigh scattering")
    assert not is_echo(QUERY, THOUGHT)


def test_half_a_passage_copied_is_a_leak():
    words = [f"word{n}" for n in range(40)]
    passage = " ".join(words)
    assert leaks(passage, f"I think: {passage}!")
    assert leaks(passage, " ".join(words[:30]).upper())
    ours = " ".join(f"other{n}" for n in range(40))
    assert not leaks(passage, f"{ours} {' '.join(words[:15])}")
    assert not leaks("blue sky", "blue sky")


def test_a_text_of_which_half_is_a_passage_is_a_leak_however_long_the_passage_is():
    words = [f"word{n}" for n in range(400)]
    passage = " ".join(words)
    assert leaks(passage, " ".join(words[100:130]))
    assert leaks(passage, " ".join(words[100:130]) + " and so on, as said")
    assert not leaks(passage, " ".join(words[100:110]) + " " + " ".join(f"other{n}" for n in range(30)))
    query = " ".join(words[100:130])
    assert not leaks(passage, query, query), "what the query says itself is no secret"


def test_an_answer_may_take_up_the_words_of_an_instruction():
    template = read_template("reason")
    said = "1. The essential problem of the query is which waves scatter. 2. A document must say why."
    assert not is_scaffold(template.frame(), template.labels, said, QUERY)
    said = "1. Say in one sentence what the essential problem of the query is. It is scattering."
    assert is_scaffold(template.frame(), template.labels, said, QUERY)


@pytest.mark.parametrize("line", ["\n", "1 2 3 4 5 6 7 8\n", "::: ", "I can't I'm sorry, so "])
def test_no_text_keeps_a_check_busy(line):
    text, prompt = line * (200_000 // len(line)), Prompt()
    began = time.process_time()
    Checks(prompt=prompt).fault(Query(query_id="q", text=QUERY), text, "stop")
    assert time.process_time() - began < 2


def test_loops_are_known_wherever_they_begin():
    assert is_loop("and then " * 200)
    assert is_loop(THOUGHT + " the sky is blue." * 40)
    assert is_loop("哈" * 300)
    assert not is_loop(THOUGHT)
    assert not is_loop("blue, " * 5)


def test_another_script_than_the_querys_is_known_and_foreign_names_are_not():
    assert is_other_script(QUERY, "天空之所以呈现蓝色是因为空气分子散射短波长的光比长波长的光更多")
    assert is_other_script("почему небо голубое", THOUGHT)
    assert not is_other_script(QUERY, THOUGHT + " In Greek: ουρανός.")
    assert not is_other_script(
        "空はなぜ青い", "空気の分子が短い波長の光をより強く散乱するため、青い光が見える"
    )
    assert not is_other_script("1 + 1 = ?", "две единицы вместе дают двойку, это простая арифметика")


@given(st.text(string.ascii_letters + string.digits + " .,", max_size=60))
def test_the_short_way_for_ascii_counts_the_same_scripts(text):
    assert +_scripts(text) == +(_scripts(f"{text}é") - Counter(LATIN=1))


@given(st.text(max_size=80), st.text(max_size=80))
def test_near_copies_are_symmetric_and_reflexive(one, other):
    assert not Known([one]).add(one)
    assert Known([one]).add(other) == Known([other]).add(one)


def test_a_check_nobody_has_is_named():
    with pytest.raises(InputError, match="unknown checks 'spelling'; there are refusal, "):
        Checks(names=("spelling",))


def test_siblings_forget_a_query_when_its_last_sample_ended_and_another_began():
    loaded = []
    siblings = Siblings(lambda query_id: loaded.append(query_id) or ["kept before now"])
    for number in range(100):
        with contextlib.ExitStack() as requests:
            first, second, third = (requests.enter_context(siblings.of(f"q{number}")) for _ in range(3))
            assert not first.add("kept before now")
            assert second.add("something new entirely")
            assert not third.add("Something new, entirely!")
    assert loaded == [f"q{number}" for number in range(100)]
    assert list(siblings._known) == ["q99"] and len(siblings._running) == 1


QUERIES = [Query(query_id=f"q{n}", text=f"how does number {n} work") for n in range(4)]
BAD = {
    "refusal": "I'm sorry, but I can't help with that.",
    "echo": "How does number 1 work?",
    "loop": "round and round " * 60,
    "language": "это совсем другой язык, на котором никто не спрашивал",
    "leak": "secret " + " ".join(f"gold{n}" for n in range(30)),
}


def run(server, out, checks=None, **job):
    expert = ChatExpert(server.base_url, "echo", retry=Retry(pause=0.01))
    passages = lambda query: [" ".join(f"gold{n}" for n in range(30))]  # noqa: E731
    checks = checks or Checks(names=(*Checks.names, "refusal"), passages=passages)
    return think(QUERIES, expert, out=out, samples=2, job=Job(checks=checks, **job))


@pytest.mark.parametrize("fault", BAD)
def test_what_fails_a_check_is_drawn_again_with_another_seed(serve, tmp_path, fault):
    def say(request, text):
        first = sum(r["messages"] == request["messages"] for r in server.requests) <= 2
        said = f"{BAD[fault]} {request['seed']}"
        return said if first and "number 1 " in text else f"{THOUGHT} {request['seed']} {text}"

    server = serve(say=say)
    summary = run(server, tmp_path / "t.jsonl", checks=None)
    assert summary.failed == 0
    texts = [thought.text for thought in read_jsonl(tmp_path / "t.jsonl", Thought)]
    assert not any(text.startswith(BAD[fault]) for text in texts)
    assert len({request["seed"] for request in server.requests}) == len(server.requests)


@pytest.mark.parametrize("fault", BAD)
def test_what_goes_on_failing_a_check_is_a_typed_failure_and_never_a_thought(serve, tmp_path, fault):
    checks = Checks(
        names=("refusal", "echo", "loop", "language", "leak"),
        passages=lambda query: [" ".join(f"gold{n}" for n in range(30))],
    )

    def say(request, text):
        return f"{BAD[fault] if 'number 1 ' in text else THOUGHT} {request['seed']}"

    server = serve(say=say)
    summary = run(server, tmp_path / "t.jsonl", checks, redraws=1)
    assert summary.failures == {fault: 2}
    failures = list(read_jsonl(summary.failures_path, Failure))
    assert [(failure.query_id, failure.sample, failure.reason) for failure in failures] == [
        ("q1", 0, fault),
        ("q1", 1, fault),
    ]
    assert {thought.query_id for thought in read_jsonl(tmp_path / "t.jsonl", Thought)} == {"q0", "q2", "q3"}
    assert len(server.requests) == 6 + 4


def test_near_copies_are_drawn_again_a_bounded_number_of_times_and_are_then_exhausted(serve, tmp_path):
    server = serve(say=lambda request, text: f"{THOUGHT} {text} {request['seed']}")
    summary = run(server, tmp_path / "t.jsonl", redraws=2)
    assert (summary.thoughts, summary.exhausted, summary.failed) == (4, 4, 0)
    assert len(server.requests) == 4 + 4 * 3
    again = run(server, tmp_path / "t.jsonl")
    assert again.asked == 0


def test_a_near_copy_of_a_thought_of_an_earlier_run_is_known(serve, tmp_path):
    server = serve(say=lambda request, text: f"{THOUGHT} {text} {request['seed']}")
    expert = ChatExpert(server.base_url, "echo")
    out = tmp_path / "t.jsonl"
    assert think(QUERIES, expert, out=out, samples=1, job=Job(checks=Checks())).thoughts == 4
    more = think(QUERIES, expert, out=out, samples=2, job=Job(checks=Checks(), redraws=0))
    assert (more.thoughts, more.exhausted) == (4, 4)


def test_a_thought_cut_by_max_tokens_is_kept_unless_refused():
    query = QUERIES[0]
    assert Checks().fault(query, THOUGHT, "length") is None
    assert Checks(names=("truncated",)).fault(query, THOUGHT, "length") == "truncated"
    assert Checks(names=()).fault(query, BAD["loop"], "stop") is None
