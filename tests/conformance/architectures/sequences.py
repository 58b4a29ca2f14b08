"""Recurrent, convolutional and state-space networks of ``torch.nn`` over sequences of any length."""

from __future__ import annotations

import torch
from torch import nn

from export.signature import Signature, SizeRange, TensorSpec
from pipeline.recipe import Recipe

NEEDS: tuple[str, ...] = ()
RANGES = {"batch": SizeRange(max=32), "length": SizeRange(min=4, max=32)}


def _series(features: int) -> Signature:
    return Signature(inputs=(TensorSpec("series", "float32", ("batch", "length", features)),), ranges=RANGES)


def _tokens(vocabulary: int) -> Signature:
    return Signature(inputs=(TensorSpec("tokens", "int64", ("batch", "length"), high=vocabulary - 1),), ranges=RANGES)


def lstm() -> Recipe:
    """A forecast from the last step of two LSTM layers."""
    return Recipe(name="lstm", model=_LSTM, signature=_series(6))


class _LSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 16, num_layers=2, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        steps, _ = self.lstm(series)
        return self.head(steps[:, -1])


def gru() -> Recipe:
    """Tokens tagged one by one by a bidirectional GRU."""
    return Recipe(name="gru", model=_GRU, signature=_tokens(80))


class _GRU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(80, 12)
        self.gru = nn.GRU(12, 16, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, 7)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        steps, _ = self.gru(self.embedding(tokens))
        return self.head(steps)


def rnn() -> Recipe:
    """A plain recurrent network, its steps and its final state."""
    return Recipe(name="rnn", model=lambda: nn.RNN(5, 8, num_layers=2, batch_first=True), signature=_series(5))


def lstm_step() -> Recipe:
    """One step of a cell: the state goes in and comes out, as streaming hosts do it."""
    state = tuple(TensorSpec(name, "float32", ("batch", 16)) for name in ("hidden", "cell"))
    return Recipe(
        name="lstm_step",
        model=_Step,
        signature=Signature(
            inputs=(TensorSpec("x", "float32", ("batch", 6)), *state), ranges={"batch": SizeRange(max=64)}
        ),
    )


class _Step(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.step = nn.LSTMCell(6, 16)

    def forward(self, x: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        state: tuple[torch.Tensor, torch.Tensor] = self.step(x, (hidden, cell))
        return state


def temporal_convolutions() -> Recipe:
    """Dilated causal convolutions with residuals."""
    return Recipe(name="temporal_convolutions", model=_Temporal, signature=_series(4))


class _Temporal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(4, 16)
        self.layers = nn.ModuleList([nn.Conv1d(16, 16, 3, dilation=2**level) for level in range(3)])
        self.leave = nn.Linear(16, 2)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        x = self.enter(series).transpose(1, 2)
        for level, layer in enumerate(self.layers):
            x = x + layer(nn.functional.pad(x, (2 ** (level + 1), 0))).relu()
        return self.leave(x.transpose(1, 2))


def wavenet() -> Recipe:
    """Gated dilated convolutions whose skips are summed."""
    return Recipe(name="wavenet", model=_WaveNet, signature=_tokens(64))


class _WaveNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, 12)
        self.gates = nn.ModuleList([nn.Conv1d(12, 24, 2, dilation=2**level) for level in range(3)])
        self.skips = nn.ModuleList([nn.Conv1d(12, 16, 1) for _ in range(3)])
        self.head = nn.Conv1d(16, 64, 1)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens).transpose(1, 2)
        total = x.new_zeros(x.shape[0], 16, x.shape[2])
        for level, (gate, skip) in enumerate(zip(self.gates, self.skips, strict=True)):
            value, opening = gate(nn.functional.pad(x, (2**level, 0))).chunk(2, dim=1)
            x = x + value.tanh() * opening.sigmoid()
            total = total + skip(x)
        return self.head(total.relu()).transpose(1, 2)


def character_cnn() -> Recipe:
    """Windows of three widths over characters, the strongest of each."""
    return Recipe(name="character_cnn", model=_CharacterCNN, signature=_tokens(96))


class _CharacterCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(96, 8, padding_idx=0)
        self.windows = nn.ModuleList([nn.Conv1d(8, 12, width) for width in (2, 3, 4)])
        self.head = nn.Linear(36, 5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens).transpose(1, 2)
        return self.head(torch.cat([window(x).relu().amax(2) for window in self.windows], 1))


def diagonal_state_space() -> Recipe:
    """A diagonal state space (S4D) as one long convolution by FFT."""
    return Recipe(name="diagonal_state_space", model=_DiagonalStateSpace, signature=_series(4))


class _DiagonalStateSpace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.log_decay = nn.Parameter(torch.rand(4, 8))
        self.frequency = nn.Parameter(torch.arange(8.0).expand(4, 8).clone())
        self.weight, self.skip = nn.Parameter(torch.randn(4, 8)), nn.Parameter(torch.randn(4))

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        length = series.shape[1]
        time = torch.arange(length, dtype=series.dtype).unsqueeze(1)
        decay = torch.exp(-0.1 * self.log_decay.exp().unsqueeze(1) * time)
        kernel = (self.weight.unsqueeze(1) * decay * torch.cos(0.3 * self.frequency.unsqueeze(1) * time)).sum(2)
        x = series.transpose(1, 2)
        spectrum = torch.fft.rfft(kernel, n=2 * length) * torch.fft.rfft(x, n=2 * length)
        y = torch.fft.irfft(spectrum, n=2 * length)[..., :length]
        return (y + self.skip.unsqueeze(1) * x).transpose(1, 2)


def selective_scan() -> Recipe:
    """A state space whose steps depend on the input, twelve of them one after another."""
    return Recipe(
        name="selective_scan",
        model=_SelectiveScan,
        signature=Signature(
            inputs=(TensorSpec("series", "float32", ("batch", 12, 8)),), ranges={"batch": SizeRange(max=32)}
        ),
    )


class _SelectiveScan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rate, self.enter, self.leave = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 4)
        self.log_a = nn.Parameter(torch.rand(8, 4))

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        rate, enter, leave = nn.functional.softplus(self.rate(series)), self.enter(series), self.leave(series)
        state = torch.zeros(series.shape[0], 8, 4, dtype=series.dtype)
        steps = []
        for step in range(series.shape[1]):
            width = rate[:, step].unsqueeze(2)
            entering = (width * series[:, step].unsqueeze(2)) * enter[:, step].unsqueeze(1)
            state = torch.exp(-width * self.log_a.exp()) * state + entering
            steps.append((state * leave[:, step].unsqueeze(1)).sum(2))
        return torch.stack(steps, 1)


def sequence_to_sequence() -> Recipe:
    """A GRU that reads, and another that writes while it attends to what was read."""
    return Recipe(
        name="sequence_to_sequence",
        model=_SequenceToSequence,
        signature=Signature(
            inputs=(
                TensorSpec("read", "int64", ("batch", "length"), high=49),
                TensorSpec("written", "int64", ("batch", "target"), high=49),
            ),
            ranges={**RANGES, "target": SizeRange(min=4, max=24)},
        ),
    )


class _SequenceToSequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.reader, self.writer = nn.GRU(16, 16, batch_first=True), nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(32, 50)

    def forward(self, read: torch.Tensor, written: torch.Tensor) -> torch.Tensor:
        memory, state = self.reader(self.embedding(read))
        steps, _ = self.writer(self.embedding(written), state)
        attended = (steps @ memory.transpose(1, 2)).softmax(2) @ memory
        return self.head(torch.cat((steps, attended), 2))
