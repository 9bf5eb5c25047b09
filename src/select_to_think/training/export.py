"""What was trained, in the forms that other programs load. A new folder appears whole or not at all.

    peft     for PEFT on the SLM itself: the LoRA, and the score rows as trained tokens of the vocabulary head
    merged   one checkpoint: the LoRA added to the weights, the score rows in reserved rows of the head
    vllm     a copy of the SLM with the score rows in reserved rows of its head, and the LoRA beside it
    gguf     the same for llama.cpp, which converts it: `model.gguf` and `adapter.gguf`, of any type of weights

The rows of a head that score are those of reserved ids, which are never emitted: `suppress_tokens` of the generation
configuration says so to who reads it, `s2t.json` (`models/exported.py`) to the others.

Non-goals: running them elsewhere.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shutil import copy, copytree
from typing import Any
from warnings import warn

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from select_to_think.artefacts import Artefacts
from select_to_think.config import SelectConfig
from select_to_think.files import read_json, write_json_atomic, write_text_atomic
from select_to_think.methods import METHODS
from select_to_think.models.adapter import NO_CHANGE, PEFT_PREFIX, Adapter, load_adapter, read_tensors
from select_to_think.models.exported import CALIBRATION, DISTILL, MANIFEST, SCORER, Exported, ScoreRows
from select_to_think.models.gguf import architecture_of, convert, record_fingerprint, weight_type, write_adapter
from select_to_think.models.loading import LoadedModel, fingerprint
from select_to_think.models.scorer import Scorer
from select_to_think.models.vocabulary import reserved_ids
from select_to_think.structures import S2TError
from select_to_think.text import known_name
from select_to_think.training.folders import publish

TRAINED = [name for name, method in METHODS.items() if method.uses in (SCORER, DISTILL)]
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}  # of a score row's logit
ABOUT = {SCORER: "scorer.json", DISTILL: "distill.json"}
PROBE = 8  # tokens
MODEL = "model.gguf"
READ_WRONGLY = "s2t reads text with its own tokenizer, other programs will cut it as GPT-2 does"


@dataclass(frozen=True)
class LlamaCpp:
    """What a GGUF file is made with, and the type of its weights."""

    converter: Path | None = None  # convert_hf_to_gguf.py of a llama.cpp source tree
    weights: str = "Q8_0"
    say: Callable[[str], None] = warn  # what must be known of the file


@dataclass(frozen=True)
class Source:
    """What is exported."""

    pair: Artefacts
    method: str
    folder: Path  # of the adapter
    adapter: Adapter
    scorer: Scorer | None
    llama: LlamaCpp

    @property
    def slm(self) -> LoadedModel:
        """The SLM."""
        return self.pair.slm

    @property
    def name(self) -> str:
        """Of the adapter's folder beside an exported SLM."""
        return DISTILL if self.scorer is None else SCORER

    def manifest(
        self, kind: str, bin_ids: Sequence[int], reserved: Sequence[int], copy_fingerprint: str = ""
    ) -> dict[str, Any]:
        """What `s2t.json` holds."""
        scorer, rows = self.scorer, None
        if scorer is not None:
            rows = ScoreRows(scorer.mode, scorer.score, scorer.score_temperature, scorer.anchor, bin_ids)
        stop = sorted(self.pair.stop_ids)
        slm = self.slm.name, self.slm.fingerprint
        return asdict(Exported(kind, self.method, *slm, reserved, stop, rows, copy_fingerprint))  # type: ignore[arg-type]


def export(
    pair: Artefacts, method: str, select: SelectConfig, kind: str, out: Path, llama: LlamaCpp = LlamaCpp()
) -> dict[str, Any]:
    """Write `method` ("s2t-local", with the scorer that `select` means, or "distill") into the new folder `out` in the
    format `kind`; returns its `s2t.json`.

    Raises:
        S2TError: an unknown format or method, a format that the method cannot have, `out` exists, or nothing can be
            written there.
    """
    known_name("format", kind, WRITERS)
    known_name("method", method, TRAINED)
    if out.exists() or not out.name:
        raise S2TError(f"{out} already exists: remove it or name another --out")
    scorer = pair.scorer(select) if METHODS[method].uses == SCORER else None
    folder = pair.distill_folder if scorer is None else scorer.path
    if scorer is not None and (problem := UNFIT.get((kind, scorer.mode))):
        raise S2TError(f"the scorer in {folder} is {scorer.mode}: {problem}")
    merged = scorer is not None and scorer.merged
    if merged and kind != "gguf":
        raise S2TError(f"{pair.slm.name} has the scorer in {folder} merged already: copy it, or choose --format gguf")
    adapter = NO_CHANGE if merged else load_adapter(folder, pair.slm)
    source = Source(pair, method, folder, adapter, scorer, llama)
    manifest: dict[str, Any] = {}

    def write(temporary: Path) -> None:
        manifest.update(WRITERS[kind](source, temporary))
        write_json_atomic(temporary / MANIFEST, manifest)

    publish(out, write)
    return manifest


