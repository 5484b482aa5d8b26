"""Attention modules whose heads are fewer than their width says.

`nn.MultiheadAttention` and torchvision's window attentions compute the size of a head from the width of their
input. The modules here hold it; they keep the names of the parent's parameters, so that state dicts agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.maxvit import RelativePositionalMultiHeadAttention
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2


class SlimMultiheadAttention(nn.Module):
    """`nn.MultiheadAttention` with fewer heads of the same size, or one head with fewer features.

    Args:
        sliced: the module after slicing its parameters.
        parent: the module before.
    """

    # Read by nn.TransformerEncoderLayer: False keeps it from a fused path that assumes whole heads.
    _qkv_same_embed_dim = False

    in_proj_weight: Tensor | None
    in_proj_bias: Tensor | None
    q_proj_weight: Tensor
    k_proj_weight: Tensor
    v_proj_weight: Tensor

    def __init__(self, sliced: nn.MultiheadAttention, parent: nn.MultiheadAttention) -> None:
        super().__init__()
        self.head_dim = parent.head_dim
        self.batch_first = sliced.batch_first
        self.dropout = float(sliced.dropout)
        packed: nn.Parameter | None = sliced.in_proj_weight
        if packed is not None:
            self.in_proj_weight = packed
            queries = sliced.in_proj_weight.shape[0] // 3
        else:
            self.register_parameter("in_proj_weight", None)
            self.q_proj_weight = sliced.q_proj_weight
            self.k_proj_weight = sliced.k_proj_weight
            self.v_proj_weight = sliced.v_proj_weight
            queries = sliced.q_proj_weight.shape[0]
        self.num_heads = max(1, queries // self.head_dim)
        self.in_proj_bias = sliced.in_proj_bias
        self.out_proj = sliced.out_proj
        self.embed_dim = sliced.out_proj.weight.shape[0]
        self.train(sliced.training)

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        bias = self.in_proj_bias
        biases: Sequence[Tensor | None] = (None,) * 3 if bias is None else bias.chunk(3)
        weights: Sequence[Tensor]
        if self.in_proj_weight is None:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        elif query is key and key is value:
            q, k, v = F.linear(query, self.in_proj_weight, bias).chunk(3, dim=-1)
            return q, k, v
        else:
            weights = self.in_proj_weight.chunk(3)
        q, k, v = (
            F.linear(source, weight, offset)
            for source, weight, offset in zip((query, key, value), weights, biases, strict=True)
        )
        return q, k, v

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`, for batched inputs.

        Returns:
            The output, of the shape of `query`; and the attention weights (batch, targets, sources), per head when
            not averaged, or None.
        """
        q, k, v = self._project(query, key, value)
        if not self.batch_first:
            q, k, v = (part.transpose(0, 1) for part in (q, k, v))
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (q, k, v))
        mask = self._mask(q, key_padding_mask, attn_mask)
        dropout = self.dropout if self.training else 0.0
        weights: Tensor | None = None
        if need_weights:
            scores = torch.matmul(q / math.sqrt(self.head_dim), k.transpose(-2, -1))
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            mixed = torch.matmul(F.dropout(weights, dropout, self.training), v)
            if average_attn_weights:
                weights = weights.mean(dim=1)
        else:
            causal = is_causal and mask is None
            mixed = F.scaled_dot_product_attention(
                q, k, v, mask, dropout, is_causal=causal, scale=1 / math.sqrt(self.head_dim)
            )
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return (output if self.batch_first else output.transpose(0, 1)), weights

    def _mask(self, q: Tensor, padding: Tensor | None, attention: Tensor | None) -> Tensor | None:
        """Both masks as one that is added to the scores, broadcastable to (batch, heads, targets, sources)."""
        total: Tensor | None = None
        if attention is not None:
            total = _additive(attention, q.dtype)
            if total.dim() == 3:
                if total.shape[0] % q.shape[0] == 0 and total.shape[0] != q.shape[0] * self.num_heads:
                    raise ValueError(
                        f"attn_mask has {total.shape[0]} masks for {q.shape[0]} examples of {self.num_heads} heads; "
                        f"after pruning heads give one mask per example and kept head, or a mask of two dimensions"
                    )
                total = total.unflatten(0, (q.shape[0], self.num_heads))
        if padding is not None:
            extra = _additive(padding, q.dtype)[:, None, None, :]
            total = extra if total is None else total + extra
        return total


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype is torch.bool:
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -math.inf)
    return mask.to(dtype)


