"""Record what models on several devices do at the boundaries of their modules.

The hooks that ``torch.distributed.tensor.parallel`` installs make ``DTensor`` of local tensors, change their layout and
take local parts again. They run while the model is traced, like any other code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import fx

from fxlrp import layouts
from fxlrp.capture.recorded_functions import is_instance
from fxlrp.layouts import layout_of

_STYLES = "torch.distributed.tensor.parallel.style"


class _Unknown:
    """Placements that differ from all others."""

    def __eq__(self, other: object) -> bool:
        return False


UNKNOWN: Any = _Unknown()


@contextmanager
def recording_layouts(on_mesh: Callable[[Any], fx.Proxy]) -> Iterator[None]:
    """Let calls with traced tensors become nodes. Calls with other tensors, as in other threads, stay what they are.

    Args:
        on_mesh: Records a parameter on a mesh of devices.
    """
    module, styles = sys.modules.get("torch.distributed.tensor"), sys.modules.get(_STYLES)
    if module is None:
        yield
        return
    given = vars(module.DTensor)["from_local"]

    def from_local(local: Any, device_mesh: Any = None, placements: Any = None, **options: Any) -> Any:
        if not isinstance(local, fx.Proxy):
            return given.__func__(local, device_mesh, placements, **options)
        arguments = (local, on_mesh(device_mesh), layout_of(placements))
        return local.tracer.create_proxy("call_function", layouts.from_local, arguments, {})

    module.DTensor.from_local = staticmethod(from_local)
    if styles is not None:
        vars(styles)["isinstance"] = is_instance
    try:
        yield
    finally:
        module.DTensor.from_local = given
        if styles is not None:
            del vars(styles)["isinstance"]
