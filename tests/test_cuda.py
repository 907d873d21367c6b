import ctypes
import re
from pathlib import Path

import numpy as np
import pytest
from host_cuda import C_TYPES, PROTOTYPES, HostRuntime
from hypothesis import given
from hypothesis import strategies as st

from deploy.cuda import SIGNATURES, Cuda
from deploy.errors import Refused


def view(runtime: HostRuntime, address: int, count: int) -> np.ndarray:
    return np.frombuffer(runtime.pinned[address], np.float32)[:count]


def real_runtime() -> Cuda:
    try:
        return Cuda()
    except Refused as error:
        pytest.skip(str(error))


def test_the_declared_types_are_those_of_the_double_and_of_each_other() -> None:
    declared = {name: tuple(C_TYPES[kind] for kind in kinds) for name, kinds in PROTOTYPES.items()}
    assert declared.pop("cudaGetErrorString") == (ctypes.c_int,)
    assert declared == SIGNATURES


def test_the_declared_types_are_those_of_nvidias_header() -> None:
    """Of the header that lies beside the runtime that is loaded here, where there is one."""
    real_runtime()
    maps = Path("/proc/self/maps")
    loaded = re.search(r"\S*/libcudart\.so\S*", maps.read_text() if maps.exists() else "")
    header = Path(loaded.group()).parent.parent / "include" / "cuda_runtime_api.h" if loaded else Path("none")
    if not header.exists():
        pytest.skip("no header of the CUDA runtime here")
    text = header.read_text()
    for name, kinds in PROTOTYPES.items():
        declared = re.search(rf"extern .*CUDARTAPI {name}\(([^;]*)\);", text)
        assert declared, name
        arguments = [] if declared[1] == "void" else re.split(r",\s*", re.sub(r"\s*__dv\(\w+\)", "", declared[1]))
        assert tuple(map(plain_type, arguments)) == kinds, name


def plain_type(argument: str) -> str:
    """``struct cudaThing *name`` -> a name of ``C_TYPES``: a handle is a pointer, an enum an int."""
    kind, stars = re.sub(r"\bconst\b|\w+$", "", argument.strip()).strip(), argument.count("*")
    kind = kind.replace("*", "").strip()
    if re.fullmatch(r"cuda(Stream|Event|Graph|GraphExec)_t", kind):
        kind, stars = "void", stars + 1
    if kind.startswith("enum ") or kind == "cudaError_t":
        kind = "int"
    return f"{kind} {'*' * stars}".strip()


def test_the_real_runtime_answers_in_its_own_words_where_there_is_no_gpu() -> None:
    cuda = real_runtime()
    try:
        left, whole = cuda.memory()
        assert 0 < left <= whole
    except Refused as error:
        assert re.search(r"cudaMemGetInfo failed: \S.* \(CUDA error \d+\)", str(error))
        with pytest.raises(Refused, match=r"cudaStreamCreateWithFlags failed: \S"):
            cuda.stream()


def test_where_cuda_is_missing_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    with pytest.raises(Refused, match=r"none of libcudart\.so\.13, .* can be loaded: install the CUDA runtime"):
        Cuda()


def test_a_runtime_without_a_call_is_too_old() -> None:
    class Old:
        def __getattr__(self, name: str) -> object:
            if name == "cudaGraphInstantiateWithFlags":
                raise AttributeError(f"undefined symbol: {name}")
            return HostRuntime().__getattr__(name)

    with pytest.raises(Refused, match=r"too old: undefined symbol: cudaGraphInstantiateWithFlags. Install CUDA 12"):
        Cuda(Old())


def test_a_copy_there_and_back_happens_on_the_stream_and_not_before() -> None:
    runtime = HostRuntime()
    cuda = Cuda(runtime)
    stream, device, near, back = cuda.stream(), cuda.malloc(16), cuda.pinned(16), cuda.pinned(16)
    view(runtime, near, 4)[:] = range(4)
    cuda.to_device(device, view(runtime, near, 4), stream)
    cuda.to_host(view(runtime, back, 4), device, stream)
    assert view(runtime, back, 4).tolist() != [0, 1, 2, 3]
    cuda.synchronize(stream)
    assert view(runtime, back, 4).tolist() == [0, 1, 2, 3]
    for free, thing in (
        (cuda.free, device),
        (cuda.free_pinned, near),
        (cuda.free_pinned, back),
        (cuda.free_stream, stream),
    ):
        free(thing)
        assert not runtime.refused
        with pytest.raises(Refused, match="failed: invalid"):
            free(thing)
        assert runtime.refused.pop()
    assert runtime.held() == 0


