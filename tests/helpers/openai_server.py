"""An OpenAI-compatible server in a thread, over real connections: embeddings and chat completions.

```python
with openai_server(embed=encode, chat=answer) as server:
    ServedEmbedder(f"{server.url}#tiny")
```
`embed` gives vectors of texts, `chat` the text of an answer to a body; `server.asked` has every body so far,
and `server.refusals` statuses that the next requests are answered with.
"""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextlib.contextmanager
def openai_server(*, embed=None, chat=None):
    asked, refusals = [], []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/v1/chat/completions" and "messages" not in body:  # o1-synth asks who is there
                self.answer(400, {"error": {"message": "no messages"}})
                return
            asked.append(body)
            if refusals:
                self.answer(refusals.pop(0), {"error": {"message": "not now"}})
            elif self.path == "/v1/embeddings" and embed is not None:
                rows = [[float(number) for number in row] for row in embed(body["input"])]
                data = [{"index": n, "embedding": row} for n, row in enumerate(rows)]
                self.answer(200, {"data": data[::-1], "model": body["model"]})
            elif self.path == "/v1/chat/completions" and chat is not None:
                said = chat(body)
                choice = {
                    "index": 0,
                    "message": {"role": "assistant", "content": said},
                    "finish_reason": "stop",
                }
                usage = {"prompt_tokens": 7, "completion_tokens": len(said.split())}
                self.answer(200, {"choices": [choice], "usage": usage, "model": body["model"]})
            else:
                self.answer(404, {"error": {"message": f"nothing at {self.path}"}})

        def answer(self, status, content):
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.asked, server.refusals = asked, refusals
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
