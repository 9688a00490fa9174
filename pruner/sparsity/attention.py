"""Self-attention with any number of heads of any width: what is left of nn.MultiheadAttention without dead heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """Attention of `heads` heads, each `width` channels wide, from `channels` channels and back to them.

    Tokens [batch, length, channels], or [length, batch, channels] without `batch_first`, go in and come out. It has the
    parameters of an nn.MultiheadAttention that packs its projections, under the same names, but heads * width need not
    be the number of channels. It takes that module's place: called with a query, a key and a value that are one tensor
    and without masks, it gives (output, None). Raises ValueError for any other call.
    """

    # nn.TransformerEncoderLayer reads this: False keeps it from computing attention itself, with all heads.
    _qkv_same_embed_dim = False

    def __init__(
        self, channels: int, heads: int, width: int, bias: bool = True, dropout: float = 0.0, batch_first: bool = False
    ) -> None:
        super().__init__()
        self.heads, self.width, self.dropout, self.batch_first = heads, width, dropout, batch_first
        inner = heads * width
        self.in_proj_weight = nn.Parameter(torch.empty(3 * inner, channels))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * inner)) if bias else None
        self.out_proj = nn.Linear(inner, channels, bias=bias)
        nn.init.xavier_uniform_(self.in_proj_weight)
        if self.in_proj_bias is not None:
            nn.init.zeros_(self.in_proj_bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> tuple[Tensor, None]:
        masks = [name for name, given in options.items() if name.endswith("mask") and given is not None]
        if masks or key is not query or value is not query:
            raise ValueError(f"heads were removed from this attention: it takes one tensor and no {masks or 'other'}")
        tokens = query if self.batch_first else query.transpose(0, 1)
        projected = F.linear(tokens, self.in_proj_weight, self.in_proj_bias)
        q, k, v = projected.unflatten(-1, (3, self.heads, self.width)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return (output if self.batch_first else output.transpose(0, 1)), None
