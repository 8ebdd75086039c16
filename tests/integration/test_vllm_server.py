"""`o1-synth think` against a real vLLM server on the CPU (nox -s vllm)."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from o1_records import Query, Thought, read_jsonl, write_jsonl

pytestmark = pytest.mark.vllm

SAMPLES, TOKENS = 3, 12


def o1_synth_think(base_url: str, folder: Path, model: str = "counting-llama"):
    script = str(Path(sys.executable).with_name("o1-synth"))
    command = [script, "think", "--base-url", base_url]
    command += ["--model", model, "--queries", str(folder / "queries.jsonl")]
    command += ["--out", str(folder / "thoughts.jsonl"), "--samples", str(SAMPLES)]
    command += ["--max-tokens", str(TOKENS), "--temperature", "1", "--top-p", "1"]
    command += ["--checks", "none"]  # the counting model only ever says words of the query
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def ask_directly(base_url: str, query: Query, thought: Thought) -> str:
    """What the server says when it is asked for this one thought alone, without o1-synth."""
    from o1_synth import Prompt

    body = {
        "model": "counting-llama",
        "messages": Prompt().messages(query),
        "temperature": 1,
        "max_tokens": TOKENS,
        "seed": thought.source.seed,
    }
    request = urllib.request.Request(
        f"{base_url}/chat/completions",
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)["choices"][0]["message"]["content"].strip()


def test_every_thought_of_a_real_vllm_server_belongs_to_its_query(counting_llama, vllm_server, tmp_path):
    queries = {query.query_id: query for query in counting_llama.queries}
    write_jsonl(tmp_path / "queries.jsonl", counting_llama.queries)
    with vllm_server(counting_llama.folder, "counting-llama") as address:
        base_url = f"{address}/v1"
        unknown = o1_synth_think(base_url, tmp_path, model="another")
        assert unknown.returncode == 4
        assert "'another'" in unknown.stderr and "counting-llama" in unknown.stderr
        assert not (tmp_path / "thoughts.jsonl").exists()

        run = o1_synth_think(base_url, tmp_path)
        assert run.returncode == 0, run.stderr
        thoughts = list(read_jsonl(tmp_path / "thoughts.jsonl", Thought))
        keys = sorted((t.query_id, t.thought_id) for t in thoughts)
        wanted = [(query_id, f"{query_id}#{s}") for query_id in queries for s in range(SAMPLES)]
        assert keys == sorted(wanted)
        for thought in thoughts:
            said = thought.text.split()
            assert len(said) == thought.source.completion_tokens == TOKENS
            assert set(said) <= counting_llama.words(thought.query_id), thought
            assert thought.source.finish_reason == "length"
            assert thought.source.revision == str(counting_llama.folder)

        # Samples are filed under the seed that made them: the same request again, one at a time.
        assert len({thought.source.seed for thought in thoughts}) == len(thoughts)
        assert len({thought.text for thought in thoughts}) > len(queries)
        for thought in thoughts[::5]:
            assert ask_directly(base_url, queries[thought.query_id], thought) == thought.text

        again = o1_synth_think(base_url, tmp_path)
        assert again.returncode == 0, again.stderr
        assert list(read_jsonl(tmp_path / "thoughts.jsonl", Thought)) == thoughts
