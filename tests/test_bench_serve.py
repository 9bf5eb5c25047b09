"""`s2t bench serve`: it measures what it says, and it notices what is wrong."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from select_to_think.cli.app import main
from select_to_think.serving import bench as serve_bench
from select_to_think.serving import load, trial
from select_to_think.serving.bench import bench_serve, p95, seconds_of
from select_to_think.serving.load import Answer, Job, do_job, run_client
from select_to_think.serving.settings import PARTS, BenchServeConfig
from select_to_think.serving.trial import Bench, server, whole
from select_to_think.session import Session
from select_to_think.structures import S2TError

QUESTIONS = ["Today Max has 3 cups. Max buys 4 cups. How many cups does Max have?", "How many keys does Ida have?"]
SMALL = {"streams": 4, "requests": 8, "rounds": 1, "new_tokens": 24, "soak_requests": 36, "clients": 4}


def test_all_parts_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    assert main(["bench", "serve", "--json", "--long-prompt-tokens=1500", *flags]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {(row["part"], row["measure"]): row for row in found["rows"]}
    assert {part for part, _ in rows} == set(PARTS) == found["details"].keys() and len(rows) == 9
    assert all(row["met"] == ((row["value"] >= row["target"]) if "tokens" in measure else row["value"] <= row["target"])
               for (_, measure), row in rows.items())  # fmt: skip
    for measure in ("answers lost", "answers that differ from offline"):
        assert rows["soak", measure]["value"] == 0, found["details"]["soak"]
    assert len(found["details"]["soak"]["methods"]) >= 10
    assert rows["vanish", "rows and queue afterwards"]["value"] == 0 and found["details"]["vanish"]["vanished"] == 4
    assert rows["vanish", "wrong answers afterwards"]["value"] == 0
    assert (
        rows["long-prompt", "tokens of each other stream meanwhile"]["target"]
        == found["details"]["long-prompt"]["pieces"] - 1
        == 1
    )
    assert rows["long-prompt", "tokens of each other stream meanwhile"]["met"]
    (rates,) = found["details"]["throughput"]["tokens_per_second"]
    (costs,) = found["details"]["throughput"]["cpu_microseconds_per_token"]
    assert rates["offline_one"] > 0 and costs["server"] > 0 and costs["offline"] > 0
    assert rows["throughput", "tokens/s of server / offline"]["value"] == rates["many"] / rates["offline"] > 0
    assert rows["latency", "p95 of first token, half load / none"]["value"] > 0


class Pretended(Bench):
    """A bench whose offline answers cost nothing."""

    def offline(self, questions: Sequence[Any], method: str, **settings: Any) -> list[Any]:
        return [type("Offline", (), {"text": "right", "tokens": (1, 2)})() for _ in questions]


class Server:
    url, model, memory_mib, cpu_seconds = "http://nowhere", "demo", 100.0, 1.0

    def get(self, path: str) -> Any:
        assert path == "/v1/models"
        return {"data": [{"id": "demo:greedy", "s2t": {"method": "greedy"}}]}

    def settled(self) -> dict[str, float]:
        return {"rows": 1.0, "queue": 2.0}


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    """Of four clients, the second gets nothing and the third something wrong."""

    def answers(job: Job) -> list[Answer]:
        found = [Answer(n, 200, "right", 2, "stop", 1.0, [2.0, 3.0], 3.0) for n in range(len(job.bodies))]
        for answer in found[1::4]:
            answer.status, answer.text, answer.error = 0, "", "ReadError: gone"
        for answer in found[2::4]:
            answer.text = "wrong"
        return found

    for module in (serve_bench, trial):
        monkeypatch.setattr(module, "run_client", answers)
    config = BenchServeConfig(soak_requests=40, requests=4, rounds=1, streams=2, clients=4)
    return Pretended(config, Session.load(), Server(), QUESTIONS)  # type: ignore[arg-type]


def test_the_soak_notices_what_is_lost_and_what_is_wrong(pretended: Pretended) -> None:
    rows = {row["measure"]: row for row in serve_bench.soak(pretended)[0]}
    assert rows["answers lost"]["value"] == 10 and not rows["answers lost"]["met"]
    assert (
        rows["answers that differ from offline"]["value"] == 20 and not rows["answers that differ from offline"]["met"]
    )
    assert rows["memory at the end / after a tenth"]["met"]


@pytest.mark.parametrize("part", [serve_bench.throughput, serve_bench.latency, serve_bench.vanish])
def test_a_part_whose_answers_are_missing_ends(pretended: Pretended, part: Any) -> None:
    with pytest.raises(S2TError, match="request 1 of"):
        part(pretended)


def test_throughput_refuses_answers_that_are_wrong(pretended: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "whole", lambda found: found)
    with pytest.raises(S2TError, match="2 answers differ from the offline ones"):
        serve_bench.throughput(pretended)


def test_rows_that_stay_are_noticed(pretended: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "whole", lambda found: found)
    left, wrong = serve_bench.vanish(pretended)[0]
    assert left["value"] == 3 and not left["met"] and wrong["value"] == 1 and not wrong["met"]


def test_the_client_tells_what_came() -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": "é"}, "finish_reason": None}]}
    usage = {"choices": [], "usage": {"completion_tokens": 7}}
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    named = {"choices": [{"index": 0, "text": "ab", "logprobs": {"tokens": ["a", "b"]}, "finish_reason": "length"}]}

    def events(*values: Any, done: bool = True) -> bytes:
        text = "".join(f"data: {json.dumps(value, ensure_ascii=False)}\n\n" for value in values)
        return (text + ("data: [DONE]\n\n" if done else "")).encode()

    replies = {
        "whole": (200, events(chunk, chunk, last, usage)),
        "cut": (200, events(chunk, done=False)),
        "named": (200, events(named)),
        "failing": (200, events(chunk, {"error": {"message": "stopped"}})),
        "refused": (429, json.dumps({"error": {"message": "later"}}).encode()),
    }

    class Pretended(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            peers.append(self.client_address)
            status, data = replies[json.loads(self.rfile.read(int(self.headers["Content-Length"])))["kind"]]
            self.send_response(status)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for at in range(0, len(data), 5):  # in the midst of lines and of characters
                piece = data[at : at + 5]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *about: Any) -> None:
            pass

    peers: list[Any] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Pretended) as pretended:
        threading.Thread(target=pretended.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{pretended.server_port}"
        bodies = [{"kind": kind, "stream": True} for kind in replies]
        found = dict(zip(replies, do_job(Job(url, ["/"], bodies)), strict=True))
        assert len(set(peers)) == 2  # what was read to its end serves again; "cut" has none
        left = dict(zip(replies, do_job(Job(url, ["/"], bodies, leave_after=1)), strict=True))
        pretended.shutdown()
    assert (found["whole"].text, found["whole"].tokens, found["whole"].finish_reason) == ("éé", 7, "stop")
    assert len(found["whole"].times) == 2 and found["whole"].sent <= found["whole"].times[0] <= found["whole"].ended
    assert "without [DONE]" in found["cut"].error and found["failing"].error == "stopped"
    assert len(found["named"].times) == 2 and not found["named"].error
    assert (found["refused"].status, found["refused"].error) == (429, "later")
    for kind in ("cut", "failing", "refused"):
        with pytest.raises(S2TError, match="failed"):
            whole([found[kind]])
    assert left["whole"].text == "é" and left["whole"].finish_reason is None and not left["whole"].error


def test_a_client_that_reaches_nobody_says_so() -> None:
    (answer,) = run_client(Job("http://127.0.0.1:9", ["/"], [{"stream": True}]))
    assert answer.status == 0 and "ConnectionRefusedError" in answer.error


def test_requests_are_counted_from_when_they_were_due(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(idle: Any, job: Job, answer: Answer) -> None:
        answer.sent = math.nan

    monkeypatch.setattr(load, "ask", slow)
    first, second = do_job(Job("http://nowhere", ["/"], [{}, {}], starts=[0.0, 0.05]))
    assert second.sent - first.sent == pytest.approx(0.05)


def test_numbers() -> None:
    answers = [Answer(n, sent=10.0 + n, times=[10.0 + n + 0.01 * (n + 1)], ended=12.0 + n) for n in range(20)]
    assert p95(answers) == pytest.approx(0.2) and seconds_of(answers) == pytest.approx(21)


def test_a_server_that_does_not_start_says_why() -> None:
    with pytest.raises(S2TError, match=r"did not start: error: .*greeedy"), server("--method", "greeedy"):
        pass


def test_unknown_parts_are_refused_before_anything_starts() -> None:
    with pytest.raises(S2TError, match="did you mean 'latency'"):
        bench_serve(BenchServeConfig(parts="latencyy"), Session.load(), QUESTIONS)
