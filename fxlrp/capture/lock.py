"""One capture at a time: tracing and ``torch.export`` patch ``torch.nn.Module`` and a stack of modes meanwhile."""

from __future__ import annotations

import threading

# A model that is traced may compile another one.
ONE_CAPTURE = threading.RLock()
