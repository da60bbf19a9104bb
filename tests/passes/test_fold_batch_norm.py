"""fold_batch_norm: a BatchNorm goes into the layer before it, where that is right."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxlrp
import fxlrp.passes
import zoo
from fxlrp.passes.fold_batch_norm import fold_batch_norm, folded_bias, folded_weight
from fxlrp.program import Program
from fxlrp.shapes import InputSpec
from oracles import assert_relevance, random, randomize
from pass_programs import before, program_after, value


def batch_norms(program: Program) -> int:
    return sum(node.target is F.batch_norm for node in program.graph.nodes)


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize(
    "make",
    [
        lambda bias: (nn.Conv1d(4, 6, 3, bias=bias, groups=2), nn.BatchNorm1d, (4, 5)),
        lambda bias: (nn.Conv2d(4, 6, 3, bias=bias), nn.BatchNorm2d, (4, 5, 5)),
        lambda bias: (nn.Conv3d(4, 6, 3, bias=bias), nn.BatchNorm3d, (4, 5, 5, 5)),
        lambda bias: (nn.ConvTranspose1d(4, 6, 3, bias=bias, stride=2), nn.BatchNorm1d, (4, 5)),
        lambda bias: (nn.ConvTranspose2d(4, 6, 3, bias=bias, groups=2), nn.BatchNorm2d, (4, 5, 5)),
        lambda bias: (nn.ConvTranspose3d(4, 6, 3, bias=bias), nn.BatchNorm3d, (4, 5, 5, 5)),
        lambda bias: (nn.Linear(4, 6, bias=bias), nn.BatchNorm1d, (4,)),
    ],
    ids=["conv1d", "conv2d", "conv3d", "transpose1d", "transpose2d", "transpose3d", "linear"],
)
def test_fold_batch_norm(make: Callable[[bool], Any], bias: bool, affine: bool) -> None:
    layer, norm, shape = make(bias)
    model = nn.Sequential(layer, norm(6, affine=affine, eps=0.03))
    randomize(model)
    x = random(3, *shape)
    program = program_after(before(fold_batch_norm), model)
    program.facts.values = {"_0": InputSpec.of(model.get_submodule("0")(x))}
    assert fold_batch_norm(program) == 1
    assert batch_norms(program) == 0
    assert_relevance(value(program, x), model(x).detach(), 1e-12)


def test_folded_weights_are_the_textbooks() -> None:
    weight, scale = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([2.0, 3.0])
    variance, mean = torch.tensor([3.0, 15.0]), torch.tensor([1.0, 2.0])
    folded = folded_weight(weight, scale, variance, eps=1.0)  # rows times 2/2 and 3/4
    torch.testing.assert_close(folded, torch.tensor([[1.0, 2.0], [2.25, 3.0]]))
    torch.testing.assert_close(
        folded_bias(torch.tensor([5.0, 6.0]), scale, torch.tensor([0.5, 0.25]), mean, variance, eps=1.0),
        torch.tensor([4.5, 3.25]),
    )
    torch.testing.assert_close(folded_bias(None, None, None, mean, variance, eps=1.0), torch.tensor([-0.5, -0.5]))


class TwoReaders(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.bn(x) + x


class AfterAnActivation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x).relu())


class OneBatchNormTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.bn = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.a(x)) + self.bn(self.b(x))


class OneConvolutionTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn1, self.bn2 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv(self.bn1(self.conv(x)).relu()))


class Leading(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.bn(x))


class TwoBatchNorms(nn.Module):
    """The second reads a linear map too, once the first is folded into it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn1, self.bn2 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.bn1(self.conv(x)))


class WeightFromTheInput(nn.Module):
    """The convolution reads its input as its weight would be read: nothing may be folded into what depends on it."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(F.conv2d(x, x[:, :, :1, :1].mean(0, keepdim=True).expand(3, 3, 1, 1)))


@pytest.mark.parametrize(
    ("model", "count", "left"),
    [
        (TwoReaders, 0, 1),
        (AfterAnActivation, 0, 1),
        (OneBatchNormTwice, 2, 0),
        (OneConvolutionTwice, 2, 0),
        (Leading, 0, 1),
        (TwoBatchNorms, 2, 0),
    ],
)
def test_fold_batch_norm_where_it_is_right(model: type[nn.Module], count: int, left: int) -> None:
    made = randomize(model())
    x = random(2, 3, 4, 4)
    program = program_after(before(fold_batch_norm), made)
    assert fold_batch_norm(program) == count
    assert batch_norms(program) == left
    assert_relevance(value(program, x), made(x).detach(), 1e-12)


def test_fold_batch_norm_keeps_the_value_where_the_weight_depends_on_the_input() -> None:
    model = randomize(WeightFromTheInput())
    x = random(2, 3, 4, 4)
    program = program_after(before(fold_batch_norm), model)
    fold_batch_norm(program)
    assert_relevance(value(program, x), model(x).detach(), 1e-12)


class FlattenedFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.bn = nn.Linear(8, 5), nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.linear(x.flatten(1)))


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 6, 5)], ids=["tokens", "as_many_tokens_as_features"])
def test_fold_batch_norm_behind_a_dense_layer_over_tokens(shape: tuple[int, ...]) -> None:
    """BatchNorm1d normalises dimension 1, which of a 3-D value is not the one that the dense layer makes.

    Where nothing tells the shape a fold may be tried, but then it must be refused at run time.
    """
    model = randomize(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(shape[1])))
    x = random(*shape)
    program = program_after(before(fold_batch_norm), model)
    program.facts.values = {"_0": InputSpec.of(model.get_submodule("0")(x))}
    assert fold_batch_norm(program) == 0
    assert_relevance(value(program, x), model(x).detach(), 1e-12)

    program = program_after(before(fold_batch_norm), model)
    if fold_batch_norm(program):
        with pytest.raises(fxlrp.errors.InputError, match="example_inputs"):
            value(program, x)
    else:
        assert_relevance(value(program, x), model(x).detach(), 1e-12)


def test_fold_batch_norm_behind_a_dense_layer_over_vectors() -> None:
    """Right where the graph itself or the example inputs say that there is no other dimension, and checked."""
    flattened = randomize(FlattenedFirst())
    program = program_after(before(fold_batch_norm), flattened)
    assert fold_batch_norm(program) == 1
    x = random(3, 2, 4)
    assert_relevance(value(program, x), flattened(x).detach(), 1e-12)

    model = randomize(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6)))
    explain = fxlrp.compile(model, "epsilon", example_inputs=random(2, 5))
    explain(random(7, 5))
    with pytest.raises(fxlrp.errors.InputError, match="example_inputs"):
        explain(random(3, 6, 5), seed=torch.sign)


@pytest.mark.parametrize(
    ("name", "count", "left"),
    [("resnet18", 20, 0), ("densenet121", 59, 62), ("googlenet", 57, 0), ("mobilenet_v3_small", 34, 0)],
)
def test_fold_batch_norm_counts(name: str, count: int, left: int) -> None:
    """All of them, but in densenet121: there only the stem's and the second of each of 58 dense layers follow one."""
    model = zoo.build(name)
    norms = [path for path, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    norms = [path for path in norms if not path.startswith("aux")]  # googlenet's auxiliary heads are for training
    assert len(norms) == count + left
    if name == "densenet121":
        assert sum(path.endswith(("norm0", "norm2")) for path in norms) == count
    program = program_after(before(fold_batch_norm), model)
    assert batch_norms(program) == count + left
    assert fold_batch_norm(program) == count
    assert batch_norms(program) == left
    assert fold_batch_norm(program) == 0
