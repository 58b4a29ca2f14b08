"""Hugging Face's Trainer as a recipe's training: it trains; Torchstone exports, proves and measures what it made.

    pip install transformers accelerate
    python examples/train_hugging_face.py

The file is a recipe: ``torchstone run examples/train_hugging_face.py`` takes all of a run's options. The weights begin
at random, so that nothing is downloaded: ``from_pretrained(...)`` goes in their place.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from pipeline.all import main
from pipeline.recipe import Progress
from torchstone import Data, Recipe, Signature, SizeRange, Split, TensorSpec

CONFIG = BertConfig(
    vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, num_labels=2,
    max_position_embeddings=32,
)  # fmt: skip


def my_train(module: nn.Module, data: Data, device: torch.device, folder: Path, progress: Progress) -> nn.Module:
    """The module as the Trainer leaves it."""
    split = data.train
    assert isinstance(split, Split)
    columns = (split.inputs["input_ids"], split.inputs["attention_mask"], split.targets)
    rows: list[dict[str, Any]] = [
        {"input_ids": ids, "attention_mask": mask, "labels": label} for ids, mask, label in zip(*columns, strict=True)
    ]
    arguments = TrainingArguments(
        output_dir=str(folder), use_cpu=device.type == "cpu", num_train_epochs=4, per_device_train_batch_size=16,
        learning_rate=3e-3, save_strategy="epoch", logging_strategy="epoch", report_to=[], disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model=module, args=arguments, train_dataset=rows)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)))  # of a run that was killed; None at first
    for line in trainer.state.log_history:
        if "loss" in line:
            progress.note({"epoch": line["epoch"], "train_loss": line["loss"]})  # the curve in the report
    return module


def sentences() -> Data:
    """Sentences of 12 tokens, of which some are padding: is token 7 in it?"""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, CONFIG.vocab_size, (640, 12), generator=generator)
    ids[::2, 3] = 7
    mask = torch.ones_like(ids)
    mask[:, 10:] = torch.randint(2, (640, 1), generator=generator)
    labels = ((ids == 7) & (mask == 1)).any(1).long()
    parts = [
        Split(inputs={"input_ids": ids[rows], "attention_mask": mask[rows]}, targets=labels[rows])
        for rows in (slice(512), slice(512, None))
    ]
    return Data(train=parts[0], test=parts[1])


def recipe() -> Recipe:
    """What is trained, and what it is exported to."""
    tokens = ("batch", "length")
    return Recipe(
        name="train_hugging_face",
        model=lambda: BertForSequenceClassification(CONFIG),
        signature=Signature(
            inputs=(
                TensorSpec("input_ids", "int64", tokens, high=CONFIG.vocab_size - 1),
                TensorSpec("attention_mask", "int64", tokens, high=1),
            ),
            ranges={"batch": SizeRange(max=64), "length": SizeRange(min=2, max=32)},
        ),
        data=sentences,
        metrics={"accuracy": lambda outputs, targets: float((outputs.logits.argmax(1) == targets).float().mean())},
        train=my_train,
        backends=("eager", "onnx"),
    )


if __name__ == "__main__":
    sys.exit(main([__file__, "--only", "parity"]))
