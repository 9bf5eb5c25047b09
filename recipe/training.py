"""Trains the bundled models from scratch with `transformers.Trainer` and writes standard checkpoint folders.

Runs on a CPU (bf16 autocast) or a GPU, is deterministic for a given device and thread count, and resumes from its last
checkpoint.

Non-goals: the scorer and the trigger, which are trained on top of the finished pair.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, SequentialSampler
from transformers import GenerationConfig, PreTrainedModel, Qwen2ForCausalLM, Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from recipe.batches import BATCHES_PER_STEP, IGNORED, Batch, DocumentBatches, unwrap
from recipe.card import write_card
from recipe.documents import END_OF_TEXT
from recipe.growth import grow, respell
from recipe.llama_form import as_llama
from recipe.recipes import BASE, RECIPES, Recipe
from recipe.tokenizer import train_tokenizer
from select_to_think.structures import Stage, silent
from select_to_think.training.head import Reporter

Which = Literal["slm", "llm", "both", "llm-x"]
CHECKPOINTS = "checkpoints"


class AnswerTrainer(Trainer):
    """Computes logits only where a label is learned."""

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        bare = self.accelerator.unwrap_model(model)
        targets = inputs["labels"][:, 1:]
        learned = targets != IGNORED
        with self.accelerator.autocast():
            states = bare.model(input_ids=inputs["input_ids"], use_cache=False).last_hidden_state  # (B, L, H)
            logits = bare.lm_head(states[:, :-1][learned]).float()  # (N, V)
        losses = functional.cross_entropy(logits, targets[learned], reduction="none")  # (N,)
        total = (losses * inputs["weights"][:, 1:][learned]).sum()
        loss = total / (learned.sum() if num_items_in_batch is None else num_items_in_batch)
        return (loss, {"logits": logits}) if return_outputs else loss

    def get_train_dataloader(self) -> DataLoader[Batch]:
        dataset: Any = self.train_dataset
        loader = DataLoader(dataset, batch_size=1, sampler=SequentialSampler(dataset), collate_fn=unwrap)
        prepared: DataLoader[Batch] = self.accelerator.prepare(loader)
        return prepared


def train_pair(
    out: Path,
    *,
    which: Which = "both",
    steps: int | None = None,
    device: str = "cpu",
    resume: bool = True,
    checkpoint_steps: int = 250,
    stage: Stage = silent,
) -> list[Path]:
    """Write and return `out/slm` and `out/llm` (both), or one of `out/slm`, `out/llm` and `out/llm-x`.

    `llm-x` is the LLM with another tokenizer (the pair `demo-x`). `steps` overrides the recipe's optimizer steps.
    Checkpoints go to `out/checkpoints/<name>`; with `resume` a run continues from the last one found there.
    `stage` makes the progress callback, in steps, of each training.
    """
    if not resume:
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    names = ("slm", "llm") if which == "both" else (which,)
    for name in names:
        train_model(shortened(RECIPES[name], steps), out, device=device, checkpoint_steps=checkpoint_steps, stage=stage)
    return [out / name for name in names]


def shortened(recipe: Recipe, steps: int | None) -> Recipe:
    """The recipe with other optimizer steps in all of its stages; unchanged for None."""
    if steps is None:
        return recipe
    source = recipe.grown_from
    return replace(recipe, steps=steps, grown_from=None if source is None else shortened(source, steps))


def train_model(recipe: Recipe, out: Path, *, device: str, checkpoint_steps: int, stage: Stage = silent) -> None:
    """Train one model by its recipe and save checkpoint, tokenizer, generation settings and card."""
    tokenizer = train_tokenizer(recipe.pieces)
    folder = out / recipe.name
    model = _run(recipe, tokenizer, out / CHECKPOINTS, device, checkpoint_steps, stage)
    _save(model, tokenizer, folder)
    logs = {stage.name: read_log(out / CHECKPOINTS / stage.name) for stage in recipe.stages}
    write_card(folder, recipe, logs, parameters=sum(weight.numel() for weight in model.parameters()))


def read_log(run: Path) -> list[tuple[int, float]]:
    """(step, loss in nats) as a finished run logged them."""
    state = json.loads((run / "trainer_state.json").read_text(encoding="utf-8"))
    return [(entry["step"], float(entry["loss"])) for entry in state["log_history"] if "loss" in entry]


def _run(
    recipe: Recipe, tokenizer: Any, runs: Path, device: str, checkpoint_steps: int, stage: Stage
) -> Qwen2ForCausalLM:
    """The trained model; the model that it is grown from is trained first where it is not yet."""
    run = runs / recipe.name
    last = get_last_checkpoint(str(run)) if run.is_dir() else None
    config = recipe.config(tokenizer)
    if recipe.grown_from is None or last is not None:
        set_seed(recipe.seed)
        model: Qwen2ForCausalLM = Qwen2ForCausalLM._from_config(
            config, attn_implementation="eager", dtype=torch.float32
        )
    else:
        source = recipe.grown_from
        spelled = train_tokenizer(source.pieces)
        model = _run(source, spelled, runs, device, checkpoint_steps, stage)
        model.cpu()
        set_seed(recipe.seed)
        if source.pieces != recipe.pieces:
            model = respell(model, spelled, tokenizer)
        if source.hidden_size != recipe.hidden_size:
            model = grow(model, config, recipe.seed)
    trainer = AnswerTrainer(
        model=model,
        args=_arguments(recipe, run, device, checkpoint_steps),
        train_dataset=DocumentBatches(
            tokenizer,
            recipe.reader,
            recipe.seed,
            recipe.rows,
            recipe.steps,
            recipe.shares,
            recipe.verifier_shares,
            train_tokenizer(BASE.pieces),
            recipe.more_formats,
        ),
        data_collator=unwrap,
        processing_class=tokenizer,
    )
    with stage(f"training {recipe.name}") as progress:
        if progress is not None:
            trainer.add_callback(Reporter(progress))
        trainer.train(resume_from_checkpoint=last)
    trainer.save_state()
    return model


def _arguments(recipe: Recipe, run: Path, device: str, checkpoint_steps: int) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(run),
        max_steps=recipe.steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=BATCHES_PER_STEP,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": recipe.decay_steps, "decay_type": "1-sqrt"},
        warmup_steps=recipe.warmup_steps,
        weight_decay=0.05,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        bf16=True,
        use_cpu=device == "cpu",
        seed=recipe.seed,
        logging_steps=25,
        save_steps=checkpoint_steps,
        save_total_limit=2,
        report_to=[],
        remove_unused_columns=False,
        disable_tqdm=True,
    )


def _save(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    llama = as_llama(model)
    llama.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END_OF_TEXT)],
        pad_token_id=tokenizer.pad_token_id,
    )
    llama.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
