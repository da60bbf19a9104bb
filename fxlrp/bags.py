"""Pure functions of bags: consecutive rows of a tensor, each bag from its offset to that of the next."""

from __future__ import annotations

import torch
from torch import Tensor


def bag_of_rows(input: Tensor, offsets: Tensor) -> Tensor:
    """The bag of every row of ``input``."""
    rows = torch.arange(input.shape[0], device=input.device, dtype=offsets.dtype)
    return torch.searchsorted(offsets, rows, right=True) - 1


def _bags(offsets: Tensor, include_last_offset: bool) -> int:
    return offsets.shape[0] - int(include_last_offset)


def sum_bags(input: Tensor, offsets: Tensor, include_last_offset: bool = False) -> Tensor:
    """The sum of the rows of each bag; zero for an empty one."""
    bags = input.new_zeros(_bags(offsets, include_last_offset), *input.shape[1:])
    return bags.index_add(0, bag_of_rows(input, offsets), input)


def largest_in_bags(input: Tensor, offsets: Tensor, include_last_offset: bool = False) -> Tensor:
    """The first row with the largest element of each bag, for every column; 0 for an empty bag."""
    bag = bag_of_rows(input, offsets)[:, None].expand_as(input)
    count = _bags(offsets, include_last_offset)
    largest = input.new_full((count, input.shape[1]), -torch.inf).scatter_reduce(0, bag, input, "amax")
    rows = torch.arange(input.shape[0], device=input.device)[:, None].expand_as(input)
    rows = rows.masked_fill(input != largest.gather(0, bag), input.shape[0])
    none = torch.full((count, input.shape[1]), input.shape[0], device=input.device)
    first = none.scatter_reduce(0, bag, rows, "amin")
    return first.masked_fill(first == input.shape[0], 0)
