"""A server of embeddings in a thread, and what its clients do: over real connections.

```python
url, stop = running(embedder)
vectors(post(url, input=["open a zip file"]))
```
"""

import threading
import time

import numpy as np


def running(model, collection=None, **limits):
    """A server in a thread, perhaps with a page that searches; gives its address and what stops it."""
    import uvicorn

    from o1_model.serving.server import Serving, application

    app = application(model, Serving(**limits), collection)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", timeout_graceful_shutdown=20)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]

    def stop():
        server.should_exit = True
        thread.join(30)

    return f"http://127.0.0.1:{port}", stop


def post(address, **body):
    import httpx2

    return httpx2.post(f"{address}/v1/embeddings", json=body, timeout=60)


def vectors(reply):
    assert reply.status_code == 200, reply.text
    return np.array([entry["embedding"] for entry in reply.json()["data"]], dtype=np.float32)
