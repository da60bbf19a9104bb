"""Modules whose parameters FSDP2 divides over devices (``fully_shard``), and gathers while the module runs.

A program gathers each parameter where it reads it. So the copy that is traced has the class that the module had before,
and none of the hooks by which FSDP2 gathers parameters of the live model.
"""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import nn

from fxlrp.errors import CaptureError

_FSDP = "torch.distributed.fsdp"
_FORWARD_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_HOOK_OPTIONS = ("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")


def is_gathered(module: nn.Module, parameter: Any) -> bool:
    """Whether FSDP2 gathers a parameter of a module, a ``DTensor``.

    Raises:
        CaptureError: The mesh has dimensions beside that of FSDP2.
    """
    if not getattr(module, "_is_fsdp_managed_module", False):
        return False
    if parameter.device_mesh.ndim > 1:
        raise CaptureError(
            f"fully_shard on {parameter.device_mesh} together with another kind of parallelism is not supported: use a "
            "mesh of one dimension"
        )
    return True


def put_copies_of_sharded_modules(model: nn.Module, memo: dict[int, Any]) -> None:
    """Put plain copies of the modules that FSDP2 shards into the memo of :func:`copy.deepcopy`, which cannot copy them.

    Raises:
        CaptureError: FSDP2 changes the precision of a module, which a program does not know.
    """
    module = sys.modules.get(_FSDP)
    if module is None:
        return
    sharded = [each for each in model.modules() if isinstance(each, module.FSDPModule)]
    plain = {id(each): _shell(each) for each in sharded}
    memo.update(plain)
    for each in sharded:
        vars(plain[id(each)]).update(copy.deepcopy(_state(each), memo))


def _shell(module: Any) -> nn.Module:
    policy = module._get_fsdp_state()._mp_policy
    if policy.param_dtype is not None or policy.output_dtype is not None:
        raise CaptureError(
            "fully_shard with a MixedPrecisionPolicy is not supported: cast the model, or explain it under autocast"
        )
    original = type(module).__mro__[module._orig_cls_mro_index]
    shell: nn.Module = object.__new__(original)
    return shell


def _state(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module without what FSDP2 has added."""
    hooks = {name: hook for kind in _FORWARD_HOOKS for name, hook in vars(module)[kind].items()}
    others = {name for name, hook in hooks.items() if not _is_of_fsdp(hook)}
    state = {}
    for name, value in vars(module).items():
        if name in (*_FORWARD_HOOKS, *_HOOK_OPTIONS):
            state[name] = OrderedDict((key, each) for key, each in value.items() if key in others)
        elif "state_dict" in name and isinstance(value, Mapping):
            state[name] = OrderedDict()
        elif not name.startswith("__composable_api"):
            state[name] = value
    return state


def _is_of_fsdp(hook: Any) -> bool:
    while hook is not None:
        if type(getattr(hook, "__self__", None)).__module__.startswith(_FSDP):
            return True
        hook = getattr(hook, "__wrapped__", None)
    return False
