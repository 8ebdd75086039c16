"""Runs commands of `o1-model` in real processes that need not import PyTorch again: a fork each.

`Commands` starts this file, which imports everything once and then forks for each command. It says
{"ready": true}, then reads lines {"argv": [...], "file_bytes": n or null} on stdin and answers {"pid": n}
when the process is there and {"code": n} when it ended (minus the signal, if one ended it). It computes
nothing itself, so that a fork inherits no threads.
"""

import json
import os
import resource
import signal
import subprocess
import sys


class Commands:
    """Commands in processes of their own; `close` ends the process that forks them."""

    def __init__(self):
        self.server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self._answer()

    def start(self, argv, file_bytes=None):
        """Start a command, which may write files of at most `file_bytes`; returns its process id."""
        self.server.stdin.write(json.dumps({"argv": argv, "file_bytes": file_bytes}) + "\n")
        self.server.stdin.flush()
        return self._answer()["pid"]

    def code(self):
        """Wait for the command that was started, and return its exit code."""
        return self._answer()["code"]

    def run(self, argv, file_bytes=None):
        """Start a command and return its exit code."""
        self.start(argv, file_bytes)
        return self.code()

    def close(self):
        """End the process that forks."""
        self.server.stdin.close()
        self.server.kill()
        self.server.wait()

    def _answer(self):
        # a command prints to the same place
        while not (line := self.server.stdout.readline()).startswith('{"'):
            assert line, "the server of commands ended"
        return json.loads(line)


def _answer(**message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _serve():
    # what the commands would import
    import transformers.models.llama.modeling_llama  # noqa: F401

    import o1_model.jobs
    import o1_model.training.train  # noqa: F401
    from o1_model.__main__ import main

    _answer(ready=True)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            if request["file_bytes"] is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_bytes"], request["file_bytes"]))
            os._exit(main(request["argv"]))
        _answer(pid=pid)
        _answer(code=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


if __name__ == "__main__":
    _serve()
