"""Who may use a server, and how much at once: its settings and their defaults.

Non-goals: anything that needs the libraries of a server; flags are made from this.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from select_to_think.checked import Checked, option
from select_to_think.structures import S2TError
from select_to_think.text import comma_separated, known_names

ORIGIN = re.compile(r"https?://[a-z0-9._-]+(:\d+)?|https?://\[[0-9a-f:.]+\](:\d+)?")
SERVED_DECODE: dict[str, Any] = {"max_batch": 64, "on_llm_failure": "continue"}  # defaults of a server
SERVED_RUNTIME: dict[str, Any] = {"max_wait_steps": 32, "prefix_cache_tokens": 1 << 14}
SERVED = SERVED_DECODE | SERVED_RUNTIME
HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")  # an address of IPv6 without its brackets


@dataclass(frozen=True)
class AccessConfig(Checked):
    """Keys, hosts, origins, limits and logs of a server."""

    api_key_file: Path | None = option(None, "File with one API key a line (or S2T_API_KEYS in the environment).")
    allowed_host: str | None = option(
        None, "Host names by which the server may be addressed, comma-separated (default: those of --host)."
    )
    cors_origin: str | None = option(
        None, "Origins whose pages may call the server, such as https://example.org, comma-separated (default: none)."
    )
    max_body_mib: float = option(2.0, "Largest request body.", low=0.001, high=1024)
    log_prompts: bool = option(False, "Write the bodies of requests, prompts included, into the log.")

    def __post_init__(self) -> None:
        """Check the ranges and the spelling of the names."""
        super().__post_init__()
        for origin in self.origins:
            if not ORIGIN.fullmatch(origin):
                raise S2TError(f"{origin!r} is no origin: write --cors-origin https://example.org, without a path")
        for name in self.hosts:
            if not HOST.fullmatch(name):
                raise S2TError(f"{name!r} is no host name: write --allowed-host example.org, without scheme and port")

    @property
    def origins(self) -> list[str]:
        """The origins whose pages may call the server."""
        return comma_separated(self.cors_origin or "")

    @property
    def hosts(self) -> list[str]:
        """The host names that were named, in small letters."""
        return [name.lower() for name in comma_separated(self.allowed_host or "")]


PARTS = ("throughput", "latency", "soak", "vanish", "long-prompt")


@dataclass(frozen=True)
class BenchServeConfig(Checked):
    """What `s2t bench serve` measures; the defaults take a few minutes, the numbers of the documents larger ones."""

    parts: str = option(",".join(PARTS), "What to measure, comma-separated.")
    method: str = option("s2t-local", "Method of all parts but the soak, which mixes all that the pair has.")
    streams: int = option(32, "Answers that are open at once.", low=2)
    requests: int = option(96, "Requests of each timed round.", low=1)
    rounds: int = option(3, "Medians are over so many rounds.", low=1)
    new_tokens: int = option(128, "Longest answer, in tokens.", low=8)
    soak_requests: int = option(
        1000, "Requests of the soak; its memory is compared with that after the first tenth.", low=20
    )
    clients: int = option(100, "Clients that vanish in mid-stream.", low=1)
    long_prompt_tokens: int = option(4096, "Length of the long prompt.", low=64)

    @property
    def chosen(self) -> list[str]:
        """The parts that were asked for, each once. Raises S2TError for an unknown one."""
        return known_names("part", self.parts, PARTS)
