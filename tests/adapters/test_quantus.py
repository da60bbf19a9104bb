"""Metrics of Quantus give the numbers that they give with zennit."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxlrp
import zoo  # noqa: F401 - before Quantus, which imports zennit: it makes torchvision importable
from fxlrp.adapters.quantus import ExplainFunc

quantus = pytest.importorskip("quantus", reason="Quantus is not installed: pip install 'fxlrp[quantus]'")

from zennit.attribution import Gradient  # noqa: E402
from zennit.composites import EpsilonPlus  # noqa: E402

CLASSES = 5
INPUTS = np.random.default_rng(0).random((4, 3, 16, 16), dtype=np.float32)
TARGETS = np.array([0, 1, 2, 3])
QUIET = dict(disable_warnings=True, display_progressbar=False)
METRICS: dict[str, Callable[[], Any]] = {
    "PixelFlipping": lambda: quantus.PixelFlipping(features_in_step=32, perturb_baseline="black", **QUIET),
    "MPRT": lambda: quantus.MPRT(**QUIET),
    "RandomLogit": lambda: quantus.RandomLogit(num_classes=CLASSES, **QUIET),
    "MaxSensitivity": lambda: quantus.MaxSensitivity(nr_samples=5, **QUIET),
    "Sparseness": lambda: quantus.Sparseness(**QUIET),
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()
        self.pool, self.flatten, self.head = nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        result = self.head(self.flatten(self.pool(self.relu2(self.conv2(self.relu1(self.conv1(x)))))))
        assert isinstance(result, Tensor)
        return result


def evaluated(metric: str, explain_func: Any, **kwargs: Any) -> np.ndarray:
    """The scores of a metric, with the same random numbers at each call."""
    torch.manual_seed(0)
    model = Net().eval()
    np.random.seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = METRICS[metric]()(
            model=model,
            x_batch=INPUTS,
            y_batch=TARGETS,
            explain_func=explain_func,
            explain_func_kwargs=kwargs,
            device="cpu",
        )
    return np.array(list(scores.values()) if isinstance(scores, dict) else scores, dtype=np.float64)


def zennit_from_the_output(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: Any) -> np.ndarray:
    """zennit, with the explained output as the initial relevance."""
    x = torch.as_tensor(inputs, dtype=torch.float32)
    chosen = torch.eye(CLASSES)[torch.as_tensor(targets).long().reshape(-1)]
    with Gradient(model, EpsilonPlus(), attr_output=lambda output: output.detach() * chosen) as attributor:
        _, relevance = attributor(x)
    return relevance.detach().sum(1, keepdim=True).numpy()


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_agree_with_zennit(metric: str) -> None:
    ours = evaluated(metric, ExplainFunc("epsilon_plus"))
    assert np.ptp(ours) > 1e-3
    np.testing.assert_allclose(ours, evaluated(metric, zennit_from_the_output), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_agree_with_the_wrapper_of_zennit_in_quantus(metric: str) -> None:
    """It starts with 1, and sums the channels."""
    ours = evaluated(metric, ExplainFunc("epsilon_plus", start="one"))
    theirs = evaluated(metric, quantus.explain, xai_lib="zennit", composite=EpsilonPlus)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_closure_over_an_explainer_does_not_see_randomized_copies() -> None:
    """Why the adapter exists: the closure explains the first model whatever the metric passes."""
    torch.manual_seed(0)
    explain = fxlrp.compile(Net().eval(), "epsilon_plus")

    def closure(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: Any) -> np.ndarray:
        return explain(torch.as_tensor(inputs), target=targets).sum(1, keepdim=True).numpy()

    np.testing.assert_allclose(evaluated("MPRT", closure), 1.0, atol=1e-6)
    original, *randomized = evaluated("MPRT", ExplainFunc("epsilon_plus"))
    np.testing.assert_allclose(original, 1.0, atol=1e-6)
    assert np.max(randomized) < 0.9


def test_pixel_flipping_of_fxlrp_has_the_curve_of_quantus() -> None:
    torch.manual_seed(0)
    model = Net().eval()
    relevance = ExplainFunc("epsilon_plus")(model, INPUTS, TARGETS)
    metric = quantus.PixelFlipping(
        features_in_step=32, perturb_baseline=0.0, normalise=False, abs=False, return_auc_per_sample=False, **QUIET
    )
    theirs = metric(model=model, x_batch=INPUTS, y_batch=TARGETS, a_batch=relevance, softmax=False)
    result = fxlrp.evaluate.pixel_flipping(
        model,
        torch.from_numpy(INPUTS),
        torch.from_numpy(relevance),
        target=TARGETS,
        replace="zero",
        steps=256 // 32,
        baselines=(),
    )
    # Quantus counts the channels of a pixel as features, so that three steps are 32 pixels. It leaves out the score
    # of the unchanged input.
    np.testing.assert_allclose(result["relevance"].morf[:, 1:].numpy(), np.array(theirs)[:, 2::3], rtol=1e-4, atol=1e-5)
