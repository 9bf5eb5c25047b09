"""Every setting of the library and its default, written once.

Command-line flags are generated from these dataclasses: the flag of `DecodeConfig.max_new_tokens` is
`--max-new-tokens`, its help text stands beside the default. Fractions are 0-1, times in seconds, lengths in tokens.

Non-goals: checking values (`checked.py`), reading flags (`cli/options.py`), and anything that depends on torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from select_to_think.checked import Checked, option
from select_to_think.structures import S2TError
from select_to_think.text import comma_separated

LARGEST_SEED = 2**32 - 1  # that numpy and torch take

ScorerMode = Literal["coupled", "proposer", "activated"]
ScoreKind = Literal["bins", "anchored", "adapted"]
DistillKind = Literal["kd", "sft"]
Reporter = Literal["none", "tensorboard", "wandb"]
Order = Literal["ab", "debiased"]
Definition = Literal["ours", "paper"]
VerifierPlace = Literal["turn", "answer"]
CodeExecution = Literal["confined", "unconfined"]
OnLLMFailure = Literal["continue", "abort"]
ServerKind = Literal["vllm", "sglang", "llama-server", "s2t", "openai"]


@dataclass(frozen=True)
class PairConfig(Checked):
    """Which models, where and how they are loaded."""

    pair: str = option("demo", "A bundled pair by name; ignored when --slm is given.")
    slm: str | None = option(None, "Small model: a Hugging Face name, a local folder, or a .gguf file.")
    llm: str | None = option(
        None, "Large model: a Hugging Face name, a local folder, a .gguf file, or a server (http://host:port/v1)."
    )
    llm_model: str | None = option(None, "The model's name at the server (default: the first that it serves).")
    llm_kind: ServerKind | None = option(
        None, "What the server is: vllm, sglang, llama-server, s2t or openai (default: as it says itself)."
    )
    llm_tokenizer: str | None = option(
        None, "Tokenizer of the LLM behind a server: a name or folder (default: the SLM's, if the server has the same)."
    )
    scorer: str | None = option(None, "Scorer folder for s2t-local (default: the one shipped with the pair).")
    trigger_head: str | None = option(None, "Folder of a learned trigger (default: the one shipped with the pair).")
    distill: str | None = option(None, "Folder of a distilled SLM (default: the one shipped with the pair).")
    verifier: str | None = option(None, "Verifier folder for mentor-mlp (default: the one shipped with the pair).")
    calibration: str | None = option(None, "Calibration file (default: the one shipped with the pair).")
    device: str = option("auto", "cpu, cuda, cuda:1 ... or auto.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto", "Weight type; auto: bfloat16, but float32 on CPU and for bundled pairs."
    )
    trust_remote_code: bool = option(False, "Run code that comes with the model. Only for models you trust.")


@dataclass(frozen=True)
class DecodeConfig(Checked):
    """How a sequence is decoded, whatever the method."""

    max_new_tokens: int = option(128, "Longest answer, in tokens.", low=1)
    max_batch: int = option(32, "Sequences decoded at once.", low=1)
    temperature: float = option(0.7, "Sampling temperature (sample, maj@N).", low=0.01)
    top_p: float = option(0.95, "Nucleus mass kept when sampling.", low=0.0, high=1.0)
    top_k: int = option(0, "Tokens kept when sampling; 0 keeps all.", low=0)
    min_p: float = option(0.0, "Drop tokens below this share of the best one's probability.", low=0.0, high=1.0)
    early_stop: bool = option(True, "maj@N: stop the other samples once the vote is decided.")
    seed: int = option(0, "Seed of every random choice.", low=0, high=LARGEST_SEED)
    on_llm_failure: OnLLMFailure = option(
        "abort", "Where the LLM is not reached: continue with the SLM's own choice (and count it), or abort the answer."
    )


@dataclass(frozen=True)
class RuntimeConfig(Checked):
    """How forwards are made, whatever the method: no answer depends on it."""

    kv_memory_gib: float | None = option(
        None, "Keys and values of each model, in GiB (default: 30 % of the free memory).", low=0.0
    )
    max_step_tokens: int = option(1024, "Most tokens of a forward; longer prompts come in pieces.", low=64)
    leaf_tokens: int = option(
        256, "Candidates also show what follows them in forwards of at most so many tokens; else a step later.", low=0
    )
    prefix_cache_tokens: int = option(0, "Kept of ended sequences, for prompts that begin alike, in tokens.", low=0)
    compile: bool = option(False, "CUDA: replay steps of single tokens as graphs. No effect on a CPU.")
    max_wait_steps: int = option(1000, "Steps that a row waits for the LLM so that others can ask with it.", low=0)
    llm_guess: bool = option(True, "While a server selects for the only row, go on behind likely choices, ask ahead.")
    llm_concurrency: int = option(32, "Requests to a server at once.", low=1)
    llm_timeout: float = option(60.0, "Seconds for one request to a server.", low=0.01)
    llm_deadline: float = option(120.0, "Seconds for an answer of a server, all attempts together.", low=0.01)


@dataclass(frozen=True)
class SelectConfig(Checked):
    """Where a selector is asked, and among how many candidates."""

    trigger: str | None = option(
        None,
        "What makes a step a triggered one (default: kl where the LLM has the same vocabulary and a server tells exact "
        "log-probabilities of given tokens, else entropy).",
    )
    trigger_budget: float = option(0.03, "Wanted fraction of triggered steps.", low=0.0, high=1.0)
    trigger_definition: Definition = option("ours", "kl and entropy as defined here, or in the published code (paper).")
    warm_up_steps: int = option(0, "First steps of an answer at which no trigger fires: 0, or 3 (paper).", low=0)
    candidates: int = option(8, "Candidates K: the SLM's top-K next tokens.", low=1)
    scorer_mode: ScorerMode = option("activated", "Which of the pair's scorers (a folder of --scorer knows its own).")
    score: ScoreKind = option("anchored", "And its score: bins (the paper), or plus some log p: anchored, adapted.")
    block_verified: bool = option(True, "KL trigger: draft a block, verify it in one LLM forward (same output).")


@dataclass(frozen=True)
class ScorerForm:
    """How a candidate c is scored. bins (arXiv 2604.26940): E(c), the expected value of bins 0 ... 1 in equal steps.
    anchored, adapted: E(c) / score_temperature + anchor * log p(c), of the SLM or of the SLM with the adapter on.
    """

    mode: ScorerMode
    score: ScoreKind
    score_temperature: float
    anchor: float


@dataclass(frozen=True)
class MentorConfig(Checked):
    """MentorCollab: when the LLM, as mentor, is asked for a word, and how the SLM judges between two segments."""

    consult_rate: float = option(0.25, "Fraction of words at which the mentor is asked.", low=0.0, high=1.0)
    segment_tokens: int = option(16, "Length of the two segments, which begin with the word.", low=1)
    order: Order = option("debiased", "ab: the mentor is option B; debiased: both orders, averaged.")
    verifier_template: str = option(
        "{question}\n{text}\nWhich option goes on correctly?\nOption (A):{a}\nOption (B):{b}\n",
        "What the SLM is asked, with {question}, {text} (the answer so far), {a} and {b}.",
    )
    verifier_place: VerifierPlace = option("turn", "The template is a user's turn, or goes on in the answer (paper).")
    verifier_opening: str = option("My choice: Option (", "How its answer begins; the letter follows.")
    verifier_rule: Literal["odds", "top"] = option("odds", "mentor-free: the likelier letter, or the top token: paper.")
    verifier_state: Literal["behind", "before"] = option("behind", "mentor-mlp reads behind the opening, or before it.")
    word_form: Definition = option("ours", "What a word is, and when two are the same: ours, or paper.")

    def __post_init__(self) -> None:
        """Check the ranges, the template, and what goes together."""
        super().__post_init__()
        if self.verifier_rule == "top" and self.order == "debiased":
            raise S2TError("a most probable token has no mean over two orders: set --order ab with --verifier-rule top")
        missing = [name for name in ("{question}", "{text}", "{a}", "{b}") if name not in self.verifier_template]
        if missing and not (self.verifier_place == "answer" and missing == ["{question}"]):
            raise S2TError(f"--verifier-template has no {missing[0]}: put it where that text belongs")


@dataclass(frozen=True)
class MethodSettings:
    """All that decides how a method answers."""

    decode: DecodeConfig = DecodeConfig()
    select: SelectConfig = SelectConfig()
    mentor: MentorConfig = MentorConfig()
    stop: tuple[str, ...] = ()  # strings that end an answer
    alternatives: int = 0  # most probable tokens that each step carries beside the chosen one ...
    alternative_ids: tuple[int, ...] = ()  # ... or these, whatever their probability (greedy, distill, llm)
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id of the SLM, nats) added to the logits of every model


@dataclass(frozen=True)
class DataConfig(Checked):
    """Which questions a command works on: a file, benchmarks, or (by default) a split of the bundled pair."""

    data: Path | None = option(None, "JSON Lines file with id, question, answer; asked as it is.")
    benchmarks: str | None = option(None, "Benchmarks (gsm8k,mmlu-pro ...) or *.jsonl files, comma-separated.")
    data_dir: Path | None = option(None, "Folder with the benchmarks' files (default: download them from the hub).")
    split: str | None = option(
        None, "Split of the benchmarks or of the bundled pair (default: test, or one that may be learned from)."
    )
    limit: int | None = option(None, "Items per domain or benchmark; all, if no default is named.", low=1)
    skip: int = option(0, "Items per domain or benchmark to leave out first.", low=0)


@dataclass(frozen=True)
class PromptStyle(Checked):
    """How questions are put: the benchmark's zero-shot default, a template of the user's, solved examples first.

    The examples are drawn with `seed` from the benchmark's train split; the same ones for every item.
    """

    template: str | None = option(
        None, "Text around each question, with {question}, {choices}, {letters} (default: that of the benchmark)."
    )
    shots: int = option(0, "Solved examples before each question, from the benchmark's train split.", low=0)
    seed: int = option(0, "Seed of the choice of examples.", low=0, high=LARGEST_SEED)


@dataclass(frozen=True)
class PriceConfig(Checked):
    """What tokens cost, in any one currency; all zero: nothing is said about money."""

    price_slm: float = option(0.0, "Money per million tokens that the SLM processes.", low=0.0)
    price_llm_read: float = option(0.0, "Money per million tokens that the LLM processes.", low=0.0)
    price_llm_written: float = option(0.0, "Money per million tokens that the LLM writes.", low=0.0)


@dataclass(frozen=True)
class EvalSettings:
    """How an evaluation answers, grades and compares, whatever its items and methods."""

    decode: DecodeConfig = DecodeConfig()
    select: SelectConfig = SelectConfig()
    mentor: MentorConfig = MentorConfig()
    seeds: Sequence[int] = ()  # of the methods that draw at random (default: that of `decode`); the others run once
    baseline: str = "greedy"  # the method with which the rows of the others are compared; may be missing if not named
    prices: PriceConfig = PriceConfig()  # of tokens, for the column `money`
    style: PromptStyle | None = None  # how the prompts of the items were made, to be written down
    allow_code_execution: CodeExecution | None = None  # run code that a model wrote, to grade it
    contradictory: Literal["last", "first"] = "last"  # which of contradictory statements of an answer is graded


@dataclass(frozen=True)
class CollectConfig(Checked):
    """On-policy collection of candidate groups for the scorer and of labels for the trigger."""

    items: int = option(600, "Problems per domain to roll out.", low=1)
    triggers: str = option("kl,entropy", "Triggers whose steps become groups, comma-separated.")
    collect_budget: float = option(0.1, "Fraction of steps collected by the KL trigger.", low=0.0, high=1.0)
    entropy_budget: float = option(0.2, "Fraction of steps collected by LLM-free triggers.", low=0.0, high=1.0)
    group_size: int = option(16, "Candidates per group.", low=2)
    shard_items: int = option(200, "Trajectories per shard file.", low=1)


@dataclass(frozen=True)
class BenchConfig(Checked):
    """What `s2t bench decode` times. Weights of a shape are random: triggers are forced at the budget by a coin."""

    slm_shape: str = option("qwen2.5-0.5b", "Shape of the SLM; `none` times only the pair.")
    llm_shape: str = option("qwen2.5-1.5b", "Shape of the LLM.")
    names: str = option("all", "Rows to time, comma-separated; greedy is always among them.")
    batch: str = option("1", "Sequences decoded together; several sizes, comma-separated, are timed one by one.")
    prompt_tokens: int = option(256, "Prompt length of the shapes.", low=1)
    ragged: bool = option(False, "Prompts of the shapes are of random lengths from half of that on.")
    new_tokens: int = option(128, "Tokens written after it.", low=1)
    plain_tokens: int = option(4, "Tokens that the plain reference writes; it is too slow for more.", low=1)
    bench_budget: float = option(0.01, "Fraction of triggered steps.", low=0.0, high=1.0)
    questions: int = option(
        12,
        "Questions that the pair answers, an equal share of each domain; `bench decode`: 0 times only the shapes.",
        low=0,
    )
    repeats: int = option(5, "Medians are over so many runs of every row, in turn.", low=1)
    bench_dtype: Literal["bfloat16", "float32", "float16"] = option("bfloat16", "Weight type of the shapes.")

    @property
    def batches(self) -> list[int]:
        """The batch sizes. Raises S2TError for what is none."""
        sizes = comma_separated(self.batch)
        if not sizes or not all(size.isdecimal() and int(size) for size in sizes):
            raise S2TError(f"batch must be whole numbers from 1 on, separated by commas, got {self.batch!r}")
        return [int(size) for size in sizes]


@dataclass(frozen=True)
class ServeConfig(Checked):
    """Where the server listens, what it offers, and how much a client may ask of it."""

    host: str = option("127.0.0.1", "Address to listen on; 0.0.0.0 lets other machines in.")
    port: int = option(8000, "Port to listen on; 0 takes a free one.", low=0, high=65535)
    method: str = option("s2t-local", "Method of requests that name none.")
    model_name: str | None = option(None, "Name of the model in requests (default: that of the pair).")
    max_queue: int = option(256, "Answers that may wait for their turn; more are refused (429).", low=0)
    max_n: int = option(128, "Most answers of one request: prompts times n.", low=1)
    request_timeout_s: float = option(600.0, "Seconds that a request may take.", low=0.1)
    shutdown_timeout_s: float = option(30.0, "Seconds in which answers may still end when the server stops.", low=0.0)
