"""What a computation allocates, as the dispatcher sees it."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Largest(TorchDispatchMode):
    """Records the number of elements of the largest memory of a result."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        # A view allocates nothing.
        sizes = [each.untyped_storage().nbytes() // each.element_size() for each in tensors]
        self.size = max(self.size, *sizes, 0)
        return result
