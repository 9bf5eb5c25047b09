"""A made-up evaluation folder, in the files that `s2t eval` and `s2t measure` write: the fixture of the analysis tests.

Every method answers the same questions. An answer is a chain of decisions; at each the small model has its own greedy
token (right in about three of four), a trigger may fire, and the method may choose another candidate. Right, wrong,
texts, offsets, rates and result rows all follow from the decisions, so they agree with each other.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from select_to_think.evaluation.statistics import paired_difference

METHODS = ("greedy", "sample", "maj@8", "takeover", "s2t", "s2t-local", "mentor-free", "llm")
DOMAINS = ("arithmetic", "facts", "logic")
SKILL = {"takeover": 0.98, "s2t": 0.97, "s2t-local": 0.8, "mentor-free": 0.85}
HOSTILE = "</script><img src=x onerror=window.hacked=1><!-- \u202eabc\u2028 &lt; \U0001f600 \x00 ${x} `y` |"
NAMES = ("Mira", "Oslo", "Bea", "Tarn", "Ulla", "Kosk", "Ferro", "Lind", "Pavel", "Runa", "Sven", "Tove")

Choose = Callable[[str, Sequence[str]], str]


class Trace:
    """Writes one answer token by token, with code-point offsets of the triggered steps."""

    def __init__(self, method: str, item: str, seed: int) -> None:
        self.method, self.text, self.steps = method, "", []
        self.tokens = 0
        self.taste = random.Random(f"taste {item}")  # what the small model prefers: the same under every method
        self.luck = random.Random(f"{method} {item}{f' {seed}' if seed else ''}")

    def say(self, words: str) -> None:
        """Tokens on which both models agree."""
        self.text += words
        self.tokens += len(words.split())

    def decide(self, gold: str, others: Sequence[str]) -> str:
        """One divergence point: returns the token that the method takes."""
        order = [gold, *others]
        self.taste.shuffle(order)
        if self.taste.random() < 0.74:
            order.remove(gold)
            order.insert(0, gold)
        greedy = order[0]
        fired = self.luck.random() < (0.3 if greedy == gold else 0.92)
        token, chooser = greedy, "slm"
        if self.method == "llm":
            token = gold if self.luck.random() < 0.985 else greedy
        elif self.method in ("sample", "maj@8"):
            token = gold if self.luck.random() < (0.7 if self.method == "sample" else 0.82) else greedy
        elif self.method in SKILL and fired:
            token = gold if self.luck.random() < SKILL[self.method] else self.luck.choice(order)
            chooser = "scorer" if self.method == "s2t-local" else "llm"
        start = len(self.text)
        self.text += f" {token}"
        if self.method in SKILL and fired:
            self.steps.append(self._step(order, token, greedy, gold, chooser, start))
        self.tokens += 1
        return token

    def _step(self, order: list[str], token: str, greedy: str, gold: str, chooser: str, start: int) -> dict[str, Any]:
        weights = [math.exp(-0.8 * rank) for rank in range(len(order))]
        ids = {text: 10 + rank for rank, text in enumerate(order)}
        return {
            "index": self.tokens,
            "token": ids[token],
            "text": f" {token}",
            "start": start,
            "end": len(self.text),
            "greedy": ids[greedy],
            "statistic": round(self.luck.uniform(0.4, 2.5), 6),
            "candidates": [
                {
                    "id": ids[text],
                    "text": f" {text}",
                    "logprob": math.log(weight / sum(weights)),
                    "score": self.luck.random() + (1.0 if text == token else 0.0),
                }
                for text, weight in zip(order, weights, strict=True)
            ],
            "choice": order.index(token),
            "chooser": chooser,
            "flip": token != greedy,
            "llm_top": None if self.method == "s2t-local" else ids[gold],
        }


def arithmetic(rng: random.Random, choose: Callable[[], Trace]) -> tuple[str, str, str, Trace]:
    """(question, gold, given answer, trace) of a chain of sums."""
    start, steps = rng.randint(5, 40), [rng.randint(2, 30) for _ in range(rng.randint(2, 5))]
    question = f"Mira has {start} shells. " + " ".join(f"She finds {step} more." for step in steps)
    trace = choose()
    value = start
    trace.say("She starts with")
    trace.say(f" {start} .")
    for step in steps:
        right = value + step
        trace.say(f" {value} + {step} =")
        others = [str(right + shift) for shift in (1, -1, 10, -10, 2, 5, 100)]
        value = int(trace.decide(str(right), others))
        trace.say(" .")
    return f"{question} How many shells has she now?", str(start + sum(steps)), str(value), trace


def names(rng: random.Random, choose: Callable[[], Trace], link: str, ask: str) -> tuple[str, str, str, Trace]:
    """(question, gold, given answer, trace) of a walk along names."""
    chain = rng.sample(NAMES, rng.randint(3, 5))
    facts = [f"{left} {link} {right}." for left, right in pairwise(chain)]
    rng.shuffle(facts)
    trace, at = choose(), chain[0]
    trace.say("Follow the links .")
    for right in chain[1:]:
        trace.say(f" {at} {link}")
        others = [name for name in NAMES if name != right][:7]
        at = trace.decide(right, others)
        trace.say(" .")
    return f"{' '.join(facts)} {ask.format(chain[0])}", chain[-1], at, trace


def answer(domain: str, item: str, method: str, seed: int = 0) -> dict[str, Any]:
    """The record of one item under one method with one seed."""
    rng = random.Random(f"item {item}")
    tasks = {
        "arithmetic": lambda make: arithmetic(rng, make),
        "facts": lambda make: names(rng, make, "lies in", "In what place does {} lie in the end?"),
        "logic": lambda make: names(rng, make, "comes right before", "Who comes last, starting from {}?"),
    }
    question, gold, given, trace = tasks[domain](lambda: Trace(method, item, seed))
    trace.say(f" The answer is {given}.")
    tokens = trace.tokens * (8 if method == "maj@8" else 1)
    read = {"takeover": 1.0, "s2t": 1.1, "mentor-free": 0.5, "llm": 1.0}.get(method, 0.0)
    written = {"llm": tokens, "mentor-free": 4 * len(trace.steps)}.get(method, sum(s["flip"] for s in trace.steps))
    forwards = {"llm": tokens, "takeover": len(trace.steps), "s2t": 3, "mentor-free": 2 * len(trace.steps)}
    cut = trace.luck.random() < 0.02
    return {
        "schema": 1,
        "id": item,
        "domain": domain,
        "method": method,
        "question": question,
        "answer": gold,
        "text": trace.text,
        "extracted": None if cut else given,
        "right": not cut and given == gold,
        "rule": "answer-is",
        "finish_reason": "length" if cut else "stop",
        "tokens": tokens,
        "seconds": tokens * (0.012 if method == "llm" else 0.002 + 0.01 * read * 0.2),
        "steps": trace.steps,
        "counts": {
            "slm_tokens_processed": 0 if method == "llm" else tokens + 40,
            "slm_forwards": 0 if method == "llm" else tokens,
            "llm_tokens_generated": written if read else 0,
            "llm_tokens_processed": round((tokens + 40) * read),
            "llm_forwards": forwards.get(method, 0),
        },
        "fired": len(trace.steps),
        "flips": sum(step["flip"] for step in trace.steps),
        "votes": [given] * 5 if method == "maj@8" else [],
    }


def row(method: str, domain: str, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The result row over these records."""
    n = len(records)
    accuracy = sum(record["right"] for record in records) / n
    tokens, seconds = (sum(record[key] for record in records) for key in ("tokens", "seconds"))
    fired = sum(record["fired"] for record in records)
    steps = [step for record in records for step in record["steps"] if step["llm_top"] is not None]
    return {
        "method": method,
        "domain": domain,
        "n": n,
        "accuracy": accuracy,
        "stderr": math.sqrt(accuracy * (1 - accuracy) / n),
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "trigger_rate": fired / tokens if fired else None,
        "flip_rate": sum(record["flips"] for record in records) / fired if fired else None,
        "hit_at_8": sum(s["llm_top"] in [c["id"] for c in s["candidates"]] for s in steps) / len(steps)
        if steps
        else None,
        **{
            key: sum(record["counts"][key] for record in records)
            for key in ("llm_tokens_generated", "llm_tokens_processed", "llm_forwards")
        },
        "llm_tokens_share": sum(record["counts"]["llm_tokens_generated"] for record in records) / tokens,
        "truncated": sum(record["finish_reason"] == "length" for record in records),
    }


