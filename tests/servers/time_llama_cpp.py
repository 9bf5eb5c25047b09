"""Times a quantised model in llama.cpp beside the same weights in bfloat16 in `transformers`, on random weights.

    PYTHONPATH=src:tests python tests/servers/time_llama_cpp.py FOLDER [--batch 1] [--budget 0.01] [--kind Q8_0] [--cpu]

The first run writes the GGUF file of the shape into FOLDER. A coin forces the triggers; ratios are to llama.cpp's own
greedy within a round.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import get_args

import psutil
import torch

from select_to_think.config import RuntimeConfig, ScorerMode
from select_to_think.contexts.llama_cpp_backend import LlamaCppBackend
from select_to_think.contexts.transformers_backend import TransformersBackend
from select_to_think.evaluation.bench import BINS, CANDIDATES, random_adapter
from select_to_think.evaluation.timing import Contender, table, time_contenders, timed_events
from select_to_think.methods import SLM
from select_to_think.models.adapter import NO_CHANGE
from select_to_think.models.gguf import load_gguf, record_fingerprint
from select_to_think.models.shapes import random_model
from select_to_think.policies.base import Limits
from select_to_think.policies.greedy import Greedy
from select_to_think.policies.select import Select
from select_to_think.runs import Run
from select_to_think.runtime import Runtime
from select_to_think.selectors.scorer import ScorerSelector
from select_to_think.streams import Streams
from select_to_think.structures import Role
from select_to_think.triggers.random import coin
from tiny import tiny_tokenizer
from tiny_gguf import write_gguf

SHAPE = "qwen2.5-0.5b"
GIB = 1 << 30


def quantised(folder: Path, kind: str) -> Path:
    """The GGUF file of the shape, written if it is not there."""
    file = folder / f"{SHAPE}-{kind}.gguf"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        model = random_model(SHAPE, "cpu", torch.bfloat16)
        model.config.save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        whole = folder / "whole.gguf"
        write_gguf(whole, model)
        record_fingerprint(whole, file, "random", kind)
        whole.unlink()
    return file


def memory_gib() -> float:
    return psutil.Process().memory_info().rss / GIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", default="Q8_0")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--budget", type=float, default=0.01)
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--cpu", action="store_true", help="CPU seconds of one thread, where a machine is not ours alone"
    )
    options = parser.parse_args()
    clock = time.process_time if options.cpu else time.perf_counter
    if options.cpu:
        torch.set_num_threads(1)
    file = quantised(options.folder, options.kind)
    before = memory_gib()
    llama = LlamaCppBackend(load_gguf(str(file)))
    llama_gib = memory_gib() - before
    model = random_model(SHAPE, "cpu", torch.bfloat16)
    plain = TransformersBackend(model, config=RuntimeConfig(kv_memory_gib=1.0))
    llama.add_adapter("scorer", random_adapter(model), torch.randn(BINS, model.config.hidden_size))
    prompts = [[1000 + 37 * (i + 1) * j % 90_000 for j in range(options.prompt_tokens)] for i in range(options.batch)]
    limits, room = Limits(frozenset(), options.new_tokens), options.prompt_tokens + options.new_tokens + 2 * CANDIDATES
    llama.add_adapter("merged", NO_CHANGE, torch.randn(BINS, model.config.hidden_size))
    adapted, merged = Role("slm", "scorer"), Role("slm", "merged")

    def timed(name, backend, policy, roles):
        def run():
            backends = {"slm": backend}
            runs = ((i, Run(policy.run(prompt, str(i)), roles, room)) for i, prompt in enumerate(prompts))
            return timed_events(
                Streams(Runtime(backends, RuntimeConfig())).events(runs, options.batch),
                backends,
                options.batch,
                clock,
            )

        return Contender(name, run)

    select = partial(Select, limits, coin(1 - options.budget))
    roles = {"coupled": {"slm": adapted}}
    contenders = [
        timed("greedy", llama, Greedy(limits), {"slm": SLM}),
        timed("greedy-adapted", llama, Greedy(limits), {"slm": adapted}),
        timed("greedy-transformers-bf16", plain, Greedy(limits), {"slm": SLM}),
        *(
            timed(
                f"s2t-local-{mode}",
                llama,
                select(ScorerSelector(mode, "anchored", 0.1, 1.0), CANDIDATES),
                roles.get(mode, {"slm": SLM, "scorer": adapted}),
            )
            for mode in get_args(ScorerMode)
        ),
        timed(
            "s2t-local-coupled-merged",
            llama,
            select(ScorerSelector("coupled", "anchored", 0.1, 1.0), CANDIDATES),
            {"slm": merged},
        ),
    ]
    costs = time_contenders(contenders, options.repeats, lambda: None)
    rows = table(file.stem, options.batch, options.prompt_tokens, costs)
    wanted = (
        "name",
        "seconds",
        "prefill_seconds",
        "tokens_per_second",
        "ratio_to_greedy",
        "ratio_low",
        "ratio_high",
        "slm_batch_forwards",
    )
    print(
        json.dumps(
            {
                "threads": torch.get_num_threads(),
                "llama_gib": round(llama_gib, 2),
                "file_gib": round(file.stat().st_size / GIB, 2),
            }
        )
    )
    for row in rows:
        print(json.dumps({name: round(row[name], 4) if isinstance(row[name], float) else row[name] for name in wanted}))


if __name__ == "__main__":
    main()
