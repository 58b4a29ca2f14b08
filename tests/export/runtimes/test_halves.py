"""ONNX Runtime says what it made of half precision, and is asked whether it has kernels."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from export import environment, registry
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
    assert registry.get("onnx-bf16").unavailable("cpu") == reason  # asked once in a process
    assert halves.no_bfloat16.__wrapped__(HOST) is None  # the twin: a version that has them


@pytest.mark.parametrize(
    ("flags", "kind", "lacks"),
    [("avx512_bf16", "bfloat16", False), ("avx2", "bfloat16", True), ("avx2", "float32", False), ("", "int8", False)],
)
def test_what_a_processor_lacks_is_said_where_it_is_known(
    flags: str, kind: str, lacks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset(flags.split()))
    assert (precision.unaided(kind) is not None) == lacks


@pytest.mark.parametrize(
    ("line", "flags"),
    [
        ("flags\t\t: fpu avx2 avx512_vnni", {"fpu", "avx2", "avx512_vnni"}),
        ("Features\t: fp asimd asimddp", {"fp", "asimd", "asimddp"}),
        ("vmx flags\t: ept", set()),
    ],
)
def test_linux_names_a_processors_instructions_on_x86_and_on_arm(
    line: str, flags: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{line}\n")
    monkeypatch.setattr(environment, "_CPUINFO", cpuinfo)
    assert environment.cpu_flags() == flags


def test_bfloat16_is_not_taken_for_float16(tmp_path: Path) -> None:
    """A graph that computes in bfloat16 has lost its float16."""

    def stored(kind: int) -> onnx.ModelProto:
        tensor = onnx.helper.make_tensor("w", kind, [1], [1.0])
        return onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [tensor]))

    onnx.save(stored(onnx.TensorProto.FLOAT16), tmp_path / "model.onnx")
    said = precision.arithmetic(stored(onnx.TensorProto.BFLOAT16).graph, tmp_path / "model.onnx")
    assert (said["precision"], said.get("stored")) == ("bfloat16", "float16")
    same = precision.arithmetic(stored(onnx.TensorProto.FLOAT16).graph, tmp_path / "model.onnx")
    assert same == {"precision": "float16"}  # the twin
