"""A server that speaks like vLLM, SGLang, llama-server, ours or any other, from a tiny model in process.

It can be told to answer late, and to fail: `faults(n)` names what is wrong with the answer to its n-th question.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import torch
import uvicorn

from select_to_think.models.loading import LoadedModel

FAULTS = (
    "hang",
    "429",
    "500",
    "503",
    "reset",
    "truncated",
    "empty",
    "nan",
    "positive",
    "other prompt",
    "page",
    "blank",
)
OWNERS = {
    "vllm": "vllm",
    "sglang": "sglang",
    "llama-server": "llamacpp",
    "s2t": "select-to-think",
    "openai": "somebody",
}
OWN_FIELDS = set(
    "model prompt max_tokens temperature logprobs logprob_token_ids return_tokens_as_token_ids".split()
)  # of `s2t serve` that are asked
DETOKENIZED = {"vllm": "prompt", "llama-server": "content"}
QUESTIONS = ("/v1/completions", "/generate", "/completion")


class Refusal(Exception):
    """What is answered with a status of its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class FakeServer:
    """One address, one model, one kind of server."""

    def __init__(
        self,
        loaded: LoadedModel,
        kind: str = "vllm",
        *,
        name: str = "tiny/llm",
        faults: Callable[[int], str | None] = lambda n: None,
        delay_s: float = 0.0,
        hang_s: float = 1.0,
        top_limit: int = 20,
        takes_ids: bool = True,
        tokenizes: bool = True,
        key: str | None = None,
    ) -> None:
        self.loaded, self.kind, self.name, self.faults = loaded, kind, name, faults
        self.delay_s, self.hang_s, self.top_limit, self.takes_ids = delay_s, hang_s, top_limit, takes_ids
        self.tokenizes, self.key = tokenizes, key
        self.asked = 0  # questions about a prompt
        self.at_once = self.most_at_once = 0
        self.steps: list[dict[str, bool]] = []  # what is asked at this moment, and whether others' ids stand beside it
        self.cached: set[tuple[int, ...]] = set()  # prefixes that were read before
        self.read_tokens = self.cached_tokens = 0
        self.known: dict[tuple[int, ...], torch.Tensor] = {}
        self.bodies: list[dict[str, Any]] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.server: uvicorn.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @contextmanager
    def running(self) -> Iterator[FakeServer]:
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def start(self) -> None:
        config = uvicorn.Config(
            self.app, host="127.0.0.1", port=self.port, log_level="error", lifespan="off", interface="asgi3"
        )
        self.server = uvicorn.Server(config)
        self.thread = Thread(target=self.server.run, daemon=True)
        self.thread.start()
        limit = time.monotonic() + 10
        while not self.server.started and time.monotonic() < limit:
            time.sleep(0.005)
        assert self.server.started

    def stop(self) -> None:
        """End it at once: connections break."""
        if self.server is not None:
            self.server.force_exit = self.server.should_exit = True
            self.thread.join(10)
            self.server = None

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        asked = json.loads(body) if body else {}
        fault = None
        try:
            if self.key and headers.get("authorization") != f"Bearer {self.key}":
                raise Refusal(401, "no such key")
            if scope["path"] in QUESTIONS:
                self.bodies.append(asked)
                self.asked += 1
                fault = self.faults(self.asked)
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                mine = self.beside(asked)
                try:
                    await asyncio.sleep(self.hang_s if fault == "hang" else max(self.delay_s, 0.001))
                finally:
                    self.at_once -= 1
                    self.steps = [each for each in self.steps if each is not mine]
                if mine["crowded"] and self.kind == "vllm":
                    asked = {**asked, "crowded": True}
            status, content, extra = 200, json.dumps(self.answer(scope["path"], asked, fault)).encode(), []
            if fault in ("429", "500", "503"):
                status, content = int(fault), b'{"error": {"message": "busy"}}'
                extra = [(b"retry-after", b"0.05")] if fault == "429" else []
        except Refusal as refusal:
            status, content, extra = refusal.status, json.dumps({"error": {"message": str(refusal)}}).encode(), []
        if fault == "truncated":
            content = content[: len(content) // 2]
        if fault in ("page", "blank"):
            content = b"<html>Bad gateway</html>" if fault == "page" else b"{}"
        length = len(content) + (50 if fault == "reset" else 0)
        start = [(b"content-type", b"application/json"), (b"content-length", str(length).encode()), *extra]
        await send({"type": "http.response.start", "status": status, "headers": start})
        await send({"type": "http.response.body", "body": content})

    def beside(self, asked: dict[str, Any]) -> dict[str, bool]:
        """A request that joins the step; those without ids are crowded by those with them."""
        mine = {"ids": bool(asked.get("logprob_token_ids"))}
        mine["crowded"] = not mine["ids"] and any(each["ids"] for each in self.steps)
        for each in self.steps:
            each["crowded"] |= mine["ids"] and not each["ids"]
        self.steps.append(mine)
        return mine

    def answer(self, path: str, asked: dict[str, Any], fault: str | None) -> Any:
        """The JSON of one request."""
        kind = self.kind
        if path == "/v1/models":
            entry = {"id": self.name, "object": "model", "owned_by": OWNERS[kind], "root": self.name}
            if kind in ("vllm", "sglang", "s2t"):
                entry["max_model_len"] = self.loaded.max_positions
            return {"object": "list", "data": [entry]}
        if path == "/props" and kind == "llama-server":
            return {"default_generation_settings": {"n_ctx": self.loaded.max_positions}}
        if path == "/tokenize" and kind != "openai" and self.tokenizes:
            text = asked["content" if kind == "llama-server" else "prompt"]
            return {"tokens": self.loaded.tokenizer(text, add_special_tokens=False).input_ids}
        if path == "/detokenize" and kind in ("vllm", "llama-server") and self.tokenizes:
            return {DETOKENIZED[kind]: self.loaded.tokenizer.decode(asked["tokens"])}
        if asked.get("model", self.name) != self.name:
            raise Refusal(404, f"the model {asked['model']!r} does not exist")
        if path == "/v1/completions" and kind in ("vllm", "s2t", "openai"):
            return self.completions(asked, fault)
        if path == "/generate" and kind == "sglang":
            return self.generate(asked, fault)
        if path == "/completion" and kind == "llama-server":
            return self.completion(asked, fault)
        raise Refusal(404, "not found")

    def logprobs(self, tokens: list[int], fault: str | None) -> torch.Tensor:
        """What follows the tokens (V,); what a fault makes of it."""
        if len(tokens) >= self.loaded.max_positions:
            raise Refusal(400, "the prompt is longer than the context")
        path = tuple(tokens)
        self.read_tokens += len(path)
        self.cached_tokens += next((n for n in range(len(path), 0, -1) if path[:n] in self.cached), 0)
        self.cached.add(path)
        if path not in self.known:
            with torch.inference_mode():
                logits = self.loaded.model(torch.tensor([path])).logits[0, -1].float()
            self.known[path] = logits.log_softmax(-1)
        values = self.known[path]
        if fault == "nan":
            return torch.full_like(values, torch.nan)
        return values + 100 if fault == "positive" else values

    def completions(self, asked: dict[str, Any], fault: str | None) -> Any:
        """vLLM's and others' `/v1/completions`, one token."""
        tokenizer, prompt = self.loaded.tokenizer, asked["prompt"]
        if self.kind == "s2t" and not asked.keys() <= OWN_FIELDS:
            raise Refusal(400, f"unknown fields {asked.keys() - OWN_FIELDS}")
        if isinstance(prompt, str):
            prompt = list(tokenizer(prompt).input_ids)
        elif not self.takes_ids:
            raise Refusal(400, "prompt must be a string")
        if fault == "other prompt":
            prompt = prompt[:-1]
        values = self.logprobs(prompt, fault)
        chosen = self.choose(values, asked.get("logit_bias", {}).items())
        exact = self.kind in ("vllm", "s2t")
        ids = asked.get("logprob_token_ids") if exact else None
        count = asked.get("logprobs") or 0
        if count > self.top_limit or (ids and len(ids) > 128):
            raise Refusal(400, f"at most {self.top_limit} log-probabilities")
        shown = [chosen, *(values.topk(min(count, len(values))).indices.tolist() if ids is None else ids)]
        name = (lambda i: f"token_id:{i}") if asked.get("return_tokens_as_token_ids") and exact else self.text_of
        told: Any = {
            "tokens": [name(chosen)],
            "token_logprobs": [float(values[chosen])],
            "top_logprobs": [{name(i): float(values[i]) for i in shown}],
        }
        if asked.get("crowded"):
            told["top_logprobs"] = [{name(0): -9999.0, name(chosen): float(values[chosen])}]
        if fault == "empty":
            told = {"tokens": [], "token_logprobs": [], "top_logprobs": []}
        usage = {"prompt_tokens": len(prompt), "completion_tokens": 1}
        choice = {"index": 0, "text": self.text_of(chosen), "logprobs": told, "finish_reason": "length"}
        return {"id": f"cmpl-{asked.get('request_id', 'x')}", "model": self.name, "choices": [choice], "usage": usage}

    def generate(self, asked: dict[str, Any], fault: str | None) -> Any:
        """SGLang's `/generate`, one token."""
        prompt = asked["input_ids"][: -1 if fault == "other prompt" else None]
        values = self.logprobs(prompt, fault)
        chosen = self.choose(values, asked["sampling_params"].get("logit_bias", {}).items())
        lines = lambda ids: [[float(values[i]), i, None] for i in ids]  # noqa: E731
        top = asked.get("top_logprobs_num", 0)
        about = {
            "id": asked["rid"],
            "prompt_tokens": len(prompt),
            "output_token_logprobs": lines([chosen]),
            "output_token_ids_logprobs": [lines(asked.get("token_ids_logprob", []))],
            "output_top_logprobs": [lines(values.topk(top).indices.tolist())],
        }
        if fault == "empty":
            about["output_token_logprobs"] = []
        return {"text": self.text_of(chosen), "output_ids": [chosen], "meta_info": about}

    def completion(self, asked: dict[str, Any], fault: str | None) -> Any:
        """llama-server's `/completion`, one token. One that ends inside a character has no probabilities."""
        prompt = asked["prompt"][: -1 if fault == "other prompt" else None]
        values = self.logprobs(prompt, fault)
        chosen = self.choose(values, asked.get("logit_bias", ()))
        answer = {"tokens": [chosen] if asked.get("return_tokens") else [], "tokens_evaluated": len(prompt)}
        if asked.get("post_sampling_probs"):
            biased = values.clone()
            for i, bias in asked["logit_bias"]:
                biased[i] += bias
            shares = biased.softmax(-1)
            best = shares.topk(asked["n_probs"]).indices.tolist()
            top = {"top_probs": [{"id": i, "prob": float(shares[i])} for i in best if shares[i] > 0]}
        else:
            best = values.topk(min(asked["n_probs"], len(values))).indices.tolist()
            top = {"top_logprobs": [{"id": i, "logprob": float(values[i])} for i in best]}
        if fault == "empty":
            top = {name: [] for name in top}
        return {**answer, "model": self.name, "completion_probabilities": [{"id": chosen, **top}]}

    def choose(self, values: torch.Tensor, bias: Any) -> int:
        """The most probable token, after `logit_bias`."""
        biased = values.clone()
        for i, amount in bias:
            biased[int(i)] += float(amount)
        return int(biased.nan_to_num().argmax())

    def text_of(self, i: int) -> str:
        return str(self.loaded.tokenizer.decode([i]))
