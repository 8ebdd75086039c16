"""A real OpenAI-compatible server over a real socket that answers badly on request."""

from __future__ import annotations

import asyncio
import json
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

FAULTS = ("429", "500", "502", "reset", "stall", "truncated", "cut", "html", "no choice", "blank")


class FaultServer:
    """Thinks "a thought about <query text> with seed <seed>" unless `fault` says otherwise.

    `fault(text, attempt)` names what goes wrong with the attempt (from 1) for a query's text and
    seed, or is "" for a good answer. `answered` counts good answers per (text, seed), `asked`
    requests of any end.
    """

    def __init__(
        self,
        fault: Callable[[str, int], str] = lambda text, attempt: "",
        *,
        delay: tuple[float, float] = (0.0, 0.0),
        models: Sequence[dict[str, str]] = ({"id": "echo"},),
    ) -> None:
        self.fault, self.delay, self.models = fault, delay, list(models)
        self.asked: Counter[tuple[str, int]] = Counter()
        self.answered: Counter[tuple[str, int]] = Counter()
        self.keys: set[str] = set()
        self.prompts: list[str] = []
        self.most_at_once = self._at_once = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()
        self._thread.start()
        assert self._ready.wait(10)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main())
        self._loop.close()

    async def _main(self) -> None:
        self._stopped = asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=500)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopped.wait()
        server.close()
        mine = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not mine]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(length.group(1)) if length else 0)
                key = re.search(rb"authorization: Bearer (\S+)", head, re.IGNORECASE)
                if key:
                    self.keys.add(key.group(1).decode())
                if head.startswith(b"GET /v1/models "):
                    send(writer, 200, json.dumps({"object": "list", "data": self.models}))
                elif head.startswith(b"POST /v1/chat/completions "):
                    self._at_once += 1
                    self.most_at_once = max(self.most_at_once, self._at_once)
                    try:
                        await self._complete(json.loads(body), writer)
                    finally:
                        self._at_once -= 1
                else:
                    send(writer, 404, "{}")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _complete(self, request: dict, writer: asyncio.StreamWriter) -> None:
        self.prompts.append(request["messages"][-1]["content"])
        text = asked_text(self.prompts[-1])
        key = (text, request["seed"])
        self.asked[key] += 1
        fault = self.fault(text, self.asked[key])
        await asyncio.sleep(random.uniform(*self.delay))
        if request["model"] not in {card["id"] for card in self.models}:
            return send(writer, 404, '{"message": "no such model"}')
        content = f"a thought about {text} with seed {request['seed']}"
        if fault == "stall":
            send_part(writer, good_answer(content))
            await asyncio.sleep(60)
        elif fault == "reset":
            writer.transport.abort()
        elif fault in ANSWERS:
            ANSWERS[fault](writer, content)
        else:
            assert not fault, fault
            send(writer, 200, good_answer(content))
            await writer.drain()
            self.answered[key] += 1
        return None


def asked_text(prompt: str) -> str:
    """The query of a prompt: what stands between its last fences."""
    return re.findall(r"(`{3,})\n(.*?)\n\1", prompt, re.DOTALL)[-1][1]


def good_answer(content: str) -> str:
    message = {"role": "assistant", "content": content}
    usage = {"prompt_tokens": 7, "completion_tokens": len(content.split())}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "usage": usage})


def send(writer: asyncio.StreamWriter, status: int, body: str, headers: str = "") -> None:
    encoded = body.encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(encoded)}\r\n{headers}\r\n"
    writer.write(head.encode() + encoded)


def send_part(writer: asyncio.StreamWriter, body: str) -> None:
    head = f"HTTP/1.1 200 X\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body[: len(body) // 2].encode())


def cut(writer: asyncio.StreamWriter, content: str) -> None:
    """Half a body, then the end of the connection."""
    send_part(writer, good_answer(content))
    writer.close()


ANSWERS: dict[str, Callable[[asyncio.StreamWriter, str], None]] = {
    "429": lambda writer, _: send(writer, 429, "slow down", "Retry-After: 0.05\r\n"),
    "500": lambda writer, _: send(writer, 500, "oops"),
    "502": lambda writer, _: send(writer, 502, "<html>Bad Gateway</html>"),
    "400": lambda writer, _: send(writer, 400, '{"message": "the prompt is too long"}'),
    "truncated": lambda writer, content: send(writer, 200, good_answer(content)[:-20]),
    "cut": cut,
    "html": lambda writer, _: send(writer, 200, "<html>Welcome</html>"),
    "no choice": lambda writer, _: send(writer, 200, '{"choices": []}'),
    "blank": lambda writer, _: send(writer, 200, good_answer(" \n")),
}


@pytest.fixture
def serve():
    """Start fault servers that stop with the test."""
    servers: list[FaultServer] = []

    def start(*args, **options) -> FaultServer:
        servers.append(FaultServer(*args, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def faults() -> tuple[str, ...]:
    """Every fault that may be worth another attempt."""
    return tuple(fault for fault in FAULTS if fault != "blank")
