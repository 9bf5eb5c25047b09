"""A model in llama.cpp's file format, GGUF: its weights for llama.cpp, its shape and tokenizer for everybody else.

Configuration and tokenizer are those that lie beside the file, as in a checkpoint of `transformers`, or else what the
file itself says.

Non-goals: running it (`contexts/llama_cpp_backend.py`).
"""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
import sys
import weakref
from collections import deque
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from select_to_think.models import gguf_converter
from select_to_think.models.adapter import Adapter
from select_to_think.models.loading import LoadedModel
from select_to_think.models.tokenizer import load_tokenizer
from select_to_think.structures import S2TError
from select_to_think.text import installing, known_name

SUFFIX = ".gguf"
FINGERPRINT = "select_to_think.fingerprint"  # metadata: that of the weights which the file was made from
SAMPLED_BLOCKS, BLOCK_BYTES = 64, 4096  # of a file without it
LONGEST_VALUE = 1 << 12  # characters of metadata
ERROR = 4  # a level of llama.cpp's log
ROTATED = {"llama": True, "qwen2": False, "qwen3": False}  # architecture -> whether its queries and keys are reordered
messages: deque[str] = deque(maxlen=3)  # the latest errors


@cache
def library() -> Any:
    """llama.cpp's own functions. What it logs is kept, not printed.

    Raises:
        S2TError: it is not installed.
    """
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise S2TError(f"GGUF files need llama.cpp: {installing('llama-cpp')}") from error
    library: Any = llama_cpp
    llama_cpp.llama_log_set(keep_error(library), ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return library


@cache
def keep_error(library: Any) -> Any:
    """The callback of llama.cpp's log; it must live as long as the library."""

    def keep(level: int, text: bytes, _: Any) -> None:
        if level == ERROR:
            messages.append(text.decode(errors="replace").strip())

    return library.llama_log_callback(keep)


@dataclass(frozen=True)
class LoadedGGUF(LoadedModel):
    """A model whose weights llama.cpp has; `model` is its shape alone."""

    path: Path = field(kw_only=True)
    weights: Any = field(kw_only=True)  # llama.cpp's handle

    def __post_init__(self) -> None:
        """Take the fingerprint that is written in the file, or one of the file; let go of the weights at the end."""
        recorded = self.metadata(FINGERPRINT)
        object.__setattr__(self, "fingerprint", recorded or digest(self.path))
        weakref.finalize(self, library().llama_model_free, self.weights)

    @property
    def dtype(self) -> str:
        """How the weights are stored, for instance "Q8_0"."""
        return str(library().llama_ftype_name(library().llama_model_ftype(self.weights)).decode())

    @property
    def device(self) -> torch.device:
        """Where results are read."""
        return torch.device("cpu")

    @property
    def trainable(self) -> PreTrainedModel:
        """There is none: a GGUF file is run, not trained."""
        raise S2TError(
            f"{self.name} is a GGUF file, whose weights only llama.cpp reads: give the checkpoint it was made from"
        )

    @property
    def exact(self) -> bool:
        """Whether the weights are 32-bit floats."""
        return bool(library().llama_model_ftype(self.weights) == library().LLAMA_FTYPE_ALL_F32)

    def metadata(self, key: str) -> str:
        """A value of the file's metadata, as text; empty where there is none."""
        buffer = ctypes.create_string_buffer(LONGEST_VALUE)
        found = library().llama_model_meta_val_str(self.weights, key.encode(), buffer, LONGEST_VALUE)
        return buffer.value.decode(errors="replace") if found >= 0 else ""


def load_gguf(name_or_path: str, *, device: str = "auto", name: str | None = None) -> LoadedGGUF:
    """Load a GGUF file. `name` is what messages and results call it (default: the path).

    Raises:
        S2TError: no such file, none that llama.cpp can run, or no tokenizer that fits it, with the remedy.
    """
    path, functions = Path(name_or_path), library()
    if not path.is_file():
        raise S2TError(f"there is no file {path}: check the path")
    settings = functions.llama_model_default_params()
    settings.n_gpu_layers = 0 if device == "cpu" else -1
    messages.clear()
    weights = functions.llama_model_load_from_file(str(path).encode(), settings)
    if not weights:
        raise S2TError(f"llama.cpp cannot load {path} ({'; '.join(messages)}): download or convert it again")
    try:
        config = configuration(path)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config).eval()
        if (path.parent / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(path.parent)
        loaded = LoadedGGUF(model, tokenizer_of(path), name or name_or_path, path=path, weights=weights)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise S2TError(
            f"{path} has no configuration or tokenizer ({reason}): put config.json and tokenizer.json of the model "
            "it was made from beside it"
        ) from error
    check_shape(loaded)
    return loaded


def configuration(path: Path) -> Any:
    """The configuration beside a GGUF file, or the one that it holds."""
    inside = {} if (path.parent / "config.json").is_file() else {"gguf_file": path.name}
    return AutoConfig.from_pretrained(path.parent, **inside)


def tokenizer_of(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer beside a GGUF file, or the one that it holds."""
    if (path.parent / "tokenizer.json").is_file():
        return load_tokenizer(str(path.parent), trust_remote_code=False)
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return found


def check_shape(loaded: LoadedGGUF) -> None:
    """Raise S2TError for a configuration or a tokenizer that is of another model than the weights."""
    functions, config = library(), loaded.model.config.get_text_config()
    rows = functions.llama_vocab_n_tokens(functions.llama_model_get_vocab(loaded.weights))
    found = functions.llama_model_n_embd(loaded.weights), functions.llama_model_n_layer(loaded.weights), rows
    if found != (config.hidden_size, config.num_hidden_layers, config.vocab_size):
        raise S2TError(
            f"config.json beside {loaded.path} is of another model (width, layers, vocabulary "
            f"{config.hidden_size, config.num_hidden_layers, config.vocab_size}, the file has {found}): replace it"
        )
    if (largest := max(loaded.tokenizer.get_vocab().values())) >= rows:
        raise S2TError(
            f"the tokenizer beside {loaded.path} has ids up to {largest}, the model {rows} tokens: give the model's own"
        )


def digest(path: Path) -> str:
    """sha256 over the size of a file and blocks sampled from it, hex."""
    size = path.stat().st_size
    found = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for block in range(SAMPLED_BLOCKS):
            file.seek(size * block // SAMPLED_BLOCKS)
            found.update(file.read(BLOCK_BYTES))
    return found.hexdigest()


def record_fingerprint(source: Path, target: Path, fingerprint: str, weights: str | None = None) -> None:
    """Copy a GGUF file, with the fingerprint of the weights that it was made from in its metadata.

    `weights`: quantise them, to a type of llama.cpp's, for instance "Q8_0".

    Raises:
        S2TError: llama.cpp does not know the type, or cannot do it.
    """
    functions = library()
    settings = functions.llama_model_quantize_default_params()
    settings.only_copy = weights is None
    if weights is not None:
        settings.ftype = weight_type(weights)
    entries = (functions.llama_model_kv_override * 2)()  # the second is empty and ends the list
    entries[0].tag, entries[0].key = functions.LLAMA_KV_OVERRIDE_TYPE_STR, FINGERPRINT.encode()
    entries[0].value.val_str = fingerprint.encode()
    settings.kv_overrides = entries
    messages.clear()
    if functions.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(settings)):
        raise S2TError(
            f"llama.cpp cannot make {weights or 'a copy'} of {source} ({'; '.join(messages)}): convert it again"
        )


def weight_type(name: str) -> int:
    """llama.cpp's number of a type of weights, for instance "Q8_0". Raises S2TError where it has none."""
    functions, prefix = library(), "LLAMA_FTYPE_MOSTLY_"
    types = {each.removeprefix(prefix): getattr(functions, each) for each in dir(functions) if each.startswith(prefix)}
    types["F32"] = functions.LLAMA_FTYPE_ALL_F32
    return int(types[known_name("type of weights", name, sorted(types))])


def architecture_of(file: Path) -> str:
    """llama.cpp's name of what a GGUF file holds."""
    from gguf import GGUFReader

    return str(GGUFReader(file).fields["general.architecture"].contents())


def convert(checkpoint: Path, file: Path, converter: Path, kind: str) -> bool:
    """Write a checkpoint as a GGUF file of floats ("f32", "f16" or "bf16"), by llama.cpp's own `converter`.

    Returns:
        Whether llama.cpp knows how the tokenizer cuts text; if not, the file says: as GPT-2's.

    Raises:
        S2TError: the converter is not there, or fails.
    """
    if not converter.is_file():
        raise S2TError(f"there is no {converter}: name convert_hf_to_gguf.py of a llama.cpp source tree")
    command = [sys.executable, "-P", gguf_converter.__file__, str(converter), str(checkpoint)]
    done = subprocess.run(
        [*command, "--outfile", str(file), "--outtype", kind], capture_output=True, text=True, errors="replace"
    )
    if done.returncode or not file.is_file():
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise S2TError(f"{converter} failed ({said[-1] if said else done.returncode}): run it on the checkpoint itself")
    return gguf_converter.UNKNOWN not in done.stdout


def write_adapter(file: Path, adapter: Adapter, architecture: str, config: Any) -> None:
    """Write a LoRA as llama.cpp reads it, for a model of that architecture (llama.cpp's name) and configuration.

    Raises:
        S2TError: an architecture or a layer that llama.cpp is not known to adapt.
    """
    import gguf

    if architecture not in ROTATED:
        raise S2TError(f"adapters of {architecture} models are not known to llama.cpp here: {', '.join(ROTATED)} are")
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    rank = next(iter(adapter.layers.values()))[0].shape[1]
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, adapter.scale * rank)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for layer, (down, up) in adapter.layers.items():
        target, part = names.get_name(layer), layer.rpartition(".")[2]
        if target is None:
            raise S2TError(f"llama.cpp has no layer {layer}: train the adapter on attention and MLP")
        rows = up.T
        if ROTATED[architecture] and part in heads:
            rows = rotary_halves_joined(rows, heads[part])
        writer.add_tensor(f"{target}.weight.lora_a", down.T.float().contiguous().numpy())
        writer.add_tensor(f"{target}.weight.lora_b", rows.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def rotary_halves_joined(rows: Tensor, heads: int) -> Tensor:
    """The rows (out, rank) of queries or keys in llama.cpp's order: what is rotated together stands together."""
    return rows.reshape(heads, 2, -1, rows.shape[1]).transpose(1, 2).reshape(rows.shape)
