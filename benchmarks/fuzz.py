"""What no server may fall over: inputs by the million that mean harm, and requests by the million that do not.

    python -m benchmarks.fuzz parser              10^6 inputs for what reads and writes requests over HTTP
    python -m benchmarks.fuzz messages            the same for gRPC
    python -m benchmarks.fuzz http BUNDLE         10^4 requests with faults in them, over HTTP, for a server on BUNDLE
    python -m benchmarks.fuzz flat BUNDLE         10^6 good requests: does the server's memory stay where it was?

The first two are guided by coverage: atheris (`pip install atheris`), which is LLVM's libFuzzer for Python, keeps each
input that reaches something new and builds on it. What it keeps lies in build/fuzz/, and the next run goes on there;
the least of it that reaches as much, and every finding, is written to tests/fuzzed.json, which the tests play again.
BUNDLE is a language model's.

Each ends with status 1 where it finds something.
"""
# ruff: noqa: S101  # a finding is an AssertionError

import argparse
import json
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from served import resident, serving

from benchmarks.faulty import flat, harm_all
from deploy.errors import Refused
from deploy.server import inference_pb2 as pb
from deploy.server import messages, protocol
from deploy.server.messages import read_message, write_message
from deploy.server.protocol import TYPES, Request, form, read_request, write_response

KEPT = Path("tests/fuzzed.json")
INPUTS, REQUESTS, MANY = 1_000_000, 10_000, 1_000_000
LONGEST, LIMIT = 4096, 3072  # bytes of an input, and of a body
READERS = (protocol.__file__, messages.__file__)
SLOW_S = 0.05  # a kilobyte
TRACED = 64  # one input in so many is watched for memory, which takes long
GROWS_MIB = 8  # that a server may have after all of `flat` beyond what it had after a tenth of it

FORMS = [
    form([{"name": "image", "dtype": "uint8", "shape": ["batch", 2, 2]}], (), {"batch": (1, 8, 64)}),
    form(
        [
            {"name": "text", "dtype": "uint8", "shape": ["batch", "time"]},
            {"name": "state", "dtype": "float32", "shape": ["batch", 2]},
        ],
        ["state"],
        {"batch": (1, 8, 64), "time": (1, 8, 64)},
    ),
    form([{"name": name, "dtype": name, "shape": ["n"]} for name in TYPES], list(TYPES)),
    form([{"name": "one", "dtype": "float32", "shape": []}]),
]
ANSWERS: dict[str, np.ndarray] = {
    "y": np.array([[0.5, -1.0, 2.0], [3e38, 0.0, -0.0]], np.float32),
    "half": np.array([[1, 2]], np.float16),
    "odd": np.array([[np.nan, np.inf]], np.float64),
    "whole": np.arange(6, dtype=np.int64).reshape(1, 2, 3),
}
MODEL: Any = SimpleNamespace(name="m", version="1", classes=("a", "é", ""))


def play_parser(data: bytes) -> None:
    """Read ``data`` as a request, and answer it where it is one.

    Its first line is which form, and the value of Inference-Header-Content-Length: none, or ``=`` for as far as the
    first byte 0 of what follows, which is left out: so a frame stays right while its JSON changes.

    Raises:
        AssertionError: what was read or written is not as it should be, or took too long or too much.
    """
    which, _, body = data.partition(b"\n")
    expected = FORMS[which[0] % len(FORMS)] if which else FORMS[0]
    length: bytes | int | None = which[1:] or None
    if length == b"=":
        header, _, rest = body.partition(b"\0")
        length, body = len(header), header + rest
    try:
        request = read_request(body, length, expected, LIMIT)
    except Refused as refused:
        _held(refused)
        return
    _read_right(request, expected.inputs, len(body))
    try:
        size, answer = write_response(ANSWERS, request, MODEL.name, MODEL.version, MODEL.classes)
    except Refused as refused:
        _held(refused)
        return
    told = json.loads(answer[:size])
    binary = sum(output.get("parameters", {}).get("binary_data_size", 0) for output in told["outputs"])
    assert binary == len(answer) - (len(answer) if size is None else size), "an answer of another length than it says"
    assert [output["name"] for output in told["outputs"]] == list(request.outputs or ANSWERS), "other outputs"
    assert told.get("id", "") == request.id, "another id"


