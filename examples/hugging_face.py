"""A model of Hugging Face's transformers: inputs by name, and a length that moves.

    pip install 'torchstone[sentence]'
    python examples/hugging_face.py

The weights are random, so that nothing is downloaded: ``AutoModel.from_pretrained(...)`` goes in their place.
"""

import torch
from transformers import BertConfig, BertModel

import torchstone

torch.manual_seed(0)
config = BertConfig(
    vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
    max_position_embeddings=64,
)  # fmt: skip
model = BertModel(config, add_pooling_layer=False)

ids = torch.randint(0, config.vocab_size, (4, 12))
ids[0, :2] = torch.tensor([0, config.vocab_size - 1])  # integers are drawn within what is seen: reach the ends
mask = torch.ones_like(ids)
mask[1, 8:] = 0  # a mask without a zero would be taken for one that is never zero

result = torchstone.export(
    model,
    {"input_ids": ids, "attention_mask": mask},
    name="hugging_face",
    dynamic={"input_ids": ("batch", "length"), "attention_mask": ("batch", "length")},
    ranges={"length": (2, config.max_position_embeddings)},
    backends=("eager", "onnx"),
)
print(result)