def paired(records: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The difference of two methods' records of the same items, those of every seed together."""
    marks: dict[str, list[bool]] = {}
    for record in records:
        marks.setdefault(record["id"], []).append(record["right"])
    before = {record["id"]: record["right"] for record in baseline}
    return asdict(paired_difference([sum(right) / len(right) for right in marks.values()], [before[i] for i in marks]))


def measurement() -> dict[str, Any]:
    """What `s2t measure --json` prints."""
    curves = {
        "arithmetic": (0.36, 0.6, 0.82, 0.965, 0.99, 0.998),
        "facts": (0.2, 0.33, 0.46, 0.6, 0.72, 0.83),
        "logic": (0.42, 0.7, 0.88, 0.975, 0.995, 1.0),
        "all": (0.33, 0.55, 0.73, 0.85, 0.9, 0.94),
    }
    rows = []
    for domain, values in curves.items():
        steps = 900 if domain == "all" else 300
        hits = dict(zip(("1", "2", "4", "8", "16", "32"), values, strict=True))
        rows.append(
            {
                "domain": domain,
                "n_items": steps // 3,
                "n_steps": steps,
                "hit_at": hits,
                "stderr_at": {k: math.sqrt(value * (1 - value) / steps) for k, value in hits.items()},
                "flip_rate": 1 - hits["1"],
                "agreement": 0.9,
            }
        )
    return {"schema": 1, "results": rows, "provenance": {"seeds": [0]}}


def write_records(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write one file of records."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def count_again(folder: Path) -> None:
    """Let the accuracies of a run's results follow its records, which a test has rewritten."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for row in results["results"]:
        paths = [*folder.glob(f"records-{row['method']}.jsonl"), *folder.glob(f"seed-*/records-{row['method']}.jsonl")]
        records = [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
        marks = [record["right"] for record in records if row["domain"] in ("all", record["domain"])]
        row |= {"n": len(marks), "accuracy": sum(marks) / len(marks)}
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")


def make_run(
    folder: Path,
    *,
    per_domain: int = 100,
    methods: Sequence[str] = METHODS,
    domains: Sequence[str] = DOMAINS,
    hostile: bool = False,
    measured: bool = True,
    seeds: Sequence[int] = (0,),
) -> Path:
    """Write a run folder and return it.

    `hostile`: the first item of each domain holds text that tries to break out. `seeds`: of `sample` and `maj@8`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    greedy: dict[str, list[dict[str, Any]]] = {}
    for method in methods:
        records = [answer(d, f"{d}-{i:04d}", method) for d in domains for i in range(per_domain)]
        if hostile:
            for record in records[::per_domain]:
                record["question"] += HOSTILE
                record["text"] = HOSTILE + record["text"]
                for step in record["steps"]:
                    step["start"] += len(HOSTILE)
                    step["end"] += len(HOSTILE)
                for step in record["steps"][:1]:
                    step["candidates"][0]["text"] = HOSTILE
        write_records(folder / f"records-{method}.jsonl", records)
        others = seeds[1:] if method in ("sample", "maj@8") else ()
        for seed in others:
            more = [answer(d, f"{d}-{i:04d}", method, seed) for d in domains for i in range(per_domain)]
            write_records(folder / f"seed-{seed}" / f"records-{method}.jsonl", more)
            records += more
        pooled = {**{d: [r for r in records if r["domain"] == d] for d in domains}, "all": records}
        for domain, of in pooled.items():
            rows.append({**row(method, domain, of), "seeds": 1 + len(others)})
            if method == "greedy":
                greedy = pooled
            elif greedy:
                rows[-1] |= {"baseline": "greedy", "paired": paired(of, greedy[domain])}
    provenance = {
        "versions": {"python": "3.11.9", "torch": "2.13.0", "select-to-think": "0.1.0"},
        "git_hash": "0123abc",
        "dirty": False,
        "seeds": list(seeds),
        "device": "cpu",
        "config": {"decode": {"max_new_tokens": 128}, "select": {"trigger": None, "trigger_budget": 0.1}},
        "notes": ["The small model was trained on texts with deliberate mistakes (a made-up remark)."],
    }
    results = {"schema": 1, "results": rows, "provenance": provenance}
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    if measured:
        (folder / "measure.json").write_text(json.dumps(measurement()), encoding="utf-8")
    return folder
