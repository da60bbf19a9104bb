"""One capture at a time: tracing and ``torch.export`` patch ``torch.nn.Module`` and a stack of modes."""

from __future__ import annotations

import threading

# Reentrant, because a traced model may compile another one.
ONE_CAPTURE = threading.RLock()
