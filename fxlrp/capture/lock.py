"""One capture at a time: tracing and ``torch.export`` patch ``torch.nn.Module`` and a stack of modes."""

from __future__ import annotations

import os
import threading

import torch

# Reentrant, because a traced model may compile another one.
ONE_CAPTURE = threading.RLock()

# A process that is forked while a thread captures would inherit the patches, and a lock that nobody releases.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=ONE_CAPTURE.acquire, after_in_parent=ONE_CAPTURE.release, after_in_child=ONE_CAPTURE.release
    )


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
