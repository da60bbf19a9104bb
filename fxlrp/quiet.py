"""Keep what torch logs about failures on tensors without values out of the logs: the error of fxlrp has the reason.

A failed attempt to capture a model can log thousands of lines, also where the next attempt succeeds.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Drop the warnings and errors that torch logs in this thread.

    Other levels are left alone: torch logs them only on request (``TORCH_LOGS``).
    """
    thread = threading.get_ident()

    def passes(record: logging.LogRecord) -> bool:
        is_ours = record.thread == thread and record.name.partition(".")[0] == "torch"
        return not is_ours or record.levelno < logging.WARNING

    loggers = [logging.getLogger()]
    loggers.extend(logging.getLogger(name) for name in logging.root.manager.loggerDict if name.startswith("torch"))
    handlers = [handler for logger in loggers for handler in logger.handlers]
    for handler in handlers:
        handler.addFilter(passes)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(passes)
