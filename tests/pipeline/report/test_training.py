"""The curves of a training in the report."""

from __future__ import annotations

from pathlib import Path

from pipeline.report.plots import training


def test_the_report_has_the_curves_of_its_training(built: Path) -> None:
    page = (built / "report.html").read_text()
    assert "<h2>Training</h2>" in page
    assert page.index("<h2>Training</h2>") < page.index("<h2>Facts</h2>")


def test_each_split_is_a_curve_and_a_figure_that_is_not_known_is_left_out() -> None:
    lines: list[training.Figures] = [
        {"epoch": 1, "train_loss": 2.0, "validation_loss": None},
        {"epoch": 2, "train_loss": 1.0, "validation_loss": 1.5},
    ]
    drawn = training.loss(lines)
    assert drawn is not None
    assert "validation" in drawn.svg
    assert drawn.rows == (("1", "2", "-", "-"), ("2", "1", "1.5", "-"))
    alone = training.loss([{"epoch": 1, "train_loss": 2.0}, {"epoch": 2, "train_loss": 1.0}])
    assert alone is not None
    assert "validation" not in alone.svg
    assert training.loss(lines[:1]) is None
    assert training.loss([]) is None


def test_a_learning_rate_that_moves_is_drawn_and_one_that_does_not_is_not() -> None:
    lines: list[training.Figures] = [{"epoch": epoch, "train_loss": 1.0, "lr": 0.1} for epoch in (1, 2)]
    still, moving = training.loss(lines), training.loss([lines[0], lines[1] | {"lr": 0.05}])
    assert still is not None
    assert moving is not None
    assert "learning rate" not in still.svg
    assert "learning rate" in moving.svg
