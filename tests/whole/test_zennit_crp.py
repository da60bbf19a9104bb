"""Conditional heatmaps agree with those of zennit-crp, where a shortcut means the same.

The numbers are those of zennit-crp 0.6.0 with zennit 0.5.1 on the same weights and image, in float64, by
`CondAttribution(model)(x, [{"y": [1], layer: channels}], EpsilonPlus(canonizers=[...]), exclude_parallel=not bypass)`:
the heatmap of the first image, summed over squares of 8 x 8 pixels. As in `test_zennit.py`, each BatchNorm has its
`eps` moved into the variance, because the canonizers of zennit leave it behind.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import fxlrp
import zoo
from oracles import assert_relevance

CASES: list[tuple[str, str, list[int], bool, list[float]]] = [
    (
        "vgg16",
        "features.10",
        [3],
        False,
        [
            0.000000000e00,
            0.000000000e00,
            -1.398954843e-09,
            -9.686510627e-09,
            0.000000000e00,
            0.000000000e00,
            -1.738347983e-07,
            -6.789964014e-07,
            0.000000000e00,
            0.000000000e00,
            -2.386430473e-07,
            -1.170668506e-06,
            0.000000000e00,
            0.000000000e00,
            -2.910484045e-08,
            -2.162785526e-07,
        ],
    ),
    (
        "vgg16",
        "features.24",
        [0, 7],
        False,
        [
            -8.823430039e-08,
            -1.196872459e-07,
            -1.099441467e-07,
            -6.496978640e-08,
            -1.259814896e-07,
            -1.929664878e-07,
            -1.865030773e-07,
            -9.858540604e-08,
            -1.095296755e-07,
            -1.882065936e-07,
            -1.877541063e-07,
            -9.812508558e-08,
            -7.455406168e-08,
            -1.231349932e-07,
            -1.192529835e-07,
            -5.921562542e-08,
        ],
    ),
    (
        "resnet18",
        "layer2.0.conv2",
        [3],
        False,
        [
            -2.066295340e-04,
            -1.582727274e-04,
            -8.558447718e-05,
            -1.307190825e-05,
            -1.735792268e-04,
            -1.266698947e-04,
            -8.482280506e-05,
            -1.130325036e-05,
            -5.276625068e-05,
            -5.578516976e-05,
            -4.134321334e-05,
            -4.360950572e-06,
            -9.508685821e-06,
            -9.717588493e-06,
            -6.715312532e-06,
            -7.638367948e-07,
        ],
    ),
    (
        "resnet18",
        "layer2.0.conv2",
        [3],
        True,
        [
            -4.062392705e-02,
            -9.490802220e-03,
            -3.510645140e-03,
            -7.181040582e-04,
            -1.013643940e-02,
            -5.240860625e-03,
            -3.010357022e-03,
            -7.526920917e-04,
            -2.479148423e-03,
            -2.279156615e-03,
            -1.237138707e-03,
            -4.029621188e-04,
            -8.654208024e-04,
            -7.604134331e-04,
            -4.607231579e-04,
            -1.960988812e-04,
        ],
    ),
    (
        "resnet18",
        "layer3.1.conv1",
        [0, 7],
        False,
        [
            -2.199179289e-04,
            -1.903749670e-04,
            -1.317776155e-04,
            -4.367392307e-05,
            -1.974377128e-04,
            -1.489430482e-04,
            -1.209108834e-04,
            -4.691444317e-05,
            -1.103916801e-04,
            -1.015776616e-04,
            -8.155536694e-05,
            -2.644718762e-05,
            -5.585704287e-05,
            -4.713388714e-05,
            -3.044476897e-05,
            -1.096787836e-05,
        ],
    ),
    (
        "resnet18",
        "layer3.1.conv1",
        [0, 7],
        True,
        [
            -4.601860100e-02,
            -7.259171841e-03,
            2.905706897e-03,
            1.564817217e-03,
            -1.184446429e-02,
            -2.289332970e-03,
            2.588117910e-03,
            1.699486731e-03,
            2.153492660e-03,
            2.157295160e-03,
            2.739450847e-03,
            9.945436753e-04,
            1.911723056e-03,
            1.621831025e-03,
            1.091005787e-03,
            4.256284499e-04,
        ],
    ),
    (
        "resnet18",
        "layer4",
        [3],
        False,
        [
            2.228695989e-03,
            1.721195741e-03,
            1.134696263e-03,
            3.757035973e-04,
            1.782843137e-03,
            1.311787397e-03,
            1.041333523e-03,
            3.995952734e-04,
            9.237594692e-04,
            8.589153751e-04,
            6.872914316e-04,
            2.223390154e-04,
            4.602890606e-04,
            3.918681566e-04,
            2.544406915e-04,
            9.170969699e-05,
        ],
    ),
]


@pytest.mark.parametrize(
    ("name", "layer", "channels", "bypass", "expected"),
    [pytest.param(*case, marks=[pytest.mark.slow] * (case[0] == "vgg16")) for case in CASES],
)
def test_conditional_heatmaps_of_zennit_crp(
    name: str, layer: str, channels: list[int], bypass: bool, expected: list[float]
) -> None:
    model, x = zoo.calibrated(name, narrow=False)
    explain = fxlrp.compile(model, "epsilon_plus")
    heatmap = explain(x, target=1, only={layer: channels}, bypass=bypass)[:1].sum(1)
    squares = F.avg_pool2d(heatmap, 8, divisor_override=1).flatten()
    assert_relevance(squares, torch.tensor(expected, dtype=torch.float64), 1e-5)