@given(st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=4, max_size=4), min_size=1, max_size=5))
def test_a_captured_copy_runs_at_launch_alone_and_reads_what_is_there_then(rows: list[list[float]]) -> None:
    runtime = HostRuntime()
    cuda = Cuda(runtime)
    stream, device, near, back = cuda.stream(), cuda.malloc(16), cuda.pinned(16), cuda.pinned(16)

    def put() -> None:
        cuda.to_device(device, view(runtime, near, 4), stream)
        cuda.to_host(view(runtime, back, 4), device, stream)

    view(runtime, near, 4)[:] = 7e5
    view(runtime, back, 4)[:] = -1
    graph = cuda.capture(stream, put)
    cuda.synchronize(stream)
    assert view(runtime, back, 4).tolist() == [-1] * 4  # nothing ran
    for row in rows:
        view(runtime, near, 4)[:] = row
        cuda.launch(graph, stream)
        cuda.synchronize(stream)
        assert view(runtime, back, 4).tolist() == view(runtime, near, 4).tolist()
    cuda.free_graph(graph)
    assert not runtime.graphs and not runtime.executables
    with pytest.raises(Refused, match="cudaGraphLaunch failed: invalid resource handle"):
        cuda.launch(graph, stream)


def test_a_spoiled_capture_is_told_and_the_stream_serves_on() -> None:
    runtime = HostRuntime()
    cuda = Cuda(runtime)
    stream, device, near = cuda.stream(), cuda.malloc(16), cuda.pinned(16)
    with pytest.raises(
        Refused, match=r"cudaStreamSynchronize failed: operation not permitted when .* \(CUDA error 900"
    ):
        cuda.capture(stream, lambda: cuda.synchronize(stream))
    runtime.fail["cudaStreamEndCapture"] = 901
    with pytest.raises(Refused, match="cudaStreamEndCapture failed: operation failed due to"):
        cuda.capture(stream, lambda: None)
    del runtime.fail["cudaStreamEndCapture"]
    runtime.capturing.clear()
    runtime.fail["cudaGraphInstantiateWithFlags"] = 1
    with pytest.raises(Refused, match="cudaGraphInstantiateWithFlags failed: invalid argument"):
        cuda.capture(stream, lambda: None)
    with pytest.raises(ZeroDivisionError):
        cuda.capture(stream, lambda: cuda.to_device(device, view(runtime, near, 1 // 0), stream))
    assert not runtime.graphs and not runtime.executables and not runtime.capturing
    cuda.to_device(device, view(runtime, near, 4), stream)
    cuda.synchronize(stream)


def test_events_tell_the_devices_time() -> None:
    cuda = Cuda(HostRuntime())
    stream, start, end = cuda.stream(), cuda.event(), cuda.event()
    device, near = cuda.malloc(4), cuda.pinned(4)
    array = np.frombuffer((ctypes.c_char * 4).from_address(near), np.float32)
    cuda.record(start, stream)
    for _ in range(3):
        cuda.to_device(device, array, stream)
    cuda.record(end, stream)
    with pytest.raises(Refused, match="device not ready"):
        cuda.seconds(start, end)
    cuda.synchronize(stream)
    assert cuda.seconds(start, end) == pytest.approx(4e-3)  # the double takes a millisecond for each
    for event in (start, end):
        cuda.free_event(event)


def test_too_little_memory_is_told_with_the_sizes() -> None:
    cuda = Cuda(HostRuntime(left=1_000_000))
    cuda.malloc(400_000)
    with pytest.raises(
        Refused,
        match=r"cudaMalloc failed: out of memory \(CUDA error 2\): 700,000 bytes asked for, "
        r"600,000 of 1,000,000 left on the GPU",
    ):
        cuda.malloc(700_000)


def test_an_error_is_taken_back_so_that_nobody_else_finds_it() -> None:
    runtime = HostRuntime()
    with pytest.raises(Refused):
        Cuda(runtime).free(3)
    assert runtime.calls[-3:] == ["cudaFree", "cudaGetLastError", "cudaGetErrorString"]


def test_pageable_memory_is_refused_by_the_double() -> None:
    cuda = Cuda(HostRuntime())
    with pytest.raises(Refused, match="cudaMemcpyAsync failed: invalid argument"):
        cuda.to_device(cuda.malloc(16), np.zeros(4, np.float32), cuda.stream())


@pytest.mark.gpu
def test_a_real_gpu_copies_captures_and_tells_the_time() -> None:
    cuda = Cuda()
    stream, start, end = cuda.stream(), cuda.event(), cuda.event()
    size = 4 << 20
    device, near, back = cuda.malloc(size), cuda.pinned(size), cuda.pinned(size)
    there, here = (np.frombuffer((ctypes.c_char * size).from_address(address), np.float32) for address in (near, back))

    def put() -> None:
        cuda.to_device(device, there, stream)
        cuda.to_host(here, device, stream)

    there[:] = 1
    put()
    cuda.synchronize(stream)
    graph = cuda.capture(stream, put)
    for value in (2, 3):
        there[:] = value
        cuda.record(start, stream)
        cuda.launch(graph, stream)
        cuda.record(end, stream)
        cuda.synchronize(stream)
        assert (here == value).all()
        assert 0 < cuda.seconds(start, end) < 1
    with pytest.raises(Refused, match=r"cudaMalloc failed: .*bytes asked for, [\d,]+ of [\d,]+ left on the GPU"):
        cuda.malloc(1 << 50)
    cuda.free_graph(graph)
    for address in (near, back):
        cuda.free_pinned(address)
    cuda.free(device)
    for event in (start, end):
        cuda.free_event(event)
    cuda.free_stream(stream)
