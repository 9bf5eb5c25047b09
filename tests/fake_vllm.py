"""vLLM as far as our plug-in uses it: its names, and an engine that runs a tiny model token by token.

The engine is the plainest there can be: one request after the other, a whole forward for every token, our own logits
processor on its logits, log-probabilities taken behind it. Its processor is told of its batch as vLLM's older runner
does, or of `slots` as the newer one.
"""

from __future__ import annotations

import asyncio
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


@dataclass
class SamplingParams:
    temperature: float
    ignore_eos: bool
    detokenize: bool
    flat_logprobs: bool
    max_tokens: int
    logprobs: int
    output_kind: Any
    stop_token_ids: list[int] = field(default_factory=list)
    logit_bias: dict[int, float] | None = None
    stream_interval: int = 1
    extra_args: dict[str, Any] = field(default_factory=dict)


class RequestOutputKind(Enum):
    DELTA = 1
    FINAL_ONLY = 2


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


class OfRows(ABC):
    """The older interface of logits processors."""

    @abstractmethod
    def apply(self, logits: Any) -> Any: ...
    @abstractmethod
    def is_argmax_invariant(self) -> bool: ...
    @abstractmethod
    def update_state(self, batch_update: Any) -> None: ...


class OfSlots(ABC):
    """The newer one."""

    @abstractmethod
    def apply(self, logits: Any, ctx: Any) -> Any: ...


@dataclass
class BatchUpdate:
    removed: list[int]
    added: list[tuple[int, SamplingParams, list[int] | None, list[int]]]
    moved: list[Any]


def process_dict_updates(entries: dict[int, Any], update: BatchUpdate | None, new_state: Any) -> bool:
    if update is None:
        return False
    for index in update.removed:
        entries.pop(index, None)
    for index, params, prompt, written in update.added:
        if (state := new_state(params, prompt, written)) is not None:
            entries[index] = state
    return True


def tokens_input(prompt_token_ids: list[int]) -> dict[str, Any]:
    return {"prompt_token_ids": prompt_token_ids}


@contextmanager
def vllm_modules() -> Iterator[None]:
    """Let our plug-in be imported where vLLM is not installed."""
    names: dict[str, dict[str, Any]] = {
        "vllm": {"SamplingParams": SamplingParams},
        "vllm.inputs": {},
        "vllm.inputs.engine": {"tokens_input": tokens_input},
        "vllm.lora": {},
        "vllm.lora.request": {"LoRARequest": LoRARequest},
        "vllm.sampling_params": {"RequestOutputKind": RequestOutputKind},
        "vllm.v1": {},
        "vllm.v1.sample": {},
        "vllm.v1.sample.logits_processor": {"LogitsProcessor": OfRows, "BatchUpdate": BatchUpdate},
        "vllm.v1.sample.logits_processor.builtin": {"process_dict_updates": process_dict_updates},
        "vllm.v1.worker": {},
        "vllm.v1.worker.gpu": {},
        "vllm.v1.worker.gpu.sample": {},
        "vllm.v1.worker.gpu.sample.logits_processor": {"LogitsProcessor": OfSlots},
    }
    before = {name for name in sys.modules if name.startswith("select_to_think.integrations.vllm")}
    for name, values in names.items():
        module = ModuleType(name)
        vars(module).update(values)
        sys.modules[name] = module
    try:
        yield
    finally:
        ours = {name for name in sys.modules if name.startswith("select_to_think.integrations.vllm")}
        for name in (*names, *(ours - before)):
            del sys.modules[name]


