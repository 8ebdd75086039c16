"""Runs commands of `o1-model` in real processes that need not import PyTorch again: a fork each.

Says {"ready": true}, then reads lines {"argv": [...], "file_bytes": n or null} on stdin, answers
{"pid": n} when the process is
there and {"code": n} when it ended (minus the signal, if one ended it). It computes nothing itself, so
that a fork inherits no threads.
"""

import json
import os
import resource
import signal
import sys

import transformers.models.llama.modeling_llama  # noqa: F401 - what the commands would import

import o1_model.commands.embed
import o1_model.train  # noqa: F401
from o1_model.__main__ import main


def _answer(**message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _child(argv, file_bytes):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    os._exit(main(argv))


if __name__ == "__main__":
    _answer(ready=True)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if not pid:
            _child(request["argv"], request["file_bytes"])
        _answer(pid=pid)
        _answer(code=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
