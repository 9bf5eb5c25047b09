"""llama.cpp's own converter on the bundled SLM: the file alone decides as the pair (60 test problems, fp32).

`S2T_SERVERS` names where `make test-servers` has put llama.cpp's sources; the extra `llama-cpp` runs the file.
"""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import pytest

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: pip install 'select-to-think[llama-cpp]'")

from select_to_think.config import DecodeConfig, PairConfig, RuntimeConfig, SelectConfig
from select_to_think.pairs.problems import load_split
from select_to_think.session import Session
from select_to_think.training.export import LlamaCpp, export

LLAMA = Path(os.environ.get("S2T_SERVERS", Path(__file__).parents[2] / ".servers")) / "llama"
RUNTIME = RuntimeConfig(kv_memory_gib=0.2)
DECODE = DecodeConfig(max_new_tokens=64, max_batch=8)


def test_the_exported_file_decides_as_the_pair(tmp_path: Path) -> None:
    converter = LLAMA / "convert_hf_to_gguf.py"
    if not converter.is_file():
        pytest.skip(f"{converter} is not there: make test-servers installs it")
    session, said = Session.load(runtime=RUNTIME), list[str]()
    with mock.patch.dict(os.environ, PYTHONPATH=str(LLAMA / "python")):
        llama = LlamaCpp(converter, "F32", said.append)
        export(session, "s2t-local", SelectConfig(), "gguf", tmp_path / "out", llama)
    assert len(said) == 1 and "does not know the tokenizer" in said[0]
    alone = Session.load(PairConfig(slm=str(tmp_path / "out" / "model.gguf")), RUNTIME)
    questions = [problem.question for problem in load_split("test", limit_per_domain=20)]
    for method in ("greedy", "s2t-local"):
        expected = session.generate(questions, method, DECODE)
        found = alone.generate(questions, method, DECODE)
        assert [answer.tokens for answer in found] == [answer.tokens for answer in expected]
