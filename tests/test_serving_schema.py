"""The API as its own OpenAPI schema describes it: whatever is sent, the answer is one that is described there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance  # fields depend on each other

from select_to_think import Session
from select_to_think.config import DecodeConfig, MethodSettings
from serve import SMALL, serving

EXAMPLES = 25  # of each operation and kind


@pytest.fixture(scope="module")
def api() -> Iterator[Any]:
    with serving(Session.load(runtime=SMALL), settings=MethodSettings(DecodeConfig(max_new_tokens=4))) as served:
        yield schemathesis.openapi.from_url(f"{served.url}/openapi.json")
        assert served.get("/v1/s2t/state")["rows"] == 0


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_whatever_is_sent(api: Any, mode: GenerationMode) -> None:
    paths = []
    for found in api.get_all_operations():
        operation = found.ok()
        paths.append(operation.path)
        if mode is GenerationMode.NEGATIVE and not operation.body:
            continue  # nothing can be wrong with it

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
            phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def check(case: schemathesis.Case) -> None:
            case.call_and_validate(timeout=60, excluded_checks=[positive_data_acceptance])

        check()
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models/{model}", "/tokenize", "/detokenize"} <= set(paths)
