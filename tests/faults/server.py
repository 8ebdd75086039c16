"""A real OpenAI-compatible server over a real socket that answers badly on request.

In a thread of the tests (`FaultServer`), or a process of its own:

    python tests/faults/server.py --delay 0.05 --faults 0.1

which prints one JSON line with its base_url and runs until its stdin ends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Sequence

FAULTS = ("429", "500", "502", "503", "reset", "stall", "truncated", "cut", "html", "no choice", "blank")
STREAM_FAULTS = ("stream stall", "stream ping", "stream cut", "stream error", "stream html")
SLOW = ("drip",)


class FaultServer:
    """Thinks "a thought about <query text> with seed <seed>" unless `fault` says otherwise.

    `fault(text, attempt)` names what goes wrong with the attempt (from 1) for a query's text and
    seed, or is "" for a good answer. `say(request, text)` is what a good answer says. `answered`
    counts good answers per (text, seed), `asked` requests of any end. With `streams` it streams
    where it is asked to. `capacity` is how many requests at once it takes before it answers 429.
    `finish(request, text)` is the finish_reason. `respond(request, text)` answers in the place of all that,
    with status, headers and body, unless it returns None. Without `models` it has no list of them.
    """

    def __init__(
        self,
        fault: Callable[[str, int], str] = lambda text, attempt: "",
        *,
        delay: tuple[float, float] = (0.0, 0.0),
        models: Sequence[dict[str, str]] | None = ({"id": "echo"},),
        say: Callable[[dict, str], str] | None = None,
        finish: Callable[[dict, str], str] = lambda request, text: "stop",
        respond: Callable[[dict, str], tuple[int, str, bytes] | None] = lambda request, text: None,
        port: int = 0,
        streams: bool = False,
        capacity: int = 10**9,
        keep: bool = True,
        answers_as: str | None = None,
    ) -> None:
        self.fault, self.delay, self.streams, self.port = fault, delay, streams, port
        self.models = None if models is None else list(models)
        self.say = say or (lambda request, text: f"a thought about {text} with seed {request['seed']}")
        self.finish, self.respond = finish, respond
        self.heads: list[str] = []
        self.capacity, self.keep, self.answers_as = capacity, keep, answers_as
        self.refused = 0
        self.asked: Counter[tuple[str, int]] = Counter()
        self.answered: Counter[tuple[str, int]] = Counter()
        self.keys: set[str] = set()
        self.prompts: list[str] = []
        self.requests: list[dict] = []
        self.most_at_once = self._at_once = 0

    def start(self) -> FaultServer:
        """Serve in a thread."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()
        self._thread.start()
        assert self._ready.wait(10)
        return self

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self.main())
        self._loop.close()

    async def main(self, opened: Callable[[], None] = lambda: None) -> None:
        self._stopped = asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", self.port, backlog=500)
        self.port = server.sockets[0].getsockname()[1]
        if hasattr(self, "_ready"):
            self._ready.set()
        opened()
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
                self.heads.append(head.decode())
                method, target, _ = head.split(b" ", 2)
                path = target.partition(b"?")[0]
                if (method, path) == (b"GET", b"/v1/models") and self.models is not None:
                    send(writer, 200, json.dumps({"object": "list", "data": self.models}))
                elif (method, path) == (b"POST", b"/v1/chat/completions") and body == b"{}":
                    send(writer, 400, '{"error": {"message": "no model"}}')
                elif (method, path) == (b"POST", b"/v1/chat/completions"):
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
        prompt = [m["content"] for m in request["messages"] if m["role"] == "user"][-1]
        if self.keep:
            self.prompts.append(prompt)
            self.requests.append(request)
        text = asked_text(prompt)
        key = (text, request.get("seed", 0))
        self.asked[key] += 1
        fault = self.fault(text, self.asked[key])
        if self._at_once > self.capacity:
            self.refused += 1
            fault = "429"
        await asyncio.sleep(random.uniform(*self.delay))
        if (own := self.respond(request, text)) is not None:
            status, headers, own_body = own
            return send(writer, status, own_body, headers)
        if self.models is not None and request["model"] not in {card["id"] for card in self.models}:
            return send(writer, 404, '{"message": "no such model"}')
        contents = [self.say(request, text) for _ in range(request.get("n", 1))]
        ends = self.finish(request, text)
        body = good_answer(contents, self.answers_as or request["model"], ends)
        if fault == "stall":
            send_part(writer, body)
            await asyncio.sleep(60)
        elif fault == "reset":
            writer.transport.abort()
        elif fault.startswith("stream") or fault in SLOW:
            await bad_stream(writer, fault, contents[0])
        elif fault in ANSWERS:
            ANSWERS[fault](writer, body)
        else:
            assert not fault, fault
            if self.streams and request.get("stream"):
                send_stream(writer, good_stream(contents, self.answers_as or request["model"], ends))
            else:
                send(writer, 200, body)
            await writer.drain()
            self.answered[key] += 1
        return None


def asked_text(prompt: str) -> str:
    """The query of a prompt: what stands before its cue, else between its last fences, else all of it."""
    _, found, rest = prompt.partition("\nQuery:\n")
    if found and rest.endswith("\nResponse:"):
        return rest.removesuffix("\nResponse:")
    return [("", prompt), *re.findall(r"(`{3,})\n(.*?)\n\1", prompt, re.DOTALL)][-1][1]


