"""llama.cpp's server for one model file: a script that runs in a process of its own and ends with its parent.

A process of its own, because xllamacpp holds the interpreter's lock for the seconds in which it loads a model, and
waits for ever when it is stopped while a request is being answered. The order is one JSON object on the first line
of stdin, the answer `{"address": …}` or `{"error": …}` on the first line of stdout; when stdin ends, so does this.
"""

import json
import os
import sys
from typing import Any

# A call that is cancelled ends at the next batch of its prompt. Of 512 tokens that was 12 s later, of 128 1 s, and
# the prompt is read as fast.
BATCH_TOKENS = 128
# What is kept of earlier prompts, so that one that begins like any of them is not read again from its start.
PROMPT_CACHE_MIB = 512


def main() -> None:
    # Threads that wait for each other sleep, and do not spin: where other work wants the cores too, spinning made the
    # model six to nine times slower. OpenMP reads this when llama.cpp is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    order = json.loads(sys.stdin.readline())
    server = None
    try:
        server = _serve(order)
        answer = {"address": server.listening_address}
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent has to hear of it
        answer = {"error": f"{type(error).__name__}: {error}"}
    os.write(answers, json.dumps(answer).encode() + b"\n")
    if server is not None:
        sys.stdin.read()
    os._exit(0)


def _serve(order: dict[str, Any]) -> Any:
    """A server with one slot: several share the same cores, gain little, and read a shared prompt once each."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = order["path"]
    params.model_alias = {order["alias"]}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_prefix = order["prefix"]
    params.n_parallel = 1
    params.n_ctx = order["context"]
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = order["threads"]
    params.n_threads_http = 4
    params.n_gpu_layers = 0
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.ui = params.endpoint_slots = False
    params.verbosity = -1
    return xllamacpp.Server(params)


if __name__ == "__main__":
    main()
