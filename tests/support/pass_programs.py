"""Programs for tests of passes: a model behind some of them, and what is in its graph."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxlrp.capture.symbolic import capture
from fxlrp.passes import pipeline
from fxlrp.passes.base import Pass, run_passes
from fxlrp.program import Options, Program
from fxlrp.rules.resolve import resolve
from fxlrp.vocabulary import CANONICAL
from oracles import One

EVERY = pipeline.EXPLANATION


def before(each: Pass) -> tuple[Pass, ...]:
    """The passes of the pipeline that run before the first run of this one."""
    return EVERY[: EVERY.index(each)]


def program_of(model: nn.Module | Callable[..., Tensor], rules: Any = None) -> Program:
    model = model if isinstance(model, nn.Module) else One(model)
    return Program(capture(model.eval()), CANONICAL, Options(resolve(rules)))


def program_after(passes: Sequence[Pass], model: nn.Module | Callable[..., Tensor], rules: Any = None) -> Program:
    program = program_of(model, rules)
    run_passes(program, passes)
    return program


def value(program: Program, *inputs: Tensor) -> Tensor:
    program.graph_module.recompile()
    with torch.no_grad():
        result = program.graph_module(*(x.clone() for x in inputs))
    assert isinstance(result, Tensor)
    return result


def calls(program: Program) -> list[Any]:
    return [node.target for node in program.graph.nodes if node.op.startswith("call")]


def node_named(program: Program, name: str) -> fx.Node:
    (node,) = (node for node in program.graph.nodes if node.name == name)
    return node