def write_peft(source: Source, out: Path) -> dict[str, Any]:
    """The two files of an adapter that PEFT loads on the SLM; for a scorer with its rows as tokens of the head."""
    slm, bin_ids = source.slm, list[int]()
    reserved = sorted(reserved_ids(slm))
    config = read_json(source.folder / "adapter_config.json", remedy="train it again")
    weights = read_tensors(source.folder / "adapter_model.safetensors")
    if source.scorer is not None:
        rows = source.scorer.bin_rows
        if len(reserved) < len(rows):
            raise S2TError(
                f"{slm.name} has {len(reserved)} reserved rows in its head, the scorer needs {len(rows)}: choose "
                "--format vllm or merged, whose copy of the SLM gets more"
            )
        bin_ids = reserved[-len(rows) :]
        check_head(with_score_rows(slm.trainable, rows, bin_ids), rows, bin_ids, slm.name)
        head = head_path(slm.trainable)
        config["trainable_token_indices"] = {head: bin_ids}
        weights[f"{PEFT_PREFIX}{head}.token_adapter.trainable_tokens_delta"] = rows.contiguous()
    write_json_atomic(out / "adapter_config.json", {**config, "base_model_name_or_path": slm.name})
    save_file(weights, out / "adapter_model.safetensors", metadata={"format": "pt"})
    return source.manifest("peft", bin_ids, reserved)


def write_merged(source: Source, out: Path) -> dict[str, Any]:
    """One checkpoint that is the adapted SLM, and what `s2t` needs to select with it."""
    model, bin_ids, reserved = scoring_copy(source)
    merge(model, source.adapter)
    save_model(source, model, reserved, out)
    digest = fingerprint(model)
    if source.scorer is not None:
        copy_folder(source, out, digest)
        for path in (out / SCORER).glob("adapter_*"):
            path.unlink()
        change(out / SCORER / ABOUT[SCORER], merged=True)
    return source.manifest("merged", bin_ids, reserved, digest)


def write_vllm(source: Source, out: Path) -> dict[str, Any]:
    """A copy of the SLM that scores where the LoRA beside it is on, and what `s2t` needs to run the method from it."""
    model, bin_ids, reserved = scoring_copy(source)
    save_model(source, model, reserved, out)
    digest = fingerprint(model)
    copy_trained(source, out, digest)
    return source.manifest("vllm", bin_ids, reserved, digest)


def write_gguf(source: Source, out: Path) -> dict[str, Any]:
    """A copy of the SLM and its LoRA for llama.cpp, and what `s2t` needs to run the method from it."""
    slm, llama = source.slm, source.llama
    if llama.converter is None:
        raise S2TError("--format gguf needs llama.cpp's own program: name its convert_hf_to_gguf.py with --converter")
    weight_type(llama.weights)  # refused before the work
    model, bin_ids, reserved = scoring_copy(source)
    exact = model.dtype == torch.float32
    with tempfile.TemporaryDirectory(dir=out) as folder:
        checkpoint, floats = Path(folder) / "checkpoint", Path(folder) / "floats.gguf"
        save_model(source, model, reserved, checkpoint)
        if not convert(checkpoint, floats, llama.converter, "f32" if exact else "bf16"):
            llama.say(f"llama.cpp does not know the tokenizer of {slm.name}: {READ_WRONGLY}")
        record_fingerprint(floats, out / MODEL, slm.fingerprint, llama.weights)
        for path in checkpoint.iterdir():
            if path.suffix != ".safetensors" and not path.name.endswith(".safetensors.index.json"):
                copy(path, out)
    config = model.config.get_text_config()
    if source.adapter.layers:
        write_adapter(out / "adapter.gguf", source.adapter, architecture_of(out / MODEL), config)
    copy_trained(source, out, slm.fingerprint)
    return source.manifest("gguf", bin_ids, reserved)


Writer = Callable[[Source, Path], dict[str, Any]]
WRITERS: Mapping[str, Writer] = {"peft": write_peft, "merged": write_merged, "vllm": write_vllm, "gguf": write_gguf}
PROPOSES = "merged, it would change what the SLM proposes; choose --format vllm or peft, or a coupled scorer"
UNFIT = {  # (format, mode of the scorer) -> why not, and what else
    ("merged", "proposer"): PROPOSES,
    ("merged", "activated"): PROPOSES,
    ("vllm", "activated"): (
        "vLLM keeps no keys and values of the plain SLM under an adapter; choose --scorer-mode coupled or proposer, or "
        "--format peft or gguf"
    ),
}


