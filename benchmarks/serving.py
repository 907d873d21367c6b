"""The server's throughput against the runtime alone and against Triton: all side by side in one run on this machine.

    python -m benchmarks.serving [--triton] [--million]

Görner's CNN at 244,076 parameters on 28 x 28 images, weights as they start: what it says does not matter here. Ceiling:
onnxruntime in a loop, one thread, batch 1. Load: `wrk` (Debian's package), one thread, keep-alive, in a process of its
own on the same cores. `--triton` measures Triton's Python backend beside it, from the repository that `make triton`
would write (an environment of its own is made for it, as for the tests); `--million` asks a million requests, to see
what that does to the memory.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from deploy.contract import open_bundle
from deploy.errors import Refused
from deploy.runtimes import open_onnxruntime
from models.gorner import GornerCNN
from models.language_model import LanguageModel
from pipeline.recipe import load_project
from pipeline.results import keep_benchmark
from pipeline.triton import triton

sys.path.insert(0, str(load_project().root.resolve() / "tests"))

from served import TEXT, binary, serving, write_bundle

ROUNDS, SECONDS = 5, 3
CLIENTS = (1, 8, 64)
NAME, WRITER = "wide", "writer"
STARTS = 5
CHARACTERS, TEXTS = 20_000, 16
OVERLOAD = 1500  # connections

SCRIPT = """
local file = io.open("%s", "rb")
wrk.method, wrk.body = "POST", file:read("*a")
wrk.headers["Content-Type"] = "application/octet-stream"
%s
function delay() return %d end
function done(summary, latency, requests)
  local form =
    '\\n{"requests": %%d, "us": %%d, "p50_us": %%d, "p99_us": %%d, "status": %%d, "broken": %%d}\\n'
  local errors = summary.errors
  local broken = errors.connect + errors.read + errors.write + errors.timeout
  local p50, p99 = latency:percentile(50), latency:percentile(99)
  io.write(string.format(form, summary.requests, summary.duration, p50, p99, errors.status, broken))
end
"""


def main() -> None:
    """Print the table and keep it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving")
    parser.add_argument("--triton", action="store_true", help="beside it Triton 2.51, Python backend")
    parser.add_argument("--million", action="store_true", help="a million requests, to see the memory")
    asked = parser.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("serving: `wrk` not found, which makes the load. Install it: `apt install wrk`.")
    project = load_project()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        build = Path(folder)
        bundles = [_image_bundle(build / "bundle" / NAME), _text_bundle(build / "bundle" / WRITER)]
        starts = [_start(build, bundles) for _ in range(STARTS)]
        ours = stack.enter_context(serving(build / "log", *bundles))
        urls = {"Plumbline": f"http://127.0.0.1:{ours.port}/v2/models/{NAME}-fp32/infer"}
        if asked.triton:
            from tritonserver import tritonserver

            recipe = {NAME: next(iter(project.recipes.values()))}
            triton(replace(project, build=build, recipes=recipe), [NAME], python_backend=True)
            there = stack.enter_context(tritonserver(build / "triton-python" / "models", build / "triton.log"))
            urls["Triton"] = f"http://{there.http}/v2/models/{NAME}-fp32/infer"
        rows = _rounds(build, bundles[0], urls)
        table = _table(rows, urls)
        table += _characters(ours.port, starts)
        table += _overload(build, bundles[0])
        if asked.million:
            table += _million(build, urls["Plumbline"], ours.process.pid)
    print(table)
    keep_benchmark(project.root, "serving", table)


def _image_bundle(folder: Path) -> Path:
    torch.manual_seed(1)
    network = GornerCNN((1, 28, 28), 10, (6, 12, 24), 6).eval()
    images = np.random.default_rng(1).integers(0, 256, (64, 1, 28, 28)).astype(np.uint8)
    examples = {"image": images, "label": np.zeros(64, np.int64)}
    return write_bundle(folder, NAME, "classification", Raw(network), examples, {})


class Raw(torch.nn.Module):
    """A network that takes bytes."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """``(batch, 1, height, width)`` uint8 to logits."""
        return self.network(image.to(torch.float32) / 255)


def _text_bundle(folder: Path) -> Path:
    """The starter set's language model, with weights as they start."""
    torch.manual_seed(1)
    network = LanguageModel("GRU", size=32, units=96, layers=3, window=4).eval()
    network.fit(torch.from_numpy(TEXT.copy()))
    text = np.stack([TEXT[i : i + 40] for i in range(20)])
    return write_bundle(folder, WRITER, "language_model", network, {"text": text}, {"time": [1, 1, 64]})


