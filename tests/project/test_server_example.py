"""The server of the examples: what it answers, to whom, and that it keeps nothing."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from helpers import ROOT

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from benchmarks.serving import Client, Reply, language_request, load, megabytes, serving

IMAGES = torch.tensor([[[0.0, 0.5], [1.0, 0.25]], [[0.75, 0.1], [0.2, 0.9]]])[:, None]


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)).eval()


def gradient_times_input(model: nn.Module, x: Tensor, target: int) -> Tensor:
    x = x[None].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[0, target], x)
    return (x * gradient)[0].detach()


@pytest.fixture(scope="module")
def example() -> Any:
    spec = importlib.util.spec_from_file_location("example_server", ROOT / "examples" / "server.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where pydantic finds the types that annotations name
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """A language model, a file with a target and one with the largest output, in a process of its own."""
    folder = tmp_path_factory.mktemp("served")
    explain = fxlrp.compile(small(), fxlrp.presets.epsilon(0.0))
    targets: dict[str, Any] = {"asked": "input", "largest": "largest"}
    for name, target in targets.items():
        explain.export(folder / f"{name}.pt2", IMAGES[:1], target=target, outputs=("relevance", "output"))
    files = [f"--file={name}={folder / name}.pt2" for name in ("asked", "largest")]
    with serving("--language", *files, "--threads", "1") as found:
        yield found


def ask(port: int, body: Any, path: str = "/v1/relevance") -> Reply:
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()

    async def once() -> Reply:
        client = Client(port)
        reply = await client.ask(path, content)
        client.close()
        return reply

    return asyncio.run(once())


def packed(x: Tensor, dtype: str = "float32") -> dict[str, Any]:
    return {"shape": list(x.shape), "dtype": dtype, "data": base64.b64encode(x.numpy().tobytes()).decode()}


@pytest.mark.parametrize("target", [0, 2])
def test_a_file_answers_with_the_relevance_of_the_target(server: tuple[int, int], target: int) -> None:
    """Without biases LRP-0 is gradient times input."""
    model = small()
    for given in (IMAGES[0].tolist(), packed(IMAGES[0])):
        reply = ask(server[0], {"model": "asked", "inputs": {"input": given}, "target": target})
        assert reply.status == 200
        scores = model(IMAGES[:1])[0].detach()
        assert reply.body["target"] == target and reply.body["prediction"] == int(scores.argmax())
        assert reply.body["score"] == pytest.approx(float(scores[target]), rel=1e-4)
        expected = gradient_times_input(model, IMAGES[0], target)
        torch.testing.assert_close(torch.tensor(reply.body["relevance"]["input"]), expected, rtol=1e-4, atol=1e-6)


def test_bytes_are_pixels_and_relevance_may_be_bytes(server: tuple[int, int]) -> None:
    pixels = torch.tensor([[[0, 51], [255, 102]]], dtype=torch.uint8)
    asked = {"model": "largest", "inputs": {"input": packed(pixels, "uint8")}, "encoding": "base64"}
    reply = ask(server[0], asked)
    x, model = pixels / 255, small()
    largest = int(model(x[None]).argmax())
    assert reply.body["target"] == reply.body["prediction"] == largest
    found = reply.body["relevance"]["input"]
    values = torch.frombuffer(bytearray(base64.b64decode(found["data"])), dtype=torch.float32)
    torch.testing.assert_close(
        values.view(found["shape"]), gradient_times_input(model, x, largest), rtol=1e-4, atol=1e-6
    )


def of_language(ids: Any, **more: Any) -> dict[str, Any]:
    return {"model": "language", "inputs": {"ids": ids}, **more}


def of_file(given: Any, name: str = "asked", **more: Any) -> dict[str, Any]:
    return {"model": name, "inputs": {"input": given}, **more}


PIXELS = IMAGES[0].tolist()
BAD: dict[str, tuple[Any, int, str]] = {
    "no JSON": (b"{", 400, "invalid_json"),
    "not UTF-8": (b"\xff\xfe", 400, "invalid_json"),
    "too deep": (b"[" * 100_000, 400, "invalid_json"),
    "empty": (b"", 422, "invalid_request"),
    "too large": (b" " * 4_200_000, 413, "too_large"),
    "unknown model": (of_file(PIXELS, "other"), 404, "unknown_model"),
    "unknown field": (of_file(PIXELS, also=1), 422, "invalid_request"),
    "unknown encoding": (of_language([1], encoding="png"), 422, "invalid_request"),
    "unknown input": ({"model": "asked", "inputs": {"x": [1]}}, 422, "wrong_inputs"),
    "ragged": (of_file([[[0, 1], [2]]]), 422, "invalid_tensor"),
    "text": (of_file("pixels"), 422, "invalid_request"),
    "wrong shape": (of_file([[0.0, 1.0]], target=1), 422, "wrong_shape"),
    "too few bytes": (of_file({"shape": [1, 2, 2], "dtype": "float32", "data": "AA=="}), 422, "invalid_tensor"),
    "huge shape": (of_file({"shape": [2**40, 2**40], "dtype": "float32", "data": ""}), 422, "invalid_tensor"),
    "not base64": (of_file({"shape": [1], "dtype": "uint8", "data": "*"}), 422, "invalid_tensor"),
    "NaN": (of_file([[[0.0, float("nan")], [0.0, 0.0]]], target=1), 422, "not_finite"),
    "infinite bytes": (of_file(packed(IMAGES[0] / 0), target=1), 422, "not_finite"),
    "no target": (of_file(PIXELS), 422, "missing_target"),
    "unknown target": (of_file(PIXELS, target=3), 422, "unknown_target"),
    "negative target": (of_file(PIXELS, target=-1), 422, "unknown_target"),
    "truth value as target": (of_file(PIXELS, target=True), 422, "invalid_request"),
    "built-in target": (of_file(PIXELS, "largest", target=1), 422, "unexpected_target"),
    "fractions as tokens": (of_language([1.5]), 422, "wrong_type"),
    "truth values as tokens": (of_language([True]), 422, "wrong_type"),
    "unknown token": (of_language([1, 256]), 422, "out_of_range"),
    "no tokens": (of_language([]), 422, "wrong_shape"),
    "too many tokens": (of_language([1] * 513), 422, "wrong_shape"),
    "number without end": (of_language([10**30]), 422, "invalid_tensor"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_has_an_error_as_json(server: tuple[int, int], name: str) -> None:
    body, status, code = BAD[name]
    reply = ask(server[0], body)
    assert (reply.status, reply.body["error"]["code"]) == (status, code)
    assert reply.body["error"]["message"]


def test_wrong_paths_and_methods(server: tuple[int, int]) -> None:
    port, _ = server
    assert ask(port, {}, "/v1/other").body["error"]["code"] == "unknown_path"
    assert ask(port, None, "/v1/relevance").body["error"]["code"] == "wrong_method"
    assert ask(port, of_file(PIXELS), "/v1/predictions").body["error"]["code"] == "no_plain_model"


def test_two_hundred_requests_at_a_time(server: tuple[int, int]) -> None:
    """None is lost or confused with another, bad ones are answered, and batches are formed."""
    port, _ = server
    requests, statuses = [], []
    for index in range(400):
        if index % 10:
            requests.append(language_request(index))
            statuses.append(200)
        else:
            body, status, _ = list(BAD.values())[index // 10 % len(BAD)]
            requests.append(("/v1/relevance", body if isinstance(body, bytes) else json.dumps(body).encode()))
            statuses.append(status)
    before = ask(port, None, "/health").body["served"]
    replies, _ = asyncio.run(load(port, requests, 200))
    assert [reply.status for reply in replies] == statuses
    health = ask(port, None, "/health").body
    assert health["served"] == before + statuses.count(200)
    assert health["waiting"] == 0 and health["mean_batch"] > 2
    alone = [ask(port, requests[index][1]).body for index in (1, 57, 399)]
    for index, expected in zip((1, 57, 399), alone, strict=True):
        found = replies[index].body
        assert (found["target"], found["prediction"]) == (expected["target"], expected["prediction"])
        relevance = torch.tensor(expected["relevance"]["ids"])
        scale = float(relevance.abs().max())
        torch.testing.assert_close(torch.tensor(found["relevance"]["ids"]), relevance, rtol=0, atol=1e-4 * scale)


def test_memory_does_not_grow(server: tuple[int, int]) -> None:
    """`python -m benchmarks.serving` sends ten thousand requests."""
    port, pid = server
    asyncio.run(load(port, [language_request(seed) for seed in range(200)], 50))
    before = megabytes(pid)
    asyncio.run(load(port, [language_request(seed) for seed in range(200, 600)], 50))
    assert megabytes(pid) - before < 20


class Broken:
    """A model that fails, or takes a second."""

    inputs: tuple[Any, ...] = ()
    needs_target, takes_target, classes = False, True, 9

    def key(self, sample: Any) -> None:
        return None

    def explain(self, samples: Any, targets: Any) -> Any:
        if targets != [1]:
            raise ValueError("a secret of the server")
        time.sleep(1)
        return [None]


def test_errors_of_the_server(example: Any) -> None:
    """The client is told that it failed, and not what is inside; what takes too long is given up."""
    app = example.application({"broken": Broken()}, timeout=0.3)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        running = example.uvicorn.Server(example.uvicorn.Config(app, log_level="critical"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not running.started:
                time.sleep(0.01)
            failed, late = (ask(port, {"model": "broken", "inputs": {}, "target": each}) for each in (0, 1))
        finally:
            running.should_exit = True
            thread.join(30)
    assert (failed.status, failed.body["error"]["code"]) == (500, "internal_error")
    assert "secret" not in json.dumps(failed.body)
    assert (late.status, late.body["error"]["code"]) == (504, "timeout")


def test_padding_changes_nothing(example: Any) -> None:
    """The relevance of the last real token, by an explainer that sees the sequence alone."""
    served = example.language_model()
    torch.manual_seed(1)
    samples = [(torch.randint(256, (length,)),) for length in (3, 11, 7)]
    found = served.explain(samples, [5, None, 7])
    torch.manual_seed(0)
    model = example.LanguageModel().eval()
    alone = fxlrp.compile(model, "attnlrp", example_inputs=torch.zeros(2, 8, dtype=torch.long))
    for (ids,), each, target in zip(samples, found, (5, None, 7), strict=True):
        scores = model(ids[None])[0, -1]
        wanted = int(scores.argmax()) if target is None else target
        assert each.target == wanted
        torch.testing.assert_close(each.scores, scores.detach(), rtol=1e-4, atol=1e-5)
        relevance = alone(ids[None], target=(-1, wanted))[0]
        scale = float(relevance.abs().max())
        torch.testing.assert_close(each.relevance["ids"], relevance, rtol=0, atol=1e-4 * scale)


class Stub:
    """Batches of numbers; a negative one fails."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, jobs: list[Any]) -> list[Any]:
        values = [int(job.sample[0]) for job in jobs]
        if min(values) < 0:
            raise ValueError("negative")
        self.sizes.append(len(values))
        return [value * 2 for value in values]


