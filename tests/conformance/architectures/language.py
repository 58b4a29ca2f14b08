"""Language models of Hugging Face's ``transformers``, small and with random weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
import transformers
from torch import nn

from export.signature import Signature, SizeRange, TensorSpec
from pipeline.data import Data, Split
from pipeline.recipe import Recipe

NEEDS = ("transformers",)
VOCABULARY = 200
RANGES = {"batch": SizeRange(max=8), "length": SizeRange(min=4, max=24)}
SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 64,
}  # fmt: skip
IDS = TensorSpec("input_ids", "int64", ("batch", "length"), low=3, high=VOCABULARY - 1, keyword=True)
MASK = TensorSpec("attention_mask", "int64", ("batch", "length"), low=1, high=1, keyword=True)


def _padded() -> Data:
    """64 rows of ids, 16 long, of which the last up to ten are padding."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, VOCABULARY, (64, 16), generator=generator)
    lengths = torch.randint(6, 17, (64, 1), generator=generator)
    mask = (torch.arange(16) < lengths).long()
    split = Split(inputs={"input_ids": ids * mask, "attention_mask": mask}, targets=lengths.squeeze(1))
    return Data(train=split, test=split)


def _of_ids(name: str, model: Callable[[], nn.Module]) -> Recipe:
    """Ids alone, each row whole."""
    return Recipe(name=name, model=model, signature=Signature(inputs=(IDS,), ranges=RANGES))


def _of_masked_ids(name: str, model: Callable[[], nn.Module]) -> Recipe:
    """Ids and mask, with real padding in the data."""
    return Recipe(name=name, model=model, signature=Signature(inputs=(IDS, MASK), ranges=RANGES), data=_padded)


def bert() -> Recipe:
    """BERT, with its pooler: padded rows."""
    return _of_masked_ids("bert", lambda: transformers.BertModel(transformers.BertConfig(**SMALL)))


def bert_classifier() -> Recipe:
    """BERT with a head for classes."""
    config = transformers.BertConfig(**SMALL, num_labels=3)
    return _of_masked_ids("bert_classifier", lambda: transformers.BertForSequenceClassification(config))


def distilbert() -> Recipe:
    """DistilBERT."""
    config = transformers.DistilBertConfig(
        vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=64
    )
    return _of_masked_ids("distilbert", lambda: transformers.DistilBertModel(config))


def roberta() -> Recipe:
    """RoBERTa, whose positions are counted from the ids that are no padding."""
    return _of_ids("roberta", lambda: transformers.RobertaModel(transformers.RobertaConfig(**SMALL)))


def albert() -> Recipe:
    """ALBERT, whose layers share their weights."""
    config = transformers.AlbertConfig(**SMALL, embedding_size=16)
    return _of_masked_ids("albert", lambda: transformers.AlbertModel(config))


def electra() -> Recipe:
    """ELECTRA's discriminator."""
    config = transformers.ElectraConfig(**SMALL, embedding_size=16)
    return _of_masked_ids("electra", lambda: transformers.ElectraForPreTraining(config))


def deberta() -> Recipe:
    """DeBERTa v2, with disentangled attention over relative positions."""
    config = transformers.DebertaV2Config(**SMALL, relative_attention=True, pos_att_type=["p2c", "c2p"])
    return _of_masked_ids("deberta", lambda: transformers.DebertaV2Model(config))


def mpnet() -> Recipe:
    """MPNet, with buckets of relative positions."""
    return _of_ids("mpnet", lambda: transformers.MPNetModel(transformers.MPNetConfig(**SMALL)))


def fnet() -> Recipe:
    """FNet, which mixes tokens by Fourier transforms."""
    config = transformers.FNetConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, intermediate_size=64, max_position_embeddings=64
    )
    return _of_ids("fnet", lambda: transformers.FNetModel(config))


def gpt2() -> Recipe:
    """GPT-2 with its head: the next token's logits."""
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=4, use_cache=False
    )
    return _of_ids("gpt2", lambda: transformers.GPT2LMHeadModel(config))


def opt() -> Recipe:
    """OPT, padded rows under a causal mask."""
    config = transformers.OPTConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, ffn_dim=64, num_attention_heads=4,
        max_position_embeddings=64, word_embed_proj_dim=32, use_cache=False,
    )  # fmt: skip
    return _of_masked_ids("opt", lambda: transformers.OPTForCausalLM(config))


def llama() -> Recipe:
    """Llama: rotary positions, grouped queries, gated feed-forward."""
    config = transformers.LlamaConfig(**SMALL, num_key_value_heads=2, use_cache=False)
    return _of_ids("llama", lambda: transformers.LlamaForCausalLM(config))


def qwen() -> Recipe:
    """Qwen 3, with normalised queries and keys."""
    config = transformers.Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=8, use_cache=False)
    return _of_ids("qwen", lambda: transformers.Qwen3Model(config))


def mamba() -> Recipe:
    """Mamba: a selective state space."""
    config = transformers.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=32, state_size=8, num_hidden_layers=2, use_cache=False
    )
    return _of_ids("mamba", lambda: transformers.MambaModel(config))


def t5_encoder() -> Recipe:
    """T5's encoder, with relative positions in buckets."""
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0
    )
    return _of_masked_ids("t5_encoder", lambda: transformers.T5EncoderModel(config))


def bart() -> Recipe:
    """BART whole: what was read and what is written, each of its own length."""
    config = transformers.BartConfig(
        vocab_size=VOCABULARY, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64, use_cache=False,
    )  # fmt: skip
    written = TensorSpec("decoder_input_ids", "int64", ("batch", "target"), low=3, high=VOCABULARY - 1, keyword=True)
    return Recipe(
        name="bart",
        model=lambda: transformers.BartModel(config),
        signature=Signature(inputs=(IDS, written), ranges={**RANGES, "target": SizeRange(min=4, max=16)}),
    )
