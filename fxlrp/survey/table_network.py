"""TabNet, a network that chooses features of a table in steps."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sparsemax(x: Tensor) -> Tensor:
    """The point of the simplex nearest to ``x``, along the last dimension (Martins and Astudillo, 2016)."""
    ordered = x.sort(-1, descending=True).values
    count = torch.arange(1, x.size(-1) + 1, dtype=x.dtype, device=x.device)
    excess = ordered.cumsum(-1) - 1
    size = (count * ordered > excess).sum(-1, keepdim=True)
    return (x - excess.gather(-1, size - 1) / size).clamp_min(0)


class _GhostNorm(nn.Module):
    """BatchNorm of small parts of the batch."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.norm, self.size = nn.BatchNorm1d(width), size

    def forward(self, x: Tensor) -> Any:
        return torch.cat([self.norm(part) for part in x.split(self.size)])


class _GatedLayer(nn.Module):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer, self.norm = layer, _GhostNorm(layer.out_features, 2)

    def forward(self, x: Tensor) -> Any:
        return F.glu(self.norm(self.layer(x)))


class TableNetwork(nn.Module):
    """A network that chooses features of a table in steps, with sparse masks (TabNet; Arik and Pfister, 2019)."""

    def __init__(self, features: int = 6, width: int = 8, classes: int = 3, steps: int = 2) -> None:
        """Create the layers: of each transformer of features, the first layer is shared."""
        super().__init__()
        self.norm, shared = nn.BatchNorm1d(features), nn.Linear(features, 2 * width, bias=False)
        self.shared = nn.ModuleList(_GatedLayer(shared) for _ in range(steps + 1))
        self.own = nn.ModuleList(_GatedLayer(nn.Linear(width, 2 * width, bias=False)) for _ in range(steps + 1))
        self.attention = nn.ModuleList(nn.Linear(width // 2, features, bias=False) for _ in range(steps))
        self.attention_norms = nn.ModuleList(_GhostNorm(features, 2) for _ in range(steps))
        self.head = nn.Linear(width // 2, classes, bias=False)

    def forward(self, x: Tensor) -> Any:
        """Classify rows of shape ``(batch, features)``."""
        x = self.norm(x)
        scale, attended, decisions = torch.ones_like(x), self._transformed(0, x).chunk(2, 1)[1], []
        for step, (attention, norm) in enumerate(zip(self.attention, self.attention_norms, strict=True), 1):
            mask = sparsemax(scale * norm(attention(attended)))
            scale = scale * (1.3 - mask)
            decided, attended = self._transformed(step, mask * x).chunk(2, 1)
            decisions.append(F.relu(decided))
        return self.head(sum(decisions))

    def _transformed(self, step: int, x: Tensor) -> Any:
        y = self.shared[step](x)
        return (y + self.own[step](y)) * 0.5**0.5
