"""Fetching with the real client of the hub, from a local server that speaks the part of its API it uses."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from o1_bench.datasets.suites import entry_of, load

pytestmark = pytest.mark.extra

FILES = {
    "README.md": b"a card",
    "corpus.jsonl": b'{"id": "d1", "text": "Moths"}\n',
    "query.jsonl": b'{"id": "0", "text": "lamps?"}\n',
    "qrels.jsonl": b'{"q_id": "0", "p_id": "d1", "score": 1}\n',
    "hyde/gpt4/query_with_hydoc.jsonl": b"{}\n",
}
REPOSITORY = entry_of("r2med/Biology").repository


class Hub(BaseHTTPRequestHandler):
    """One data set at one commit; every other address is 404."""

    def answer(self, *, body=True):
        prefix = f"/datasets/{REPOSITORY.name}/resolve/{REPOSITORY.revision}/"
        path = self.path.split("?")[0]
        name = path.removeprefix(prefix)
        if path == f"/api/datasets/{REPOSITORY.name}/revision/{REPOSITORY.revision}":
            siblings = [{"rfilename": file} for file in FILES]
            content = json.dumps({"id": REPOSITORY.name, "sha": REPOSITORY.revision, "siblings": siblings})
            self.send(content.encode(), body=body)
        elif path.startswith(f"/api/datasets/{REPOSITORY.name}/tree/{REPOSITORY.revision}"):
            tree = [{"type": "file", "path": f, "size": len(c), "oid": oid(c)} for f, c in FILES.items()]
            self.send(json.dumps(tree).encode(), body=body)
        elif path.startswith(prefix) and name in FILES:
            self.server.sent.append(name)
            self.send(FILES[name], body=body)
        else:
            self.send_error(404)

    def send(self, content, *, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{oid(content)}"')
        self.send_header("X-Repo-Commit", REPOSITORY.revision)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def do_GET(self):
        self.answer()

    def do_HEAD(self):
        self.answer(body=False)

    def log_message(self, *_):
        """Be quiet."""


def oid(content):
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def hub():
    pytest.importorskip("huggingface_hub")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.sent = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def fetch_in_a_process(name, root, hub, **environment):
    """The client reads its endpoint when it is imported."""
    code = "import sys; from o1_bench.__main__ import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, "fetch", name, "--out", str(root)],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
            "HF_HOME": str(Path(root).parent / "home"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **environment,
        },
    )


def test_what_was_fetched_loads_under_its_pinned_revision(hub, tmp_path):
    done = fetch_in_a_process("r2med/Biology", tmp_path / "data", hub)
    assert done.returncode == 0, done.stderr
    assert set(hub.sent) == {"corpus.jsonl", "query.jsonl", "qrels.jsonl"}
    loaded = load("r2med/Biology", tmp_path / "data")
    assert [document.text for document in loaded.documents] == ["Moths"]
    assert loaded.revision == f"{REPOSITORY.name}@{REPOSITORY.revision}"


def test_a_repository_that_the_hub_does_not_have_is_told(hub, tmp_path):
    done = fetch_in_a_process("r2med/Bioinformatics", tmp_path / "data", hub)
    assert done.returncode == 4
    assert "https://huggingface.co/datasets/R2MED/Bioinformatics at 6021fce" in done.stderr
    assert "or copy corpus*, query*, qrels* to" in done.stderr


def test_a_suite_goes_on_past_what_cannot_be_had_and_lists_it(hub, tmp_path):
    done = fetch_in_a_process("r2med", tmp_path / "data", hub)
    assert done.returncode == 3
    assert "R2MED/Biology: ready" in done.stderr
    assert "1 of 8 done; not done: r2med/Bioinformatics, r2med/Medical-Sciences" in done.stderr
    assert load("r2med/Biology", tmp_path / "data").queries


def test_being_offline_is_told_with_what_to_copy_by_hand(hub, tmp_path):
    done = fetch_in_a_process("r2med/Biology", tmp_path / "data", hub, HF_HUB_OFFLINE="1")
    assert done.returncode == 4
    assert "https://huggingface.co/datasets/R2MED/Biology at 8b9fec2" in done.stderr
    assert f"or copy corpus*, query*, qrels* to {tmp_path / 'data' / 'R2MED' / 'Biology'}" in done.stderr
    assert hub.sent == []
