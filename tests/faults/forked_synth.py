"""Runs `o1-synth` in real processes that need not import it again: a fork each.

Says {"ready": true}, then reads lines {"argv": [...], "log": path, "environment": {...}} on stdin and
answers {"pid": n} when the process is there and {"code": n} when it ended (minus the signal, if one
ended it).
"""

import json
import os
import sys

import aiohttp  # noqa: F401  what the command would import
import filelock  # noqa: F401
import tqdm  # noqa: F401

from o1_synth.__main__ import main

if __name__ == "__main__":
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if not pid:
            log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.environ.update(request["environment"])
            os._exit(main(request["argv"]))
        print(json.dumps({"pid": pid}), flush=True)
        print(json.dumps({"code": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}), flush=True)
