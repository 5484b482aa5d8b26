"""Networks of Hugging Face, small and random: heads, widths of MLPs and residual streams, planned and recounted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import knapsack_prune as kp

hf = pytest.importorskip("transformers", reason="pip install 'knapsack-prune[transformers]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the library itself

ONE: dict[str, Any] = {
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "hidden_size": 32,
    "intermediate_size": 48,
}
SMALL: dict[str, Any] = {**ONE, "image_size": 16, "patch_size": 8}
TOKENS = torch.randint(3, 60, (1, 7), generator=torch.Generator().manual_seed(0))
IMAGE = {"pixel_values": torch.zeros(1, 3, 16, 16)}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Any, set[str]]] = {
    "BERT": (
        lambda: hf.BertForSequenceClassification(
            hf.BertConfig(vocab_size=64, max_position_embeddings=16, **ONE)
        ),
        {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS)},
        {"word_embeddings", "query", "intermediate.dense"},
    ),
    "Llama": (
        lambda: hf.LlamaForCausalLM(
            hf.LlamaConfig(vocab_size=64, num_key_value_heads=2, use_cache=False, **ONE)
        ),
        {"input_ids": TOKENS},
        {"embed_tokens", "q_proj", "gate_proj"},
    ),
    "ViT": (
        lambda: hf.ViTForImageClassification(hf.ViTConfig(**SMALL)),
        IMAGE,
        {"patch_embeddings.projection", "q_proj", "fc1"},
    ),
    "DINOv2": (
        lambda: hf.Dinov2ForImageClassification(hf.Dinov2Config(**SMALL)),
        IMAGE,
        {"patch_embeddings.projection", "q_proj", "fc1"},
    ),
    "CLIP vision": (lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**SMALL)), IMAGE, {"q_proj", "fc1"}),
    "T5 encoder": (
        lambda: hf.T5EncoderModel(
            hf.T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4)
        ),
        {"input_ids": TOKENS},
        {"SelfAttention.q", "DenseReluDense.wi"},
    ),
    "GPT-2": (
        lambda: hf.GPT2LMHeadModel(
            hf.GPT2Config(
                vocab_size=64,
                n_positions=16,
                n_embd=32,
                n_layer=1,
                n_head=4,
                bos_token_id=1,
                eos_token_id=2,
                use_cache=False,
            )
        ),
        {"input_ids": TOKENS},
        {"wte", "c_attn", "c_fc"},
    ),
    "wav2vec2": (
        lambda: hf.Wav2Vec2ForSequenceClassification(
            hf.Wav2Vec2Config(
                vocab_size=16,
                conv_dim=(16, 16),
                conv_stride=(5, 2),
                conv_kernel=(10, 3),
                num_conv_pos_embeddings=16,
                num_conv_pos_embedding_groups=4,
                classifier_proj_size=16,
                **ONE,
            )
        ),
        {"input_values": torch.randn(1, 800, generator=torch.Generator().manual_seed(0))},
        {"conv_layers.0.conv", "feature_projection.projection", "q_proj", "intermediate_dense", "projector"},
    ),
    "SegFormer": (
        lambda: hf.SegformerForSemanticSegmentation(
            hf.SegformerConfig(
                hidden_sizes=[8, 16, 16, 16],
                depths=[1, 1, 1, 1],
                num_attention_heads=[1, 2, 2, 4],
                decoder_hidden_size=16,
                num_labels=5,
            )
        ),
        {"pixel_values": torch.zeros(1, 3, 64, 64)},
        {"stages.0.patch_embeddings.proj", "stages.3.blocks.0.attention.q_proj", "mlp.fc1", "linear_fuse"},
    ),
}


QUICK = ("Llama", "ViT")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)
def test_family(name: str, tmp_path: Path) -> None:
    make, example, wanted = NETWORKS[name]
    torch.manual_seed(0)
    model = make().eval()
    plan = kp.plan(model, example, flops_budget=0.6, importance="l1")
    groups = [group.name for group in plan.groups]
    assert all(any(group.endswith(part) for group in groups) for part in wanted), groups
    small = kp.slim(model, plan)  # recounts, and compares with the masked parent
    kp.save_slim(small, plan, tmp_path / "slim")
    again = kp.load_slim(tmp_path / "slim", make).eval()
    call = kp.Example.of(example).informative()
    ours, theirs = (kp.Example.of((call.run(network.eval()),)).tensors for network in (again, small))
    assert ours and all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
