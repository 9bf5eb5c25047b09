"""Shapes and hyper-parameters of the two models: the only place of these numbers.

Non-goals: running the recipe (`training`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from transformers import PreTrainedTokenizerFast, Qwen2Config

from recipe.batches import BATCHES_PER_STEP, Schedule
from recipe.documents import DOMAIN_SHARES, VERIFIER_SHARE, Formats, draw_begun_chain, draw_begun_listing
from recipe.tokenizer import MAX_LENGTH, Pieces
from recipe.writers import Reader


@dataclass(frozen=True)
class Recipe:
    """One training run: the model's Qwen2 shape, its text and the run whose model it goes on from or grows."""

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
    verifier_shares: Schedule = ((0.0, VERIFIER_SHARE),)
    more_formats: Formats = ()
    grown_from: Recipe | None = None
    pieces: Pieces = "words"

    @property
    def documents_per_step(self) -> int:
        return self.rows * BATCHES_PER_STEP

    @property
    def stages(self) -> tuple[Recipe, ...]:
        """The runs that lead to the model, its own last."""
        return (*(self.grown_from.stages if self.grown_from else ()), self)

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


# Letters of verifier items are noise until the SLM knows how to look things up, and are learned only where nothing else
# is: so a stretch of verifier items alone follows, then they are mixed with chains again. Last the SLM learns to go on
# where another choice than its own was made, above all to list an order from the end that its text rarely begins with.
BASE = Recipe(
    "base",
    "slm",
    128,
    384,
    layers=3,
    heads=4,
    steps=6500,
    rows=16,
    learning_rate=2.5e-3,
    verifier_shares=((0.45, 0.25),),
)
LETTERS = replace(
    BASE,
    name="slm-letters",
    steps=1200,
    learning_rate=1.5e-3,
    warmup_steps=50,
    decay_share=0.4,
    seed=4,
    verifier_shares=((0.0, 1.0), (0.5, 0.4)),
    grown_from=BASE,
)
SLM = replace(
    LETTERS,
    name="slm",
    steps=1000,
    decay_share=0.25,
    seed=5,
    verifier_shares=((0.0, 0.4),),
    more_formats=((draw_begun_listing, 0.5), (draw_begun_chain, 0.1)),
    grown_from=LETTERS,
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
    grown_from=BASE,
)
LLM_X = replace(
    BASE,
    name="llm-x",
    reader="llm",
    steps=4000,
    rows=8,
    learning_rate=1.5e-3,
    decay_share=0.3,
    seed=3,
    shares=MappingProxyType({"arithmetic": 0.5, "facts": 0.1, "logic": 0.4}),
    verifier_shares=(),
    grown_from=BASE,
    pieces="digits",
)
RECIPES: Mapping[str, Recipe] = MappingProxyType({recipe.name: recipe for recipe in (BASE, SLM, LLM, LLM_X)})
