"""A server that predicts and explains: python examples/server.py --image --language --file mine=explain.pt2

    POST /v1/relevance    {"model": "image", "inputs": {"input": TENSOR}, "target": 281, "encoding": "base64"}
    POST /v1/predictions  the same without a target: the plain model
    GET  /v1/models       the models, with their inputs
    GET  /health          whether the server is ready, and how many requests wait

A TENSOR is a nested list, or {"shape": [3, 96, 96], "dtype": "uint8", "data": BASE64} with the bytes of its numbers in
little-endian order; it has no batch dimension. Requests that arrive within a few milliseconds are computed as one
batch. An error is {"error": {"code": ..., "message": ..., "at": ...}} with the status that fits.

Needs the extra `serve`. A file that `explain.export(path, example, outputs=("relevance", "output"))` wrote is served
without fxlrp; --image needs the extra `demo`, and --language serves a small model with random weights.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import json
import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr
from torch import Tensor, nn
from torch.nn import functional as F

LOG = logging.getLogger("server")
DTYPES = {"uint8": torch.uint8, "float32": torch.float32, "int64": torch.int64}


class Refused(Exception):
    """What a client is told."""

    def __init__(self, status: int, code: str, message: str, at: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.at = status, code, message, at


class Packed(BaseModel):
    """The numbers of a tensor as bytes."""

    model_config = ConfigDict(extra="forbid")
    shape: list[StrictInt] = Field(max_length=8)
    dtype: Literal["uint8", "float32", "int64"]
    data: StrictStr


class Asked(BaseModel):
    """A question about one sample."""

    model_config = ConfigDict(extra="forbid")
    model: StrictStr
    inputs: dict[str, Packed | list[Any]]
    target: StrictInt | None = None
    encoding: Literal["list", "base64"] = "list"


def unpacked(given: Packed | list[Any], at: str) -> Tensor:
    try:
        if isinstance(given, list):
            return torch.tensor(given)
        data = base64.b64decode(given.data, validate=True)
        dtype = DTYPES[given.dtype]
        if any(size < 0 for size in given.shape) or math.prod(given.shape) * dtype.itemsize != len(data):
            raise ValueError(
                f"{len(data)} bytes are not a tensor of the shape {given.shape} and the type {given.dtype}"
            )
        empty = torch.empty(given.shape, dtype=dtype)
        return torch.frombuffer(bytearray(data), dtype=dtype).view(given.shape) if data else empty
    except (ValueError, TypeError, OverflowError, RuntimeError, binascii.Error) as error:
        raise Refused(422, "invalid_tensor", f"this is not a tensor: {error}", at) from error


def encoded(value: Tensor, encoding: str) -> Any:
    value = value.detach().to("cpu", torch.float32).contiguous()
    if not value.isfinite().all():
        raise Refused(422, "not_finite", "the model or the relevance overflows for this input")
    if encoding == "list":
        return value.tolist()
    data = base64.b64encode(value.numpy().astype("<f4").tobytes()).decode()
    return {"shape": list(value.shape), "dtype": "float32", "data": data}


@dataclass(frozen=True)
class Input:
    """An input without its batch dimension; a size that is a name is open."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | str, ...]
    below: int | None = None  # integers are indices below this
    longest: int = 512

    def checked(self, value: Tensor) -> Tensor:
        """The value as the model takes it."""
        at = f"inputs.{self.name}"
        fits = len(value.shape) == len(self.shape) and all(
            size == wanted if isinstance(wanted, int) else 0 < size <= self.longest
            for size, wanted in zip(value.shape, self.shape, strict=True)
        )
        if not fits:
            limit = "" if all(isinstance(size, int) for size in self.shape) else f", open sizes 1 to {self.longest}"
            wanted = ", ".join(map(str, self.shape))
            raise Refused(422, "wrong_shape", f"the shape is {list(value.shape)}, not [{wanted}]{limit}", at)
        if value.dtype == torch.bool or (value.is_floating_point() and not self.dtype.is_floating_point):
            kind = str(value.dtype).removeprefix("torch.")
            raise Refused(422, "wrong_type", f"{kind} where {str(self.dtype).removeprefix('torch.')} is expected", at)
        if value.dtype == torch.uint8 and self.dtype.is_floating_point:
            value = value / 255  # pixels
        if not value.isfinite().all():
            raise Refused(422, "not_finite", "the tensor contains NaN or infinity", at)
        if self.below is not None and value.numel() and not 0 <= int(value.min()) <= int(value.max()) < self.below:
            raise Refused(422, "out_of_range", f"indices must be at least 0 and less than {self.below}", at)
        return value.to(self.dtype)


