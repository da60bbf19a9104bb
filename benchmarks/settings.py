"""What holds for a whole run."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Settings:
    """How every case of a run is measured."""

    repeats: int = 5
    threads: int = 1
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    channels_last: bool = False
    tf32: bool = False

    @property
    def torch_dtype(self) -> torch.dtype:
        dtype = getattr(torch, self.dtype)
        assert isinstance(dtype, torch.dtype)
        return dtype

    def apply(self) -> None:
        """Set what is global in torch."""
        torch.set_num_threads(self.threads)
        torch.backends.cuda.matmul.allow_tf32 = self.tf32
        torch.backends.cudnn.allow_tf32 = self.tf32