def batched(example: Any, values: list[int], stub: Stub, **options: Any) -> list[Any]:
    async def run() -> list[Any]:
        batcher = example.Batcher(**{"most": 4, "wait": 0.02, "waiting": 100, **options})
        task = asyncio.create_task(batcher.work())
        try:
            waiting = (batcher.result("kind", stub, (torch.tensor(value),), None) for value in values)
            return await asyncio.gather(*waiting, return_exceptions=True)
        finally:
            task.cancel()
            batcher.close()

    return asyncio.run(run())


def test_batches_are_full_or_due(example: Any) -> None:
    stub = Stub()
    assert batched(example, list(range(10)), stub) == [2 * value for value in range(10)]
    assert stub.sizes == [4, 4, 2]


def test_a_sample_that_fails_does_not_fail_its_batch(example: Any) -> None:
    one, error, three = batched(example, [1, -1, 3], Stub())
    assert (one, three) == (2, 6) and isinstance(error, ValueError)


def test_more_requests_than_may_wait_are_refused(example: Any) -> None:
    found = batched(example, [1, 2, 3], Stub(), waiting=2)
    assert found[:2] == [2, 4]
    assert (found[2].status, found[2].code) == (503, "overloaded")


def test_a_file_without_a_prediction_is_not_served(example: Any, tmp_path: Path) -> None:
    fxlrp.compile(small()).export(tmp_path / "explain.pt2", IMAGES[:1])
    with pytest.raises(SystemExit, match="outputs="):
        example.File(str(tmp_path / "explain.pt2"))
