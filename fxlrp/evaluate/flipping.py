"""Pixel flipping: the scores of a model while the most, or the least, relevant parts of its input are replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from fxlrp.arguments import mapping, shown
from fxlrp.errors import InputError
from fxlrp.evaluate.curves import Curves, Flipping
from fxlrp.evaluate.regions import Regions, Width, ranks
from fxlrp.evaluate.replacements import Replacement, replacement_of
from fxlrp.explainer import Explainer
from fxlrp.integers import is_integer
from fxlrp.relevance.initial_relevance import initial_gradient
from fxlrp.relevance.numerics import sums_of_samples
from fxlrp.relevance.targets import Each, Target

Explanation: TypeAlias = "Tensor | Explainer | Callable[[Tensor], Tensor]"
Score: TypeAlias = "str | Callable[[Tensor], Tensor]"

RANDOM, GRADIENT = "random", "gradient x input"


def pixel_flipping(
    model: Callable[..., Tensor],
    x: Tensor,
    relevance: Explanation | Mapping[str, Explanation],
    *,
    target: Target = None,
    region: Width = 1,
    dims: Sequence[int] | None = None,
    replace: Replacement = "mean",
    where: Tensor | None = None,
    score: Score = "output",
    steps: int = 20,
    baselines: Sequence[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> Flipping:
    """Measure how the output changes while regions of the input are replaced in the order of their relevance.

    Regions are flipped most relevant first (MoRF) and least relevant first (LeRF; Samek et al., 2017). The area between
    the curves is the symmetric relevance gain (SRG; Blücher et al., 2024), which depends less on the replacement than
    one of the curves alone.

    Args:
        model: A model in eval mode, or a function, from the input to outputs ``(batch, ...)``.
        x: The input, ``(batch, ...)``: images, tokens, embeddings, signals or features.
        relevance: An explanation, or several by name: the relevance, which has the shape of the input or leaves out
            dimensions other than those of the positions, or an explainer or a function that computes it.
        target: The output to explain, as for :meth:`fxlrp.Explainer.forward`. It stays that of the unchanged input.
        region: The width of the regions in positions: squares of pixels, spans of tokens or of signals. One number, or
            one for each dimension. Regions at the border may be smaller.
        dims: The dimensions of the input that are positions. By default those after the channels of floating-point
            inputs with at least three dimensions, and dimension 1 of others. ``(1,)`` is for embeddings.
        replace: What flipped positions become: "mean", the mean over the positions of each channel; "zero"; "blur", a
            Gaussian blur by an eighth of the size; a number, such as the id of a token; a tensor that broadcasts to the
            input; or a function from the input to the replacement.
        where: The positions that may be flipped, such as those that are not padding: a boolean tensor
            ``(batch, positions ...)``. None means all.
        score: "output" measures the output at the target, "probability" that of a softmax over the classes. A function
            is applied to the output of the model first.
        steps: The number of steps from no region to all; at most the number of regions.
        baselines: Other explanations to show beside: "random" and "gradient x input". None means both, and "random" for
            tokens, which have no gradient: pass ``fxlrp.compile(model, "gradient")`` as an explanation.
        arguments: Other arguments of the model and of explainers by name. Tensors with the size of the batch in front
            have an entry for each sample.
        batch_size: The number of inputs for one call of the model. Explanations take all of ``x`` at once.
        seed: The seed of the random order, which also decides between regions of equal relevance.

    Returns:
        The curves and areas of each explanation, on the CPU.

    Raises:
        InputError: An argument does not fit.

    Example:
        >>> import torch, fxlrp
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(1)).eval()
        >>> x = torch.rand(2, 3, 16, 16)
        >>> result = fxlrp.evaluate.pixel_flipping(model, x, fxlrp.compile(model), target=5, region=4)
        >>> result["relevance"].srg.shape, list(result.curves)
        (torch.Size([2]), ['relevance', 'random', 'gradient x input'])
    """
    _check(model, x, target, steps, batch_size)
    regions = Regions.of(x, dims, region)
    allowed = _allowed(where, x, regions)
    if not is_integer(seed) or not -(2**63) <= seed < 2**64:
        raise InputError(f"seed must be an integer of 64 bits, not {shown(seed)}")
    generator = torch.Generator().manual_seed(seed)
    named = {} if arguments is None else dict(mapping("arguments", arguments, "names to values"))
    scored = _Scored(model, x, named, score, target)
    given = dict(relevance) if isinstance(relevance, Mapping) else {"relevance": relevance}
    explained = {name: _explained(each, x, target, named) for name, each in given.items()}
    for name in _baselines(baselines, x, explained):
        explained[name] = torch.rand(allowed.shape, generator=generator) if name == RANDOM else scored.gradient() * x
    flips = _Flips.of(x, regions, allowed, replacement_of(replace, x, regions.dims), steps)
    ends = tuple(flips.scores(scored, None, [step], batch_size) for step in (0, flips.steps))
    curves = {
        name: flips.curves(scored, regions.of_positions(each, x, name), ends, generator, batch_size)
        for name, each in explained.items()
    }
    return Flipping(curves, flips.counts.cpu())


def _check(model: Any, x: Any, target: Any, steps: Any, batch_size: Any) -> None:
    if isinstance(model, Explainer) or not callable(model):
        raise InputError("model must be the model itself; explainers are passed as relevance")
    if isinstance(model, nn.Module) and any(module.training for module in model.modules()):
        raise InputError("the model is in training mode: call model.eval() first")
    if (
        not isinstance(x, Tensor)
        or x.is_nested
        or x.is_meta
        or x.is_complex()
        or x.dtype == torch.bool
        or x.layout != torch.strided
        or not x.dim()
        or not len(x)
    ):
        raise InputError("x must be a dense tensor of real numbers or of integers, with at least one sample")
    if isinstance(target, Each):
        raise InputError("pixel flipping takes one target for each sample: call it once for each of several")
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        if not is_integer(value) or value < 1:
            raise InputError(f"{name} must be a positive integer, not {shown(value)}")


def _allowed(where: Tensor | None, x: Tensor, regions: Regions) -> Tensor:
    """The positions that may be flipped, ``(batch, positions ...)``."""
    shape = (len(x), *regions.labels.shape)
    if where is None:
        return torch.ones(shape, dtype=torch.bool, device=x.device)
    if not isinstance(where, Tensor) or where.dtype != torch.bool or tuple(where.shape) != shape:
        raise InputError(f"where must be a boolean tensor of shape {shape}")
    if not bool(where.flatten(1).any(1).all()):
        raise InputError("where leaves no position of some sample")
    return where.to(x.device)


def _explained(explanation: Any, x: Tensor, target: Target, arguments: Mapping[str, Any]) -> Any:
    if isinstance(explanation, Explainer):
        found = explanation(x, target=target, **arguments)
        if isinstance(found, Mapping):
            raise InputError(
                f"an explainer returns the relevance of {', '.join(found)}: choose one, with at= or constants="
            )
        return found
    return explanation if isinstance(explanation, Tensor) or not callable(explanation) else explanation(x.clone())


def _baselines(names: Sequence[str] | None, x: Tensor, explained: Mapping[str, Any]) -> Sequence[str]:
    chosen = names if names is not None else (RANDOM, GRADIENT) if x.is_floating_point() else (RANDOM,)
    if not isinstance(chosen, list | tuple):
        raise InputError(f"baselines must be a list of names, not {shown(chosen)}")
    for name in chosen:
        if not isinstance(name, str) or name not in (RANDOM, GRADIENT):
            raise InputError(f"baselines are {RANDOM!r} and {GRADIENT!r}, not {shown(name)}")
        if name in explained:
            raise InputError(f"{name!r} is a baseline: give the explanation another name, or choose baselines=")
    if GRADIENT in chosen and not x.is_floating_point():
        raise InputError(f'tokens have no gradient: pass {{"{GRADIENT}": fxlrp.compile(model, "gradient")}}')
    return chosen


class _Scored:
    """A model whose output has one score for each sample."""

    def __init__(
        self, model: Callable[..., Tensor], x: Tensor, arguments: Mapping[str, Any], score: Score, target: Target
    ) -> None:
        self._model, self._x, self._arguments = model, x, arguments
        if not callable(score) and not (isinstance(score, str) and score in ("output", "probability")):
            raise InputError(f"score must be 'output', 'probability' or a function, not {shown(score)}")
        self._score = score
        with torch.no_grad():
            # A copy, because a model may change its input in place.
            output = self._output(x.clone(), torch.arange(len(x), device=x.device))
            tokens = [] if x.is_floating_point() else [x]
            # The score is linear in the output: these are its coefficients.
            self._weights = initial_gradient(output, target, None, tokens)

    def __call__(self, x: Tensor, samples: Tensor) -> Tensor:
        """The scores of changed inputs, which come from these samples."""
        output = self._output(x, samples)
        if callable(self._score):
            output = self._score(output)
        elif self._score == "probability":
            if output.dim() < 2:
                raise InputError(f"an output of shape {tuple(output.shape)} has no classes: use score=torch.sigmoid")
            output = output.softmax(-1 if output.dim() == 3 else 1)
        weights = self._weights[samples]
        if not isinstance(output, Tensor) or output.shape != weights.shape:
            raise InputError("the function score must return a tensor of the shape of the output")
        return sums_of_samples(output * weights)

    def gradient(self) -> Tensor:
        """The gradient of the output at the target."""
        # Tensors that were made in inference mode become ordinary ones in copies.
        with torch.inference_mode(False), torch.enable_grad():
            x = self._x.detach().clone().requires_grad_()
            output = self._output(x.clone(), torch.arange(len(x), device=x.device))
            (gradient,) = torch.autograd.grad((output * self._weights.clone()).sum(), x)
        return gradient

    def _output(self, x: Tensor, samples: Tensor) -> Tensor:
        batch = len(self._x)
        arguments = {
            name: value[samples.to(value.device)]
            if isinstance(value, Tensor) and value.dim() and len(value) == batch
            else value
            for name, value in self._arguments.items()
        }
        output = self._model(x, **arguments)
        if not isinstance(output, Tensor) or not output.dim() or len(output) != len(x):
            raise InputError(
                f"the model must return a tensor with {len(x)} samples, not {_described(output)}: pass a function that "
                "returns one, such as lambda ids: model(ids).logits"
            )
        return output


@dataclass(frozen=True, eq=False)
class _Flips:
    """The inputs with flipped regions.

    Args:
        x: The input.
        regions: Its regions.
        allowed: The positions that may be flipped.
        candidates: The regions with such positions, ``(batch, regions)``.
        replacement: What replaces the input.
        counts: The number of candidates of each sample.
        steps: The number of steps.
    """

    x: Tensor
    regions: Regions
    allowed: Tensor
    candidates: Tensor
    replacement: Tensor
    counts: Tensor
    steps: int

    @staticmethod
    def of(x: Tensor, regions: Regions, allowed: Tensor, replacement: Tensor, steps: int) -> _Flips:
        candidates = regions.sums(allowed.long()) > 0
        counts = candidates.sum(1)
        return _Flips(x, regions, allowed, candidates, replacement, counts, min(steps, int(counts.max())))

    def numbers(self, step: Tensor, samples: Tensor) -> Tensor:
        """How many regions of samples are flipped at steps: the nearest integer, and the upper one of two."""
        return (2 * step * self.counts[samples] + self.steps) // (2 * self.steps)

    def scores(self, scored: _Scored, rank: Tensor | None, steps: Sequence[int], batch_size: int) -> Tensor:
        """The scores at some steps, ``(batch, steps)``; ``rank`` is the order of the regions, if that matters."""
        batch = len(self.x)
        every = torch.arange(len(steps) * batch, device=self.x.device)
        places, found = torch.tensor(steps, device=self.x.device), []
        order = torch.zeros_like(self.candidates, dtype=torch.long) if rank is None else rank
        with torch.no_grad():
            for index in every.split(batch_size):
                samples, step = index % batch, places[index // batch]
                flipped = (order[samples] < self.numbers(step, samples).unsqueeze(1)) & self.candidates[samples]
                positions = self.regions.at_positions(flipped) & self.allowed[samples]
                mask = self.regions.as_input(positions, self.x)
                changed = torch.where(mask, self.replacement[samples], self.x[samples])
                found.append(scored(changed, samples).double().cpu())
        empty = torch.zeros(0, dtype=torch.float64)
        return torch.cat([empty, *found]).reshape(len(steps), batch).T

    def curves(
        self,
        scored: _Scored,
        relevance: Tensor,
        ends: tuple[Tensor, ...],
        generator: torch.Generator,
        batch_size: int,
    ) -> Curves:
        """The curves of an explanation; those of all explanations have the same ends."""
        of_regions = self.regions.sums(torch.where(self.allowed, relevance, 0))
        first = ranks(of_regions, self.candidates, generator)
        inner = range(1, self.steps)
        morf, lerf = (
            torch.cat([ends[0], self.scores(scored, rank, inner, batch_size), ends[1]], 1)
            for rank in (first, self.counts.unsqueeze(1) - 1 - first)
        )
        step, samples = torch.arange(self.steps + 1), torch.arange(len(self.x))
        device = self.x.device
        numbers = self.numbers(step.to(device).unsqueeze(0), samples.to(device).unsqueeze(1)).cpu()
        return Curves(numbers / self.counts.cpu().double().unsqueeze(1), morf, lerf)


def _described(output: Any) -> str:
    return f"one of shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
