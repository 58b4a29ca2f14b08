"""Who else is told of a training's figures: TensorBoard and MLflow, each an extra, into files beside the weights."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from export import hints
from export.errors import UserError
from pipeline.training.spec import TrainSpec


class Tracker(Protocol):
    """Takes figures as they come."""

    def note(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures of a step or an epoch."""

    def close(self) -> None:
        """Nothing more comes."""


def trackers(spec: TrainSpec, folder: Path, step: int | None) -> list[Tracker]:
    """Those that the settings ask for; ``step`` is the one after which a training goes on.

    Raises:
        UserError: a package is missing.
    """
    wanted: list[Tracker] = [TensorBoard(folder, step)] if spec.tensorboard else []
    return [*wanted, MLflow(folder, step)] if spec.mlflow else wanted


class TensorBoard:
    """Event files in ``tensorboard/``: ``tensorboard --logdir artifacts`` shows every run."""

    def __init__(self, folder: Path, step: int | None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise UserError(f"--train.tensorboard needs TensorBoard: {hints.install('tensorboard')}") from error
        purge = None if step is None else step + 1  # what a killed run wrote after the state that this one goes on from
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)

    def note(self, step: int, figures: Mapping[str, float]) -> None:
        """A scalar each."""
        for name, value in _shown(figures).items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush."""
        self._writer.close()


class MLflow:
    """A run where ``MLFLOW_TRACKING_URI`` says, else in a store of files in ``mlflow/``."""

    def __init__(self, folder: Path, step: int | None) -> None:
        try:
            from mlflow import MlflowClient
        except ModuleNotFoundError as error:
            raise UserError(f"--train.mlflow needs MLflow: {hints.install('mlflow')}") from error
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow would rather have a database
        files = (folder / "mlflow").resolve().as_uri()
        self._client: Any = MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", files))
        experiment = self._client.get_experiment_by_name("torchstone")
        number = experiment.experiment_id if experiment else self._client.create_experiment("torchstone")
        runs = self._client.search_runs([number], max_results=1) if step is not None else []
        self._run: str = (runs[0] if runs else self._client.create_run(number)).info.run_id

    def note(self, step: int, figures: Mapping[str, float]) -> None:
        """A metric each."""
        for name, value in _shown(figures).items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        """The run is finished; one that goes on is taken up again."""
        self._client.set_terminated(self._run)


def _shown(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if name != "step" and math.isfinite(value)}