Sample = tuple[Tensor, ...]


class Explained(NamedTuple):
    """The answer for one sample: relevance by input, and one score for each class."""

    relevance: dict[str, Tensor]
    scores: Tensor
    target: int


class Live:
    """A model and its explainer in this process, for samples of one input.

    Sequences are padded on the right: positions of a causal model do not see later ones, so padding changes nothing.
    """

    def __init__(self, model: nn.Module, explain: Any, of: Input) -> None:
        self._model, self._explain = model.eval(), explain
        self.inputs, self.needs_target, self.takes_target = (of,), False, True
        self.is_sequence = "length" in of.shape
        example = torch.zeros([8 if size == "length" else int(size) for size in of.shape], dtype=of.dtype)
        self.classes = self.explain([(example,)], [None])[0].scores.numel()

    def key(self, sample: Sample) -> Hashable:
        """Samples with the same key can be one batch."""
        return None if self.is_sequence else sample[0].shape

    def _batch(self, samples: Sequence[Sample]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The batch, and the places of the scores in the output: the last real position of every sequence."""
        rows = torch.arange(len(samples))
        if not self.is_sequence:
            return torch.stack([x for (x,) in samples]), (rows,)
        last = torch.tensor([len(x) - 1 for (x,) in samples])
        return nn.utils.rnn.pad_sequence([x for (x,) in samples], batch_first=True), (rows, last)

    def predict(self, samples: Sequence[Sample]) -> list[Tensor]:
        batch, places = self._batch(samples)
        with torch.inference_mode():
            return list(self._model(batch)[places])

    def explain(self, samples: Sequence[Sample], targets: Sequence[int | None]) -> list[Explained]:
        batch, places = self._batch(samples)
        given = torch.tensor([-1 if target is None else target for target in targets])
        chosen = given

        def seed(output: Tensor) -> Tensor:
            """The score of the target of every sample, the largest where there is none, and 0 everywhere else."""
            nonlocal chosen
            chosen = torch.where(given < 0, output[places].argmax(-1), given)
            kept = torch.zeros_like(output)
            kept[(*places, chosen)] = output[(*places, chosen)]
            return kept

        relevance, output = self._explain(batch, seed=seed, return_output=True)
        scores, (name,) = output[places], (each.name for each in self.inputs)
        found = zip(samples, relevance, scores, chosen.tolist(), strict=True)
        return [
            Explained({name: part[: len(x)] if self.is_sequence else part}, row, target)
            for (x,), part, row, target in found
        ]


class File:
    """A file that fxlrp has exported, in a process that may not have fxlrp."""

    def __init__(self, path: str) -> None:
        extra = {"fxlrp.json": ""}
        program = torch.export.load(path, extra_files=extra)
        about = json.loads(extra["fxlrp.json"])
        if about["outputs"][-1] != "output":
            raise SystemExit(f"{path} returns no prediction: export it with outputs=('relevance', 'output')")
        of_target = [each for each in about["inputs"] if each["name"] == about["target"]]
        explained = [each for each in about["inputs"] if each not in of_target]
        if any(each["shape"][:1] != ["batch"] for each in explained):
            raise SystemExit(f"{path} has an input whose first dimension is not the batch")
        self._run, self._names = program.module(), about["outputs"][:-1]
        if len(explained) == 1:
            self._names = [explained[0]["name"]]
        self.inputs = tuple(
            Input(each["name"], getattr(torch, each["dtype"]), tuple(each["shape"][1:])) for each in explained
        )
        self.needs_target = self.takes_target = bool(of_target)
        (output,) = (node for node in program.graph.nodes if node.op == "output")
        self.classes = int(output.args[0][-1].meta["val"].shape[-1])

    def key(self, sample: Sample) -> Hashable:
        """Samples with the same key can be one batch."""
        return tuple(x.shape for x in sample)

    def predict(self, samples: Sequence[Sample]) -> list[Tensor]:
        raise Refused(404, "no_plain_model", "a file only predicts and explains in one call", "model")

    def explain(self, samples: Sequence[Sample], targets: Sequence[int | None]) -> list[Explained]:
        batch = [torch.stack(parts) for parts in zip(*samples, strict=True)]
        with torch.inference_mode():
            *relevance, output = self._run(*batch, *([torch.tensor(targets)] if self.takes_target else []))
        scores = output if output.dim() == 2 else output[:, -1]
        chosen = targets if self.takes_target else scores.argmax(-1).tolist()
        parts = [dict(zip(self._names, rows, strict=True)) for rows in zip(*relevance, strict=True)]
        return [Explained(*each) for each in zip(parts, scores, chosen, strict=True)]


Model = Live | File


class LanguageModel(nn.Module):
    """A small causal language model, so that the server can be tried without a download. Its weights are random."""

    def __init__(self, words: int = 256, width: int = 64, longest: int = 512) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(words, width), nn.Parameter(torch.randn(longest, width) / 50)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, F.gelu, batch_first=True, norm_first=True)
        self.layers, self.head = nn.TransformerEncoder(layer, 2, nn.LayerNorm(width), False), nn.Linear(width, words)

    def forward(self, ids: Tensor) -> Tensor:
        length = ids.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=ids.device).triu(1)
        logits: Tensor = self.head(self.layers(self.words(ids) + self.positions[:length], later))
        return logits


def language_model() -> Live:
    import fxlrp

    torch.manual_seed(0)
    model = LanguageModel().eval()
    explain = fxlrp.compile(model, "attnlrp", example_inputs=torch.zeros(2, 8, dtype=torch.long))
    return Live(model, explain, Input("ids", torch.long, ("length",), below=256))


def image_model(side: int) -> Live:
    """EfficientNet-Lite0 on pixels from 0 to 1, with the rules of the demo's documentation for images."""
    import fxlrp
    from fxlrp.demo.network import load_network

    class OnPixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = load_network()

        def forward(self, input: Tensor) -> Tensor:
            logits: Tensor = self.network(input * 2 - 1)
            return logits

    model = OnPixels().eval()
    return Live(model, fxlrp.compile(model), Input("input", torch.float32, (3, side, side)))


@dataclass(eq=False)
class Job:
    """A sample that waits to be computed with others of the same kind."""

    sample: Sample
    target: int | None
    due: float
    done: asyncio.Future[Any]


class Batcher:
    """Computes what arrives in batches, one at a time, in a thread.

    A batch starts when it is full, or when its oldest sample has waited for `wait` seconds. What arrives while another
    batch is computed is in the next ones.
    """

    def __init__(self, most: int, wait: float, waiting: int) -> None:
        self._most, self._wait, self._limit = most, wait, waiting
        self._jobs: dict[Hashable, deque[Job]] = {}
        self._runs: dict[Hashable, Callable[[list[Job]], list[Any]]] = {}
        self._more, self._thread = asyncio.Event(), ThreadPoolExecutor(1, "batches")
        self.waiting = self.batches = self.samples = 0

    async def result(self, kind: Hashable, run: Callable[[list[Job]], list[Any]], sample: Sample, target: Any) -> Any:
        if self.waiting >= self._limit:
            raise Refused(503, "overloaded", f"{self.waiting} requests are waiting: try again later")
        loop = asyncio.get_running_loop()
        job = Job(sample, target, loop.time() + self._wait, loop.create_future())
        self._jobs.setdefault(kind, deque()).append(job)
        self._runs[kind] = run
        self.waiting += 1
        self._more.set()
        try:
            return await job.done
        finally:
            self.waiting -= 1

    async def work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._more.wait()
            self._more.clear()
            while self._jobs:
                kind, jobs = min(self._jobs.items(), key=lambda item: item[1][0].due)
                left = jobs[0].due - loop.time()
                if left > 0 and len(jobs) < self._most:
                    try:
                        await asyncio.wait_for(self._more.wait(), left)
                        self._more.clear()
                    except asyncio.TimeoutError:
                        pass  # it is due now
                    continue
                taken = [jobs.popleft() for _ in range(min(len(jobs), self._most))]
                run = self._runs[kind] if jobs else self._runs.pop(kind)
                if not jobs:
                    del self._jobs[kind]
                taken = [job for job in taken if not job.done.done()]  # a client may have given up
                await self._compute(run, taken)

    async def _compute(self, run: Callable[[list[Job]], list[Any]], jobs: list[Job]) -> None:
        if not jobs:
            return
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._thread, run, jobs)
        except Exception as error:
            if len(jobs) > 1:
                # Only the sample that is at fault has an error.
                for job in jobs:
                    await self._compute(run, [job])
            elif not jobs[0].done.done():
                jobs[0].done.set_exception(error)
            return
        self.batches, self.samples = self.batches + 1, self.samples + len(jobs)
        for job, result in zip(jobs, results, strict=True):
            if not job.done.done():
                job.done.set_result(result)

    def close(self) -> None:
        for job in [job for jobs in self._jobs.values() for job in jobs if not job.done.done()]:
            job.done.set_exception(Refused(503, "stopping", "the server is stopping"))
        self._thread.shutdown(wait=False, cancel_futures=True)


