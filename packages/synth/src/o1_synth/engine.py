"""An expert in this process: vLLM (`[vllm]`), for whatever model the machine can hold.

Each (query, sample) is a request with a seed of its own, and the engine has as many of them at once
as the scheduler's concurrency: it batches continuously over the whole input, and its prefix cache
shares a query's prompt among the samples.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

from o1_records import InputError, MissingExtraError, Query
from o1_synth.asking import ModelExpert, Prompting, Sampling
from o1_synth.checkpoint import ChatTokens, weights_revision
from o1_synth.expert import NoThought, Reason, Reply, sample_seed
from o1_synth.wire import Answer, said, separated

# Said to vLLM before it is imported, where the caller says nothing else.
_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    # a forked engine would hold the journal and its lock, too
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}


class VLLMExpert(ModelExpert):
    """Asks a model of a folder or of the hub; `options` go to vLLM's AsyncEngineArgs.

    The engine starts with the first request of a run and ends with the run, so that what comes
    after it finds the memory free. It runs in processes that vLLM starts: a script that uses it
    keeps its own work under `if __name__ == "__main__":`.

    Raises InputError when there is no such model or option, or when the engine cannot start or
    dies; MissingExtraError without vLLM.
    """

    def __init__(
        self,
        model: str,
        /,
        *,
        prompt: Prompting | None = None,
        sampling: Sampling | None = None,
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
        self._tokens = ChatTokens(
            config.tokenizer, revision=config.tokenizer_revision, trust_remote_code=config.trust_remote_code
        )
        self._engine: _Engine | None = None
        self._failure: InputError | None = None
        super().__init__(model, weights_revision(model, config.revision), prompt, sampling)

    async def think_together(
        self, query: Query, samples: Sequence[int], draw: int = 0
    ) -> list[Reply | NoThought]:
        """Write several thoughts in one request; vLLM adds a sample's place in it to the seed."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        seed = sample_seed(self.sampling.seed, query.query_id, samples[0], draw)
        params = SamplingParams(
            n=len(samples),
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            max_tokens=self.sampling.max_tokens,
            seed=seed,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt = self._tokens.encode(self.prompt.messages(query))
        written = await self._written(prompt, params, f"{query.query_id}#{samples[0]}.{draw}")
        return [self._thought(each, seed, len(prompt)) for each in written]

    async def close(self) -> None:
        """End the engine; the next request starts another."""
        engine, self._engine, self._failure = self._engine, None, None
        if engine is not None:
            engine.end()

    async def _written(self, prompt: list[int], params: Any, name: str) -> list[Any]:
        """The completions, in order. A request that is cancelled is cancelled in the engine, too."""
        from vllm.exceptions import VLLMError
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            async for output in self._running().generate({"prompt_token_ids": prompt}, params, name):
                completions: list[Any] = output.outputs  # FINAL_ONLY: the only output
        except EngineDeadError as error:
            raise InputError(
                f"vLLM's engine for {self.source.model!r} died; its log says why, the same command resumes"
            ) from error
        except VLLMError as error:
            raise NoThought(Reason.REJECTED, said(error)) from error
        return sorted(completions, key=lambda completion: completion.index)

    def _running(self) -> Any:
        """The engine of this run. Whoever asks first starts it, and its failure is everybody's."""
        if self._failure is not None:
            raise self._failure
        if self._engine is None:
            try:
                self._engine = _Engine(self._args)
            except (OSError, RuntimeError, ValueError) as error:
                self._failure = InputError(f"vLLM cannot run {self.source.model!r}: {error}")
                raise self._failure from error
        return self._engine.asynchronous

    def _thought(self, completion: Any, seed: int, prompt_tokens: int) -> Reply | NoThought:
        if completion.finish_reason not in ("stop", "length"):  # cut by the engine, whatever it has
            return NoThought(Reason.REJECTED, f"finish_reason {completion.finish_reason!r}")
        text, reasoning = separated(completion.text)
        answer = Answer(
            text=text,
            reasoning=reasoning,
            finish_reason=completion.finish_reason,
            prompt_tokens=prompt_tokens,
            completion_tokens=len(completion.token_ids),
        )
        return self._reply(answer, seed)


class _Engine:
    """vLLM's asynchronous engine, and a guard that ends its processes when this one was killed.

    They would not notice, and keep the accelerator's memory from the run that resumes.
    """

    def __init__(self, args: Any) -> None:
        from vllm.v1.engine.async_llm import AsyncLLM

        before = {process.pid for process in multiprocessing.active_children()}
        with _deaf_to_interrupts():
            self.asynchronous = AsyncLLM.from_engine_args(args)
        pids = {process.pid for process in multiprocessing.active_children()} - before
        self._guard = subprocess.Popen(
            ["sh", "-c", 'read _; kill -9 "$@"', "sh", *map(str, pids)],  # the pipe ends with us
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def end(self) -> None:
        """End the engine's processes and the guard."""
        self.asynchronous.shutdown()
        with self._guard:
            self._guard.kill()


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Let processes that start here miss a terminal's Ctrl-C, which asks the scheduler to finish.

    They inherit the blocked signal; the engine would end at once, with all that is in flight.
    """
    resource_tracker.ensure_running()  # lets SIGINT through when it starts; not later
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
