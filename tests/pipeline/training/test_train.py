from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn, optim

from export.device import HOST
from export.errors import UserError
from export.files import verify_files
from pipeline.recipe import Data, Recipe, Split, TrainSpec
from pipeline.recipes import seed as seed_recipe
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.train import train
from pipeline.training.watch.progress import Progress
from pipeline.training.weights import save_tensors, take_up
from tests.conftest import environ, within_cpu_s
from tests.models import SIGNATURES, ConvNorm
from tests.pipeline.training.small import same_bits


def run(recipe: Recipe, folder: Path, lines: list[str] | None = None) -> Checkpoint:
    folder.mkdir(parents=True, exist_ok=True)
    said = [] if lines is None else lines
    return train(recipe, HOST, folder, "key", Progress(say=said.append, advance=lambda done, total, note: None))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "weights.safetensors"))


def plain_loop(torch_seed: int) -> tuple[nn.Module, list[str]]:
    """An independent copy of the document's program, with the one addition of a torch seed."""

    class SimpleNN(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1 = nn.Linear(2, 4)
            self.relu = nn.ReLU()
            self.fc2 = nn.Linear(4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = self.fc1(x)
            out = self.relu(out)
            out = self.fc2(out)
            return torch.sigmoid(out)

    printed = []
    np.random.seed(42)
    points = np.random.randn(100, 2).astype(np.float32)
    y = (points[:, 0] + points[:, 1] > 0).astype(np.int32)
    x_tensor, y_tensor = torch.from_numpy(points), torch.from_numpy(y)
    torch.manual_seed(torch_seed)
    model = SimpleNN()
    criterion = nn.BCELoss()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(50):
        outputs = model(x_tensor)
        loss = criterion(outputs.squeeze(), y_tensor.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (epoch + 1) % 10 == 0:
            printed.append(f"Epoch [{epoch + 1}/50], Loss: {loss.item():.4f}")
    with torch.no_grad():
        predicted = (model(x_tensor) > 0.5).float()
        accuracy = (predicted.squeeze() == y_tensor.float()).sum().item() / len(y_tensor)
        printed.append(f"Accuracy: {accuracy * 100:.2f}%")
    printed.append(f"Final Loss: {loss.item()}")
    return model, printed


@pytest.mark.parametrize("torch_seed", [0, 1, 12345])
def test_the_seed_recipe_is_the_documents_loop_bit_for_bit_and_word_for_word(torch_seed: int, tmp_path: Path) -> None:
    lines: list[str] = []
    run(replace(seed_recipe.recipe(), seed=torch_seed), tmp_path, lines)
    model, printed = plain_loop(torch_seed)
    assert same_bits(weights(tmp_path), model.state_dict())
    assert lines == printed


@pytest.mark.slow
def test_digits_reach_their_accuracy_in_time(tmp_path: Path) -> None:
    """On one thread: two that share a core with other tests wait for each other most of the time."""
    from pipeline.recipes import digits

    torch.set_num_threads(1)
    with within_cpu_s(60):
        checkpoint = run(digits.recipe(), tmp_path)
    assert checkpoint.metrics["test_accuracy"] >= 0.985
    verify_files(tmp_path, checkpoint.files)


def data() -> Data:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(300, 1, 8, 8, generator=generator), torch.randint(0, 5, (300,), generator=generator)
    first, second = ({"image": images[part]} for part in (slice(0, 200), slice(200, 300)))
    return Data(train=Split(inputs=first, targets=labels[:200]), validation=Split(inputs=second, targets=labels[200:]))


def slow_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Slow enough to be interrupted; draws from every generator, so that each must be restored."""
    time.sleep(0.01)
    jitter = 1 + 1e-3 * (np.random.rand() + torch.rand(()).item())
    return nn.functional.cross_entropy(outputs, targets) * jitter


def recipe(**train_settings: Any) -> Recipe:
    """Dropout, batch norm, Adam's moments, shuffled batches, the best epoch: all the state there is."""
    settings: dict[str, Any] = {
        "epochs": 12,
        "batch_rows": 32,
        "keep": "best",
        "save_every_steps": 7,
        "schedule": "cosine",
    } | train_settings
    return Recipe(
        name="stateful",
        model=ConvNorm,
        signature=SIGNATURES["ConvNorm"],
        data=data,
        loss=slow_loss,
        metrics={"accuracy": lambda outputs, targets: float((outputs.argmax(1) == targets).float().mean())},
        train=TrainSpec(**settings),
        seed=3,
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(recipe(), folder)
    return folder


@pytest.mark.slow
def test_training_twice_gives_the_same_bits_and_another_seed_others(uninterrupted: Path, tmp_path: Path) -> None:
    run(recipe(), tmp_path / "again")
    assert same_bits(weights(tmp_path / "again"), weights(uninterrupted))
    run(replace(recipe(), seed=4), tmp_path / "other")
    assert not same_bits(weights(tmp_path / "other"), weights(uninterrupted))


_TRAIN = (
    "import sys\nfrom pathlib import Path\nfrom tests.pipeline.training.test_train import recipe, run\n"
    "run(recipe(), Path(sys.argv[1]))"
)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_training_ends_with_the_same_bits(
    number: signal.Signals, uninterrupted: Path, tmp_path: Path
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _TRAIN, tmp_path],
        env=environ(OMP_NUM_THREADS="1"),  # as this process has
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    _wait_for_epoch(tmp_path / "state.json", 4)
    child.send_signal(number)
    _, errors = child.communicate()
    assert child.returncode == -signal.SIGKILL if number == signal.SIGKILL else "KeyboardInterrupt" in errors
    assert not (tmp_path / "checkpoint.json").exists()
    assert 4 <= json.loads((tmp_path / "state.json").read_bytes())["fields"]["epoch"] < 12
    lines: list[str] = []
    checkpoint = run(recipe(), tmp_path, lines)
    assert lines[0].startswith("resumed after epoch ")
    assert same_bits(weights(tmp_path), weights(uninterrupted))
    assert (tmp_path / "metrics.jsonl").read_bytes() == (uninterrupted / "metrics.jsonl").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {
        "checkpoint.json", "metrics.jsonl", "speed.jsonl", "weights.safetensors",
    }  # fmt: skip
    assert checkpoint.epochs_count == 12


class _CutOffError(Exception):
    pass


@pytest.mark.parametrize("name", ["state.json", pytest.param("state.safetensors", marks=pytest.mark.slow)])
def test_one_flipped_bit_in_a_saved_state_begins_the_training_anew(
    name: str, uninterrupted: Path, tmp_path: Path
) -> None:
    calls_count, real = 0, recipe().loss

    def cut_off(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal calls_count
        calls_count += 1
        if calls_count > 40:
            raise _CutOffError
        assert real is not None
        return real(outputs, targets)

    with pytest.raises(_CutOffError):
        run(replace(recipe(), loss=cut_off), tmp_path)
    (path,) = tmp_path.glob(f"*{name}")
    data = bytearray(path.read_bytes())
    data[data.index(b'"epoch":') + len(b'"epoch":') if name == "state.json" else len(data) - 2] ^= 1
    path.write_bytes(data)
    lines: list[str] = []
    run(recipe(), tmp_path, lines)
    assert lines[0].startswith("the saved state cannot be used, training begins anew: ")
    assert same_bits(weights(tmp_path), weights(uninterrupted))


def test_the_best_epoch_is_kept_and_its_metrics_are_the_weights_own(uninterrupted: Path) -> None:
    lines = [json.loads(line) for line in (uninterrupted / "metrics.jsonl").read_text().splitlines()]
    best = min(lines, key=lambda line: line["validation_loss"])
    record = json.loads((uninterrupted / "checkpoint.json").read_bytes())
    assert [line["epoch"] for line in lines] == list(range(1, 13))
    assert record["kept_epoch"] == best["epoch"]
    assert record["metrics"]["validation_accuracy"] == pytest.approx(best["validation_accuracy"])


def test_a_loss_that_is_not_finite_stops_with_advice(tmp_path: Path) -> None:
    def broken(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs, targets) * float("nan")

    with pytest.raises(UserError, match=r"training loss is nan at step 1 \(epoch 1\), rows .*\. Lower --train\.lr"):
        run(replace(recipe(), loss=broken), tmp_path)


def test_a_loss_of_one_value_in_a_dimension_is_a_scalar_as_well(tmp_path: Path) -> None:
    plain = recipe(epochs=1)
    assert plain.loss is not None
    scalar = plain.loss
    run(plain, tmp_path / "plain")
    run(replace(plain, loss=lambda outputs, targets: scalar(outputs, targets).reshape(1)), tmp_path / "boxed")
    assert same_bits(weights(tmp_path / "plain"), weights(tmp_path / "boxed"))


class Scattered(ConvNorm):
    """Puts values at places: an operator that has no deterministic algorithm."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        hidden = super().forward(image)
        return hidden.clone().put_(torch.tensor([0, 0]), hidden.flatten()[:2])


def test_an_operator_without_a_deterministic_algorithm_is_named_with_the_flag_that_does_without(tmp_path: Path) -> None:
    scattered = replace(recipe(epochs=1), model=Scattered)
    assert isinstance(scattered.train, TrainSpec)
    with pytest.raises(UserError, match=r"put_ has no deterministic algorithm here.* --train\.no-deterministic"):
        run(scattered, tmp_path / "strict")
    try:
        run(replace(scattered, train=replace(scattered.train, deterministic=False)), tmp_path / "free")
    finally:
        torch.use_deterministic_algorithms(True)
    assert (tmp_path / "free" / "weights.safetensors").exists()


def test_a_recipe_without_training_keeps_the_models_own_weights(tmp_path: Path) -> None:
    given = replace(recipe(), train=None, data=None, loss=None, metrics={})
    checkpoint = run(given, tmp_path)
    torch.manual_seed(3)
    assert same_bits(weights(tmp_path), ConvNorm().state_dict())
    assert (checkpoint.epochs_count, checkpoint.kept_epoch, checkpoint.metrics) == (0, 0, {})


class Versioned(nn.Linear):
    """Reads its tensors by the version of its layout, as some of torchvision's networks do."""

    _version = 2

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *arguments: Any) -> None:
        if local_metadata.get("version") != 2:
            raise ValueError("version should be set to 2")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *arguments)


def test_a_module_that_asks_for_the_version_of_its_tensors_gets_its_own(tmp_path: Path) -> None:
    first, second = Versioned(3, 2), Versioned(3, 2)
    save_tensors(tmp_path / "weights.safetensors", first.state_dict())
    take_up(second, load_file(tmp_path / "weights.safetensors"))
    assert same_bits(first.state_dict(), second.state_dict())
    with pytest.raises(ValueError, match="version should be set"):
        second.load_state_dict(load_file(tmp_path / "weights.safetensors"))


@pytest.mark.parametrize(
    "bad", [{"epochs": 0}, {"batch_rows": 0}, {"lr": 0.0}, {"print_every_epochs": 0}, {"save_every_s": -1.0}]
)
def test_settings_must_make_sense(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        TrainSpec(**bad)


def _wait_for_epoch(path: Path, epoch: int) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or json.loads(path.read_bytes())["fields"]["epoch"] < epoch:
        assert time.monotonic() < deadline, "training did not get that far"
        time.sleep(0.01)


def test_a_sparse_buffer_is_refused_by_its_name() -> None:
    from pipeline.training.weights import refuse_sparse

    refuse_sparse({"dense": torch.ones(2)})
    with pytest.raises(UserError, match="'adjacency' is sparse"):
        refuse_sparse({"dense": torch.ones(2), "adjacency": torch.eye(3).to_sparse()})
