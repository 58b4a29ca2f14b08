"""The golden calls, answered here and compared with what is allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.verifier.outcome import Refused

_NO_NOISE_DB = 1e3


class _Answer(NamedTuple):
    """One output of one golden call."""

    call: Mapping[str, Any]
    output: str
    expected: Any
    allowed: Any
    got: Any


def check_golden(
    np: Any, folder: Path, calls: Sequence[Mapping[str, Any]], artifact: Any, shipped: Mapping[str, Any]
) -> dict[str, Any]:
    """Every golden call: how near its answers are to what is allowed.

    Raises:
        Refused: names the call, the output and the worst element.
    """
    least_sqnr_db = shipped["least_sqnr_db"]
    tally: _Elements | _Noise = (
        _Elements(np, shipped["name"]) if least_sqnr_db is None else _Noise(np, shipped["name"], least_sqnr_db)
    )
    for call in calls:
        inputs = {name: np.load(folder / path, allow_pickle=False) for name, path in call["inputs"].items()}
        answers = artifact.call(inputs)
        for output, places in call["outputs"].items():
            expected, allowed = (np.load(folder / places[kind], allow_pickle=False) for kind in ("expected", "allowed"))
            got = np.asarray(answers[output])
            if str(got.dtype) != places["dtype"] or got.shape != expected.shape:
                raise Refused(
                    f"{shipped['name']}: {output} ({call['name']}) is {got.dtype}{list(got.shape)}, "
                    f"golden is {places['dtype']}{list(expected.shape)}"
                )
            tally.add(_Answer(call, output, expected, allowed, got))
    if not tally.values_count:
        raise Refused(f"{shipped['name']}: its golden calls ask nothing that could be compared")
    figures = {"worst_share": 0.0, "worst_call": calls[0]["name"], "sqnr_db": None, **tally.result()}
    return {"calls_count": len(calls), "values_count": tally.values_count, **figures}


class _Elements:
    """Judges element by element: none may differ by more than is allowed."""

    def __init__(self, np: Any, artifact: str) -> None:
        self._np, self._artifact = np, artifact
        self._worst: dict[str, Any] = {}
        self.values_count = 0

    def add(self, answer: _Answer) -> None:
        np = self._np
        self.values_count += int(np.isfinite(answer.allowed).sum())
        share = _share_of_allowed(np, answer)
        if not share.size:
            return
        largest = float(share.max())
        if not largest <= 1.0:
            place = np.unravel_index(int(np.argmax(np.where(np.isnan(share), np.inf, share))), share.shape)
            raise Refused(
                f"{self._artifact}: {answer.output}{[int(index) for index in place]} ({answer.call['name']}) is "
                f"{answer.got[place]!s}, golden is {answer.expected[place]!s}, "
                f"at most {float(answer.allowed[place]):.3g} may differ"
            )
        if largest >= self._worst.get("worst_share", 0.0):
            self._worst = {"worst_share": largest, "worst_call": answer.call["name"]}

    def result(self) -> dict[str, Any]:
        return self._worst


class _Noise:
    """Judges a quantised artifact: signal over quantisation noise, per output, over the calls of real rows."""

    def __init__(self, np: Any, artifact: str, least_sqnr_db: float) -> None:
        self._np, self._artifact, self._least_sqnr_db = np, artifact, least_sqnr_db
        self._powers: dict[str, tuple[float, float]] = {}
        self.values_count = 0

    def add(self, answer: _Answer) -> None:
        if not answer.call["real"] or answer.got.dtype.kind != "f":
            return
        np = self._np
        finite = np.isfinite(answer.expected) & np.isfinite(answer.got)
        expected, got = answer.expected[finite].astype("f8"), answer.got[finite].astype("f8")
        signal, noise = self._powers.get(answer.output, (0.0, 0.0))
        signal, noise = signal + float(np.square(expected).sum()), noise + float(np.square(expected - got).sum())
        self._powers[answer.output] = (signal, noise)
        self.values_count += int(finite.sum())

    def result(self) -> dict[str, Any]:
        ratios_db = [
            10 * float(self._np.log10(signal / noise)) if noise else _NO_NOISE_DB
            for signal, noise in self._powers.values()
            if signal
        ]
        sqnr_db = min(ratios_db, default=None)
        if sqnr_db is not None and sqnr_db < self._least_sqnr_db:
            raise Refused(
                f"{self._artifact}: {sqnr_db:.1f} dB of signal over quantisation noise here, "
                f"at least {self._least_sqnr_db:g} is demanded"
            )
        return {"sqnr_db": sqnr_db}


def _share_of_allowed(np: Any, answer: _Answer) -> Any:
    """|got - expected| / allowed, per element: 0 where equal or nothing is asked, above 1 where wrong."""
    got, expected, allowed = answer.got, answer.expected, answer.allowed
    if got.dtype.kind != "f":
        return np.where((got == expected) | np.isinf(allowed), 0.0, np.inf)
    same = (got == expected) | (np.isnan(got) & np.isnan(expected)) | np.isinf(allowed)
    error = np.abs(got.astype("f8") - expected.astype("f8"))
    share = np.where(same, 0.0, np.where(allowed > 0, error / np.where(allowed > 0, allowed, 1.0), np.inf))
    return np.where(np.isnan(share), np.inf, share)
