from __future__ import annotations

import numpy as np

from bench.parity.worst import worst_element


def test_the_worst_element_is_shown_with_the_row_that_went_in() -> None:
    wide = np.arange(6.0).reshape(3, 2)
    got = wide.astype(np.float32)
    got[1, 0] += 0.5
    got[2, 1] = np.nan  # which float64 is not: farther off than any number
    inputs = {"x": np.arange(30.0).reshape(3, 10), "scale": np.array(2.0), "ids": np.array([7, 8, 9])}
    answers = {"float64": wide, "eager": wide.astype(np.float32), "artifact": got}
    worst = worst_element("y", "rows 0 to 2", inputs, frozenset({"x", "ids"}), answers)
    assert worst is not None
    assert (worst.row, worst.element, worst.expected, worst.got) == (2, (1,), "5", "nan")
    assert worst.inputs == {"x": "[20, 21, 22, 23, 24, 25, 26, 27, ...] (10 values)", "scale": "[2]", "ids": "[9]"}
    assert worst.text.startswith("y[2, 1] of rows 0 to 2: expected 5, eager 5, got nan; for x = [20, 21,")


def test_where_nothing_differs_or_can_be_compared_there_is_no_worst_element() -> None:
    wide = np.array(3.5)
    same = {"float64": wide, "eager": wide, "artifact": wide}
    assert worst_element("y", "case", {}, frozenset(), same) is None
    assert worst_element("y", "case", {}, frozenset(), same | {"artifact": np.zeros(2)}) is None
    off = worst_element("y", "case", {}, frozenset(), same | {"artifact": np.array(3.0)})
    assert off is not None
    assert (off.row, off.element, off.got) == (0, (), "3")
