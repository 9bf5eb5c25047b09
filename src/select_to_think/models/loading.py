"""Loading causal language models and their tokenizers through `transformers`, safely.

Only safetensors are read (never a pickle), and code that comes with a model runs only when asked for.

Non-goals: adapters (`models/adapter.py`) and running models (`contexts/`).
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from select_to_think.models.tokenizer import load_tokenizer
from select_to_think.structures import S2TError

FINGERPRINT_VALUES = 1024  # weights sampled per tensor
INCOMPLETE = ("LOAD REPORT", "checkpoint seem corrupted")  # how transformers logs what `whole_model` refuses
OLD_MASK = re.compile(r"\.(attn|attention)\.(masked_)?bias$")  # buffers of old checkpoints, GPT-Neo's among them
NAMED_TENSORS = 3


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer. The fingerprint names the base weights, whatever device and dtype they are in."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        """Take the fingerprint before any adapter touches the model."""
        object.__setattr__(self, "fingerprint", fingerprint(self.model))

    @property
    def dtype(self) -> str:
        """How the weights are stored."""
        return str(self.model.dtype)

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.model.device

    @property
    def trainable(self) -> PreTrainedModel:
        """The model with its weights. Raises S2TError where only another library can read them."""
        return self.model

    @property
    def vocab_size(self) -> int:
        """Rows of the vocabulary head, padding included."""
        return int(self.model.config.get_text_config().vocab_size)

    @property
    def max_positions(self) -> int:
        """Length of the context in tokens.

        Rotary factors of `longrope` change for all rows of a forward where one of them is past the original length, so
        no row may be.
        """
        config = self.model.config.get_text_config()
        longest = int(config.max_position_embeddings)
        rope = getattr(config, "rope_parameters", None) or {}
        if rope.get("rope_type") != "longrope":
            return longest
        original = rope.get("original_max_position_embeddings") or config.original_max_position_embeddings
        return min(longest, int(original))


def choose_device(device: str) -> str:
    """Resolve `auto`.

    Raises:
        S2TError: an unknown device, or one that this machine lacks.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise S2TError(
            f"there is no usable device {device!r} here: choose cpu, or auto to take what there is"
        ) from error
    return device


def choose_dtype(dtype: str, device: str) -> torch.dtype:
    """Resolve `auto`: float32 on CPU, bfloat16 elsewhere."""
    if dtype == "auto":
        dtype = "float32" if torch.device(device).type == "cpu" else "bfloat16"
    chosen: torch.dtype = getattr(torch, dtype)
    return chosen


def load_model(
    name_or_path: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    name: str | None = None,
) -> LoadedModel:
    """Load a model in eval mode. `name` is what messages and results call it (default: `name_or_path`).

    Raises:
        S2TError: nothing usable under that name, or a checkpoint that does not fill the model, with the remedy.
    """
    device = choose_device(device)
    path = Path(name_or_path)
    if path.exists() and not (path / "config.json").is_file():
        raise S2TError(
            f"{name_or_path} is not a model folder (no config.json): give a Hugging Face name or a checkpoint"
        )
    if not path.exists() and name_or_path.startswith(("/", ".", "~")):
        raise S2TError(f"there is no folder {name_or_path}: check the path, or give a Hugging Face name")
    settings = {"dtype": choose_dtype(dtype, device), "trust_remote_code": trust_remote_code}
    try:
        model = whole_model(name_or_path, settings)
        tokenizer = load_tokenizer(name_or_path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise S2TError(
            f"cannot load {name_or_path!r}: {reason} (need a causal model with safetensors weights)"
        ) from error
    model.to(device)  # type: ignore[arg-type]
    return LoadedModel(model.eval(), tokenizer, name or name_or_path)


def whole_model(name_or_path: str, settings: dict[str, Any]) -> PreTrainedModel:
    """The model, every weight of which comes from the checkpoint, and which uses all that the checkpoint holds.

    Tied weights, masks of old versions, and what `transformers` knows that a checkpoint of the family may lack or hold
    besides, do not count.

    Raises:
        S2TError: naming the tensors that are missing, unexpected or of another shape, or the file that is cut off.
    """
    try:
        with collected_reports() as reports:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                name_or_path, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **settings
            )
    except SafetensorError as error:
        raise S2TError(f"{damaged_file(name_or_path)} is damaged ({error}): download or save it again") from error
    except RuntimeError as error:
        if unfit := re.findall(r"^(.+?) +\| \S*CONVERSION", "".join(reports), re.MULTILINE):
            raise incomplete(name_or_path, {"cannot be put together": unfit}) from error
        raise
    model, found = loaded
    misfits = [f"{tensor} {tuple(has)} for {tuple(needs)}" for tensor, has, needs in found["mismatched_keys"]]
    unexpected = [tensor for tensor in found["unexpected_keys"] if not OLD_MASK.search(tensor)]
    problems = {"missing": found["missing_keys"], "unexpected": unexpected, "of another shape": misfits}
    if any(problems.values()):
        raise incomplete(name_or_path, problems)
    whole: PreTrainedModel = model
    return whole


@contextmanager
def collected_reports() -> Iterator[list[str]]:
    """Collect the tables that `transformers` would log of an incomplete checkpoint, at any verbosity."""
    reports: list[str] = []
    logger = logging.getLogger("transformers.modeling_utils")
    level, wanted = logger.level, logger.getEffectiveLevel()

    def take(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if any(words in text for words in INCOMPLETE):
            reports.append(text)
            return False
        return record.levelno >= wanted

    logger.addFilter(take)
    if wanted > logging.WARNING:  # a level of its own, however loud, has `transformers` warn of what it does not shard
        logger.setLevel(logging.WARNING)
    try:
        yield reports
    finally:
        logger.setLevel(level)
        logger.removeFilter(take)


def incomplete(name: str, problems: Mapping[str, Collection[str]]) -> S2TError:
    """The error that counts the tensors of each kind of problem and names the first of them."""
    parts = []
    for kind, tensors in problems.items():
        if tensors:
            named = [*sorted(tensors)[:NAMED_TENSORS], *["..."] * (len(tensors) > NAMED_TENSORS)]
            parts.append(f"{len(tensors)} {kind} ({', '.join(named)})")
    return S2TError(f"the tensors of {name} do not fill its model: {', '.join(parts)}: download or save it again")


def damaged_file(folder: str) -> str:
    """The first safetensors file in `folder` that cannot be opened; `folder` itself if it is no folder here."""
    for path in sorted(Path(folder).glob("*.safetensors")):
        try:
            safe_open(path, framework="pt")
        except SafetensorError:
            return str(path)
    return folder


def fingerprint(model: PreTrainedModel) -> str:
    """sha256 over the shape of the model and the signs of sampled weights, hex.

    Signs survive a change of dtype; with a thousand of them per tensor even a light fine-tune changes the digest.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        values = weight.detach().flatten()
        stride = max(1, values.numel() // FINGERPRINT_VALUES)
        signs = (values[::stride][:FINGERPRINT_VALUES] < 0).to("cpu", torch.uint8)
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(signs.numpy().tobytes())
    return digest.hexdigest()
