"""A model server in a process of its own, for as long as a `with` block lasts, and plain HTTP to it.

The tests that ask a real server start it with this, and the benchmark of served models.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

__all__ = ["HEADERS", "KEY", "QUICK", "Server", "free_port", "running", "vllm_server"]

KEY = "toy"
HEADERS = {"Authorization": f"Bearer {KEY}"}
READY_SECONDS = 600.0
"""Much longer than it takes (one to two minutes), because machines are shared."""

QUICK = ("--enforce-eager", "--max-model-len", "512")
"""Ready sooner, since nothing is compiled; the slower server."""

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "PYTHONUNBUFFERED": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}


@dataclass(frozen=True)
class Server:
    """A running server of the model `name`; `url` is what OpenAI's clients call the base URL."""

    url: str
    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def root(self) -> str:
        """The address without `/v1`."""
        return self.url.removesuffix("/v1")

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """The answer to one request; an answer that is no success is an error with its text."""
        answer = httpx.post(f"{self.url}/{path}", json=body, headers=HEADERS, timeout=120)
        if answer.is_error:
            raise AssertionError(f"{path}: {answer.status_code} {answer.text}")
        found: dict[str, Any] = answer.json()
        return found

    def complete(self, ids: Sequence[int], **settings: Any) -> dict[str, Any]:
        """The first choice of a completion of token ids, greedy unless told otherwise."""
        body = {"model": self.name, "prompt": list(ids), "temperature": 0, "return_token_ids": True}
        body |= settings
        choice: dict[str, Any] = self.post("completions", **body)["choices"][0]
        return choice

    def kill(self) -> None:
        """End it at once, as a machine that fails does."""
        _signal(self.process, signal.SIGKILL)
        self.process.wait()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def vllm_server(vllm: Path, model: Path, name: str, log: Path, *words: str) -> Iterator[Server]:
    """`model` served in float32 under `name`, on this machine alone.

    On a CPU vLLM 0.32 ends as a whole ("CPU Generator does not use offset") when a prompt of a
    request with a seed is cut in two by a full batch, so prompts are not cut.
    """
    port = free_port()
    command = [
        str(vllm), "serve", str(model), "--served-model-name", name, "--api-key", KEY,
        "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--no-enable-chunked-prefill",
        *words,
    ]  # fmt: skip
    with running(command, port, name, log) as server:
        yield server


@contextlib.contextmanager
def running(command: Sequence[str], port: int, name: str, log: Path) -> Iterator[Server]:
    """A server that `command` starts, once it says that it is well; ended with all its children."""
    with log.open("wb") as written:
        process = subprocess.Popen(
            command, env=os.environ | ENVIRONMENT, stdout=written, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    server = Server(f"http://127.0.0.1:{port}/v1", name, process, log)
    try:
        _wait(server)
        yield server
    finally:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
        _signal(process, signal.SIGKILL)
        process.wait()


def _wait(server: Server) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        ended = server.process.poll()
        if ended is not None:
            raise AssertionError(f"the server ended with exit status {ended}; its log ends:\n{_tail(server)}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{server.root}/health", headers=HEADERS, timeout=5).is_success:
                return
        time.sleep(0.5)
    raise AssertionError(
        f"the server was not ready after {READY_SECONDS:.0f} s; its log ends:\n{_tail(server)}"
    )


def _tail(server: Server) -> str:
    return "\n".join(server.log.read_text(errors="replace").splitlines()[-40:])


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Tell the server and its workers, which are in one group; one that has ended hears nothing."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
