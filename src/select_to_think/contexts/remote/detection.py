"""Getting to know a server: what it is, which model it serves, whether it has the SLM's tokens, what it can tell.

Also how it is recognised again after a connection broke: by its models' names, and by what it says of a probe.

Non-goals: asking it for anything else.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
from transformers import PreTrainedTokenizerBase

from select_to_think.checked import LARGEST
from select_to_think.config import PairConfig, RuntimeConfig, ServerKind
from select_to_think.contexts.remote.questions import Query, Seen
from select_to_think.contexts.remote.servers import VLLM, LlamaServer, OpenAI, Own, Server, SGLang, changed
from select_to_think.contexts.remote.transport import Missed, Transport
from select_to_think.models.loading import LoadedModel
from select_to_think.models.remote import RemoteModel
from select_to_think.models.tokenizer import PROBE, load_tokenizer
from select_to_think.models.vocabulary import named_stop_ids, stop_ids
from select_to_think.structures import ModelRefused, ModelUnavailable, S2TError

OURS = "select-to-think"
OWNERS: Mapping[str, ServerKind] = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama-server", OURS: "s2t"}
SIGNS: Sequence[tuple[str, str, ServerKind]] = (  # an address, what it tells, who has it
    ("/get_model_info", "model_path", "sglang"),
    ("/props", "default_generation_settings", "llama-server"),
    ("/version", "version", "vllm"),
)
PLAIN = "The answer is 12 + 7 = 19."
PROBED_TOKENS = 200  # of the vocabulary, evenly spread
PROBED_TOP = 5
SAME_NATS = 0.5  # between two answers to the probe; arithmetic on GPUs differs by hundredths


@dataclass(frozen=True)
class Reached:
    """A server that was found, and what is known of its model."""

    server: Server
    model: RemoteModel


def reach(pair: PairConfig, runtime: RuntimeConfig, slm: LoadedModel) -> Reached:
    """Find out what is behind the address that `pair.llm` is.

    Raises:
        S2TError: nobody answers there, or not as a server that a decoding method can use; the message names the remedy.
    """
    assert pair.llm is not None
    try:
        address = urlsplit(pair.llm)
        _ = httpx.URL(pair.llm), address.port
        if not address.scheme.startswith("http"):
            raise ValueError("it does not begin with http://")
    except (ValueError, httpx.InvalidURL) as error:
        raise S2TError(f"{pair.llm!r} is no address ({error}): write http://host:port/v1") from error
    if "@" in address.netloc or address.query:  # it is written into results
        raise S2TError("an address of an LLM holds no secrets: put the key into the environment as S2T_LLM_API_KEY")
    root = pair.llm.rstrip("/").removesuffix("/v1")
    transport = Transport(root, runtime, key_for(root))
    return transport.run(Introduction(transport, pair, slm).reached())


def key_for(root: str) -> str | None:
    """The key for a server, from the environment; that of OpenAI is shown over https only."""
    for name in ("S2T_LLM_API_KEY", *(["OPENAI_API_KEY"] if root.startswith("https://") else [])):
        if key := os.environ.get(name, "").strip():
            if not (key.isascii() and key.isprintable()):
                raise S2TError(f"{name} holds signs that no key has: copy it again")
            return key
    return None


class Introduction:
    """One server, being looked at."""

    def __init__(self, transport: Transport, pair: PairConfig, slm: LoadedModel) -> None:
        """Look at the server of `transport` for the pair of `slm`."""
        self.transport, self.pair, self.slm, self.url = transport, pair, slm, transport.url
        given = pair.llm_tokenizer
        self.tokenizer: PreTrainedTokenizerBase = slm.tokenizer
        if given is not None:
            try:
                self.tokenizer = load_tokenizer(given, trust_remote_code=pair.trust_remote_code)
            except (OSError, ValueError) as error:
                reason = str(error).strip().splitlines()[0]
                raise S2TError(f"cannot load the tokenizer {given!r}: {reason}") from error

    async def reached(self) -> Reached:
        """The server, once it has shown what it can do."""
        entry = await self.entry()
        kind = self.pair.llm_kind or await self.kind(entry)
        name = str(entry["id"])
        await self.compare_tokens(kind, name)
        model = RemoteModel(
            tokenizer=self.tokenizer,
            name=f"{name} at {urlsplit(self.url).netloc}",
            fingerprint=self.fingerprint(entry),
            vocab_size=max(len(self.tokenizer), self.slm.vocab_size if self.tokenizer is self.slm.tokenizer else 0),
            max_positions=await self.longest(kind, entry),
            stop_ids=self.stops(),
        )
        server = await self.server(kind, name, model)
        probe = await self.probe(server)

        async def identify() -> None:
            names = await self.transport.call("/v1/models", None, model_names)
            if name not in names:
                raise ModelRefused(changed(self.url, name, f"it serves {', '.join(names)}"))
            if not alike(probe, await server.look(self.question)):
                raise ModelRefused(changed(self.url, name, "it answers a probe otherwise"))

        self.transport.identify = identify
        return Reached(server, model)

    async def entry(self) -> Mapping[str, Any]:
        """What the server says of the model to be asked: the one that was named, else the first."""
        transport = self.transport
        try:
            patience = transport.config.llm_timeout
            found, names = await transport.attempt(
                "/v1/models", None, lambda answer: (answer["data"], model_names(answer)), patience
            )
        except Missed as missed:
            raise S2TError(
                f"there is no LLM at {self.url}/v1/models ({missed}): start the server, or correct --llm"
            ) from missed
        if not found:
            raise S2TError(f"{self.url} serves no model: load one there")
        alone = [each for each in found if each.get("owned_by") == OURS and alone_with_llm(each)]
        asked = self.pair.llm_model or (alone or found)[0]["id"]
        entry = next((each for each in found if each["id"] == asked), None)
        if entry is None:
            raise S2TError(f"{self.url} serves no model {asked!r}; choose from: {', '.join(names)}")
        if entry in alone and entry["s2t"].get("translated"):
            alone_there = "serve the LLM alone there, by s2t serve --slm LLM --method greedy"
            raise S2TError(f"{self.url} tells what its LLM says in the tokens of its SLM: {alone_there}")
        return dict(entry)

    async def kind(self, entry: Mapping[str, Any]) -> ServerKind:
        """What the server says that it is."""
        if entry.get("owned_by") in OWNERS:
            return OWNERS[entry["owned_by"]]
        for path, field, kind in SIGNS:
            found = await self.transport.peek(path)
            if isinstance(found, dict) and field in found:
                return kind
        return "openai"

    def fingerprint(self, entry: Mapping[str, Any]) -> str:
        """The server's own fingerprint of the weights if it gives one, else one of the names that it gives."""
        told = (entry.get("s2t") or {}).get("llm_fingerprint")
        return str(told) if told else hashlib.sha256(f"{entry['id']} {entry.get('root')}".encode()).hexdigest()

    def stops(self) -> frozenset[int]:
        """Ids that end the LLM's answers."""
        if self.tokenizer is self.slm.tokenizer:
            return stop_ids(self.slm)
        return named_stop_ids(str(self.pair.llm_tokenizer), self.tokenizer)

    async def longest(self, kind: ServerKind, entry: Mapping[str, Any]) -> int:
        """Length of the context in tokens, as far as the server says."""
        told = entry.get("max_model_len")
        if told is None and kind == "llama-server":
            props = await self.transport.peek("/props")
            told = ((props or {}).get("default_generation_settings") or {}).get("n_ctx")
        own = int(getattr(self.tokenizer, "model_max_length", LARGEST) or LARGEST)
        return min(own, LARGEST) if told is None else int(told)

    async def compare_tokens(self, kind: ServerKind, model: str) -> None:
        """Raise S2TError where ids mean other tokens to the server than to the tokenizer that stands for it here.

        How the server cuts texts does not matter, as it is sent ids: that is looked at where it does not show what ids
        mean.
        """
        ids = spread_ids(self.tokenizer)
        if await self.shown(kind, model, ids) == self.text(ids):
            return
        for text in (PLAIN, PROBE, self.text(ids)):
            told = await self.tokens(kind, model, text)
            ours = list(self.tokenizer(text, add_special_tokens=False).input_ids)
            if told is None and self.pair.llm_tokenizer is None:
                raise S2TError(
                    f"the LLM at {self.url} does not show its tokens: name its tokenizer with --llm-tokenizer "
                    f"NAME_OR_PATH ({self.slm.name} if it is the SLM's)"
                )
            if told not in (None, ours, len(ours)):
                whose = self.pair.llm_tokenizer or f"{self.slm.name} (the SLM)"
                raise S2TError(
                    f"the LLM at {self.url} has other tokens than {whose}: name its own with --llm-tokenizer"
                )

    async def shown(self, kind: ServerKind, model: str, ids: Sequence[int]) -> str | None:
        """What the server writes for ids, if it tells."""
        if kind == "openai":
            return None
        named = {} if kind == "llama-server" else {"model": model}
        found = await self.transport.peek("/detokenize", {**named, "tokens": list(ids)})
        fields = [found.get(name) for name in ("prompt", "content", "text")] if isinstance(found, dict) else []
        return next((text for text in fields if isinstance(text, str)), None)

    async def tokens(self, kind: ServerKind, model: str, text: str) -> list[int] | int | None:
        """The server's tokens of a text, or how many there are; None if it does not tell."""
        if kind == "openai":
            body = {"model": model, "prompt": text, "max_tokens": 1, "temperature": 0}
            found = await self.transport.peek("/v1/completions", body)
            count = ((found or {}).get("usage") or {}).get("prompt_tokens")
            extra = self.tokenizer.num_special_tokens_to_add()
            return None if count is None else count - extra
        if kind == "llama-server":
            body = {"content": text, "add_special": False, "parse_special": False}
        else:
            body = {"model": model, "prompt": text, "add_special_tokens": False}
        found = await self.transport.peek("/tokenize", body)
        tokens = found.get("tokens") if isinstance(found, dict) else None
        return tokens if isinstance(tokens, list) else None

    async def server(self, kind: ServerKind, name: str, model: RemoteModel) -> Server:
        """The server as what it is asked."""
        if kind == "llama-server":
            return LlamaServer(self.transport, name, model.vocab_size, min(model.stop_ids, default=0))
        if kind == "openai":
            ids = list(self.question.tokens)
            body = {"model": name, "prompt": ids, "max_tokens": 1, "temperature": 0, "logprobs": 1}
            found = await self.transport.peek("/v1/completions", body)
            takes_ids = ((found or {}).get("usage") or {}).get("prompt_tokens") == len(ids)
            return OpenAI(self.transport, name, named_tokens(self.tokenizer), None if takes_ids else self.text)
        classes: Mapping[str, type[VLLM | SGLang]] = {"vllm": VLLM, "sglang": SGLang, "s2t": Own}
        return classes[kind](self.transport, name)

    def text(self, tokens: Sequence[int]) -> str:
        """A prompt for a server that takes no ids."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=False))

    @property
    def question(self) -> Query:
        """The probe."""
        tokens = tuple(self.tokenizer(PLAIN).input_ids)
        return Query(tokens, PROBED_TOP)

    async def probe(self, server: Server) -> Seen:
        """Ask the probe, and for ids, as a decoding step does."""
        try:
            seen = await server.look(self.question)
            best = tuple(i for i, _ in seen.top)
            await server.look(Query(self.question.tokens, 1, best, best_only=True))
        except ModelUnavailable as error:
            raise S2TError(
                f"{self.url} does not tell log-probabilities as {server.kind} does ({error}): "
                "name what it is with --llm-kind, or use a server that has them"
            ) from error
        return seen


def model_names(answer: Mapping[str, Any]) -> list[str]:
    """The models that a server says it serves."""
    return [str(each["id"]) for each in answer["data"]]


def alone_with_llm(entry: Mapping[str, Any]) -> bool:
    """Whether a model of our own server is the LLM alone."""
    return (entry.get("s2t") or {}).get("method") == "llm"


def alike(one: Seen, other: Seen) -> bool:
    """Whether two answers to the probe may come from one model."""
    before, after = dict(one.top), dict(other.top)
    shared = before.keys() & after.keys()
    return other.top[0][0] in before and all(math.isclose(before[i], after[i], abs_tol=SAME_NATS) for i in shared)


def spread_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ordinary tokens from all over a vocabulary, each of whole characters."""
    step = max(1, len(tokenizer) // PROBED_TOKENS)
    ids = [i for i in range(0, len(tokenizer), step) if i not in tokenizer.all_special_ids]
    return [i for i in ids if "\ufffd" not in tokenizer.decode([i])]


def named_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The ids by what servers call them, without those that share a name."""
    names = {i: name for name, i in tokenizer.get_vocab().items()}
    ids = sorted(names)
    shown = {text: i for i, text in names.items()}
    texts = [str(text) for text in tokenizer.batch_decode([[i] for i in ids], skip_special_tokens=False)]
    often = Counter(texts)
    return shown | {text: i for i, text in zip(ids, texts, strict=True) if often[text] == 1 and "\ufffd" not in text}
