"""The expert behind a batch API: requests are written to files, and answers are read from files of results.

OpenAI's format, which vLLM (`vllm run-batch`), SGLang and hosted services take: a line has a `custom_id` and
the body of a request, and its result has the same `custom_id`. Nobody waits: what has no result yet is
`pending`, and the same command reads the results once they are there.

```
FOLDER/requests-0001.jsonl   written by the first run, requests-0002.jsonl by the next one that lacks answers
FOLDER/ANY_OTHER_NAME.jsonl  results, as the service gave them, errors too
```
A line with a `body`, and neither a `response` nor an `error`, is a request, whatever its file is called.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from o1_records import InputError
from o1_synth.answer import Answer
from o1_synth.chat.request import Request
from o1_synth.chat.wire import error_of, parse_answers
from o1_synth.expert import ModelExpert, NoThought, Reason, Sampling
from o1_synth.prompt import Prompting
from o1_synth.template import Message

_LINES, _BYTES = 50_000, 190_000_000  # of a file of requests at most; OpenAI takes 200 MB
_REQUESTS = "requests-"
_URL = "/v1/chat/completions"
_ASK_AGAIN = frozenset({408, 409, 425, 429})  # and every 5xx, and what has no status: it expired


class BatchExpert(ModelExpert):
    """Asks a model through files in a folder.

    Args:
        folder: where requests are written and results are looked for; it is made.
        model: the name of the model, for the service.
        prompt: builds the messages; default `Prompt()`.
        sampling: how the model samples.
        request: which fields a request has.
        retry_failed: write requests again that were refused for good, or whose result cannot be read.

    A request is written once, unless its result says that it expired or was not served for now. `failed` says
    of those that failed for good why, by custom_id. Raises InputError for a result that is not in OpenAI's
    format.
    """

    def __init__(
        self,
        folder: str | Path,
        model: str,
        *,
        prompt: Prompting | None = None,
        sampling: Sampling | None = None,
        request: Request | None = None,
        retry_failed: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.failed: dict[str, str] = {}  # why, by custom_id
        self._retry_failed = retry_failed
        self.request = request or Request()
        super().__init__(
            model,
            "",
            prompt,
            sampling,
            request=self.request.shape(),
            continues=self.request.continues,
        )
        self._written: list[Path] | None = None  # None: the folder was not read yet
        self._asked: Counter[str] = Counter()  # how often, by custom_id
        self._answered: Counter[str] = Counter()  # how many results there are, errors too
        self._results: dict[str, tuple[Path, int]] = {}  # where the best result stands
        self._file: IO[bytes] | None = None
        self._lines = self._bytes = 0

    @property
    def written(self) -> list[Path]:
        """Return the files of requests that this run wrote."""
        return list(self._written or ())

    async def close(self) -> None:
        """Finish the file of requests that is being written; the next run reads the folder again."""
        self._finish()

    async def _answers(self, messages: list[Message], seed: int, count: int) -> list[Answer | NoThought]:
        if self._written is None:
            self._read_folder()
        body = self.request.body(
            self._source.model, messages, self.sampling, seed, count=count, stop=self.stop, prefix=self.prefix
        )
        # the seed is of this sample and draw, also where the body has none
        name = hashlib.sha256(msgspec.json.encode([body, seed])).hexdigest()[:32]
        if name in self._results:
            path, place = self._results[name]
            result = _result_at(path, place)
            failed = NoThought(Reason.HTTP_STATUS, f"{result.detail} (custom_id {name})", asked=False)
            if result.body is not None:
                try:
                    return [*_parsed(result.body, count, f"{path}: custom_id {name}")]
                except NoThought as error:
                    failed = error
            waits = self._asked[name] > self._answered[name]
            if not (result.again or waits or self._retry_failed):
                self.failed[name] = failed.detail
                raise failed
        if self._asked[name] <= self._answered[name]:
            self._write(name, body)
        raise NoThought(Reason.PENDING, f"custom_id {name}", asked=False)

    def _read_folder(self) -> None:
        """Note which requests were written, and where the best result of each stands."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._written = []
        for path in sorted(self.folder.glob("*.jsonl")):
            with open(path, "rb") as file:
                place = 0
                for line in file:
                    if line.strip():
                        self._note(path, place, line)
                    place += len(line)

    def _note(self, path: Path, place: int, line: bytes) -> None:
        try:
            named = msgspec.json.decode(line, type=_Named)
            name = named.custom_id
            if named.is_request():
                self._asked[name] += 1
                return
            result = _Result.of(line)
        except msgspec.DecodeError as error:
            raise InputError(f"{path}: byte {place}: not a line of a batch: {error}; move it away") from error
        self._answered[name] += 1
        # of several the last that can be read counts, or if none can the last
        if name not in self._results or result.reads() or not _result_at(*self._results[name]).reads():
            self._results[name] = (path, place)

    def _write(self, name: str, body: dict[str, object]) -> None:
        line = msgspec.json.encode({"custom_id": name, "method": "POST", "url": _URL, "body": body}) + b"\n"
        if self._file is not None and (self._lines >= _LINES or self._bytes + len(line) > _BYTES):
            self._finish()
        if self._file is None:
            self._file = open(self._next().with_suffix(".part"), "wb")
        self._file.write(line)
        self._asked[name] += 1
        self._lines += 1
        self._bytes += len(line)

    def _next(self) -> Path:
        numbers = [path.stem.removeprefix(_REQUESTS) for path in self.folder.glob(f"{_REQUESTS}*.jsonl")]
        last = max((int(number) for number in numbers if number.isdecimal()), default=0)
        return self.folder / f"{_REQUESTS}{last + 1:04}.jsonl"

    def _finish(self) -> None:
        if self._file is not None:
            self._file.close()
            path = self._next()
            path.with_suffix(".part").rename(path)
            assert self._written is not None
            self._written.append(path)
        self._file, self._lines, self._bytes = None, 0, 0


