"""Explain the parts of a dataset by Ray Data: a pool of actors that load the exported program."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fxlrp.arguments import shown, whole
from fxlrp.concepts.references import References
from fxlrp.concepts.scored import Scored
from fxlrp.data import portable
from fxlrp.data.local import First, Part, Question
from fxlrp.data.plan import Plan
from fxlrp.data.portable import Worker
from fxlrp.data.ray_concepts import Scorer, ScoringActor, new_on_cpu, unpacked
from fxlrp.data.samples import Samples
from fxlrp.errors import InputError
from fxlrp.extras import require

EXTRA = "ray"
_MOST_BLOCKS = 4096


@dataclass(frozen=True)
class Ray:
    """Explain on the actors of Ray: of the cluster to which ``ray.init`` connected, or of this machine.

    For :func:`fxlrp.data.explain`, each actor loads the program that :meth:`fxlrp.Explainer.export` writes, so it needs
    PyTorch and the code of the dataset, but neither fxlrp nor the code of the model. For :func:`fxlrp.data.collect`, it
    gets a copy of the explainer, and needs both. It reads the samples itself, from storage that all machines share. An
    actor that dies is replaced, and what it had not returned is explained again.

    Args:
        actors: The number of actors.
        cpus: The CPUs that each reserves; it uses as many threads, at least one.
        gpus: The GPUs that each reserves. With one, the program runs on it.

    Example:
        >>> import fxlrp
        >>> fxlrp.data.Ray(actors=8, gpus=1)
        Ray(actors=8, cpus=1, gpus=1)
    """

    actors: int = 2
    cpus: float = 1
    gpus: float = 0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            InputError: One is not a number of the kind.
        """
        whole("actors", self.actors)
        for name in ("cpus", "gpus"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6:
                raise InputError(f"{name} must be a number of at least 0, not {shown(value)}")

    def explained(
        self, question: Question, samples: Samples, plan: Plan, done: Sequence[bool], first: First
    ) -> Iterator[Part]:
        """Explain the parts that are not done, in any order; the arguments are those of the local engine.

        Raises:
            InputError: The dataset has no index, or the model takes containers.
            ExportError: The explanation cannot be exported.
        """
        _check_index(samples)
        missing = [part for part, is_done in enumerate(done) if not is_done]
        if not missing:
            return
        first.arrays_of(samples.first(plan.batch_size))
        # The actors get the code of this module itself, so that they run without fxlrp.
        require("ray.cloudpickle", EXTRA).register_pickle_by_value(portable)
        worker = Worker(
            program=_exported(question, samples, first),
            order=_order(question, first),
            names=tuple(name for name in first.arrays if name not in (portable.OUTPUT, portable.TARGET)),
            stacked=question.is_stacked(samples.target),
            dtype=question.dtype,
            class_count=first.arrays[portable.OUTPUT].shape[-1] if _is_per_sample(samples.target) else None,
            threads=max(1, int(self.cpus)),
            device="cuda" if self.gpus else "cpu",
            dataset=samples.dataset,
            collate=samples.collate,
            inputs=samples.inputs,
            target=_of_workers(samples.target),
            batches={part: [(rows.start, rows.stop) for rows in plan.batches(part)] for part in missing},
        )
        for part, arrays in self._results(portable.Actor, worker, missing, "arrays"):
            yield Part(part, plan.rows(part), portable.unpacked(arrays))

    def scored(
        self, references: References, samples: Samples, plan: Plan, done: Sequence[bool]
    ) -> Iterator[tuple[range, Scored]]:
        """Score the channels on the batches that are not done, in order; the arguments are those of the local engine.

        Raises:
            InputError: The dataset has no index.
        """
        _check_index(samples)
        missing = [part for part, is_done in enumerate(done) if not is_done]
        if not missing:
            return
        scorer = Scorer(
            references=new_on_cpu(references),
            samples=samples,
            batches={part: plan.rows(part) for part in missing},
            threads=max(1, int(self.cpus)),
            device="cuda" if self.gpus else "cpu",
        )
        waiting: dict[int, bytes] = {}
        following = iter(missing)
        part = next(following, None)
        for found, content in self._results(ScoringActor, scorer, missing, "scores"):
            waiting[found] = content
            # Statistics are rounded in the order of the samples.
            while part in waiting:
                yield plan.rows(part), unpacked(waiting.pop(part))
                part = next(following, None)

    def _results(self, actor: type, worker: Any, parts: Sequence[int], column: str) -> Iterator[tuple[int, bytes]]:
        """What the actors return for each part, once and in any order.

        Args:
            actor: The class of the actors. It is called with a row with the number of a part.
            worker: What they need.
            parts: The numbers of the parts.
            column: The column in which they return the result.

        Raises:
            InputError: A part is missing.
        """
        ray, data = require("ray", EXTRA), require("ray.data", EXTRA)
        kept = ray.put(worker)
        rows = data.from_items([{"part": part} for part in parts], override_num_blocks=min(len(parts), _MOST_BLOCKS))
        found = rows.map_batches(
            actor,
            fn_constructor_args=(kept,),
            batch_size=1,
            compute=data.ActorPoolStrategy(size=self.actors),
            num_cpus=self.cpus,
            num_gpus=self.gpus or None,
        )
        # An actor that dies returns some parts twice.
        returned = set[int]()
        for row in found.iter_rows():
            part = int(row["part"])
            if part not in returned:
                returned.add(part)
                yield part, row[column]
        lost = set(parts) - returned
        if lost:
            raise InputError(f"Ray returned without the parts {sorted(lost)[:5]}: its log has the reason")


def _check_index(samples: Samples) -> None:
    if samples.is_iterable:
        raise InputError("the engine of Ray needs a dataset with an index, because each actor reads other samples")


def _is_per_sample(target: Any) -> bool:
    return isinstance(target, torch.Tensor) or callable(target)


def _of_workers(target: Any) -> Any:
    """The target as far as workers use it: to pass it to the program, or to store the explained class."""
    is_used = target is None or isinstance(target, int) or _is_per_sample(target)
    return target if is_used else "built in"


def _exported(question: Question, samples: Samples, first: First) -> bytes:
    """The program as a file, with the target as an input if each sample has its own."""
    call = first.call
    examples = call.kwargs or call.args
    target: Any = "input" if _is_per_sample(samples.target) else "largest" if samples.target is None else samples.target
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.pt2"
        question.explain.export(
            path,
            portable.moved(examples, question.device),
            target=target,
            at=question.at,
            only=question.only,
            bypass=question.bypass,
            outputs=("relevance", "output"),
        )
        return path.read_bytes()


def _order(question: Question, first: First) -> tuple[str, ...]:
    """The names of the inputs of the program, in order.

    Raises:
        InputError: One is a part of a container.
    """
    made, _ = question.explain._on_call(*portable.moved((first.call.args, first.call.kwargs), question.device))
    names = made.signature.inputs.names
    inside = next((name for name in names if name not in made.signature.inputs.arguments), None)
    if inside is not None:
        raise InputError(f"the input {inside!r} is in a container, which the engine of Ray does not pass to a program")
    if first.call.args and len(first.call.args) != len(names):
        raise InputError(f"the program takes {', '.join(names)}: pass all of them, or by name")
    return names