class SlimShiftedWindowAttention(nn.Module):
    """torchvision's Swin attention, version 1 or 2, with fewer heads of the same size.

    Args:
        sliced: the module after slicing its parameters; its `num_heads` is set already.
        head_dim: features per head, as in the parent.

    Source: Liu et al. 2021 (arXiv 2103.14030), section 3.2; version 2: Liu et al. 2022 (arXiv 2111.09883),
    equation 2 (cosine attention) and section 3.3 (continuous position bias).
    """

    qkv: nn.Linear
    proj: nn.Linear
    cpb_mlp: nn.Module
    logit_scale: Tensor
    relative_coords_table: Tensor
    relative_position_bias_table: Tensor
    relative_position_index: Tensor

    def __init__(self, sliced: ShiftedWindowAttention, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.window_size = list(sliced.window_size)
        self.shift_size = list(sliced.shift_size)
        self.attention_dropout = sliced.attention_dropout
        self.dropout = sliced.dropout
        _take_over(self, sliced)
        self.cosine = isinstance(sliced, ShiftedWindowAttentionV2)
        self.num_heads = self.qkv.weight.shape[0] // 3 // head_dim
        self.train(sliced.training)

    def get_relative_position_bias(self) -> Tensor:
        """Shape (1, heads, tokens, tokens)."""
        tokens = self.window_size[0] * self.window_size[1]
        if self.cosine:
            table = self.cpb_mlp(self.relative_coords_table).flatten(0, -2)
        else:
            table = self.relative_position_bias_table
        bias = table[self.relative_position_index].view(tokens, tokens, -1).permute(2, 0, 1).unsqueeze(0)
        return 16 * torch.sigmoid(bias) if self.cosine else bias

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, height, width, channels) in and out."""
        height, width = x.shape[1:3]
        rows, columns = self.window_size
        padded = F.pad(x, (0, 0, 0, -width % columns, 0, -height % rows))
        down, across = padded.shape[1] // rows, padded.shape[2] // columns
        shift = [
            0 if window >= size else step
            for window, size, step in zip(self.window_size, padded.shape[1:3], self.shift_size, strict=True)
        ]
        if any(shift):
            padded = torch.roll(padded, (-shift[0], -shift[1]), (1, 2))
        windows = padded.unflatten(2, (across, columns)).unflatten(1, (down, rows)).transpose(2, 3)
        windows = windows.reshape(-1, rows * columns, padded.shape[3])
        mask = self._shift_mask(padded, shift, down, across) if any(shift) else None
        mixed = self._attend(windows, mask, down * across)
        mixed = mixed.reshape(x.shape[0], down, across, rows, columns, -1).transpose(2, 3)
        mixed = mixed.reshape(x.shape[0], down * rows, across * columns, -1)
        if any(shift):
            mixed = torch.roll(mixed, (shift[0], shift[1]), (1, 2))
        return mixed[:, :height, :width].contiguous()

    def _attend(self, windows: Tensor, mask: Tensor | None, per_image: int) -> Tensor:
        """Shape (images * windows, tokens, channels) in and out."""
        bias: Tensor | None = self.qkv.bias
        if self.cosine and bias is not None:
            # Version 2 has no bias on the keys.
            parts = bias.chunk(3)
            bias = torch.cat((parts[0], torch.zeros_like(parts[1]), parts[2]))
        qkv = F.linear(windows, self.qkv.weight, bias)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
        if self.cosine:
            scale = torch.clamp(self.logit_scale, max=math.log(100.0)).exp()
            scores = torch.matmul(F.normalize(q, dim=-1), F.normalize(k, dim=-1).transpose(-2, -1)) * scale
        else:
            scores = torch.matmul(q * self.head_dim**-0.5, k.transpose(-2, -1))
        scores = scores + self.get_relative_position_bias()
        if mask is not None:
            scores = (scores.unflatten(0, (-1, per_image)) + mask[None, :, None]).flatten(0, 1)
        weights = F.dropout(torch.softmax(scores, dim=-1), self.attention_dropout, self.training)
        mixed = torch.matmul(weights, v).transpose(1, 2).flatten(2)
        return F.dropout(F.linear(mixed, self.proj.weight, self.proj.bias), self.dropout, self.training)

    def _shift_mask(self, padded: Tensor, shift: list[int], down: int, across: int) -> Tensor:
        """Shape (windows, tokens, tokens): -100 between pixels that the cyclic shift has brought together."""
        region = padded.new_zeros(padded.shape[1:3])
        for axis in (0, 1):
            size, window, step = padded.shape[1 + axis], self.window_size[axis], shift[axis]
            index = torch.arange(size, device=padded.device)
            band = (index >= size - window).to(region.dtype) + (index >= size - step).to(region.dtype)
            region = region + (band[:, None] * 3 if axis == 0 else band[None, :])
        tokens = (
            region.unflatten(1, (across, -1))
            .unflatten(0, (down, -1))
            .transpose(1, 2)
            .flatten(2)
            .flatten(0, 1)
        )
        apart = tokens[:, :, None] != tokens[:, None, :]
        return torch.zeros_like(apart, dtype=padded.dtype).masked_fill(apart, -100.0)


class SlimRelativePositionalAttention(nn.Module):
    """torchvision's MaxViT attention with fewer heads of the same size.

    Args:
        sliced: the module after slicing its parameters.

    Source: Tu et al. 2022 (arXiv 2204.01697), section 3.1.
    """

    to_qkv: nn.Linear
    merge: nn.Linear
    relative_position_bias_table: Tensor
    relative_position_index: Tensor

    def __init__(self, sliced: RelativePositionalMultiHeadAttention) -> None:
        super().__init__()
        self.head_dim = sliced.head_dim
        self.n_heads = sliced.to_qkv.weight.shape[0] // 3 // sliced.head_dim
        self.scale_factor = sliced.scale_factor
        _take_over(self, sliced)
        self.max_seq_len = sliced.max_seq_len
        self.train(sliced.training)

    def get_relative_positional_bias(self) -> Tensor:
        """Shape (1, heads, tokens, tokens)."""
        table = self.relative_position_bias_table[self.relative_position_index.flatten()]
        return table.view(self.max_seq_len, self.max_seq_len, -1).permute(2, 0, 1).unsqueeze(0)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, windows, tokens, channels) in and out."""
        parts = self.to_qkv(x).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.n_heads, self.head_dim)).transpose(2, 3) for part in parts)
        # Written as einsum as in the parent, so that fvcore counts the same operator.
        scores = torch.einsum("BGHID,BGHJD->BGHIJ", q, k * self.scale_factor)
        weights = torch.softmax(scores + self.get_relative_positional_bias(), dim=-1)
        mixed = torch.einsum("BGHIJ,BGHJD->BGHID", weights, v)
        merged: Tensor = self.merge(mixed.transpose(2, 3).flatten(3))
        return merged