def _result_at(path: Path, place: int) -> _Result:
    with open(path, "rb") as file:
        file.seek(place)
        return _Result.of(file.readline())


def _parsed(body: bytes, count: int, place: str) -> list[Answer]:
    try:
        answers = parse_answers(body)
    except ValueError as error:
        raise NoThought(Reason.MALFORMED, f"{place}: {error}", asked=False) from error
    if len(answers) < count:
        told = f"{len(answers)} choices for n = {count}; the service ignores n, leave out --n-per-request"
        raise NoThought(Reason.MALFORMED, f"{place}: {told}", asked=False)
    return answers[:count]


_NULL = msgspec.Raw(b"null")


class _Named(msgspec.Struct):
    custom_id: str
    body: msgspec.Raw = _NULL  # of a request; in a result it is within the response
    response: msgspec.Raw = _NULL
    error: msgspec.Raw = _NULL

    def is_request(self) -> bool:
        """Whether this is a request that was written here, and no result."""
        absent = bytes(_NULL)
        return bytes(self.body) != absent == bytes(self.response) == bytes(self.error)


class _Response(msgspec.Struct):
    status_code: int = 200
    body: msgspec.Raw = _NULL


class _Line(msgspec.Struct):
    response: _Response | None = None
    error: object = None


@dataclass(frozen=True)
class _Result:
    """One result: a `body` with answers, or why there is none, and whether to ask `again`."""

    body: bytes | None
    detail: str = ""
    again: bool = False

    def reads(self) -> bool:
        """Whether there are answers that can be read."""
        try:
            return self.body is not None and len(parse_answers(self.body)) > 0
        except ValueError:
            return False

    @classmethod
    def of(cls, line: bytes) -> _Result:
        found = msgspec.json.decode(line, type=_Line)
        if found.response is None:  # expired or cancelled, before it was served
            return cls(None, error_of(msgspec.json.encode(found.error)), again=True)
        status, body = found.response.status_code, bytes(found.response.body)
        if status == 200:
            return cls(body)
        said = error_of(body if found.error is None else msgspec.json.encode(found.error))
        return cls(None, f"{status}: {said}", again=status in _ASK_AGAIN or status >= 500)
