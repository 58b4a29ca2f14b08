from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.data import Split
from pipeline.recipes import bytes as gpt
from tests.pipeline.recipes.verdicts import good_verdict


def test_whole_files_are_held_out_and_a_row_is_followed_by_its_targets() -> None:
    text = gpt.texts()
    assert sum(map(len, text.values())) == sum(path.stat().st_size for path in gpt.sources())
    assert min(map(len, text.values())) > 100_000
    data = gpt.data()
    for name in ("validation", "test"):
        split = data.splits[name]
        assert split.inputs["text"].shape == split.targets.shape == (512, 128)
        assert torch.equal(split.inputs["text"][:, 1:], split.targets[:, :-1])
        first = bytes(split.inputs["text"][0].tolist())
        assert first in bytes(text[name].tolist())
        assert first not in bytes(text["train"].tolist())


def test_the_windows_of_a_text_are_one_after_the_other() -> None:
    windows = gpt.Windows((torch.arange(1000) % 256).to(torch.uint8))
    assert len(windows) == 7
    inputs, following = windows[6]
    assert int(inputs[0]) == 6 * 128 % 256
    assert torch.equal(inputs[1:], following[:-1])


def test_bigrams_are_sure_of_a_text_in_which_every_byte_has_one_that_follows() -> None:
    text = (torch.arange(100_000) % 256).to(torch.uint8)
    inputs, following = gpt.Windows(text)[3]
    test = Split(inputs={"text": inputs[None]}, targets=following[None])
    assert gpt.bigram_bits(text, test) < 1.5
    shuffled = text[torch.randperm(len(text), generator=torch.Generator().manual_seed(0))]
    assert gpt.bigram_bits(shuffled, test) > 7.5


def test_no_byte_sees_a_later_one() -> None:
    torch.manual_seed(0)
    model = gpt.ByteGPT(gpt.Size()).eval()
    text = torch.randint(256, (2, 40))
    changed = text.clone()
    changed[:, 25] = (changed[:, 25] + 1) % 256
    before, after = model(text), model(changed)
    torch.testing.assert_close(before[:, :25], after[:, :25])
    assert not torch.allclose(before[:, 25:], after[:, 25:])


def test_a_model_that_knows_nothing_compresses_nothing() -> None:
    assert gpt.compression(torch.zeros(3, 5, 256), torch.randint(256, (3, 5))) == pytest.approx(1)


def test_the_large_one_is_the_same_with_another_size() -> None:
    small, large = gpt.recipe(), gpt.large()
    assert (small.name, large.name) == ("bytes", "bytes-large")
    assert small.signature == large.signature
    with torch.device("meta"):
        assert 20e6 < sum(parameter.numel() for parameter in large.model().parameters()) < 30e6


@pytest.mark.slow
def test_bytes_from_nothing_to_a_good_verdict(tmp_path: Path) -> None:
    verdict = good_verdict("bytes", tmp_path)
    baseline = gpt.bigram_bits(gpt.texts()["train"], gpt.data().splits["test"])
    assert verdict.metrics["test_bits_per_byte"] < baseline - 0.5
