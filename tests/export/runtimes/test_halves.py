"""ONNX Runtime says what it made of half precision, and is asked whether it has kernels."""

from __future__ import annotations

import pytest

from export import registry
from export.backend import LoadOptions
from export.device import HOST
from export.runtimes import halves, precision
from tests.conftest import Builder


def test_float16_that_is_computed_in_float32_is_said_with_the_reason(
    build_model: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset({"avx2"}))
    folder, _ = build_model("Mlp", "onnx-fp16")
    evidence = registry.load(folder, LoadOptions()).witness().evidence
    assert (evidence["precision"], evidence["stored"]) == ("float32", "float16")
    assert "in float32 here, for want of kernels" in evidence["why_slow"]
    assert "no instructions for float16 (AVX512-FP16" in evidence["why_slow"]
    folder, _ = build_model("Mlp", "onnx")
    evidence = registry.load(folder, LoadOptions()).witness().evidence
    assert evidence["precision"] == "float32"
    assert not {"stored", "why_slow"} & {*evidence}


def test_where_it_has_no_bfloat16_the_backend_says_what_to_take(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = registry.get("onnx-bf16").unavailable("cpu")
    assert reason is not None
    assert "take onnx-fp16, or aotinductor-bf16" in reason
    assert "MatMul" in reason
    monkeypatch.setattr(halves, "open_session", lambda *_: None)
    assert halves.no_bfloat16(HOST) is None  # the twin: a version that has them


@pytest.mark.parametrize(
    ("flags", "kind", "lacks"),
    [("avx512_bf16", "bfloat16", False), ("avx2", "bfloat16", True), ("avx2", "float32", False), ("", "int8", False)],
)
def test_what_a_processor_lacks_is_said_where_it_is_known(
    flags: str, kind: str, lacks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset(flags.split()))
    assert (precision.unaided(kind) is not None) == lacks