def _start(build: Path, bundles: list[Path]) -> float:
    """Seconds from the command to ready."""
    begun = time.monotonic()
    with serving(build / "log", *bundles):
        return time.monotonic() - begun


def _rounds(build: Path, bundle: Path, urls: dict[str, str]) -> dict[tuple[str, str, int], list[dict[str, float]]]:
    """Every workload on every server in random order, each round with the ceiling beside it."""
    opened = open_bundle(bundle)
    run = open_onnxruntime(opened.path(opened.graphs["fp32"]["network"]))
    images = np.random.default_rng(2).integers(0, 256, (32, 1, 28, 28)).astype(np.uint8)
    bodies = {
        "binary": _binary(build, images[:1]),
        "32 images": _binary(build, images),
        "JSON": _json(build, images[:1]),
    }
    work = [(server, "binary", clients) for server in urls for clients in CLIENTS]
    work += [(server, "32 images", 8) for server in urls] + [("Plumbline", "JSON", 8), ("ceiling", "", 1)]
    told: dict[tuple[str, str, int], list[dict[str, float]]] = {each: [] for each in work}
    order = random.Random(1)
    for _ in tqdm(range(ROUNDS), desc="serving", unit=" round", disable=None):
        for each in order.sample(work, len(work)):
            server, kind, clients = each
            if server == "ceiling":
                told[each].append({"rate": _ceiling(run, images[:1])})
            else:
                told[each].append(_load(bodies[kind], urls[server], clients))
    return told


def _ceiling(run: Callable[[dict[str, np.ndarray]], Any], image: np.ndarray) -> float:
    """Calls a second of the runtime alone."""
    calls, end = 0, time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        run({"image": image})
        calls += 1
    return calls / SECONDS


def _binary(build: Path, images: np.ndarray, delay: int = 0) -> Path:
    body, headers = binary({"image": images})
    return _script(build / f"binary-{len(images)}-{delay}", body, headers, delay)


def _json(build: Path, images: np.ndarray) -> Path:
    tensor = {"name": "image", "shape": list(images.shape), "datatype": "UINT8", "data": images.ravel().tolist()}
    return _script(build / "json", json.dumps({"inputs": [tensor]}).encode(), {})


def _script(file: Path, body: bytes, headers: dict[str, str], delay: int = 0) -> Path:
    """What `wrk` is told; ``delay`` in ms is between a connection's requests."""
    file.write_bytes(body)
    script = file.with_suffix(".lua")
    told = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items())
    text = SCRIPT % (file, told, delay)
    script.write_text(text if delay else text.replace("function delay() return 0 end\n", ""))
    return script


def _load(script: Path, url: str, clients: int, seconds: int = SECONDS, *before: str) -> dict[str, float]:
    """Requests a second that were answered by 200, and how long they took.

    Raises:
        Refused: not all of them were.
    """
    command = [*before, "wrk", "-t1", f"-c{clients}", f"-d{seconds}", "--timeout", "30", "-s", str(script), url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.strip().splitlines()[-1])
    good = told["requests"] - told["status"]
    if not before and (told["status"] or told["broken"]):
        raise Refused(f"{url}: {told['status']} of {told['requests']} refused, {told['broken']} broken, expected none.")
    told["rate"], told["refused_rate"] = good / told["us"] * 1e6, told["status"] / told["us"] * 1e6
    return told


