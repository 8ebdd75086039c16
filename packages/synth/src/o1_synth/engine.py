"""An expert in this process: vLLM (`[vllm]`), for any model that the machine can hold.

Each (query, sample) is a request with its own seed, and the engine holds as many of them as the concurrency
of the scheduler: it batches them continuously over the whole input, and its prefix cache shares the prompt
of a query among the samples.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

from o1_records import InputError, MissingExtraError
from o1_records.kit.chat import ChatTokens
from o1_synth.answer import Answer, split_reasoning
from o1_synth.expert import ModelExpert, NoThought, Reason, Sampling
from o1_synth.local import load_tokenizer, model_revision
from o1_synth.prompt import Prompting
from o1_synth.template import Message

_PARAMETERS = ("temperature", "top_p", "max_tokens", "seed")

# set before vLLM is imported, unless the caller has set them
_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    # a forked engine would also hold the journal and its lock
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}


class VLLMExpert(ModelExpert):
    """Asks a model, given as a folder or as an id of the hub; `options` go to vLLM's AsyncEngineArgs.

    `chat_template_kwargs` go to its chat template. `omit` are parameters of the sampling that are left to
    vLLM, such as `seed`. Answers begin with the prefix of the template.

    The engine starts with the first request of a run and ends with the run, so that its memory is free for
    what comes next. It runs in processes that vLLM starts: a script that uses it needs
    `if __name__ == "__main__":` around its own work.

    Raises InputError where there is no such model or option, and where the engine cannot start or dies;
    MissingExtraError without vLLM.
    """

    def __init__(
        self,
        model: str,
        /,
        *,
        prompt: Prompting | None = None,
        sampling: Sampling | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        omit: Sequence[str] = (),
        **options: Any,
    ) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            from vllm import AsyncEngineArgs
        except ModuleNotFoundError as error:
            raise MissingExtraError("o1-synth", "vllm", "vLLM in this process") from error

        options = {"enable_prefix_caching": True, "disable_log_stats": True, **options}
        try:
            self._args = AsyncEngineArgs(model=model, **options)
            config = self._args.create_engine_config().model_config
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"vLLM cannot run {model!r}: {error}") from error
        tokenizer = load_tokenizer(
            config.tokenizer,
            revision=config.tokenizer_revision,
            trust_remote_code=config.trust_remote_code,
        )
        self._chat = ChatTokens(tokenizer, name=repr(model), settings=chat_template_kwargs)
        if unknown := sorted(set(omit) - {*_PARAMETERS}):
            raise InputError(
                f"vLLM is not sent {unknown[0]!r}; what can be left out: {', '.join(_PARAMETERS)}"
            )
        self._omit = sorted(set(omit))
        self._engine: _Engine | None = None
        self._failure: InputError | None = None
        self._requests = itertools.count()
        shape = {"omit": self._omit, "chat_template_kwargs": chat_template_kwargs}
        super().__init__(
            model,
            model_revision(model, config.revision),
            prompt,
            sampling,
            request={name: value for name, value in shape.items() if value},
            continues=True,
        )

    async def close(self) -> None:
        """End the engine; the next request starts another."""
        engine, self._engine, self._failure = self._engine, None, None
        if engine is not None:
            engine.end()

    async def _answers(self, messages: list[Message], seed: int, count: int) -> list[Answer | NoThought]:
        """Ask for `count` answers in one request; vLLM adds the place of each to the seed."""
        from vllm import SamplingParams
        from vllm.exceptions import VLLMError
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError

        sampling = self.sampling
        asked = dict(
            zip(_PARAMETERS, (sampling.temperature, sampling.top_p, sampling.max_tokens, seed), strict=True)
        )
        params = SamplingParams(
            n=count,
            stop=[*self.stop],
            output_kind=RequestOutputKind.FINAL_ONLY,
            **{name: value for name, value in asked.items() if name not in self._omit},
        )
        prompt = self._chat.encode(messages, self.prefix)
        name = str(next(self._requests))
        try:
            # cancelling this task cancels the request in the engine, too
            async for output in self._running().generate({"prompt_token_ids": prompt}, params, name):
                completions: list[Any] = output.outputs  # FINAL_ONLY: the only output
        except EngineDeadError as error:
            raise InputError(
                f"vLLM's engine for {self.source.model!r} died; its log says why; "
                "run the same command again to resume"
            ) from error
        except VLLMError as error:
            raise NoThought(Reason.REJECTED, f"{type(error).__name__}: {error}") from error
        ordered = sorted(completions, key=lambda completion: completion.index)
        return [_answer(completion, len(prompt)) for completion in ordered]

    def _running(self) -> Any:
        """Return the engine of this run. The first request starts it; if that fails, it fails for all."""
        if self._failure is not None:
            raise self._failure
        if self._engine is None:
            try:
                self._engine = _Engine(self._args)
            except (OSError, RuntimeError, ValueError) as error:
                self._failure = InputError(f"vLLM cannot run {self.source.model!r}: {error}")
                raise self._failure from error
        return self._engine.asynchronous


def _answer(completion: Any, prompt_tokens: int) -> Answer:
    text, reasoning = split_reasoning(completion.text)
    return Answer(
        text=text,
        reasoning=reasoning,
        finish_reason=completion.finish_reason or "",
        prompt_tokens=prompt_tokens,
        completion_tokens=len(completion.token_ids),
    )


_ENDING = 60.0  # seconds that a process of the engine may take to end; on a busy machine it takes some


class _Engine:
    """vLLM's asynchronous engine, and a guard that ends its processes when this one is killed.

    They would not notice, and would keep the memory of the accelerator from the run that resumes.
    """

    def __init__(self, args: Any) -> None:
        from vllm.v1.engine.async_llm import AsyncLLM

        before = {process.pid for process in multiprocessing.active_children()}
        with _interrupts_blocked():
            self.asynchronous = AsyncLLM.from_engine_args(args)
        self._processes = [each for each in multiprocessing.active_children() if each.pid not in before]
        pids = [str(process.pid) for process in self._processes]
        self._guard = subprocess.Popen(
            ["sh", "-c", 'read _; kill -9 "$@"', "sh", *pids],  # the pipe closes when we die
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def end(self) -> None:
        """End the processes of the engine, and the guard; return once their memory is free."""
        self.asynchronous.shutdown()
        for process in self._processes:
            process.join(_ENDING)
        with self._guard:
            self._guard.kill()


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block SIGINT in processes that start here: Ctrl-C asks the scheduler to finish what is in flight.

    They inherit the blocked signal; otherwise the engine would end at once, with everything in flight.
    """
    resource_tracker.ensure_running()  # it unblocks SIGINT when it starts; not later
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
