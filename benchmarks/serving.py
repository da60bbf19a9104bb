"""What served explanations cost beside served predictions: ``python -m benchmarks.serving``.

Starts ``examples/server.py`` in a process of its own and asks it over loopback, by as many clients at a time as
stated. Explanations and predictions of the plain model alternate. Then it sends many requests, some of them bad, and
follows the memory of the server. Needs the extras ``serve`` and ``demo``.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

SERVER = Path(__file__).resolve().parents[1] / "examples" / "server.py"


@dataclass(frozen=True)
class Reply:
    """An answer of the server."""

    status: int
    body: Any
    seconds: float


class Client:
    """One connection, which stays open."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, path: str, body: bytes | None = None) -> Reply:
        """Send a request, with POST if it has a body, and read the answer."""
        started = time.perf_counter()
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=2**24)
        reader, writer = self._streams
        head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body or b'')}\r\n\r\n"
        writer.write(head.encode() + (body or b""))
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        content = await reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            self.close()
        return Reply(int(lines[0].split()[1]), json.loads(content), time.perf_counter() - started)

    def close(self) -> None:
        """Close the connection; the next request opens another one."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def load(port: int, requests: Sequence[tuple[str, bytes]], clients: int) -> tuple[list[Reply], float]:
    """Send requests by several clients at a time; return the answers in order, and the seconds that all took."""
    replies: list[Reply | None] = [None] * len(requests)
    waiting = iter(enumerate(requests))

    async def work() -> None:
        client = Client(port)
        for index, (path, body) in waiting:
            replies[index] = await client.ask(path, body)
        client.close()

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(clients)))
    return [reply for reply in replies if reply is not None], time.perf_counter() - started


@contextmanager
def serving(*arguments: str, seconds: float = 300) -> Iterator[tuple[int, int]]:
    """A server in a process of its own; yields its port and the id of the process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(SERVER), "--port", str(port), "--timeout", "600", *arguments])
    try:
        deadline = time.monotonic() + seconds
        while True:
            try:
                asyncio.run(Client(port).ask("/health"))
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the server did not start: exit status {process.poll()}") from None
                time.sleep(0.2)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(30)


def megabytes(pid: int) -> float:
    """The memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def image_request(seed: int, side: int, *, explain: bool = True) -> tuple[str, bytes]:
    """A request with random pixels, and a random target if it asks for an explanation."""
    draw = random.Random(seed)
    pixels = {"shape": [3, side, side], "dtype": "uint8"}
    pixels["data"] = base64.b64encode(draw.randbytes(3 * side * side)).decode()
    asked = {"model": "image", "inputs": {"input": pixels}, "encoding": "base64"}
    if explain:
        return "/v1/relevance", json.dumps({**asked, "target": draw.randrange(1000)}).encode()
    return "/v1/predictions", json.dumps(asked).encode()


def language_request(seed: int, *, explain: bool = True) -> tuple[str, bytes]:
    """A request with random tokens of a random number."""
    draw = random.Random(seed)
    ids = [draw.randrange(256) for _ in range(draw.randrange(4, 65))]
    asked = {"model": "language", "inputs": {"ids": ids}}
    return "/v1/relevance" if explain else "/v1/predictions", json.dumps(asked).encode()


BAD: tuple[tuple[str, int, bytes], ...] = (
    ("/v1/relevance", 400, b'{"model": "image", '),
    ("/v1/relevance", 422, b'{"model": "image", "inputs": {"input": [[1.0, 2.0], [3.0]]}}'),
    ("/v1/relevance", 422, b'{"model": "image", "inputs": {"input": [1.0, NaN]}}'),
    ("/v1/relevance", 404, b'{"model": "other", "inputs": {"input": [1.0]}}'),
    ("/v1/relevance", 422, b'{"model": "language", "inputs": {"ids": [1, 2, 3]}, "target": 256}'),
    ("/v1/relevance", 422, b'{"model": "language", "inputs": {"ids": [1, 999]}}'),
    ("/v1/nothing", 404, b"{}"),
)


def quantile(replies: Sequence[Reply], part: int) -> float:
    """A percentile of the latency in milliseconds."""
    return 1000 * statistics.quantiles([reply.seconds for reply in replies], n=100)[part - 1]


def compared(port: int, kind: str, side: int, clients: int, count: int, rounds: int) -> list[list[Any]]:
    """Rows for predictions and explanations, whose rounds alternate."""

    def requests(explain: bool, start: int) -> list[tuple[str, bytes]]:
        seeds = range(start, start + count)
        if kind == "image":
            return [image_request(seed, side, explain=explain) for seed in seeds]
        return [language_request(seed, explain=explain) for seed in seeds]

    found: dict[bool, list[tuple[float, float, float]]] = {False: [], True: []}
    for turn in range(rounds):
        for explain in (False, True):
            replies, seconds = asyncio.run(load(port, requests(explain, turn * count), clients))
            assert len(replies) == count and all(reply.status == 200 for reply in replies)
            found[explain].append((count / seconds, quantile(replies, 50), quantile(replies, 95)))
    rows = []
    for explain, what in ((False, "prediction"), (True, "explanation")):
        rate, half, most = (statistics.median(values) for values in zip(*found[explain], strict=True))
        rows.append([kind, clients, what, f"{rate:.1f}", f"{half:.0f}", f"{most:.0f}"])
    return rows


def many(port: int, pid: int, side: int, count: int, parts: int = 10) -> tuple[list[float], Counter[int]]:
    """Send many requests by 200 clients, a twentieth bad and a twentieth images; return the memory after each part."""
    memory, statuses = [], Counter[int]()
    for part in range(parts):
        requests, expected = [], []
        for seed in range(part * count // parts, (part + 1) * count // parts):
            if seed % 20 == 0:
                path, status, body = BAD[seed // 20 % len(BAD)]
                requests.append((path, body))
                expected.append(status)
            else:
                requests.append(image_request(seed, side) if seed % 20 == 1 else language_request(seed))
                expected.append(200)
        replies, _ = asyncio.run(load(port, requests, 200))
        assert [reply.status for reply in replies] == expected, "a request is lost or has another answer"
        statuses.update(reply.status for reply in replies)
        memory.append(megabytes(pid))
        print(f"{sum(statuses.values())} requests, {memory[-1]:.0f} MB", flush=True)
    return memory, statuses


def main() -> None:
    """Measure and print tables for docs/serve-explanations.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=96, help="height and width of the images")
    parser.add_argument("--count", type=int, default=200, help="requests in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--many", type=int, default=10_000, help="requests of the long run")
    options = parser.parse_args()
    with serving("--image", "--language", "--side", str(options.side), "--threads", "1") as (port, pid):
        rows = []
        for kind in ("image", "language"):
            for clients in (1, 16, 200):
                count = options.count // 4 if clients == 1 else options.count
                rows += compared(port, kind, options.side, clients, count, options.rounds)
                print(*rows[-2:], sep="\n", flush=True)
        headers = ["model", "clients", "what", "requests per second", "p50 in ms", "p95 in ms"]
        print(tabulate(rows, headers, tablefmt="pipe"), flush=True)
        memory, statuses = many(port, pid, options.side, options.many)
        print(f"{options.many} requests by 200 clients: {dict(statuses)}")
        print("memory in MB:", *(f"{each:.0f}" for each in memory))


if __name__ == "__main__":
    main()
