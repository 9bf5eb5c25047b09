"""Real servers as processes of their own, and how near an answer is to a tie."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

SERVERS = Path(os.environ.get("S2T_SERVERS", Path(__file__).parents[1] / ".servers"))
START_S = 600.0
VLLM_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "0",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


class Running:
    """A server as a process of its own."""

    def __init__(self, command: list[str], port: int, log: Path, **environment: str) -> None:
        self.command, self.port, self.log = command, port, log
        self.environment = {**os.environ, **environment}
        self.url = f"http://127.0.0.1:{port}/v1"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=self.environment, start_new_session=True
            )
        end = time.monotonic() + START_S
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            assert self.process.poll() is None, f"the server ended: {self.log.read_text()[-2000:]}"
            assert time.monotonic() < end, f"the server did not start: {self.log.read_text()[-2000:]}"
            time.sleep(0.2)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def vllm_python() -> str:
    """The interpreter of an environment with vLLM."""
    if not (SERVERS / "vllm/ready").exists():
        pytest.skip(f"there is no vLLM in {SERVERS}: make test-servers or test-engines installs it")
    return str(SERVERS / "vllm/bin/python")


def gap(step: Any) -> float:
    """How far the two best choices of a step lie apart, in nats."""
    values = np.sort(np.asarray(step.scores or step.candidate_logprobs or (step.logprob, -np.inf)))[::-1]
    return float(values[0] - values[1]) if len(values) > 1 else np.inf
