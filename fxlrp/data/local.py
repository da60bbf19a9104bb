"""Explain the parts of a dataset in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fxlrp.asked import Only
from fxlrp.concepts.references import References
from fxlrp.concepts.scored import Scored
from fxlrp.data.plan import Plan
from fxlrp.data.portable import Arrays, Call, arrays_of, joined, moved
from fxlrp.data.samples import Samples
from fxlrp.data.settings import described, digest_of, digest_of_call, digest_of_weights
from fxlrp.data.store import array_names
from fxlrp.errors import InputError
from fxlrp.explainer import Explainer
from fxlrp.inputs import Named
from fxlrp.question import At
from fxlrp.relevance.targets import Each
from fxlrp.version import __version__


@dataclass(frozen=True)
class Question:
    """What is asked of every sample.

    Args:
        explain: The explainer.
        at: Where relevance is requested.
        only: The conditions.
        bypass: Whether relevance that bypasses the conditions counts, too.
        dtype: The type of the stored relevance; None for its own.
    """

    explain: Explainer
    at: At
    only: Only
    bypass: bool
    dtype: torch.dtype | None

    @property
    def device(self) -> torch.device:
        """The device of the model; the CPU if it has no parameters."""
        return device_of(self.explain)

    def is_stacked(self, target: Any) -> bool:
        """Whether several questions are asked, whose results are stacked in front of the samples."""
        return isinstance(target, Each) or isinstance(self.only, list)

    def relevance(self, call: Call) -> tuple[Any, torch.Tensor]:
        """The relevance of a batch, and the output."""
        args, kwargs, target = moved((call.args, dict(call.kwargs), call.target), self.device)
        asked = {"target": target, "at": self.at, "only": self.only, "bypass": self.bypass}
        found: tuple[Any, torch.Tensor] = self.explain(*args, Named(kwargs), return_output=True, **asked)
        return found

    def arrays(self, call: Call) -> Arrays:
        """What is stored of a batch."""
        relevance, output = self.relevance(call)
        named = {"": relevance} if isinstance(relevance, torch.Tensor) else relevance
        arrays = {name: named[key] for key, name in array_names(relevance).items()}
        return arrays_of(arrays, output, call.target, self.dtype, self.is_stacked(call.target))


@dataclass(frozen=True)
class Part:
    """A part of the dataset.

    Args:
        number: Its number.
        rows: The indices of its samples.
        arrays: What is stored of them; None if that was done before.
    """

    number: int
    rows: range
    arrays: Arrays | None


@dataclass(frozen=True)
class First:
    """The first batch, which is explained before it is known which parts are missing.

    Args:
        call: The call that explains it.
        arrays: What is stored of it.
        digest: The digest of the call.
    """

    call: Call
    arrays: Arrays
    digest: str

    @staticmethod
    def of(question: Question, samples: Samples, plan: Plan) -> First:
        """Read and explain the first batch."""
        call = samples.first(plan.batch_size)
        return First(call, question.arrays(call), digest_of_call(call))

    def arrays_of(self, call: Call) -> Arrays:
        """What is stored of the first batch, which is read again.

        Raises:
            InputError: It has other samples.
        """
        if digest_of_call(call) != self.digest:
            raise InputError(
                "the dataset gives other samples when it is read again, so a run could not be resumed: switch off what "
                "is random, such as augmentation, and give an iterable dataset that starts anew for each iteration"
            )
        return self.arrays


def explained(question: Question, samples: Samples, plan: Plan, done: Sequence[bool], first: First) -> Iterator[Part]:
    """Explain the parts that are not done, in order.

    Args:
        question: What is asked.
        samples: The samples.
        plan: The parts.
        done: Which of them are done.
        first: The first batch.

    Raises:
        InputError: The dataset gives other samples when it is read again.
    """
    start, found = 0, list[Arrays]()
    rows = range(0)
    for batch in samples.batches(plan, done):
        rows = batch.rows
        start = rows.start if rows.start % plan.per_part == 0 else start
        if batch.call is not None:
            is_first = rows.start == 0
            found.append(first.arrays_of(batch.call) if is_first else question.arrays(batch.call))
        if rows.stop % plan.per_part == 0:
            yield Part(start // plan.per_part, range(start, rows.stop), joined(found) if found else None)
            found = []
    if rows.stop % plan.per_part:
        yield Part(start // plan.per_part, range(start, rows.stop), joined(found) if found else None)


@dataclass(frozen=True)
class Local:
    """Explain in this process, as :func:`fxlrp.data.explain` does by default."""

    def explained(
        self, question: Question, samples: Samples, plan: Plan, done: Sequence[bool], first: First
    ) -> Iterator[Part]:
        """Explain the parts that are not done; the arguments are those of :func:`explained`."""
        return explained(question, samples, plan, done, first)

    def scored(
        self, references: References, samples: Samples, plan: Plan, done: Sequence[bool]
    ) -> Iterator[tuple[range, Scored]]:
        """Score the channels on the batches that are not done, in order.

        Args:
            references: What scores.
            samples: The samples.
            plan: The parts, of one batch each.
            done: Which of them are done.
        """
        for batch in samples.batches(plan, done):
            if batch.call is not None:
                yield batch.rows, scores_of(references, batch.call, batch.rows)


def scores_of(references: References, call: Call, rows: Sequence[int]) -> Scored:
    """Return the scores of the channels on a batch, on the device of the model."""
    args, kwargs, target = moved((call.args, dict(call.kwargs), call.target), device_of(references.explain))
    return references.score(*args, Named(kwargs), target=target, samples=list(rows))


def device_of(explain: Explainer) -> torch.device:
    """Return the device of the model; the CPU if it has no parameters."""
    return next((each.device for each in explain.parameters()), torch.device("cpu"))


def settings_of(question: Question, samples: Samples, plan: Plan) -> dict[str, Any]:
    """Return what must be the same where a run is resumed; the explainer must be captured."""
    explain, dataset = question.explain, samples.dataset
    return {
        "model": type(explain._model).__name__,
        "weights": digest_of_weights(explain._model),
        "rules": explain.digest(),
        "target": described(samples.target),
        "at": described(question.at),
        "only": described(question.only),
        "bypass": question.bypass,
        "inputs": described(samples.inputs),
        "dataset": f"{type(dataset).__module__}.{type(dataset).__qualname__}",
        "names": None if samples.names is None else digest_of(samples.names),
        "samples": plan.samples,
        "batch_size": plan.batch_size,
        "chunk_size": plan.chunk_size,
        "device": question.device.type,
        "fxlrp": __version__,
        "torch": str(torch.__version__),
    }