def _table(told: dict[tuple[str, str, int], list[dict[str, float]]], urls: dict[str, str]) -> str:
    ceiling = [each["rate"] for each in told["ceiling", "", 1]]
    lines = [
        f"| 1 = {statistics.median(ceiling):,.0f} images a second, onnxruntime alone | clients | of that | p50 | p99 |",
        "|---|---|---|---|---|",
    ]
    for (server, kind, clients), rounds in told.items():
        if server == "ceiling":
            continue
        images = 32 if kind == "32 images" else 1
        shares = [images * each["rate"] / most for each, most in zip(rounds, ceiling)]
        p50, p99 = (statistics.median(each[key] for each in rounds) / 1e3 for key in ("p50_us", "p99_us"))
        lines.append(f"| {server}, {kind} | {clients} | {_spread(shares)} | {p50:.2f} ms | {p99:.2f} ms |")
    if "Triton" in urls:
        for clients in CLIENTS:
            pairs = zip(told["Plumbline", "binary", clients], told["Triton", "binary", clients])
            ratios = [ours["rate"] / theirs["rate"] for ours, theirs in pairs]
            lines.append(f"| Plumbline / Triton, binary | {clients} | {_spread(ratios)} | | |")
    both = zip(told["Plumbline", "JSON", 8], told["Plumbline", "binary", 8])
    lines.append(f"| JSON / binary | 8 | {_spread([one['rate'] / other['rate'] for one, other in both])} | | |")
    lines.append("")
    lines.append(f"Median of {ROUNDS} rounds of {SECONDS} s in random order (least to greatest).")
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _characters(port: int, starts: list[float]) -> str:
    """Characters a second of one text, as server-sent events."""
    wishes = [
        json.dumps({"text_input": "def ", "parameters": {"max_tokens": CHARACTERS, "seed": turn}}).encode()
        for turn in range(TEXTS)
    ]
    rates = [_stream(port, wish) for wish in wishes[:STARTS]]
    with ThreadPoolExecutor(TEXTS) as clients:
        start = time.perf_counter()
        list(clients.map(lambda wish: _stream(port, wish), wishes))
        together = TEXTS * CHARACTERS / (time.perf_counter() - start)
    return (
        f"\nStart to ready: {statistics.median(starts):.2f} s ({min(starts):.2f} to {max(starts):.2f}). One text of a "
        f"language model as the starter set has it, an event a character: "
        f"{statistics.median(rates):,.0f} characters a second "
        f"({min(rates):,.0f} to {max(rates):,.0f}); {TEXTS} texts at once: {together:,.0f}.\n"
    )


def _stream(port: int, body: bytes) -> float:
    head = f"POST /v2/models/{WRITER}-fp32/generate_stream HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    came = bytearray()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        start = time.perf_counter()
        connection.sendall(head.encode() + body)
        while not came.endswith(b"0\r\n\r\n"):
            if not (part := connection.recv(2**20)) or came.startswith(b"HTTP/1.1 4"):
                raise Refused(f"the server ended, or refused: {bytes(came[:300])!r}")
            came += part
        took = time.perf_counter() - start
    return came.count(b"data: ") / took


def _overload(build: Path, bundle: Path) -> str:
    """What is left of the capacity when four times as much is asked for; the load is on a core of its own."""
    images = np.random.default_rng(3).integers(0, 256, (64, 1, 28, 28)).astype(np.uint8)
    shares, waits = [], []
    cores = sorted(os.sched_getaffinity(0))
    with serving(build / "log2", bundle) as server, _on(cores[0], server.process.pid):
        url = f"http://127.0.0.1:{server.port}/v2/models/{NAME}-fp32/infer"
        apart = ("taskset", "-c", str(cores[-1]))
        for _ in range(3):
            capacity = _load(_binary(build, images), url, 16, 2 * SECONDS, *apart)["rate"]
            delay = max(1, round(1e3 * OVERLOAD / (4 * capacity)))
            over = _load(_binary(build, images, delay), url, OVERLOAD, 2 * SECONDS, *apart)
            shares.append(over["rate"] / capacity)
            waits.append((over["rate"] + over["refused_rate"]) / capacity)
    return (
        f"\nAsked for {statistics.median(waits):.1f} times what it can (batches of 64, {OVERLOAD} connections, the "
        f"load on the other core), it still answers {_spread(shares)} of what it can, and the rest by 503 at once.\n"
    )


@contextlib.contextmanager
def _on(core: int, pid: int) -> Iterator[None]:
    """Keep a process, all of its threads, on one core."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})
    yield


def _million(build: Path, url: str, pid: int) -> str:
    """What a million requests do to the memory."""
    script = _binary(build, np.zeros((1, 1, 28, 28), np.uint8))
    asked, sizes = 0.0, []
    with tqdm(total=1e6, desc="a million", unit=" requests", disable=None) as bar:
        while asked < 1e6:
            told = _load(script, url, 64, 10)
            asked += told["requests"]
            bar.update(told["requests"])
            sizes.append(_resident(pid))
    return f"\nResident after the first 10 s and after {asked:,.0f} requests: {sizes[0]:.1f} and {sizes[-1]:.1f} MB.\n"


def _resident(pid: int) -> float:
    told = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in told if line.startswith("VmRSS")).split()[1]) / 1e3


if __name__ == "__main__":
    main()
