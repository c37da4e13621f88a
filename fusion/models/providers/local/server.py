"""Script: llama.cpp's server for one model file, in a process that ends with its parent.

It needs its own process since xllamacpp holds the interpreter's lock for the seconds in which it loads a model, and
hangs when stopped during a request. The first line of stdin is the order, a JSON object. The first line of stdout is
`{"address": …}` or `{"error": …}`. The script ends when stdin closes.
"""

import json
import os
import sys
from typing import Any

# A cancelled call ends at the next batch of its prompt: after 12 s with 512 tokens, after 1 s with 128. The prompt is
# read as fast.
BATCH_TOKENS = 128
# Cache of earlier prompts, so that a shared prefix is read once.
PROMPT_CACHE_MIB = 512


def main() -> None:
    # Waiting threads sleep and do not spin: on busy cores, spinning made the model six to nine times slower. OpenMP
    # reads this when llama.cpp is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    order = json.loads(sys.stdin.readline())
    server = None
    try:
        server = _serve(order)
        answer = {"address": server.listening_address}
    except Exception as error:  # noqa: BLE001 - every error is reported to the parent
        answer = {"error": f"{type(error).__name__}: {error}"}
    os.write(answers, json.dumps(answer).encode() + b"\n")
    if server is not None:
        sys.stdin.read()
    os._exit(0)


def _serve(order: dict[str, Any]) -> Any:
    """Return a server with one slot; more would share the same cores, and read a shared prompt once each."""
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