def scoring_copy(source: Source) -> tuple[PreTrainedModel, list[int], list[int]]:
    """A copy of the SLM whose head has the score rows, their ids, and all ids that are never emitted.

    The head grows where it has not one reserved row more than the scorer needs: engines want a token to pause with.
    """
    slm = source.slm
    reserved = sorted(reserved_ids(slm))
    wanted = 1 + (0 if source.scorer is None else len(source.scorer.bin_rows))
    reserved += range(slm.vocab_size, slm.vocab_size + max(0, wanted - len(reserved)))
    if source.scorer is None:
        return grown(slm.trainable, max(reserved) + 1), [], reserved
    rows = source.scorer.bin_rows
    bin_ids = reserved[-len(rows) :]
    model = with_score_rows(slm.trainable, rows, bin_ids)
    check_head(model, rows, bin_ids, slm.name)
    return model, bin_ids, reserved


def grown(model: PreTrainedModel, rows: int) -> PreTrainedModel:
    """A copy of the model whose head has at least so many rows."""
    model = deepcopy(model)
    if rows > model.config.get_text_config().vocab_size:
        model.resize_token_embeddings(rows, mean_resizing=False)
    return model


@torch.no_grad()
def with_score_rows(model: PreTrainedModel, rows: Tensor, ids: Sequence[int]) -> PreTrainedModel:
    """A copy of the model with `rows` (bins, hidden) in the rows `ids` of its head, which is made longer as needed."""
    model = grown(model, max(ids) + 1)
    head: Any = model.get_output_embeddings()
    head.weight[list(ids)] = rows.to(head.weight)
    if getattr(head, "bias", None) is not None:
        head.bias[list(ids)] = 0.0
    return model


@torch.no_grad()
def check_head(model: PreTrainedModel, rows: Tensor, ids: Sequence[int], name: str) -> None:
    """Raise S2TError for a model that changes what its head gives: caps and factors would change the scores."""
    tokens = torch.arange(PROBE, device=model.device)[None]
    seen: Any = model(tokens, output_hidden_states=True)
    expected = seen.hidden_states[-1].float() @ rows.to(model.device).T
    worst = float((seen.logits[..., list(ids)].float() - expected).abs().max())
    if worst > TOLERANCE[model.dtype] * max(1.0, float(expected.abs().max())):
        raise S2TError(
            f"{name} scales or caps the logits of its head, and the scores with them: only s2t runs its scorer"
        )


def head_path(model: PreTrainedModel) -> str:
    """Where the head lies in the model."""
    head = model.get_output_embeddings()
    return next(str(path) for path, module in model.named_modules() if module is head)


@torch.no_grad()
def merge(model: PreTrainedModel, adapter: Adapter) -> None:
    """Add a LoRA to the weights."""
    for path, (down, up) in adapter.layers.items():
        layer: Any = model.get_submodule(path)
        delta = (adapter.scale * down @ up).to(model.device)  # (in, out)
        weight = layer.weight.float() + (delta.T if isinstance(layer, nn.Linear) else delta)
        layer.weight.copy_(weight)


def save_model(source: Source, model: PreTrainedModel, reserved: Sequence[int], out: Path) -> None:
    """Write a checkpoint with the SLM's tokenizer."""
    if reserved and model.generation_config is not None:
        model.generation_config.suppress_tokens = list(reserved)
    model.save_pretrained(out)
    source.slm.tokenizer.save_pretrained(out)


def copy_folder(source: Source, out: Path, slm_fingerprint: str) -> None:
    """Put the adapter's folder beside a copy of the SLM, as made for a model of that fingerprint."""
    folder = out / source.name
    copytree(source.folder, folder)
    for path in (folder / ABOUT[source.name], folder / CALIBRATION):
        if path.exists():
            change(path, slm_fingerprint=slm_fingerprint)


def copy_trained(source: Source, out: Path, slm_fingerprint: str) -> None:
    """Put the adapter's folder and the SLM's thresholds beside a copy of the SLM, as made for that fingerprint."""
    copy_folder(source, out, slm_fingerprint)
    pair = source.pair
    if pair.config.calibration is not None or pair.folder is not None:
        calibration = replace(pair.calibration, slm_fingerprint=slm_fingerprint)
        write_text_atomic(out / CALIBRATION, calibration.dumps())


def change(path: Path, **values: Any) -> None:
    """Give fields of a JSON file other values."""
    write_json_atomic(path, {**read_json(path, remedy="train it again"), **values})
