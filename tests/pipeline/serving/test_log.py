"""The log: bounded, and without the texts of errors."""

from __future__ import annotations

import json
import logging

from pipeline.serving.log import Bounded, JsonLines


def record(event: str, second: float, line: int = 1) -> logging.LogRecord:
    made = logging.LogRecord("pipeline.serving", logging.INFO, "a.py", line, event, None, None)
    made.created = second
    return made


def test_a_place_writes_so_many_lines_a_second_and_says_how_many_it_left_out() -> None:
    bounded = Bounded(20)
    first = [bounded.filter(record("request", 7.5)) for _ in range(1000)]
    assert (first.count(True), first[:20]) == (20, [True] * 20)
    assert bounded.filter(record("another", 7.6, line=2))
    later = record("request", 8.0)
    assert bounded.filter(later)
    assert json.loads(JsonLines().format(later))["left_out"] == 980
    last = record("request", 9.0)
    assert bounded.filter(last)
    assert "left_out" not in json.loads(JsonLines().format(last))


def test_events_of_which_every_one_was_asked_for_are_all_written() -> None:
    bounded = Bounded(20, unbounded=("request",))
    assert all(bounded.filter(record("request", 7.5)) for _ in range(1000))


def test_an_error_is_its_type_its_causes_types_and_its_place() -> None:
    try:
        try:
            raise KeyError("a value")
        except KeyError as error:
            raise RuntimeError("the value 0.123456") from error
    except RuntimeError as error:
        made = record("it failed", 0)
        made.exc_info = (type(error), error, error.__traceback__)
    text = JsonLines().format(made)
    assert json.loads(text)["error"] == "RuntimeError from KeyError"
    assert "test_log.py" in text
    assert "0.123456" not in json.loads(text)["event"] + json.loads(text)["error"]
