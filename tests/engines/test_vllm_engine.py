"""Our plug-in in a real vLLM: the decisions of the bundled pair are those of our own runtime.

`make test-engines` installs vLLM and runs this; `S2T_ENGINE_PROBLEMS` problems of the test split, fp32, 64 at a time.
Where an answer differs, its first different step is a tie: two tokens, or a trigger and its threshold, that lie closer
than `TIE_NATS` in our runtime.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_server import NEW_TOKENS, ask, questions, vllm_with_us
from safetensors.torch import load_file, save_file

from running import Running, gap
from select_to_think.config import DecodeConfig, RuntimeConfig, SelectConfig
from select_to_think.files import finite
from select_to_think.session import Session
from select_to_think.structures import Generation
from select_to_think.training.export import export

N = int(os.environ.get("S2T_ENGINE_PROBLEMS", "300"))
TIE_NATS = 1e-4
RUNTIME = RuntimeConfig(kv_memory_gib=0.2)
MODES = ["proposer", "coupled", "merged", "two-workers", "newer-runner", "newer-runner-two-workers"]
LLM = Path(__file__).parents[2] / "src/select_to_think/pairs/demo/llm"


@pytest.fixture(scope="module", params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def exported(mode: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp(mode) / "exported"
    export(Session(runtime=RUNTIME), "s2t-local", beside(mode), "merged" if mode == "merged" else "vllm", out)
    return out


def beside(mode: str) -> SelectConfig:
    """What our own runtime decodes with."""
    return SelectConfig(trigger="entropy", scorer_mode="coupled" if mode in ("coupled", "merged") else "proposer")


TRITON = """
import triton.backends
from types import SimpleNamespace
triton.backends.backends["cpu"] = SimpleNamespace(driver=None, compiler=None)
"""


def by_newer_runner(vllm: Running, folder: Path) -> None:
    """Let vLLM take the runner that it takes on GPUs, its kernels run by Triton's interpreter."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(TRITON)
    path = os.pathsep.join((str(folder), vllm.environment["PYTHONPATH"]))
    vllm.environment |= {"PYTHONPATH": path, "TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}
    vllm.environment["TORCHDYNAMO_DISABLE"] = "1"  # it would compile for Triton


@pytest.fixture(scope="module")
def server(mode: str, exported: Path) -> Iterator[Running]:
    running = vllm_with_us(exported, exported.parent, llm=str(LLM), trigger="entropy")
    if mode.endswith("two-workers"):
        running.command += ["--tensor-parallel-size", "2"]
        running.environment["VLLM_CPU_OMP_THREADS_BIND"] = "0|1"
    if mode.startswith("newer"):
        by_newer_runner(running, exported.parent / "site")
    running.start()
    assert ("Using V2 Model Runner" in running.log.read_text()) == mode.startswith("newer")
    yield running
    running.kill()


@pytest.mark.parametrize("method", ["s2t-local", "s2t", "takeover", "greedy"])
def test_decisions_are_those_of_our_runtime(server: Running, exported: Path, mode: str, method: str) -> None:
    if mode in ("coupled", "merged") and method != "s2t-local":
        pytest.skip("another scorer changes nothing of this method")
    body = {"s2t": {"method": method, "trace": True}}
    n = N // 5 if mode.startswith("newer") else N  # of which the kernels are interpreted
    found = asyncio.run(ask(f"http://127.0.0.1:{server.port}/s2t", questions(n), body))
    session, select = Session(runtime=RUNTIME), beside(mode)
    expected = session.generate(questions(n), method, DecodeConfig(max_new_tokens=NEW_TOKENS), select)
    threshold = None
    if method != "greedy":
        coupled = session.coupled(method, select)
        threshold = session.trigger("entropy", select.trigger_budget, coupled).threshold
    ties = []
    for place, (answer, other) in enumerate(zip(found, expected, strict=True)):
        steps = answer["choices"][0]["s2t"]["steps"]
        if (at := different(steps, other)) is not None:
            ties.append((place, at, nearness(other, at, threshold)))
            continue
        for step, same in zip(steps, other.steps, strict=True):
            if finite(same.logprob) is None:  # the LLM's own token, outside the candidates
                assert step["logprob"] is None
            else:
                assert step["logprob"] == pytest.approx(same.logprob, abs=1e-3)
            for each, score in zip(step["candidates"], same.scores, strict=False):  # takeover has none
                if each["score"] is None:  # not asked for, because it could not win
                    assert score <= max(same.scores)
                else:
                    assert each["score"] == pytest.approx(score, abs=1e-3)
    fired = sum(answer.fired_count for answer in expected)
    print(f"{mode} {method}: {n - len(ties)} of {n} answers are the same, {fired} triggered steps; ties: {ties}")
    assert all(apart < TIE_NATS for _, _, apart in ties), ties
    assert (fired > n // 10) == (method != "greedy")


def to_eight_bits(folder: Path) -> None:
    """Round the layers' weights to eight bits, a scale for each output, in the form of `compressed-tensors`."""
    weights, rounded = load_file(folder / "model.safetensors"), {}
    for name, values in weights.items():
        if name.endswith("_proj.weight"):
            scale = rounded[f"{name}_scale"] = values.abs().amax(1, keepdim=True) / 127
            values = (values / scale).round().to(torch.int8)
        rounded[name] = values
    save_file(rounded, folder / "model.safetensors", metadata={"format": "pt"})
    integers = {"num_bits": 8, "type": "int", "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": {**integers, "strategy": "channel", "dynamic": False},
        "input_activations": {**integers, "strategy": "token", "dynamic": True},
    }
    settings = {"quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed"}
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {**settings, "ignore": ["lm_head"], "config_groups": {"group_0": group}}
    (folder / "config.json").write_text(json.dumps(config))


def test_weights_of_eight_bits_answer_nearly_alike(tmp_path: Path) -> None:
    """On a CPU vLLM has no LoRA beside such weights, so the scorer is merged."""
    session, select = Session(runtime=RUNTIME), beside("merged")
    export(session, "s2t-local", select, "merged", tmp_path / "exported")
    to_eight_bits(tmp_path / "exported")
    running = vllm_with_us(tmp_path / "exported", tmp_path, trigger="entropy")
    body = {"s2t": {"method": "s2t-local", "trace": True}}
    try:
        running.start()
        assert "CompressedTensorsW8A8Int8" in running.log.read_text()
        found = asyncio.run(ask(f"http://127.0.0.1:{running.port}/s2t", questions(N), body))
    finally:
        running.kill()
    expected = session.generate(questions(N), "s2t-local", DecodeConfig(max_new_tokens=NEW_TOKENS), select)
    steps = [answer["choices"][0]["s2t"]["steps"] for answer in found]
    same = sum(different(of, other) is None for of, other in zip(steps, expected, strict=True))
    fired = sum(step["fired"] for of in steps for step in of), sum(answer.fired_count for answer in expected)
    print(f"eight bits s2t-local: {same} of {N} answers are the same, {fired[0]} triggered steps for {fired[1]}")
    assert same > 0.9 * N and fired[0] > N // 10


def different(steps: list[dict[str, Any]], other: Generation) -> int | None:
    """The first step at which two answers part."""
    pairs = list(zip(steps, other.steps, strict=False))
    found = next((n for n, (a, b) in enumerate(pairs) if (a["token"], a["fired"]) != (b.token, b.fired)), None)
    return found if found is not None or len(steps) == len(other.steps) else len(pairs)


def nearness(other: Generation, at: int, threshold: float | None) -> float:
    """How near a step is to being another one."""
    step = other.steps[at]
    edge = abs((step.statistic or 0.0) - threshold) if threshold is not None else float("inf")
    return min(gap(step), edge)
