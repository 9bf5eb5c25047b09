"""Shapes and hyper-parameters of the two models: the only place of these numbers.

Non-goals: running the recipe (`training`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from transformers import PreTrainedTokenizerFast, Qwen2Config

from select_to_think.pairs.batches import BATCHES_PER_STEP, VerifierItems
from select_to_think.pairs.documents import DOMAIN_SHARES
from select_to_think.pairs.tokenizer import MAX_LENGTH, Pieces
from select_to_think.pairs.writers import Reader


@dataclass(frozen=True)
class Recipe:
    """One model: its Qwen2 shape, its training run and the smaller model that it is grown from."""

    name: str
    reader: Reader
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    steps: int
    rows: int
    learning_rate: float
    warmup_steps: int = 150
    decay_share: float = 0.3
    seed: int = 1
    shares: Mapping[str, float] = field(default_factory=lambda: DOMAIN_SHARES)
    verifier_items: VerifierItems = field(default_factory=VerifierItems)
    grown_from: Recipe | None = None
    pieces: Pieces = "words"

    @property
    def documents_per_step(self) -> int:
        return self.rows * BATCHES_PER_STEP

    @property
    def decay_steps(self) -> int:
        return int(self.steps * self.decay_share)

    def config(self, tokenizer: PreTrainedTokenizerFast) -> Qwen2Config:
        return Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=MAX_LENGTH,
            tie_word_embeddings=True,
            initializer_range=0.02,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )


SLM = Recipe(
    "slm",
    "slm",
    128,
    384,
    layers=3,
    heads=4,
    steps=6500,
    rows=16,
    learning_rate=2.5e-3,
    verifier_items=VerifierItems(share=0.25, start=0.45),
)
LLM_SHARES = MappingProxyType({"arithmetic": 0.4, "facts": 0.08, "logic": 0.52})
LLM = Recipe(
    "llm",
    "llm",
    256,
    768,
    layers=4,
    heads=8,
    steps=2350,
    rows=16,
    learning_rate=1.5e-3,
    decay_share=0.4,
    seed=2,
    shares=LLM_SHARES,
    grown_from=SLM,
)
LLM_X = replace(
    SLM,
    name="llm-x",
    reader="llm",
    steps=2000,
    learning_rate=2e-3,
    decay_share=0.4,
    seed=3,
    shares=MappingProxyType({"arithmetic": 0.45, "facts": 0.1, "logic": 0.45}),
    verifier_items=VerifierItems(share=0.0),
    grown_from=SLM,
    pieces="digits",
)
RECIPES: Mapping[str, Recipe] = MappingProxyType({recipe.name: recipe for recipe in (SLM, LLM, LLM_X)})
