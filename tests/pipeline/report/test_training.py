"""The curves of a training in the report."""

from __future__ import annotations

from pathlib import Path

from pipeline.report.plots import training_svg


def test_the_report_has_the_curves_of_its_training(built: Path) -> None:
    page = (built / "report.html").read_text()
    assert "<h2>Training</h2>" in page
    assert page.index("<h2>Training</h2>") < page.index("<h2>Facts</h2>")


def test_each_split_is_a_curve_and_a_figure_that_is_not_known_is_left_out() -> None:
    lines: list[dict[str, float | None]] = [
        {"epoch": 1, "train_loss": 2.0, "validation_loss": None},
        {"epoch": 2, "train_loss": 1.0, "validation_loss": 1.5},
    ]
    drawn = training_svg(lines)
    assert drawn is not None
    assert "validation" in drawn
    alone = training_svg([{"epoch": 1, "train_loss": 2.0}, {"epoch": 2, "train_loss": 1.0}])
    assert alone is not None
    assert "validation" not in alone
    assert training_svg(lines[:1]) is None
    assert training_svg([]) is None