def _take_over(module: nn.Module, sliced: nn.Module) -> None:
    """Give a module the parameters, buffers and children of another, in its order of the state dict."""
    for name, parameter in sliced.named_parameters(recurse=False):
        module.register_parameter(name, parameter)
    for name, buffer in sliced.named_buffers(recurse=False):
        module.register_buffer(name, buffer, persistent=name not in sliced._non_persistent_buffers_set)
    for name, child in sliced.named_children():
        module.add_module(name, child)


def replacement(sliced: nn.Module, parent: nn.Module) -> nn.Module | None:
    """A module that holds the heads left in `sliced`; None where the module itself can.

    Args:
        sliced: a module of the slim network, its parameters sliced.
        parent: the same module of the parent.
    """
    if isinstance(parent, nn.MultiheadAttention) and isinstance(sliced, nn.MultiheadAttention):
        if sliced.bias_k is not None or sliced.add_zero_attn:
            return None
        return SlimMultiheadAttention(sliced, parent)
    if isinstance(parent, ShiftedWindowAttention) and isinstance(sliced, ShiftedWindowAttention):
        return SlimShiftedWindowAttention(sliced, parent.qkv.weight.shape[0] // 3 // parent.num_heads)
    if isinstance(parent, RelativePositionalMultiHeadAttention):
        assert isinstance(sliced, RelativePositionalMultiHeadAttention)
        return SlimRelativePositionalAttention(sliced)
    return None