def play_messages(data: bytes) -> None:
    """Read ``data`` as a ``ModelInferRequest``; its first byte tells which form.

    Raises:
        AssertionError: as ``play_parser``.
    """
    which, body = data[:1], data[1:]
    expected = FORMS[which[0] % len(FORMS)] if which else FORMS[0]
    try:
        message = pb.ModelInferRequest.FromString(body)
    except DecodeError:
        return
    try:
        request = read_message(message, len(body), expected)
        _read_right(request, expected.inputs, len(body))
        if ANSWERS.keys() >= set(request.outputs):
            answer = write_message(ANSWERS, request, MODEL)
            assert [output.name for output in answer.outputs] == list(request.outputs or ANSWERS), "other outputs"
    except Refused as refused:
        _held(refused)


def _held(refused: Refused) -> None:
    said = str(refused)
    assert "\n" not in said and len(said) < 600, f"{len(said)} characters, or several lines: {said[:100]!r}"
    said.encode()  # can be sent


def _read_right(request: Request, inputs: dict[str, Any], nbytes: int) -> None:
    for name, array in request.inputs.items():
        shape, _, _, dtype = inputs[name]
        assert array.dtype == dtype, "another type"
        assert array.ndim == len(shape), "another shape"
        assert all(a == size for a, size in zip(array.shape, shape) if isinstance(size, int)), "another shape"
    assert sum(array.nbytes for array in request.inputs.values()) <= 8 * nbytes, "more values than came"


TARGETS: dict[str, Callable[[bytes], None]] = {"parser": play_parser, "messages": play_messages}