class LimitedBody:
    """Refuses bodies that are too large, before they are read."""

    def __init__(self, app: Any, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        read = 0
        headers = dict(scope.get("headers", ()))

        async def limited() -> Any:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            stated = headers.get(b"content-length", b"0")
            if read > self._most or (stated.isdigit() and int(stated) > self._most):
                raise HTTPException(413, f"the body has more than {self._most} bytes", {"Connection": "close"})
            return message

        await self._app(scope, limited if scope["type"] == "http" else receive, send)


def refusal(status: int, code: str, message: str, at: str | None = None, headers: Any = None) -> JSONResponse:
    error = {"code": code, "message": message, **({} if at is None else {"at": at})}
    return JSONResponse({"error": error}, status, headers)


def application(
    models: dict[str, Model],
    *,
    batch: int = 16,
    wait: float = 0.005,
    waiting: int = 1000,
    timeout: float = 60.0,
    largest_body: int = 4 * 2**20,
) -> FastAPI:
    """The application that serves models.

    Args:
        models: The models by name.
        batch: The largest batch.
        wait: How many seconds a sample waits for others.
        waiting: How many requests may wait.
        timeout: After how many seconds a request is given up.
        largest_body: The largest body of a request in bytes.
    """
    batcher: Batcher

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        nonlocal batcher
        batcher = Batcher(batch, wait, waiting)
        task = asyncio.create_task(batcher.work())
        yield
        task.cancel()
        batcher.close()

    app = FastAPI(title="Relevance", lifespan=running)
    app.add_middleware(LimitedBody, most=largest_body)

    def read(asked: Asked, what: str) -> tuple[Model, Sample]:
        if asked.model not in models:
            raise Refused(404, "unknown_model", f"there is no model {asked.model[:80]!r}: {', '.join(models)}", "model")
        model = models[asked.model]
        names = [each.name for each in model.inputs]
        if sorted(asked.inputs) != sorted(names):
            raise Refused(422, "wrong_inputs", f"the inputs are {', '.join(names)}", "inputs")
        sample = tuple(each.checked(unpacked(asked.inputs[each.name], f"inputs.{each.name}")) for each in model.inputs)
        if what == "predict" and asked.target is not None:
            raise Refused(422, "unexpected_target", "a prediction has no target", "target")
        if asked.target is None:
            if model.needs_target and what == "explain":
                raise Refused(422, "missing_target", "this file needs a target", "target")
        elif not model.takes_target:
            raise Refused(422, "unexpected_target", "the target of this file is built in", "target")
        elif not 0 <= asked.target < model.classes:
            message = f"the target must be at least 0 and less than {model.classes}"
            raise Refused(422, "unknown_target", message, "target")
        return model, sample

    async def computed(what: str, asked: Asked, model: Model, sample: Sample) -> Any:
        def run(jobs: list[Job]) -> list[Any]:
            samples = [job.sample for job in jobs]
            if what == "predict":
                return model.predict(samples)
            return model.explain(samples, [job.target for job in jobs])

        kind = (what, asked.model, model.key(sample))
        try:
            return await asyncio.wait_for(batcher.result(kind, run, sample, asked.target), timeout)
        except asyncio.TimeoutError:
            raise Refused(504, "timeout", f"there was no answer within {timeout} seconds") from None

    @app.post("/v1/relevance")
    async def relevance(asked: Asked) -> JSONResponse:
        model, sample = await asyncio.to_thread(read, asked, "explain")
        found: Explained = await computed("explain", asked, model, sample)
        parts = await asyncio.to_thread(
            lambda: {name: encoded(part, asked.encoding) for name, part in found.relevance.items()}
        )
        answer = {"target": found.target, "score": float(found.scores[found.target])}
        return JSONResponse({**answer, "prediction": int(found.scores.argmax()), "relevance": parts})

    @app.post("/v1/predictions")
    async def predictions(asked: Asked) -> JSONResponse:
        model, sample = await asyncio.to_thread(read, asked, "predict")
        scores = await computed("predict", asked, model, sample)
        return JSONResponse({"prediction": int(scores.argmax()), "score": float(scores.max())})

    @app.get("/v1/models")
    async def known() -> dict[str, Any]:
        return {
            name: {
                "inputs": {each.name: [str(each.dtype).removeprefix("torch."), *each.shape] for each in model.inputs},
                "classes": model.classes,
            }
            for name, model in models.items()
        }

    @app.get("/health")
    async def health() -> dict[str, Any]:
        size = batcher.samples / batcher.batches if batcher.batches else 0.0
        return {"status": "ok", "waiting": batcher.waiting, "served": batcher.samples, "mean_batch": size}

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        retry = {"Retry-After": "1"} if error.status == 503 else None
        return refusal(error.status, error.code, error.message, error.at, retry)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return refusal(400, "invalid_json", "the body is not JSON")
        at = ".".join(str(part) for part in first["loc"][1:])
        return refusal(422, "invalid_request", first["msg"], at[:200] or None)

    @app.exception_handler(404)
    @app.exception_handler(405)
    @app.exception_handler(400)
    @app.exception_handler(413)
    async def wrong(_: Request, error: HTTPException) -> JSONResponse:
        codes = {400: "invalid_json", 404: "unknown_path", 405: "wrong_method", 413: "too_large"}
        return refusal(error.status_code, codes[error.status_code], str(error.detail), None, error.headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        LOG.error("a request failed", exc_info=error)
        return refusal(500, "internal_error", "the server failed on this request; its log says why")

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", action="store_true", help="serve EfficientNet-Lite0, trained on ImageNet")
    parser.add_argument("--side", type=int, default=224, help="height and width of its images")
    parser.add_argument("--language", action="store_true", help="serve a small causal language model")
    parser.add_argument("--file", action="append", default=[], metavar="NAME=PATH", help="serve an exported file")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=16, help="the largest batch (default: %(default)s)")
    parser.add_argument(
        "--wait", type=float, default=5.0, help="milliseconds to wait for others (default: %(default)s)"
    )
    parser.add_argument("--timeout", type=float, default=60, help="seconds for an answer (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads of PyTorch")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    models: dict[str, Model] = {}
    if options.image:
        models["image"] = image_model(options.side)
    if options.language:
        models["language"] = language_model()
    for each in options.file:
        name, _, path = each.partition("=")
        models[name] = File(path)
    if not models:
        parser.error("serve something: --image, --language or --file")
    app = application(models, batch=options.batch, wait=options.wait / 1000, timeout=options.timeout)
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
