"""Models that several files of this folder compile."""

import pytest
from torch import nn

import zoo


@pytest.fixture(scope="session")
def resnet18() -> nn.Module:
    return zoo.calibrated("resnet18")[0]


@pytest.fixture(scope="session")
def efficientnet() -> nn.Module:
    return zoo.calibrated("efficientnet_b0")[0]
