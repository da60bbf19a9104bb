"""Many calls, threads, processes and interrupts; ``make soak`` runs longer."""

from __future__ import annotations

import copy
import functools
import io
import multiprocessing
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import fxlrp
from soak.growth import growth
from soak.interrupts import interrupted, moments
from soak.models import Branching, batch, dense, images, pixels

FORK = "fork" in multiprocessing.get_all_start_methods()


def unbiased() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)).eval()


def gradient_times_input(model: nn.Module, x: Tensor, target: int) -> Tensor:
    tracked = x.clone().requires_grad_()
    model(tracked)[:, target].sum().backward()
    assert tracked.grad is not None
    return x * tracked.grad


def zero() -> Any:
    return fxlrp.presets.epsilon(0.0)


PIXELS = pixels()
REPEATED: dict[str, Callable[[fxlrp.Explainer], Any]] = {
    "call": lambda explain: explain(images(), target=1),
    "place": lambda explain: explain(images(), target=1, at="0", only={"0": [1]}),
    "debug": lambda explain: explain.debug(images(), target=1),
    "graph": lambda explain: explain.graph(None, images(), target=1),
    "compile": lambda explain: fxlrp.compile(PIXELS)(images(), target=1),
    "stages": lambda explain: fxlrp.compile(PIXELS, debug=True).check_stages(images()),
    "autograd": lambda explain: fxlrp.autograd(PIXELS)(images().requires_grad_()).sum().backward(),
    "regions": lambda explain: fxlrp.compile(PIXELS, optimize=fxlrp.Optimizations(nest_regions=True)),
    "copies": lambda explain: copy.deepcopy(explain)(images(), target=1),
    "pickles": lambda explain: pickle.loads(pickle.dumps(explain))(images(), target=1),
}


@pytest.mark.parametrize("name", REPEATED)
def test_nothing_is_left_of_what_is_repeated(name: str) -> None:
    explain = fxlrp.compile(PIXELS)
    count = 200 if name in ("call", "place") else 8
    found = growth(lambda: REPEATED[name](explain), count)
    assert found.sources == 0
    assert found.objects < count / 2, "less than one object for each call"


def test_the_source_of_a_program_is_kept_as_long_as_the_program() -> None:
    import inspect

    explain = fxlrp.compile(dense())
    for _ in range(3):
        fxlrp.compile(dense())
    assert "def forward" in inspect.getsource(type(explain.graph_module).forward)


@pytest.mark.parametrize("shared", [True, False], ids=["one_explainer", "one_for_each"])
@pytest.mark.parametrize("make", [unbiased, Branching], ids=["symbolic", "export"])
def test_first_calls_of_many_threads(make: Callable[[], nn.Module], shared: bool) -> None:
    model, threads = make().eval(), 8
    for parameter in (name for name in model.state_dict() if name.endswith("bias")):
        model.get_parameter(parameter).data.zero_()
    one = fxlrp.compile(model, zero()) if shared else None
    start = threading.Barrier(threads)

    def work(number: int) -> Tensor:
        explain = fxlrp.compile(model, zero()) if one is None else one
        start.wait()
        results = [explain(batch() + number, target=target % 3) for target in range(number, number + 6)]
        return torch.stack(results)

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(work, range(threads)))
    for number, results in enumerate(found):
        for offset, result in enumerate(results):
            expected = gradient_times_input(model, batch() + number, (number + offset) % 3)
            torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-4)


INTERRUPTED: dict[str, Callable[[nn.Module, fxlrp.Explainer], Any]] = {
    "compile": lambda model, explain: fxlrp.compile(model, zero()),
    "call": lambda model, explain: explain(batch(), target=1),
    "question": lambda model, explain: explain(batch(), target=1, at="0", only={"0": [2]}),
    "debug": lambda model, explain: explain.debug(batch(), target=1),
    "first_call": lambda model, explain: fxlrp.compile(model, zero(), capture="export")(batch(), target=1),
}


def test_an_interrupt_leaves_the_model_and_the_library_usable() -> None:
    """In a process of its own: torch.export may leave modes of torch behind, which other tests would meet."""
    process = multiprocessing.get_context("spawn").Process(target=interrupt_all)
    process.start()
    process.join()
    assert process.exitcode == 0


def interrupt_all() -> None:
    for name in INTERRUPTED:
        print("interrupted:", name, flush=True)
        interrupt(name)