@dataclass
class Flat:
    """Log-probabilities of positions, one behind the other."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    start_indices: list[int] = field(default_factory=list)
    end_indices: list[int] = field(default_factory=list)

    def add(self, chosen: int, logprobs: torch.Tensor, top: int, *, twice: bool) -> None:
        values, ids = logprobs.topk(top)
        pairs = list(zip(ids.tolist(), values.tolist(), strict=True))
        self.tell((chosen, float(logprobs[chosen])), *(pair for pair in pairs if twice or pair[0] != chosen))

    def tell(self, *pairs: tuple[int, float]) -> None:
        self.start_indices.append(len(self.token_ids))
        for token, value in pairs:
            self.token_ids.append(token)
            self.logprobs.append(value)
        self.end_indices.append(len(self.token_ids))


class FakeEngine:
    """An `EngineClient` over an exported folder."""

    def __init__(self, folder: Path, processor: type[Any], slots: int = 0, **settings: Any) -> None:
        model_config = {
            "model": str(folder),
            "max_model_len": 64,
            "max_logprobs": 20,
            "logprobs_mode": "processed_logprobs",
            "logits_processors": [f"{processor.__module__}:{processor.__name__}"],
        }
        model_config.update(settings.pop("model_config", {}))
        self.vllm_config = SimpleNamespace(
            model_config=SimpleNamespace(**model_config),
            lora_config=SimpleNamespace(max_loras=2),
            scheduler_config=SimpleNamespace(max_num_seqs=4),
            additional_config=settings.pop("additional_config", {}),
            **settings,
        )
        self.slots = slots
        prompts = SimpleNamespace(np=np.full(slots, 99, np.int32))
        place = torch.device("cpu")
        self.processor = (
            processor(self.vllm_config, SimpleNamespace(device=place, prompt_len=prompts))
            if slots
            else processor(self.vllm_config, place, False)
        )
        self.base = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.adapted: dict[str, Any] = {}
        self.requests: list[str] = []
        self.aborted: list[str] = []
        self.token_seconds = 0.0
        self.crowded: Container[int] = ()  # steps in which another client asks for ids
        self.steps = 0

    def model(self, lora: LoRARequest | None) -> Any:
        if lora is None:
            return self.base
        if lora.lora_path not in self.adapted:
            fresh = AutoModelForCausalLM.from_pretrained(self.vllm_config.model_config.model)
            self.adapted[lora.lora_path] = PeftModel.from_pretrained(fresh, lora.lora_path).eval()
        return self.adapted[lora.lora_path]

    @torch.no_grad()
    def step(self, tokens: list[int], params: SamplingParams, model: Any, written: list[int]) -> torch.Tensor:
        """Processed log-probabilities (V,), beside a row that wants nothing and must stay as it is."""
        logits = model(torch.tensor([tokens])).logits[0, -1:].float()
        for token, nats in (params.logit_bias or {}).items():
            logits[:, token] += nats
        other = SamplingParams(0.0, True, False, True, 1, 1, RequestOutputKind.DELTA)
        process = self.by_slots if self.slots else self.by_rows
        both = process(torch.cat([logits, logits]), tokens, params, other, written)
        assert torch.equal(both[0], logits[0])
        return both[1].log_softmax(-1)

    def by_rows(self, both: Any, tokens: list[int], params: Any, other: Any, written: list[int]) -> torch.Tensor:
        self.processor.update_state(BatchUpdate([], [(1, params, None, written), (0, other, None, [])], []))
        both = self.processor.apply(both)
        self.processor.update_state(BatchUpdate([0, 1], [], []))
        return both

    def by_slots(self, both: Any, tokens: list[int], params: Any, other: Any, written: list[int]) -> torch.Tensor:
        """The slots of a step are whichever are free; their number tells nothing of the rows."""
        mine, others = (self.steps + 1) % self.slots, self.steps % self.slots
        for slot, each, prompt in ((others, other, 3), (mine, params, len(tokens) - len(written))):
            self.processor.requests.prompt_len.np[slot] = prompt
            assert self.processor.add_request(slot, each) == (each is params)
        slots, lengths = np.array([others, mine]), np.array([7, len(tokens)])
        return self.processor.apply(both, SimpleNamespace(idx_mapping_np=slots, seq_lens_upper_bound_np=lengths))

    async def generate(
        self,
        prompt: dict[str, Any],
        params: SamplingParams,
        request_id: str,
        *,
        lora_request: LoRARequest | None = None,
    ) -> AsyncIterator[Any]:
        self.requests.append(request_id)
        given, written, model = prompt["prompt_token_ids"], list[int](), self.model(lora_request)
        assert params.logprobs <= self.vllm_config.model_config.max_logprobs
        assert len(given) < self.vllm_config.model_config.max_model_len
        flat, told, finished = Flat(), 0, False
        try:
            while not finished:
                await asyncio.sleep(self.token_seconds)
                logprobs = self.step([*given, *written], params, model, written)
                written.append(int(logprobs.argmax()))
                self.steps += 1
                if self.steps in self.crowded:
                    flat.tell((written[-1], float(logprobs[written[-1]])), (0, -9999.0))
                else:
                    flat.add(written[-1], logprobs, params.logprobs, twice=len(written) % 2 == 0)
                finished = written[-1] in params.stop_token_ids or len(written) == params.max_tokens
                streamed = params.output_kind is RequestOutputKind.DELTA
                if finished or (streamed and len(written) - told >= params.stream_interval):
                    output = SimpleNamespace(token_ids=written[told:], logprobs=flat)
                    yield SimpleNamespace(
                        prompt_token_ids=given, num_cached_tokens=1, outputs=[output], finished=finished
                    )
                    flat, told = Flat(), len(written)
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.append(request_id)
            raise
