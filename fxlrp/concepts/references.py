"""Relevance and activation maximisation over a dataset, batch by batch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from fxlrp.arguments import as_tensor, flag, path_of, shown, whole
from fxlrp.concepts.best import NO_CLASS, Best, Top
from fxlrp.concepts.channels import Reduction, by_channel, check_explainer, coordinates, dim_of, scores
from fxlrp.concepts.class_sums import ClassSums, Statistics
from fxlrp.concepts.scored import MEASURES, Measure, Scored
from fxlrp.concepts.state import read_state
from fxlrp.errors import InputError
from fxlrp.explainer import Explainer
from fxlrp.question import Question
from fxlrp.reading import Place, Reading
from fxlrp.relevance.initial_relevance import Seed, Target
from fxlrp.relevance.targets import at_target

T = TypeVar("T")


class References:
    """The samples and positions to which each channel responds most: its reference samples.

    Relevance maximisation chooses the samples for whose explained outputs a channel is most relevant, activation
    maximisation those on which its value is largest (Achtibat et al., 2023). Both are collected in the same run, with
    statistics for each class. The data are read once, batch by batch, and are not kept: memory grows with the number of
    channels times ``k``, and with the number of classes.
    """

    def __init__(
        self,
        explain: Explainer,
        at: str | Sequence[str],
        *,
        k: int = 16,
        reduce: Reduction = "sum",
        relative: bool = False,
    ) -> None:
        """Start without samples.

        Args:
            explain: The explainer.
            at: The places whose channels are described, as for :meth:`fxlrp.Explainer.forward`.
            k: The number of reference samples of each channel.
            reduce: Whether the score of a channel on a sample is the sum over its positions or the maximum.
            relative: Whether the relevance is divided by the sum of its absolute values at the place, so that samples
                with large outputs do not prevail.

        Raises:
            InputError: An argument is of a wrong type or value.

        Example:
            >>> import torch, fxlrp
            >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(),
            ...                             torch.nn.Linear(32, 5)).eval()
            >>> references = fxlrp.concepts.References(fxlrp.compile(model), "0", k=4)
            >>> for images in torch.rand(20, 3, 4, 4).split(8):
            ...     references.add(images)
            >>> references.top("0", channel=2).samples.shape
            torch.Size([4])
        """
        check_explainer(explain)
        self._k = whole("k", k)
        if not isinstance(reduce, str) or reduce not in ("sum", "max"):
            raise InputError(f'reduce must be "sum" or "max", not {shown(reduce)}')
        self._explain, self._reduce, self._relative = explain, reduce, flag("relative", relative)
        self._at = Question.of(at).at
        if not self._at:
            raise InputError("at must be the name of a place, or a list of names")
        self._best: dict[str, dict[Measure, Best]] = {}
        self._sums: dict[str, dict[Measure, ClassSums]] = {}
        self._seen = 0
        self._digest: str | None = None

    @property
    def seen(self) -> int:
        """The number of samples that were added. It is the index of the next sample, unless indices are given."""
        return self._seen

    @property
    def explain(self) -> Explainer:
        """The explainer."""
        return self._explain

    @property
    def settings(self) -> dict[str, Any]:
        """The places as they were given, and how samples are chosen."""
        return {"at": list(self._at), "k": self._k, "reduce": self._reduce, "relative": self._relative}

    @property
    def places(self) -> tuple[str, ...]:
        """The names of the places; empty before the first batch."""
        return tuple(self._best)

    def add(
        self,
        *inputs: Any,
        target: Target = None,
        seed: Seed = None,
        classes: Tensor | Sequence[int] | None = None,
        samples: Tensor | Sequence[int] | None = None,
        **named: Any,
    ) -> None:
        """Explain a batch and add its samples. They count in the order of the calls, or by the given indices.

        Args:
            inputs: As for :meth:`fxlrp.Explainer.forward`.
            target: The output to explain.
            seed: The initial relevance.
            classes: The class of each sample for the statistics. By default it is the target, or the largest output of
                each sample without a target and a seed, if the output has two dimensions. Samples of which it is not
                known have the class -1.
            samples: The indices of the samples in the dataset.
            named: Inputs by name.

        Raises:
            InputError: An argument does not fit, or the relevance is NaN.
        """
        self.include(self.score(*inputs, target=target, seed=seed, classes=classes, samples=samples, **named))

    def score(
        self,
        *inputs: Any,
        target: Target = None,
        seed: Seed = None,
        classes: Tensor | Sequence[int] | None = None,
        samples: Tensor | Sequence[int] | None = None,
        **named: Any,
    ) -> Scored:
        """Explain a batch and return its scores, which :meth:`include` adds, here or in another process.

        The arguments and the errors are those of :meth:`add`.
        """
        reading = self._explain.read(*inputs, at=self._at, target=target, seed=seed, **named)
        self._check_digest()
        batch = len(reading.output)
        indices = torch.arange(self._seen, self._seen + batch) if samples is None else _indices(samples, batch)
        if bool((indices < 0).any()):
            raise InputError(f"the indices of samples must not be negative, but samples is {shown(samples)}")
        of_class = _classes(reading, target, seed) if classes is None else _indices(classes, batch)
        return Scored(
            indices, of_class, {name: self._scores(name, place, batch) for name, place in reading.places.items()}
        )

    def include(self, scored: Scored) -> None:
        """Add the samples of a batch, whose scores :meth:`score` returned.

        Statistics are rounded in the order of the calls.

        Args:
            scored: The scores.

        Raises:
            InputError: A place has other channels than before.
        """
        # All places are checked before the first one changes.
        known = {name: self._known(name, *measured["relevance"]) for name, measured in scored.places.items()}
        samples, classes = scored.samples, scored.classes
        for name, measured in scored.places.items():
            best, sums = known[name]
            self._best[name] = {each: best[each].updated(*measured[each], samples, classes) for each in MEASURES}
            self._sums[name] = {each: sums[each].updated(measured[each][0], classes) for each in MEASURES}
        self._seen += len(samples)

    def _scores(self, name: str, place: Place, batch: int) -> dict[Measure, tuple[Tensor, Tensor]]:
        """The scores of each measure and the coordinates of the positions that respond most."""
        dim = dim_of(name, place, batch)
        shape = tuple(size for index, size in enumerate(place.value.shape) if index not in (0, dim))
        found: dict[Measure, tuple[Tensor, Tensor]] = {}
        for measure in MEASURES:
            values = by_channel(place.relevance if measure == "relevance" else place.value, dim)
            if measure == "relevance" and self._relative:
                total = values.abs().sum((1, 2), keepdim=True)
                values = values / torch.where(total == 0, 1.0, total)
            score, positions = scores(values, self._reduce)
            if bool(score.isnan().any()):
                raise InputError(f"at={name!r}: the {measure} is NaN: explain.debug(...) shows where it first appears")
            found[measure] = score, coordinates(positions, shape)
        return found

    def _known(
        self, name: str, score: Tensor, positions: Tensor
    ) -> tuple[Mapping[Measure, Best], Mapping[Measure, ClassSums]]:
        """What is kept of a place, for scores ``(batch, channels)`` and coordinates of positions."""
        channels, dimensions = score.shape[1], positions.shape[-1]
        if name not in self._best:
            none = Best.empty(channels, self._k, dimensions)
            return dict.fromkeys(MEASURES, none), dict.fromkeys(MEASURES, ClassSums.empty(channels))
        known = self._best[name]["relevance"].positions
        if known.shape != (channels, self._k, dimensions):
            raise InputError(
                f"at={name!r}: there are {channels} channels with positions of {dimensions} dimensions, but the "
                f"batches before had {len(known)} with {known.shape[-1]}"
            )
        return self._best[name], self._sums[name]

    def top(self, place: str, channel: int, *, by: Measure = "relevance") -> Top:
        """Return the samples to which a channel responds most.

        Args:
            place: The name of the place.
            channel: The channel.
            by: Whether by relevance or by activation.

        Returns:
            At most ``k`` samples. Of samples with equal scores, the one with the smaller index is first.

        Raises:
            InputError: The place or the channel does not exist.
        """
        best = self._of(self._best, place, by)
        channels = len(best.scores)
        channel = whole("channel", channel, -channels)
        if not -channels <= channel < channels:
            raise InputError(f"{place!r} has {channels} channels: there is no channel {channel}")
        return best.top(channel)

    def statistics(self, place: str, *, by: Measure = "relevance") -> Statistics:
        """Return the mean and the standard deviation of the scores of each channel, for each class.

        Args:
            place: The name of the place.
            by: Whether of relevance or of activations.

        Raises:
            InputError: The place does not exist.
        """
        return self._of(self._sums, place, by).statistics()

    @staticmethod
    def _of(kept: Mapping[str, Mapping[Measure, T]], place: str, by: Measure) -> T:
        if not isinstance(by, str) or by not in MEASURES:
            raise InputError(f'by must be "relevance" or "activation", not {shown(by)}')
        if not isinstance(place, str) or place not in kept:
            known = ", ".join(map(repr, kept)) or "none before the first batch"
            raise InputError(f"there is no place {shown(place)}; the places are: {known}")
        return kept[place][by]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state as a file of tensors, which :meth:`load` reads.

        Args:
            path: The file to write.

        Raises:
            InputError: No batch was added, or ``path`` is not a path.
        """
        file = path_of(path)
        if not self._best:
            raise InputError("there is nothing to save before the first batch")
        best, sums = (
            {name: {measure: kept.state() for measure, kept in measured.items()} for name, measured in all_of.items()}
            for all_of in (self._best, self._sums)
        )
        state = {
            **self.settings,
            "seen": self._seen,
            "explainer": self._explain.digest(),
            "best": best,
            "sums": sums,
        }
        torch.save(state, file)

    @staticmethod
    def load(path: str | os.PathLike[str], explain: Explainer) -> References:
        """Read the state from a file, to continue or to ask. No code in the file is run.

        Args:
            path: The file.
            explain: The explainer with which it was made; the next batch is checked against it.

        Returns:
            The references. The next sample to add is number :attr:`seen`.

        Raises:
            InputError: The file does not contain such a state.
        """
        check_explainer(explain)
        state = read_state(path_of(path))
        found = References(explain, state["at"], k=state["k"], reduce=state["reduce"], relative=state["relative"])
        found._seen, found._digest = state["seen"], state["explainer"]
        for name, measured in state["best"].items():
            found._best[name] = {measure: Best.of(measured[measure]) for measure in MEASURES}
            found._sums[name] = {measure: ClassSums.of(state["sums"][name][measure]) for measure in MEASURES}
        return found

    def _check_digest(self) -> None:
        """Check once that the explainer is the one with which the loaded state was made."""
        if self._digest is not None and self._digest != self._explain.digest():
            raise InputError(
                "the references were collected with another explainer: the annotated graphs differ. Compile the model "
                "with the same rules and options"
            )
        self._digest = None


def _indices(given: Tensor | Sequence[int], batch: int) -> Tensor:
    found = as_tensor("the classes or samples", given)
    if found.shape != (batch,) or found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise InputError(
            f"classes and samples must have one integer for each of the {batch} samples, not {shown(given)}"
        )
    return found.to(torch.int64)


def _classes(reading: Reading, target: Target, seed: Seed) -> Tensor:
    """The explained class of each sample; -1 where it is not one class."""
    output = reading.output
    unknown = torch.full((len(output),), NO_CLASS)
    if seed is not None or output.dim() != 2:
        return unknown
    if target is None:
        return output.argmax(1).cpu()
    chosen = at_target(torch.ones_like(output), target) != 0
    return torch.where(chosen.sum(1) == 1, chosen.to(torch.int8).argmax(1), NO_CLASS).cpu()