def watched(play: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """``play``, held to its time, and now and then to its memory."""
    count = 0

    def watch(data: bytes) -> None:
        nonlocal count
        count += 1
        most_s = SLOW_S * max(1.0, len(data) / 1024)
        start = time.perf_counter()
        play(data)
        if time.perf_counter() - start > most_s:  # the machine may have been busy: it counts if it is so again
            assert min(_seconds(play, data) for _ in range(5)) < most_s, "slow"
        if count % TRACED == 0:
            bounded(play, data)

    return watch


def _seconds(play: Callable[[bytes], None], data: bytes) -> float:
    start = time.perf_counter()
    play(data)
    return time.perf_counter() - start


def bounded(play: Callable[[bytes], None], data: bytes) -> None:
    """Play ``data``.

    Raises:
        AssertionError: it took more than 64 times its bytes and 64 KiB.
    """
    tracemalloc.start()
    try:
        play(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * len(data) + 2**16, f"{peak} bytes for an input of {len(data)}"


Arc = tuple[str, int, int]  # function, line before, line; the line before is 0 at its start


def reached(play: Callable[[bytes], None], data: bytes) -> set[Arc]:
    """What ``data`` reaches in the modules that read and write requests, from line to line."""
    found: set[Arc] = set()

    def enter(frame: FrameType, event: str, _: Any) -> Any:
        if event != "call" or frame.f_code.co_filename not in READERS:
            return None
        before = 0

        def step(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal before
            if event == "line":
                found.add((frame.f_code.co_name, before, frame.f_lineno))
                before = frame.f_lineno
            return step

        return step

    outer = sys.gettrace()  # a debugger's, or a measurement's of coverage
    sys.settrace(enter)
    try:
        play(data)
    finally:
        sys.settrace(outer)
    return found


def least(play: Callable[[bytes], None], inputs: list[bytes]) -> list[bytes]:
    """Few of ``inputs``, and short ones, that reach all that all of them reach."""
    kept, found = [], set[Arc]()
    for data in sorted(inputs, key=lambda data: (len(data), data)):
        new = reached(play, data) - found
        if new:
            kept.append(data)
            found |= new
    return kept


def seeds(name: str) -> list[bytes]:
    """Good inputs to begin with, one of each kind."""
    made = []
    for which, expected in enumerate(FORMS):
        sizes = {"batch": 2, "time": 3, "n": 2}
        arrays = {
            key: np.ones([size if isinstance(size, int) else sizes[size] for size in shape], dtype)
            for key, (shape, _, _, dtype) in expected.inputs.items()
        }
        made.append((seed_message if name == "messages" else seed_frame)(which, arrays, {}))
        if name == "messages":
            parameters: tuple[dict[str, Any], ...] = ({"bool_param": True}, {"int64_param": 7}, {"string_param": "s"})
            made += [seed_message(which, arrays, parameter) for parameter in parameters]
        else:
            others = {key: array for key, array in arrays.items() if array.dtype != np.float16}
            asked = [{"name": "y", "parameters": {"classification": 2, "binary_data": True}}, {"name": "whole"}]
            made.append(seed_text(which, others, {"id": "7", "outputs": asked}))
            made.append(seed_frame(which, arrays, {"outputs": [{"name": "half"}, {"name": "odd"}], "id": "é"}))
            made.append(seed_frame(which, arrays, {"parameters": {"binary_data_output": True, "sequence_id": 2**63}}))
            made.append(seed_text(which, others, {"outputs": []}))
            made.append(seed_text(which, others, {"outputs": [{"name": "odd", "parameters": {"classification": 1}}]}))
    if name == "parser":
        both = {"name": "one", "shape": [], "datatype": "FP32", "data": [1], "parameters": {"binary_data_size": 4}}
        made += [b"3\n%s" % json.dumps({"inputs": [both]}).encode(), b"3\n" + b"[" * LIMIT, b"3\n" + b" " * LONGEST]
    return made


def seed_frame(which: int, arrays: dict[str, np.ndarray], more: dict[str, Any]) -> bytes:
    """In binary."""
    told = [_told(key, array) | {"parameters": {"binary_data_size": array.nbytes}} for key, array in arrays.items()]
    header = json.dumps({"inputs": told, **more}).encode()
    return b"%d=\n%s\0%s" % (which, header, b"".join(array.tobytes() for array in arrays.values()))


def seed_text(which: int, arrays: dict[str, np.ndarray], more: dict[str, Any]) -> bytes:
    """In JSON."""
    told = [_told(key, array) | {"data": np.atleast_1d(array).tolist()} for key, array in arrays.items()]
    return b"%d\n%s" % (which, json.dumps({"inputs": told, **more}).encode())


FIELDS = {"b": "bool", "u": "uint", "i": "int", "f": "fp"}


def seed_message(which: int, arrays: dict[str, np.ndarray], parameter: dict[str, Any]) -> bytes:
    """For gRPC: raw without a ``parameter``, else in fields of numbers where they have one."""
    message = pb.ModelInferRequest(model_name=MODEL.name, id="7")
    for key, array in arrays.items():
        kind, size = array.dtype.kind, array.dtype.itemsize
        tensor = message.inputs.add(name=key, datatype=_told(key, array)["datatype"], shape=array.shape)
        if not parameter:
            message.raw_input_contents.append(array.tobytes())
        elif array.dtype != np.float16:
            wide = str(max(32, 8 * size)) if kind == "f" else "64" if size == 8 else ""
            getattr(tensor.contents, f"{FIELDS[kind]}{wide}_contents").extend(array.ravel().tolist())
    if parameter:
        asked = message.outputs.add(name="y")
        asked.parameters["classification"].int64_param = 2
        for choice, value in parameter.items():
            setattr(message.parameters["sequence_id"], choice, value)
    return b"%d" % which + message.SerializeToString()


def _told(name: str, array: np.ndarray) -> dict[str, Any]:
    return {"name": name, "shape": list(array.shape), "datatype": TYPES[array.dtype.name][0]}


CHILD = """
import sys, atheris
with atheris.instrument_imports(include=["deploy.server.protocol", "deploy.server.messages", "json", "reprlib"]):
    from benchmarks.fuzz import TARGETS, watched
atheris.Setup(sys.argv[1:], watched(TARGETS[sys.argv[1]]))
atheris.Fuzz()
"""
WORDS = [  # what a mutation may put in, beside what is in the inputs
    *('"inputs"', '"outputs"', '"parameters"', '"binary_data_size"', '"binary_data"', '"binary_data_output"', '"data"'),
    *('"classification"', '"name"', '"shape"', '"datatype"', '"id"', '"y"', '"half"', '"odd"', '"whole"', "NaN"),
    *(f'"{datatype}"' for datatype, _ in TYPES.values()),
    *("9223372036854775808", "-1", "[[", "]]", "true", "null", "1.5", "1e999", "{}", "[]"),
]


def fuzz(name: str, inputs: int, folder: Path) -> bool:
    """Play ``inputs`` inputs, guided by what they reach; keep what is worth it. Whether nothing was found.

    Args:
        folder: of all inputs that reached something new; findings go to ``findings/`` in it.
    """
    corpus, findings = folder / "corpus", folder / "findings"
    for part in (corpus, findings):
        part.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(seeds(name)):
        (corpus / f"seed-{i}").write_bytes(seed)
    words = folder / "words"
    words.write_text("".join(f"{json.dumps(word)}\n" for word in WORDS))
    options = [f"-max_len={LONGEST}", f"-artifact_prefix={findings}/", "-rss_limit_mb=2048", "-error_exitcode=1"]
    child = [sys.executable, "-c", CHILD, name, *options]
    whole = subprocess.run([*child, f"-runs={inputs}", f"-dict={words}", "-timeout=5", corpus]).returncode == 0
    kept = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
    found = [path.read_bytes() for path in sorted(findings.iterdir())]
    made = least(TARGETS[name], [path.read_bytes() for path in corpus.iterdir()])
    kept[name] = [data.decode("latin-1") for data in [*found, *made]]
    KEPT.write_text(json.dumps(kept, indent=0, sort_keys=True) + "\n")
    print(f"{name}: {inputs} inputs, {len(list(corpus.iterdir()))} reached something new, {len(made)} reach all of it")
    print(f"{name}: {len(found)} findings in {findings}")
    return whole and not found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz")
    parser.add_argument("what", choices=(*TARGETS, "http", "flat"))
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--inputs", type=int, help="10^6, or 10^4 over HTTP")
    parser.add_argument("--seed", type=int, default=0, help="of the requests with faults (0)")
    asked = parser.parse_args()
    if asked.what in TARGETS:
        sys.exit(not fuzz(asked.what, asked.inputs or INPUTS, Path("build/fuzz") / asked.what))
    if not asked.bundle:
        parser.error(f"{asked.what}: no bundle, expected a language model's")
    start, model = time.monotonic(), f"{asked.bundle.resolve().name}-fp32"
    log = Path("build/fuzz") / f"{asked.what}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with serving(log, asked.bundle) as server:
        before = resident(server)
        if asked.what == "http":
            statuses = harm_all(server, model, asked.inputs or REQUESTS, asked.seed)
            print(f"http: {sum(statuses.values())} requests, by status (0: closed): {dict(sorted(statuses.items()))}")
            print(f"http: {before} MiB before, {resident(server)} after, {time.monotonic() - start:.0f} s")
        else:
            first, *_, last = flat(server, model, asked.inputs or MANY)
            print(f"flat: {last - first} MiB more after all than after a tenth, {time.monotonic() - start:.0f} s")
            sys.exit(last - first > GROWS_MIB)


if __name__ == "__main__":
    main()
