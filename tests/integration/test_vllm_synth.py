"""o1-synth with vLLM in its own process, on the CPU (nox -s vllm): killed, interrupted, resumed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from o1_records import InputError, Query, Thought, read_jsonl, write_jsonl
from o1_synth import NoThought, Prompt, Reason, Sampling, Summary, think
from o1_synth.__main__ import main
from o1_synth.engine import VLLMExpert
from o1_synth.expert import sample_seed
from o1_synth.job.journal import JournalReader
from o1_synth.template import read_template

pytestmark = pytest.mark.vllm

# 500 thoughts: a quick machine says some 80 a second, and the job is to be interrupted at about 40
SAMPLES, TOKENS, AT_ONCE, CONCURRENCY = 10, 100, 8, 32
OPTIONS = {"dtype": "float32", "enforce_eager": True, "max_model_len": 512, "max_num_seqs": AT_ONCE}
OPTIONS |= {"disable_log_stats": False}
OPTIONS |= {"block_size": 32}  # shorter than a prompt, so that the prefix cache has something to keep
SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_tokens=TOKENS)
PATIENCE = 300


@pytest.fixture(autouse=True)
def one_process_for_the_engine(vllm_on_a_cpu, monkeypatch):
    """As on one GPU; on a CPU, vLLM would start another for the model alone."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


@contextlib.contextmanager
def o1_synth_think(model: Path, folder: Path):
    """The command, at work in a process group of its own, as a terminal starts it."""
    command = [str(Path(sys.executable).with_name("o1-synth")), "think", "--vllm", str(model)]
    command += ["--vllm-options", json.dumps(OPTIONS), "--concurrency", str(CONCURRENCY)]
    command += ["--queries", str(folder / "queries.jsonl"), "--out", str(folder / "thoughts.jsonl")]
    command += ["--samples", str(SAMPLES), "--max-tokens", str(TOKENS), "--temperature", "1", "--top-p", "1"]
    command += ["--template", "reason", "--checks", "none"]  # it only ever says words of the query
    with open(folder / "stdout", "wb") as out, open(folder / "stderr", "wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print((folder / "stderr").read_text(errors="replace")[-8000:])


def wait_for_thoughts(process: subprocess.Popen[bytes], folder: Path, count: int) -> dict[str, str]:
    """Texts by thought_id, once the journal of a running command has that many."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it was interrupted"
        with contextlib.suppress(InputError), JournalReader(folder / "thoughts.jsonl") as journal:
            so_far = {thought.thought_id: thought.text for thought in journal.thoughts(SAMPLES)}
            if len(so_far) >= count:
                return so_far
        time.sleep(0.05)
    pytest.fail(f"no {count} thoughts within {PATIENCE} s")


def wait_until_all_are_gone(group: int) -> None:
    """Until no process of a group lives; those that nobody waited for have ended, too."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        stats = [stat.rpartition(")")[2].split() for stat in _stats()]
        if not any(
            int(process_group) == group and state not in "ZX" for state, _, process_group, *_ in stats
        ):
            return
        time.sleep(0.1)
    pytest.fail("the engine outlived its command")


def _stats():
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            yield path.read_text()


def metrics() -> dict[str, float]:
    """What vLLM says of itself, by name."""
    from prometheus_client import REGISTRY

    return {sample.name: sample.value for metric in REGISTRY.collect() for sample in metric.samples}


@contextlib.contextmanager
def watched_engine():
    """The highest values that vLLM's own metrics reach meanwhile."""
    highest, over = Counter(), threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            for name, value in metrics().items():
                highest[name] = max(highest[name], value)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield highest
    finally:
        over.set()
        watcher.join()


def test_a_job_that_was_killed_and_interrupted_ends_as_if_nothing_had_happened(counting_llama, tmp_path):
    queries, out = counting_llama.queries, tmp_path / "thoughts.jsonl"
    write_jsonl(tmp_path / "queries.jsonl", queries)

    with o1_synth_think(counting_llama.folder, tmp_path) as process:
        before_kill = wait_for_thoughts(process, tmp_path, 20)
        process.kill()
        process.wait()
        wait_until_all_are_gone(process.pid)

    with o1_synth_think(counting_llama.folder, tmp_path) as process:
        before_interrupt = wait_for_thoughts(process, tmp_path, len(before_kill) + 20)
        os.killpg(process.pid, signal.SIGINT)  # a terminal's Ctrl-C reaches the engine's processes, too
        assert process.wait(PATIENCE) == 3
        assert (tmp_path / "stdout").read_text() == ""
        told = (tmp_path / "stderr").read_text()
    assert "interrupted: " in told and f"o1-synth think --vllm {counting_llama.folder}" in told
    assert re.search(r"; \d+ failed \(\d+ not_asked\)", told), "all in flight was finished"
    assert before_kill.items() <= before_interrupt.items()
    assert not out.exists()

    prompt = Prompt(template=read_template("reason"))
    expert = VLLMExpert(str(counting_llama.folder), prompt=prompt, sampling=SAMPLING, **OPTIONS)

    async def in_a_notebook() -> Summary:
        return think(queries, expert, out=out, samples=SAMPLES, concurrency=CONCURRENCY)

    with watched_engine() as highest:
        summary = asyncio.run(in_a_notebook())
    assert (summary.thoughts, summary.failed) == (len(queries) * SAMPLES, 0)
    assert 0 < summary.asked < len(queries) * SAMPLES - len(before_interrupt)
    assert highest["vllm:num_requests_running"] == AT_ONCE
    assert highest["vllm:num_requests_waiting"] > AT_ONCE  # the others queue in the engine
    assert highest["vllm:prefix_cache_hits_total"] > 0

    thoughts = list(read_jsonl(out, Thought))
    keys = [f"{query.query_id}#{sample}" for query in queries for sample in range(SAMPLES)]
    assert sorted(thought.thought_id for thought in thoughts) == sorted(keys)
    assert before_interrupt.items() <= {thought.thought_id: thought.text for thought in thoughts}.items()
    for thought in thoughts:
        said, sample = thought.text.split(), int(thought.thought_id.partition("#")[2])
        assert set(said) <= counting_llama.words(thought.query_id), thought
        assert len(said) == thought.source.completion_tokens == TOKENS
        assert thought.source.finish_reason == "length"
        assert thought.source.seed == sample_seed(0, thought.query_id, sample)
    assert len({thought.text for thought in thoughts}) > len(queries)

    again = think(queries, expert, out=out, samples=SAMPLES)
    assert again.asked == 0
    assert multiprocessing.active_children() == []