def good_answer(contents: Sequence[object], model: str = "echo", finish_reason: str | None = "stop") -> str:
    choices = [
        {"index": n, "message": {"role": "assistant", "content": content}, "finish_reason": finish_reason}
        for n, content in enumerate(contents)
    ]
    words = sum(len(str(content).split()) for content in contents)
    usage = {"prompt_tokens": 7, "completion_tokens": words}
    return json.dumps({"model": model, "choices": choices, "usage": usage})


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def delta(index: int, finish_reason: str | None = None, **fields: str) -> dict:
    return {"index": index, "delta": fields, "finish_reason": finish_reason}


def good_stream(contents: Sequence[str], model: str = "echo", finish_reason: str = "stop") -> list[bytes]:
    """Events: a role, a word at a time, the end of each choice, the usage, [DONE]."""
    events = []
    for index, content in enumerate(contents):
        events.append(event(model=model, choices=[delta(index, role="assistant", content="")]))
        words = re.findall(r"\s*\S+|\s+$", content)
        events += [event(model=model, choices=[delta(index, content=word)]) for word in words]
        events.append(event(model=model, choices=[delta(index, finish_reason)]))
    words = sum(len(content.split()) for content in contents)
    usage = {"prompt_tokens": 7, "completion_tokens": words}
    return [*events, event(model=model, choices=[], usage=usage), b"data: [DONE]\n\n"]


STREAM_HEAD = b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def send_stream(writer: asyncio.StreamWriter, events: Sequence[bytes]) -> None:
    writer.write(STREAM_HEAD + chunk(b"".join(events)) + chunk(b""))


async def bad_stream(writer: asyncio.StreamWriter, fault: str, content: str) -> None:
    """A stream that begins well; `drip` even ends well, a token each 30 ms."""
    events = good_stream([content])
    writer.write(STREAM_HEAD)
    for number, data in enumerate(events):
        if fault == "drip":
            writer.write(chunk(data))
            await asyncio.sleep(0.03)
        elif number < 3:
            writer.write(chunk(data))
    await writer.drain()
    if fault == "stream ping":  # signs of life that are no tokens
        for _ in range(600):
            writer.write(chunk(b": ping\n\n") + chunk(event(choices=[delta(0, content="")])))
            await writer.drain()
            await asyncio.sleep(0.05)
    elif fault == "stream stall":
        await asyncio.sleep(60)
    elif fault == "stream error":
        writer.write(chunk(event(error={"message": "out of memory", "code": 500})))
    elif fault == "stream html":
        writer.write(chunk(b"data: <html>Bad Gateway</html>\n\n"))
    if fault == "stream cut":
        writer.write(chunk(b'data: {"choices": [{"del'))
    writer.write(chunk(b""))


def send(writer: asyncio.StreamWriter, status: int, body: str | bytes, headers: str = "") -> None:
    encoded = body.encode() if isinstance(body, str) else body
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(encoded)}\r\n{headers}\r\n"
    writer.write(head.encode() + encoded)


def send_part(writer: asyncio.StreamWriter, body: str) -> None:
    head = f"HTTP/1.1 200 X\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body[: len(body) // 2].encode())


def cut(writer: asyncio.StreamWriter, body: str) -> None:
    """Half a body, then the end of the connection."""
    send_part(writer, body)
    writer.close()


ANSWERS: dict[str, Callable[[asyncio.StreamWriter, str], None]] = {
    "429": lambda writer, _: send(writer, 429, "slow down", "Retry-After: 0.05\r\n"),
    "500": lambda writer, _: send(writer, 500, "oops"),
    "502": lambda writer, _: send(writer, 502, "<html>Bad Gateway</html>"),
    "503": lambda writer, _: send(writer, 503, "overloaded"),
    "400": lambda writer, _: send(writer, 400, '{"message": "the prompt is too long"}'),
    "truncated": lambda writer, body: send(writer, 200, body[:-20]),
    "cut": cut,
    "html": lambda writer, _: send(writer, 200, "<html>Welcome</html>"),
    "no choice": lambda writer, _: send(writer, 200, '{"choices": []}'),
    "blank": lambda writer, _: send(writer, 200, good_answer([" \n"])),
}


def random_faults(share: float, names: Sequence[str], seed: int = 0) -> Callable[[str, int], str]:
    """A fault for so many of the first attempts, and again of the second."""

    def fault(text: str, attempt: int) -> str:
        rng = random.Random(zlib.crc32(f"{seed} {text} {attempt} {next(count)}".encode()))
        return rng.choice(names) if rng.random() < share else ""

    count = iter(range(10**12))
    return fault


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--faults", type=float, default=0.0, help="share of requests that go wrong")
    parser.add_argument("--stream", action="store_true")
    args = parser.parse_args()
    quick = [name for name in FAULTS if name not in ("blank", "stall")]
    server = FaultServer(
        random_faults(args.faults, quick),
        delay=(args.delay, args.delay),
        streams=args.stream,
        keep=False,
    )

    async def serve() -> None:
        opened = lambda: print(json.dumps({"base_url": server.base_url}), flush=True)  # noqa: E731
        running = asyncio.create_task(server.main(opened))
        await asyncio.to_thread(sys.stdin.read)
        running.cancel()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