def interrupt(name: str) -> None:
    """Interrupt a call at moments spread over it, and at the last ones."""
    call, of_modules = nn.Module.__call__, nn.Module.__getattr__
    model = unbiased()
    before, expected = copy.deepcopy(model.state_dict()), gradient_times_input(model, batch(), 1)
    count = moments(lambda: INTERRUPTED[name](model, fxlrp.compile(model, zero())))
    made = moments(lambda: fxlrp.compile(model, zero()))
    many = 4 if name == "first_call" else 12
    hits = 0
    for at in [max(1, (count - made) * index // many) for index in range(many)]:
        explain = fxlrp.compile(model, zero())
        hits += interrupted(functools.partial(INTERRUPTED[name], model, explain), at)
        assert nn.Module.__call__ is call and nn.Module.__getattr__ is of_modules
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
        for usable in (explain, fxlrp.compile(model, zero())):
            torch.testing.assert_close(usable(batch(), target=1), expected)
    assert hits >= many / 2


RULES: list[Any] = [("0", fxlrp.rules.Gamma(0.5)), (nn.ReLU, fxlrp.rules.PassThrough())]
OPTIONS: dict[str, dict[str, Any]] = {
    "rules": dict(rules=RULES),
    "places": dict(at=["0", "input"]),
    "export": dict(example_inputs=batch(), capture="export"),
    "checkpoint": dict(checkpoint=2, optimize=False),
    "differentiable": dict(differentiable=True),
    "inside": dict(output="1"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_copies_explain_like_the_original(name: str) -> None:
    model = dense()
    explain = fxlrp.compile(model, **OPTIONS[name])
    expected = explain(batch())
    file = io.BytesIO()
    torch.save(explain, file)
    file.seek(0)
    for other in (
        copy.deepcopy(explain),
        copy.copy(explain),
        pickle.loads(pickle.dumps(explain)),
        torch.load(file, weights_only=False),
        copy.deepcopy(nn.Sequential(explain))[0],
    ):
        torch.testing.assert_close(other(batch()), expected, rtol=0, atol=0)


def test_a_copy_has_weights_of_its_own() -> None:
    model = unbiased()
    explain = fxlrp.compile(model, zero())
    copies = [copy.deepcopy(explain), pickle.loads(pickle.dumps(explain))]
    expected = gradient_times_input(model, batch(), 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    for other in copies:
        torch.testing.assert_close(other(batch(), target=1), expected)
    torch.testing.assert_close(explain(batch(), target=1), 9 * expected)


def test_an_explained_model_is_copied() -> None:
    model = unbiased()
    expected = gradient_times_input(model, batch(), 1)
    explained = fxlrp.autograd(model, zero())
    for other in (copy.deepcopy(explained), pickle.loads(pickle.dumps(explained))):
        x = batch().requires_grad_()
        other(x)[:, 1].sum().backward()
        assert x.grad is not None
        torch.testing.assert_close(x.grad, expected)


class Explained(Dataset[Tensor]):
    def __init__(self, explain: fxlrp.Explainer) -> None:
        self._explain = explain

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        return self._explain(batch() + index, target=1)


@pytest.mark.parametrize(
    "context",
    [
        pytest.param("fork", marks=pytest.mark.skipif(not FORK, reason="processes cannot be forked here")),
        pytest.param("spawn", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("called", [True, False], ids=["after_a_call", "before_the_first"])
def test_workers_of_a_data_loader(context: str, called: bool) -> None:
    model = unbiased()
    explain = fxlrp.compile(model, zero(), capture="symbolic" if called else "export")
    if called:
        explain(batch())
    loader = DataLoader(
        Explained(explain), batch_size=None, num_workers=2, multiprocessing_context=context, timeout=200
    )
    for index, found in enumerate(loader):
        torch.testing.assert_close(found, gradient_times_input(model, batch() + index, 1), atol=1e-6, rtol=1e-5)


@pytest.mark.skipif(not FORK, reason="processes cannot be forked here")
def test_a_process_that_is_forked_during_a_first_call() -> None:
    """The thread that makes the program, and holds locks, does not exist in the other process."""
    model, inside, go_on = unbiased(), threading.Event(), threading.Event()

    @fxlrp.passes.compiler_pass(after=["name_nodes"])
    def wait(program: Any) -> int:
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            go_on.wait(60)
        return 0

    explain = fxlrp.compile(model, zero(), capture="export", passes=[wait])
    thread = threading.Thread(target=lambda: explain(batch(), target=1))
    thread.start()
    assert inside.wait(60)
    forking = multiprocessing.get_context("fork")
    answers = forking.SimpleQueue()
    child = forking.Process(target=lambda: answers.put(explain(batch(), target=1).tolist()), daemon=True)
    child.start()
    child.join(100)
    go_on.set()
    thread.join(60)
    assert child.exitcode == 0, "the process hangs"
    torch.testing.assert_close(torch.tensor(answers.get()), gradient_times_input(model, batch(), 1))