def test_what_one_engine_does_with_each_request(counting_llama):
    first, second = counting_llama.queries[:2]
    too_long = Query(query_id="long", text=" ".join(["amber0"] * 600))
    sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=400)

    async def ask() -> None:
        expert = VLLMExpert(str(counting_llama.folder), sampling=sampling, **OPTIONS)
        with pytest.raises(NoThought, match="maximum context length is 512") as refused:
            await expert.think(too_long, 0)
        assert refused.value.reason == Reason.REJECTED

        together = await expert.think_together(first, range(3))
        assert len({reply.text for reply in together}) == 3
        assert set(" ".join(reply.text for reply in together).split()) <= counting_llama.words("q0")
        alone = await asyncio.gather(*(expert.think(first, sample) for sample in (0, 0, 1)))
        assert alone[0] == alone[1] != alone[2]

        engine = expert._engine.asynchronous
        given_up = [asyncio.create_task(expert.think(second, sample)) for sample in range(CONCURRENCY)]
        while engine.output_processor.get_num_unfinished_requests() < CONCURRENCY:
            await asyncio.sleep(0.01)
        for task in given_up:
            task.cancel()
        await asyncio.gather(*given_up, return_exceptions=True)
        assert engine.output_processor.get_num_unfinished_requests() == 0
        await expert.think(first, 2)
        assert metrics()["vllm:num_requests_running"] <= 1

        in_flight = [asyncio.create_task(expert.think(second, sample)) for sample in range(CONCURRENCY)]
        await asyncio.sleep(0.2)
        for child in multiprocessing.active_children():
            child.terminate()
        ends = await asyncio.gather(*in_flight, return_exceptions=True)
        assert all(isinstance(end, NoThought | InputError) for end in ends)  # no half of a thought
        with pytest.raises(InputError, match=r"engine for '.*' died"):
            await expert.think(first, 0)
        await expert.close()

    asyncio.run(ask())
    assert multiprocessing.active_children() == []


def test_what_vllm_cannot_run_is_one_line(counting_llama, tmp_path, capsys):
    with pytest.raises(InputError, match="cannot run '/nowhere'"):
        VLLMExpert("/nowhere")
    with pytest.raises(InputError, match="max_modl_len"):
        VLLMExpert(str(counting_llama.folder), max_modl_len=512)
    write_jsonl(tmp_path / "q.jsonl", counting_llama.queries)
    command = ["think", "--queries", str(tmp_path / "q.jsonl"), "--out", str(tmp_path / "t.jsonl")]
    command += ["--vllm", str(counting_llama.folder), "--vllm-options"]
    assert main([*command, '{"max_model_len": 100000}']) == 4
    assert "max_model_len" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "[512]"])


def test_vllm_takes_the_files_of_requests_that_a_batch_is_made_of(tmp_path):
    from vllm.entrypoints.launchers.run_batch import BatchRequestInput

    queries = [Query(query_id=f"q{n}", text=f"open zip file {n}") for n in range(3)]
    write_jsonl(tmp_path / "q.jsonl", queries)
    command = ["think", "--queries", str(tmp_path / "q.jsonl"), "--out", str(tmp_path / "t.jsonl")]
    command += ["--batch", str(tmp_path / "batch"), "--model", "m", "--template", "snippet", "--prefill"]
    command += ["--chat-template-kwargs", '{"enable_thinking": false}', "--extra-body", '{"top_k": 40}']
    assert main([*command, "--samples", "2"]) == 3
    lines = (tmp_path / "batch" / "requests-0001.jsonl").read_text().splitlines()
    read = [BatchRequestInput.model_validate_json(line).body for line in lines]
    assert {body.seed for body in read} == {sample_seed(0, f"q{n}", s) for n in range(3) for s in range(2)}
    for body in read:
        assert (body.stop, body.top_k, body.max_tokens) == (["```"], 40, 48)
        assert body.continue_final_message and body.messages[-1]["content"] == "```python\n"
        assert body.chat_template_kwargs == {"enable_thinking": False}
