"""The table of the benchmark on photographs, against areas by hand."""

import torch
from torch import nn

from benchmarks.photographs import table
from fxlrp.evaluate import pixel_flipping


def test_the_table_has_the_areas_and_the_wins() -> None:
    linear = nn.Linear(4, 1, bias=False).eval()
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[2.0, 1.0, -1.0, 0.5]]))
    x = torch.tensor([[4.0, 3.0, 1.0, 4.0], [4.0, 3.0, 1.0, 4.0]])
    best, worst = x * linear.weight.detach(), -x * linear.weight.detach()
    orders = {"default": worst, "best": best}
    result = pixel_flipping(linear, x, orders, target=0, replace="zero", baselines=())
    lines = table(result).splitlines()
    # The output falls from 12 to 4, 1, -1 and 0, or from 12 to 13, 11, 8 and 0.
    assert lines[3] == "| best | 2.50 ± 0.00 | 9.50 ± 0.00 | 7.00 ± 0.00 | 2 of 2 |"
    assert lines[2].startswith("| default | 9.50 ± 0.00 | 2.50 ± 0.00 | -7.00 ± 0.00 |")
