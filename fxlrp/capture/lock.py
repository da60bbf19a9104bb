"""One capture at a time: tracing and ``torch.export`` patch ``torch.nn.Module`` and a stack of modes."""

from __future__ import annotations

import threading

import torch

# Reentrant, because a traced model may compile another one.
ONE_CAPTURE = threading.RLock()


def is_compiling() -> bool:
    """Whether the caller is being compiled or exported.

    ``torch.compiler.is_compiling`` is also true while another thread captures a model.
    """
    if torch.compiler.is_dynamo_compiling():
        return True
    if not ONE_CAPTURE.acquire(blocking=False):
        return False
    try:
        return torch.compiler.is_compiling()
    finally:
        ONE_CAPTURE.release()
