"""vLLM as a backend: it decodes alone as far as the next pause, and scores candidates as one-token continuations.

What was computed before is in its prefix cache, in whole blocks, so going on behind a pause and each candidate cost the
tokens of the last block again.

Non-goals: the trigger, which is in the engine (`processor.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import count
from pathlib import Path
from types import AsyncGeneratorType
from typing import Any

import numpy as np
from vllm import SamplingParams
from vllm.inputs.engine import tokens_input
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind

from select_to_think.contexts.elsewhere import BackendElsewhere
from select_to_think.contexts.protocol import Ask, Context
from select_to_think.integrations.vllm.marks import OWN, Wish, unpaused
from select_to_think.models.exported import Exported
from select_to_think.policies.ahead import Generate, Piece
from select_to_think.structures import Branch, Observation, S2TError

Writing = AsyncGeneratorType[Any, None]
STREAM_TOKENS = 8  # told at a time of what is being written
CROWDED = (
    "vLLM told one token of a step alone: another client asks it for logprob_token_ids, and then vLLM 0.32 keeps the "
    "candidates of everybody else to itself; send such requests to another server"
)
GENERATION: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True, "detokenize": False, "flat_logprobs": True}


class VllmBackend(BackendElsewhere):
    """One engine, many contexts."""

    def __init__(self, client: Any, loop: asyncio.AbstractEventLoop, exported: Exported) -> None:
        """Ask `client`, an `EngineClient` of vLLM that lives in `loop`."""
        super().__init__()
        self.client, self.loop, self.pause_id = client, loop, exported.pause_id
        self.bin_ids = tuple(exported.rows.bin_ids) if exported.rows else ()
        self.values = np.linspace(0, 1, len(self.bin_ids))
        self.numbers = count()  # of requests
        self.loras: dict[str, LoRARequest] = {}
        self.running: dict[Context, Writing] = {}  # touched in the event loop only

    def add_adapter(self, folder: Path) -> str:
        """Let contexts be opened under the LoRA in a folder; returns its name."""
        name = str(folder)
        self.loras.setdefault(name, LoRARequest(name, len(self.loras) + 1, name))
        return name

    def start(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        """Let something run in the loop of the engine's client."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def close(self, context: Context) -> None:
        """Drop what was asked about the context, and what is being written for it."""
        super().close(context)
        self.start(self.end(context))

    async def end(self, context: Context) -> None:
        """Abort what is being written, unless somebody waits for it, who is cancelled and aborts it."""
        running = self.running.pop(context, None)
        if running is not None and not running.ag_running:
            await running.aclose()

    def question(self, ask: Ask) -> Callable[[], Awaitable[Any]]:
        """Generate, or score leaves."""
        request, tokens = ask.request, list(ask.context.tokens)
        if isinstance(request, Generate):
            return partial(self.next_piece, ask, request, tokens)
        if isinstance(request, Branch) and request.observe.bins:
            return partial(self.scores, ask, [[*tokens, *leaf] for leaf in request.continuations])
        raise S2TError("vLLM as it is used here generates and scores, and tells nothing else")

    def settle(self, ask: Ask, length: int) -> None:
        """Append what was written."""
        answer: Any = ask.answer
        if isinstance(answer, Piece):
            ask.context.append(answer.tokens)
        ask.context.stored = len(ask.context)

    def request(self, tokens: Sequence[int], params: SamplingParams, adapter: str | None) -> Writing:
        """The outputs of vLLM behind `tokens`."""
        lora = None if adapter is None else self.loras[adapter]
        outputs: Writing = self.client.generate(
            tokens_input(list(tokens)), params, f"{OWN}-{next(self.numbers)}", lora_request=lora
        )
        return outputs

    async def next_piece(self, ask: Ask, request: Generate, tokens: Sequence[int]) -> Piece:
        """The next steps of what is being written, which begins if there is nothing."""
        running = self.running.get(ask.context)
        if running is None:
            running = self.request(tokens, self.generation(request), ask.context.adapter)
            self.running[ask.context] = running
        output = None
        try:
            output = await anext(running)
        finally:
            if output is None or output.finished:
                self.running.pop(ask.context, None)
        piece = self.piece(output.outputs[0], request)
        steps = len(piece.seen.top_ids)
        ask.context.account.forwards += steps
        ask.context.account.tokens_processed += steps - bool(request.tokens)
        if request.tokens:
            self.charge(ask, output)
        return piece

    def generation(self, request: Generate) -> SamplingParams:
        """The parameters of decoding up to a pause."""
        wish = Wish("write") if request.trigger is None else Wish(request.trigger, request.threshold, request.first)
        assert request.observe is not None
        return SamplingParams(
            **GENERATION,
            max_tokens=request.max_new_tokens,
            stop_token_ids=[*request.stop_ids, self.pause_id],
            logprobs=request.observe.top_k + 1,  # the pause id may be the first of them
            logit_bias=dict(request.observe.bias) or None,
            output_kind=RequestOutputKind.DELTA,
            stream_interval=STREAM_TOKENS,
            extra_args={OWN: list(wish)},
        )

    def piece(self, written: Any, request: Generate) -> Piece:
        """New tokens and their distributions, as a policy reads them."""
        assert request.observe is not None
        tokens, told, top_k = tuple(written.token_ids), written.logprobs, request.observe.top_k
        spans = zip(told.start_indices, told.end_indices, strict=True)
        # the chosen token first; of outputs that vLLM has joined it does not stand among the most probable ones again
        rows = [dict(zip(told.token_ids[i:j], told.logprobs[i:j], strict=True)) for i, j in spans]
        if any(len(row) <= top_k for row in rows):
            raise S2TError(CROWDED)
        ids = np.array([list(row)[: top_k + 1] for row in rows], np.int64)  # (P, top_k + 1)
        logprobs = np.array([list(row.values())[: top_k + 1] for row in rows], np.float32)
        paused, statistic = tokens[-1] == self.pause_id, None
        if paused:
            ids[-1, :-1] = ids[-1, 1:]
            logprobs[-1, :-1], statistic = unpaused(float(logprobs[-1, 0]), logprobs[-1, 1:].tolist())
        seen = Observation(ids[:, :top_k], logprobs[:, :top_k])
        return Piece(tokens[: len(tokens) - paused], seen, paused, statistic)

    async def scores(self, ask: Ask, leaves: Sequence[Sequence[int]]) -> Observation:
        """The expected bin of each leaf."""
        adapter = ask.adapter or ask.context.adapter
        ask.context.account.forwards += 1
        expected = await asyncio.gather(*(self.expected_bin(ask, leaf, adapter) for leaf in leaves))
        return Observation(bin_scores=np.asarray(expected, np.float32))

    async def expected_bin(self, ask: Ask, leaf: Sequence[int], adapter: str | None) -> float:
        """Of one leaf."""
        params = SamplingParams(
            **GENERATION,
            max_tokens=1,
            logprobs=len(self.values),
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args={OWN: list(Wish("score"))},
        )
        async for output in self.request(leaf, params, adapter):
            self.charge(ask, output)
            told = output.outputs[0].logprobs
            found = dict(zip(told.token_ids, told.logprobs, strict=True))
            if not found.keys() >= set(self.bin_ids):
                raise S2TError(CROWDED)
            return float(np.exp([found[each] for each in self.bin_ids]) @ self.values)
        raise RuntimeError("vLLM ended a request without an answer")

    def charge(self, ask: Ask, output: Any) -> None:
        """Write down what a prompt has cost; here, in the event loop, alone."""
        account, cached = ask.context.account, output.num_cached_tokens or 0
        account.tokens_processed += len(output.prompt_token_ids) - cached
        account.tokens_cached += cached
