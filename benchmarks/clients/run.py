"""Run real clients against `fusion serve`, each in an environment of its own, and print a table of the outcome.

Those that are hosts of MCP servers start `fusion mcp` too, and call one of its tools.

    python -m benchmarks.clients.run --folder /tmp/clients            # all of them
    python -m benchmarks.clients.run --folder /tmp/clients codex llm  # some

A client is installed by pip or npm when its folder is missing. A model of our own on loopback stands in for a
provider, so that no request leaves the machine but those of the installations.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.clients.model import Model

JOBS = Path(__file__).parent / "jobs"
ROOT = Path(__file__).parents[2]
PIPELINE = """name: chat
description: Answers with one model.
inputs: {prompt: The message.}
stages:
  answer: {kind: generate, role: frontier, prompt: "{{ inputs.prompt }}", max_tokens: 4000}
output: answer
"""
_LONGEST = 900
"""Seconds of a job at most: clients start slowly on a busy machine."""
SETTINGS = """[endpoints.fake]
model = "fake"
api_base = "URL"
context = 200000
price = {input = 1, output = 2}
"""


@dataclass(frozen=True)
class Client:
    """A client by the packages that it is installed from, the first of which has its version, and its job."""

    packages: tuple[str, ...]
    job: str
    node: bool = False


CLIENTS = {
    "openai": Client(("openai",), "openai_sdk.py"),
    "anthropic": Client(("anthropic",), "anthropic_sdk.py"),
    "langchain": Client(("langchain-openai",), "langchain_client.py"),
    "litellm": Client(("litellm",), "litellm_client.py"),
    "llm": Client(("llm",), "llm_client.sh"),
    "instructor": Client(("instructor",), "instructor_client.py"),
    "pydantic_ai": Client(("pydantic-ai-slim[openai]",), "pydantic_ai_client.py"),
    "agents": Client(("openai-agents",), "agents_client.py"),
    "llamaindex": Client(("llama-index-llms-openai-like",), "llamaindex_client.py"),
    "aisdk": Client(
        ("ai", "@ai-sdk/openai-compatible", "@ai-sdk/openai", "@ai-sdk/anthropic", "zod"),
        "aisdk_client.mjs",
        node=True,
    ),
    "continue": Client(("@continuedev/cli",), "continue_client.sh", node=True),
    "opencode": Client(("opencode-ai",), "opencode_client.sh", node=True),
    "codex": Client(("@openai/codex",), "codex_client.sh", node=True),
    "claude": Client(("@anthropic-ai/claude-code",), "claude_client.sh", node=True),
}


def install(name: str, client: Client, folder: Path) -> None:
    """Install a client into its folder, unless it is there."""
    home = folder / name
    if (home / ".done").exists():
        return
    home.mkdir(parents=True, exist_ok=True)
    if client.node:
        (home / "package.json").write_text("{}")
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", *client.packages], cwd=home, check=True)
    else:
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        subprocess.run([home / "bin" / "pip", "install", "--quiet", *client.packages], check=True)
    (home / ".done").touch()


def version(name: str, client: Client, folder: Path) -> str:
    """The installed version of a client."""
    package = client.packages[0].partition("[")[0]
    if client.node:
        return str(json.loads((folder / name / "node_modules" / package / "package.json").read_text())["version"])
    asked = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.check_output([folder / name / "bin" / "python", "-c", asked], text=True).strip()


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Run `fusion serve` over the model; gives its address."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "chat.yaml").write_text(PIPELINE)
    with Model() as model:
        (folder / "fusion.toml").write_text(SETTINGS.replace("URL", model.url))
        write_mcp(folder)
        words = [sys.executable, "-m", "fusion", "serve", "chat.yaml", "--port", "0", "-m", "fake"]
        words += ["--config", "fusion.toml", "--store", "runs.db"]
        with (folder / "serve.log").open("w") as log:
            process = subprocess.Popen(words, cwd=folder, env=own(), stdout=subprocess.PIPE, stderr=log, text=True)
            try:
                assert process.stdout is not None
                address = process.stdout.readline().strip()
                if not address:
                    raise SystemExit(f"fusion serve did not start; see {log.name}")
                yield address
            finally:
                process.terminate()
                process.wait(20)


def write_mcp(folder: Path) -> None:
    """Write the program by which a client starts `fusion mcp` over the model."""
    words = [sys.executable, "-m", "fusion", "mcp", "chat.yaml", "-m", "fake"]
    words += ["--config", "fusion.toml", "--store", "runs.db"]
    lines = ["#!/bin/sh", f"cd {shlex.quote(str(folder))}", f"export PYTHONPATH={shlex.quote(str(ROOT))}"]
    path = folder / "fusion-mcp"
    path.write_text("\n".join([*lines, f"exec {shlex.join(words)}", ""]))
    path.chmod(0o755)


def own() -> dict[str, str]:
    """The environment of the server: this project's code, and no settings of the user."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "FUSION_CONFIG": "fusion.toml"}


def run(name: str, client: Client, folder: Path, address: str) -> tuple[bool, list[str], str]:
    """Run a client's job; gives its success, the parts that it did, and the end of its complaints."""
    home = folder / name
    place = folder / "work" / name
    place.mkdir(parents=True, exist_ok=True)
    binaries = home / ("node_modules/.bin" if client.node else "bin")
    job = JOBS / client.job
    if job.suffix == ".mjs":  # modules are looked up from the file's own folder
        (home / job.name).write_text(job.read_text())
        job = home / job.name
    runner = {".py": str(binaries / "python"), ".sh": "bash", ".mjs": "node"}[job.suffix]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(place),
        "BIN": str(binaries),
        "FUSION_URL": address,
        "FUSION_MCP": str(folder / "server" / "fusion-mcp"),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    try:
        done = subprocess.run(
            [runner, str(job)], cwd=place, env=environment, capture_output=True, text=True, timeout=_LONGEST
        )
    except subprocess.TimeoutExpired as error:
        return False, [], str(error)
    parts = [line for line in done.stdout.splitlines() if line.isidentifier()]
    return done.returncode == 0, parts, (done.stderr + done.stdout)[-1500:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*CLIENTS, []], metavar="CLIENT")
    parser.add_argument("--folder", type=Path, required=True, help="Folder of the clients' environments.")
    given = parser.parse_args()
    folder = given.folder.resolve()
    rows, failed = [], []
    with serving(folder / "server") as address:
        for name in given.names or CLIENTS:
            client = CLIENTS[name]
            install(name, client, folder)
            begun = time.monotonic()
            ok, parts, words = run(name, client, folder, address)
            row = (name, version(name, client, folder), "yes" if ok else "no", ", ".join(parts))
            print(f"{row} {time.monotonic() - begun:.1f} s", file=sys.stderr)
            rows.append(row)
            if not ok:
                failed.append(f"{name}: {words}")
    print("| client | version | works | tried |\n| --- | --- | --- | --- |")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    if failed:
        raise SystemExit("\n\n".join(failed))


if __name__ == "__main__":
    main()
