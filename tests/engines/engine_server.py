"""A real vLLM with our plug-in, and what it answers.

    S2T_SERVERS=FOLDER PYTHONPATH=src:tests:tests/engines python tests/engines/engine_server.py FOLDER [--rounds 3]

measures, in alternating rounds at the same concurrency, plain vLLM greedy and `s2t-local` on the exported pair in
FOLDER, in vLLM and in `s2t serve`: tokens a second by the clock, and CPU time of the whole server. vLLM's engine and
worker share a process here: in two, they wait for each other by spinning, for which two cores have no room.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
import tomllib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil

from running import VLLM_ENVIRONMENT, Running, free_port, vllm_python
from select_to_think.models.exported import read_exported
from select_to_think.pairs.problems import load_split

ROOT = Path(__file__).parents[2]
PROCESSOR = "select_to_think.integrations.vllm.processor:PauseProcessor"
CONCURRENT, NEW_TOKENS, ANSWER_S = 64, 64, 3600.0


def questions(n: int) -> list[str]:
    """Problems of the test split, as many of each domain."""
    return [problem.question for problem in load_split("test", limit_per_domain=-(-n // 3))][:n]


def installed(folder: Path) -> Path:
    """A folder for PYTHONPATH with which our package counts as installed, entry points and all."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    about = folder / "select_to_think-0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0\n")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in entries.items())]
    (about / "entry_points.txt").write_text("\n".join(lines))
    return folder


def vllm_with_us(exported: Path, folder: Path, **settings: Any) -> Running:
    """A server that is not started yet."""
    port = free_port()
    command = [
        vllm_python(), "-m", "vllm.entrypoints.openai.api_server", "--model", str(exported), "--port", str(port),
        "--dtype", "float32", "--enforce-eager", "--max-model-len", "1024", "--max-num-seqs", "256",
        "--max-num-batched-tokens", "1024", "--block-size", "32", *adapters(exported),
        "--logprobs-mode", "processed_logprobs", "--logits-processors", PROCESSOR,
        "--additional-config", json.dumps({"s2t": settings}),
    ]  # fmt: skip
    path = os.pathsep.join((str(ROOT / "src"), str(installed(folder / "installed"))))
    environment = {"VLLM_PLUGINS": "select-to-think", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return Running(command, port, folder / "log", **VLLM_ENVIRONMENT, **environment)


def in_one_process(vllm: Running) -> Running:
    """vLLM whose engine has no worker beside it."""
    vllm.command += ["--distributed-executor-backend", "uni"]
    vllm.environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return vllm


def ours(exported: Path, folder: Path, budget: float) -> Running:
    """`s2t serve` on the same model, not started yet."""
    port = free_port()
    command = [
        sys.executable, "-m", "select_to_think", "serve", "--slm", str(exported), "--trigger-budget", str(budget),
        "--trigger", "entropy", "--max-batch", str(CONCURRENT), "--port", str(port), "--device", "cpu",
    ]  # fmt: skip
    return Running(command, port, folder / "log-ours", OMP_NUM_THREADS="1")


def adapters(exported: Path) -> list[str]:
    """The flags for a LoRA beside the model, and an empty place."""
    merged = read_exported(exported).format == "merged"
    return [] if merged else ["--enable-lora", "--max-loras", "2", "--max-lora-rank", "32"]


async def ask(url: str, asked: Sequence[str], body: dict[str, Any]) -> list[dict[str, Any]]:
    """All answers, `CONCURRENT` at a time, in the order of the questions."""
    places = asyncio.Semaphore(CONCURRENT)
    limits = httpx.Limits(max_connections=CONCURRENT, max_keepalive_connections=0)  # vLLM closes them after 5 s
    async with httpx.AsyncClient(base_url=url, timeout=ANSWER_S, limits=limits) as client:

        async def one(question: str) -> dict[str, Any]:
            async with places:
                messages = [{"role": "user", "content": question}]
                answer = await client.post(
                    "/v1/chat/completions", json={"messages": messages, "max_tokens": NEW_TOKENS, **body}
                )
            assert answer.status_code == 200, answer.text
            found: dict[str, Any] = answer.json()
            return found

        return await asyncio.gather(*map(one, asked))


def cpu_seconds(process: int) -> float:
    """CPU time of a process and its children so far."""
    parent = psutil.Process(process)
    times = [each.cpu_times() for each in (parent, *parent.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


def measured(running: Running, place: str, n: int, body: dict[str, Any]) -> dict[str, float]:
    """What answering costs."""
    cpu, clock = cpu_seconds(running.process.pid), time.perf_counter()
    answers = asyncio.run(ask(f"http://127.0.0.1:{running.port}{place}", questions(n), body))
    clock, cpu = time.perf_counter() - clock, cpu_seconds(running.process.pid) - cpu
    tokens = sum(answer["usage"]["completion_tokens"] for answer in answers)
    fired = sum(answer["usage"].get("s2t", {}).get("triggered", 0) for answer in answers)
    return {
        "tokens": tokens,
        "triggered": fired,
        "tokens_per_second": tokens / clock,
        "cpu_ms_per_token": 1e3 * cpu / tokens,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("exported", type=Path)
    parser.add_argument("--folder", type=Path, required=True, help="for logs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=128)
    parser.add_argument("--budget", type=float, default=0.03)
    options = parser.parse_args()
    vllm = in_one_process(vllm_with_us(options.exported, options.folder, trigger_budget=options.budget))
    beside = ours(options.exported, options.folder, options.budget)
    greedy, selecting = {"s2t": {"method": "greedy"}}, {"s2t": {"method": "s2t-local", "trigger": "entropy"}}
    ways: dict[str, tuple[Running, str, dict[str, Any]]] = {
        "plain vLLM greedy": (vllm, "", {"temperature": 0}),
        "greedy by the plug-in": (vllm, "/s2t", greedy),
        "s2t-local": (vllm, "/s2t", selecting),
        "greedy by s2t serve": (beside, "", greedy),
        "s2t-local by s2t serve": (beside, "", selecting),
    }
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    with ExitStack() as running:
        for server in (vllm, beside):
            server.start()
            running.callback(server.kill)
        for number in range(options.rounds + 1):
            for name, (server, place, body) in ways.items():
                found = measured(server, place, options.questions, body)
                print(json.dumps({"round": number, "name": name, **found}), flush=True)
                if number:  # the first warms up
                    rounds[name].append(found)
    plain = rounds["plain vLLM greedy"]
    for name, found in rounds.items():
        clock = [
            mine["tokens_per_second"] / other["tokens_per_second"] for mine, other in zip(found, plain, strict=True)
        ]
        cpu = [other["cpu_ms_per_token"] / mine["cpu_ms_per_token"] for mine, other in zip(found, plain, strict=True)]
        print(
            f"{name}: {statistics.median(clock):.2f} [{min(clock):.2f}, {max(clock):.2f}] of plain by the clock, "
            f"{statistics.median(cpu):.2f} by CPU time; "
            f"{statistics.median(each['tokens_per_second'] for each in found):.0f} tokens/s"
        )


if __name__ == "__main__":
    main()
