"""The golden calls, answered here and compared with what is allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.verifier.outcome import Refused


def check_golden(
    np: Any, folder: Path, calls: Sequence[Mapping[str, Any]], artifact: Any, shipped: Mapping[str, Any]
) -> dict[str, Any]:
    """Every golden call: how near its answers are to what is allowed.

    Raises:
        Refused: names the call, the output and the worst element.
    """
    worst, worst_call, values_count = 0.0, calls[0]["name"], 0
    powers: dict[str, list[float]] = {}
    for call in calls:
        inputs = {name: np.load(folder / place, allow_pickle=False) for name, place in call["inputs"].items()}
        answered = artifact.call(inputs)
        for name, places in call["outputs"].items():
            expected = np.load(folder / places["expected"], allow_pickle=False)
            allowed = np.load(folder / places["allowed"], allow_pickle=False)
            got = np.asarray(answered[name])
            if str(got.dtype) != places["dtype"] or got.shape != expected.shape:
                raise Refused(
                    f"{shipped['name']}: {name} ({call['name']}) is {got.dtype}{list(got.shape)}, "
                    f"golden is {places['dtype']}{list(expected.shape)}"
                )
            if shipped["least_sqnr_db"] is not None:
                if call["real"] and got.dtype.kind == "f":
                    both = np.isfinite(expected) & np.isfinite(got)
                    power = powers.setdefault(name, [0.0, 0.0])
                    power[0] += float(np.square(expected[both].astype("f8")).sum())
                    power[1] += float(np.square(expected[both].astype("f8") - got[both].astype("f8")).sum())
                    values_count += int(both.sum())
                continue
            values_count += int(np.isfinite(allowed).sum())
            share = _share_of_allowed(np, expected, allowed, got)
            if share.size and not float(share.max()) <= 1.0:
                place = np.unravel_index(int(np.argmax(np.where(np.isnan(share), np.inf, share))), share.shape)
                raise Refused(
                    f"{shipped['name']}: {name}{[int(i) for i in place]} ({call['name']}) is {got[place]!s}, golden is "
                    f"{expected[place]!s}, at most {float(allowed[place]):.3g} may differ"
                )
            if share.size and float(share.max()) >= worst:
                worst, worst_call = float(share.max()), call["name"]
    if not values_count:
        raise Refused(f"{shipped['name']}: its golden samples ask nothing that could be compared")
    sqnr_db = [
        10 * float(np.log10(signal / noise)) if noise else float("1e3") for signal, noise in powers.values() if signal
    ]
    if sqnr_db and min(sqnr_db) < shipped["least_sqnr_db"]:
        raise Refused(
            f"{shipped['name']}: {min(sqnr_db):.1f} dB of signal over quantisation noise here, "
            f"at least {shipped['least_sqnr_db']:g} is demanded"
        )
    return {
        "calls_count": len(calls),
        "values_count": values_count,
        "worst_share": worst,
        "worst_call": worst_call,
        "sqnr_db": min(sqnr_db) if sqnr_db else None,
    }


def _share_of_allowed(np: Any, expected: Any, allowed: Any, got: Any) -> Any:
    """|got - expected| / allowed, per element: 0 where equal or nothing is asked, above 1 where wrong."""
    if got.dtype.kind != "f":
        return np.where((got == expected) | np.isinf(allowed), 0.0, np.inf)
    same = (got == expected) | (np.isnan(got) & np.isnan(expected)) | np.isinf(allowed)
    error = np.abs(got.astype("f8") - expected.astype("f8"))
    share = np.where(same, 0.0, np.where(allowed > 0, error / np.where(allowed > 0, allowed, 1.0), np.inf))
    return np.where(np.isnan(share), np.inf, share)
