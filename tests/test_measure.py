import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NAME

from deploy.contract import Bundle, load_examples
from deploy.errors import Refused
from deploy.files import read_json
from deploy.host import describe
from deploy.measure import measure
from deploy.measurement import read_measurement
from deploy.rounds import BLOCK, WARM_UP, timed
from deploy.runtimes import open_onnxruntime
from deploy.targets import Target, target_names, targets
from deploy.told import Told
from pipeline.measure import _on_cuda, _trained
from pipeline.measure import measure as measure_stage
from pipeline.recipe import Project


def cpu(bundle: Bundle, precision: str) -> Target:
    files = {"network": bundle.path(bundle.graphs[precision]["network"])}
    return Target(precision, precision, "cpu", files, lambda: {"network": open_onnxruntime(files["network"])})


def test_the_stage_measures_what_is_here_and_gives_a_reason_for_the_rest(project: Project) -> None:
    measure_stage(project, NAME)
    facts = read_measurement(project.build / "measure" / f"{NAME}.json")
    here = {name for name, row in facts["targets"].items() if not row["reason"]}
    assert {"onnxruntime-cpu-fp32", "onnxruntime-cpu-fp16", "onnxruntime-cpu-int8"} <= here
    assert len(facts["targets"]) == 18
    for name, row in facts["targets"].items():
        if row["reason"]:
            assert len(row["reason"]) > 20 and "statistics" not in row, name
        else:
            assert (
                len(row["latency_s"])
                == len(facts["trained"]["latency"]["cpu"]["latency_s"])
                == facts["latency"]["rounds"]
            )
            assert min(row["latency_s"]) > 0
            assert len(row["statistics"]) == len(row["predicted"]) == facts["n"] == 900
            assert row["memory_bytes"] > 0 and row["memory_reason"] == "", name
    assert "verdict" not in json.dumps(facts)  # facts, never a judgement


def test_accuracy_and_latency_are_of_the_file_that_is_hashed(bundle: Bundle) -> None:
    facts = measure(bundle, [cpu(bundle, "int8-cpu")], {"name": "here"})
    row = facts["targets"]["int8-cpu"]
    file = bundle.graphs["int8-cpu"]["network"]
    assert row["sha256"]["network"] == row["graph_sha256"]["network"] == bundle.files[file]["sha256"]
    assert row["size_bytes"] == bundle.files[file]["bytes"]
    assert facts["contract_sha256"] == bundle.sha256


def test_without_pytorch_the_recorded_answers_are_the_reference(bundle: Bundle) -> None:
    facts = measure(bundle, [cpu(bundle, "fp32")], {"name": "board"})
    assert facts["trained"]["latency"] == {}
    assert len(facts["trained"]["statistics"]) == 900
    assert 0 < facts["trained"]["error_max"] < 1e-4


def test_a_trained_network_that_is_another_one_is_refused(bundle: Bundle) -> None:
    exact = open_onnxruntime(bundle.path(bundle.graphs["fp32"]["network"]))

    def other(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"logits": exact(inputs)["logits"] * 1.01}

    with pytest.raises(Refused, match="the trained network at hand is not the one this bundle was made from"):
        measure(bundle, [], {"name": "here"}, {"cpu": {"network": other}})


def test_a_target_that_cannot_be_opened_is_a_reason_and_the_others_go_on(bundle: Bundle) -> None:
    def fail() -> dict:
        raise Refused("its driver is too old")

    broken = Target("broken", "fp32", "cuda", {}, fail)
    rows = measure(bundle, [broken, cpu(bundle, "fp32")], {"name": "here"})["targets"]
    assert rows["broken"]["reason"] == "its driver is too old" and "latency_s" not in rows["broken"]
    assert rows["fp32"]["reason"] == ""


def test_a_target_that_opens_and_cannot_answer_is_no_mere_absence(bundle: Bundle) -> None:
    def refuse(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise Refused("expected batch 1")

    row = measure(bundle, [Target("t", "fp32", "cpu", {}, lambda: {"network": refuse})], {"name": "here"})["targets"][
        "t"
    ]
    assert row["failed"] == "expected batch 1" and row["reason"] == ""


def test_answers_that_are_not_finite_are_recorded_as_such(bundle: Bundle) -> None:
    def broken(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"logits": np.full((len(inputs["image"]), 10), np.nan, np.float32)}

    row = measure(bundle, [Target("nan", "fp32", "cpu", {}, lambda: {"network": broken})], {"name": "here"})["targets"][
        "nan"
    ]
    assert row["finite"] is False and row["error_max"] is None
    assert np.sum(row["statistics"]) == 0


def test_rows_of_a_host_with_a_gpu_and_of_one_without(bundle: Bundle, project: Project) -> None:
    engines = project.build / "engines" / NAME
    built = read_json(engines / "build.json")
    host = describe() | {"gpus": [], "gpu_error": "Driver/library version mismatch"}
    absent = {row.name: row.reason for row in targets(bundle, host, engines, built)}
    assert absent["onnxruntime-cpu-fp32"] == ""
    assert "no NVIDIA GPU that works on this host (Driver/library version mismatch)" in absent["onnxruntime-cuda-fp32"]
    assert "was not built" in {r.name: r.reason for r in targets(bundle, host, engines, {})}["tensorrt-fp16"]
    card = host | {"gpus": [{"name": "RTX 4090", "compute_capability": "8.9", "driver": "1"}]}
    present = {row.name: row.reason for row in targets(bundle, card, engines, built)}
    assert present["onnxruntime-cuda-int8"] == ""
    engine = {"files": {}, "graph_sha256": bundle.graph_sha256("fp32")}
    made = {"tensorrt-rtx-sm86-fp32": engine, "tensorrt-rtx-sm89-fp32": engine}
    present = {row.name: row.reason for row in targets(bundle, card, engines, made)}
    assert present["tensorrt-rtx-sm89-fp32"] == ""
    assert "no GPU of compute capability 8.6 on this host (8.9 here)" in present["tensorrt-rtx-sm86-fp32"]
    stale = {"tensorrt-rtx-sm89-fp32": engine | {"graph_sha256": {"network": "0"}}}
    again = {row.name: row.reason for row in targets(bundle, card, engines, stale)}
    assert "stale" in again["tensorrt-rtx-sm89-fp32"]


def test_a_precision_that_could_not_be_made_is_a_row_with_its_reason(bundle: Bundle, project: Project) -> None:
    graphs = {precision: files for precision, files in bundle.graphs.items() if precision != "int8-cpu"}
    poorer = dataclasses.replace(bundle, graphs=graphs, refused={"int8-cpu": "no layer to quantize"})
    rows = {row.name: row for row in targets(poorer, describe(), project.build, {})}
    assert rows["onnxruntime-cpu-int8"].reason == "no layer to quantize"


def test_the_host_is_described_alike_twice_and_carries_its_instruction_set() -> None:
    first = describe()
    assert first == describe()
    assert first["instruction_set"] and first["cores"] >= 1
    assert set(first["name"]) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_a_target_that_fails_at_batch_1_does_not_take_the_others_with_it(bundle: Bundle) -> None:
    real = cpu(bundle, "fp32")

    def only_batches() -> dict:
        run = real.open()["network"]

        def answer(inputs: dict) -> dict:
            if len(inputs["image"]) == 1:
                raise Refused("out of memory at batch 1")
            return run(inputs)

        return {"network": answer}

    broken = dataclasses.replace(real, open=only_batches)
    rows = measure(bundle, [broken, cpu(bundle, "fp16")], {"name": "here"})["targets"]
    assert rows["fp32"]["failed"] == "out of memory at batch 1" and "statistics" not in rows["fp32"]
    assert rows["fp16"]["latency_s"]


def test_the_rows_of_any_host_are_the_targets_that_there_can_be(bundle: Bundle, project: Project) -> None:
    rows = targets(bundle, describe() | {"gpus": []}, project.build, {})
    assert {row.name: row.precision for row in rows} == target_names()
    assert [row.name for row in rows] == list(target_names())
    assert {row.name.rpartition("-")[0].partition("-sm")[0]: row.module for row in rows} == {
        "onnxruntime-cpu": "onnxruntime",
        "onnxruntime-cuda": "onnxruntime",
        "tensorrt": "tensorrt",
        "tensorrt-rtx": "tensorrt_rtx",
    }


def failing(run: Callable, at: int, error: Exception) -> Callable:
    """``run``, whose ``at``-th answer to one item alone is ``error``."""
    calls = [0]

    def answer(inputs: dict) -> dict:
        calls[0] += len(inputs["image"]) == 1
        if calls[0] == at:
            raise error
        return run(inputs)

    return answer


TRIAL = 1 + WARM_UP + 3  # answers before the first block: one request, and the rounds that tell how many there are
MOMENTS = {"trial": TRIAL - 1, "warm-up": TRIAL + 5, "first block": TRIAL + 50, "third block": TRIAL + 200}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("error", [Refused("out of memory"), RuntimeError("device lost")], ids=["refused", "raised"])
def test_a_target_that_fails_in_the_rounds_costs_no_other_its_own(
    bundle: Bundle, moment: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.rounds.ROUNDS", 5 * BLOCK)
    real = cpu(bundle, "fp32")
    broken = dataclasses.replace(
        real, name="broken", open=lambda: {"network": failing(real.open()["network"], MOMENTS[moment], error)}
    )
    facts = measure(bundle, [real, broken, cpu(bundle, "fp16")], {"name": "here"})
    told = "out of memory" if isinstance(error, Refused) else "RuntimeError: device lost"
    assert facts["targets"]["broken"] == {"precision": "fp32", "device": "cpu", "reason": "", "failed": told}
    for name in ("fp32", "fp16"):
        assert len(facts["targets"][name]["latency_s"]) == facts["latency"]["rounds"] >= 64
        assert "failed" not in facts["targets"][name]


def test_a_target_that_fails_back_to_back_fails(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.rounds.ROUNDS", BLOCK)
    monkeypatch.setattr("deploy.rounds.ALONE_BELOW_S", 1.0)
    run = cpu(bundle, "fp32").open()["network"]
    broken = failing(run, TRIAL + WARM_UP + BLOCK + WARM_UP + 1, RuntimeError("too hot"))
    target = dataclasses.replace(cpu(bundle, "fp32"), open=lambda: {"network": broken})
    rows = measure(bundle, [target, cpu(bundle, "fp16")], {"name": "here"})["targets"]
    assert rows["fp32"]["failed"] == "RuntimeError: too hot" and "latency_s" not in rows["fp32"]
    assert rows["fp16"]["alone_s"] > 0


def test_a_trained_network_that_fails_in_the_rounds_costs_the_targets_nothing(bundle: Bundle) -> None:
    run = open_onnxruntime(bundle.path(bundle.graphs["fp32"]["network"]))
    trained = {"cpu": {"network": failing(run, TRIAL + 30, RuntimeError("out of memory"))}}
    facts = measure(bundle, [cpu(bundle, "fp32")], {"name": "here"}, trained)
    assert facts["trained"]["failed"] == {"cpu": "RuntimeError: out of memory"}
    assert facts["trained"]["latency"] == {}
    assert len(facts["targets"]["fp32"]["latency_s"]) == facts["latency"]["rounds"]


def test_after_a_failure_the_others_are_still_interleaved_and_the_cache_says_who_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.rounds.ROUNDS", 4 * BLOCK)
    monkeypatch.setattr("deploy.rounds.ALONE_BELOW_S", 0.0)
    log: list[str] = []

    def ask(name: str, fails_at: int = 0) -> None:
        log.append(name)
        if log.count(name) == fails_at:
            raise RuntimeError("gone")

    requests = {name: [lambda name=name: ask(name)] for name in ("a", "b")}
    requests["c"] = [lambda: ask("c", TRIAL + WARM_UP + BLOCK + 7)]
    rounds, times = timed(requests, {}, iter, tmp_path)
    assert rounds == 4 * BLOCK and times["c"] == {"failed": "RuntimeError: gone"}
    last = [log[i : i + 2] for i in range(len(log) - 2 * 3 * BLOCK, len(log), 2)]
    assert all(sorted(pair) == ["a", "b"] for pair in last) and ["a", "b"] in last and ["b", "a"] in last
    assert len(times["a"]["latency_s"]) == len(times["b"]["latency_s"]) == rounds

    (last_block,) = tmp_path.glob(f"rounds of * from {3 * BLOCK}.json")
    last_block.unlink()  # as if it had been killed before the last block
    log.clear()
    again, resumed = timed(requests, {}, iter, tmp_path)
    assert again == rounds and resumed["c"] == {"failed": "RuntimeError: gone"} and "c" not in log
    assert resumed["a"]["latency_s"][: 3 * BLOCK] == times["a"]["latency_s"][: 3 * BLOCK]
    assert len(resumed["a"]["latency_s"]) == rounds


def test_blocks_of_other_targets_are_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that could not be opened before the run was killed, and can be now, is in every round."""
    monkeypatch.setattr("deploy.rounds.ROUNDS", 2 * BLOCK)
    first = {name: [lambda: None] for name in ("a", "b")}
    timed(first, {}, iter, tmp_path)
    rounds, times = timed(first | {"c": [lambda: None]}, {}, iter, tmp_path)
    assert {len(facts["latency_s"]) for facts in times.values()} == {rounds} and set(times) == {"a", "b", "c"}


def test_calls_that_are_no_graph_are_counted(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.rounds.ROUNDS", BLOCK)
    told = Told()
    run = open_onnxruntime(bundle.path(bundle.graphs["fp32"]["network"]))

    def sometimes(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        told.calls += 1
        told.replays += told.calls % 4 == 0
        return run(inputs)

    target = dataclasses.replace(
        cpu(bundle, "fp32"), device="cuda", told={"network": told}, open=lambda: {"network": sometimes}
    )
    row = measure(bundle, [target], {"name": "here"})["targets"]["fp32"]
    assert row["no_graph"].startswith("network: 50 of 200 calls are: of more shapes than graphs are kept")


def test_a_cache_that_cannot_be_written_is_no_targets_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, make: Callable) -> None:
        make()
        raise Refused("the disk is full")

    monkeypatch.setattr("deploy.rounds.kept_json", full)
    with pytest.raises(Refused, match="the disk is full"):
        timed({"a": [lambda: None]}, {}, iter, tmp_path)


# On a GPU, as its doubles tell of it


class OnGpu:
    """A session on a GPU that is played by the processor: each call takes the device half of the host's time."""

    def __init__(self, bundle: Bundle, told: Told) -> None:
        self._run = open_onnxruntime(bundle.path(bundle.graphs["fp32"]["network"]))
        self._told = told

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        start = time.perf_counter()
        answers = self._run(inputs)
        if self._told.timing:
            self._told.device_s.append((time.perf_counter() - start) / 2)
        return answers


def test_a_gpu_row_tells_the_devices_share_and_how_calls_are_made(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.rounds.ROUNDS", BLOCK)
    told = {"network": Told(plain="it waits for the host", on_cpu=("Shape 's'",))}
    target = dataclasses.replace(
        cpu(bundle, "fp32"), device="cuda", told=told, open=lambda: {"network": OnGpu(bundle, told["network"])}
    )
    rows = measure(bundle, [target, cpu(bundle, "fp16")], {"name": "here"})["targets"]
    row = rows["fp32"]
    assert 0.2 < row["device_share"] <= 0.5 and 0 < row["device_s"] < np.median(row["latency_s"])
    assert row["no_graph"] == "network: it waits for the host" and row["on_cpu"] == ["Shape 's'"]
    assert not told["network"].timing and not told["network"].device_s  # the rounds themselves were not timed so
    assert "device_share" not in rows["fp16"]


def test_a_runtime_without_a_clock_of_its_own_tells_no_share(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.rounds.ROUNDS", BLOCK)
    target = dataclasses.replace(cpu(bundle, "fp32"), device="cuda", told={"a": Told(), "b": Told(on_cpu=())})
    row = measure(bundle, [target], {"name": "here"})["targets"]["fp32"]
    assert row["device_s"] is None and row["device_share"] is None
    assert row["no_graph"] == "" and row["on_cpu"] is None


def test_pytorchs_other_ways_are_timed_and_no_more(
    project: Project, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.rounds.ROUNDS", BLOCK)
    modes: list[str] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, mode: modes.append(mode))
    ways = {
        way: run
        for each in ("compiled", "fp16", "compiled fp16")
        for way, run in _on_cuda(project, NAME, f"cpu {each}").items()
    }
    assert list(ways) == ["cpu compiled", "cpu fp16", "cpu compiled fp16"] and modes == ["reduce-overhead"] * 2
    images = load_examples(bundle, "test")["image"][:50]
    exact = _trained(project, NAME, "cpu")["network"]({"image": images})["logits"]
    half = ways["cpu fp16"]["network"]({"image": images})["logits"]
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, exact, atol=0.05 * np.abs(exact).max())
    facts = measure(bundle, [cpu(bundle, "fp32")], {"name": "here"}, {"cpu": _trained(project, NAME, "cpu")} | ways)
    assert set(facts["trained"]["latency"]) == {"cpu", *ways} and set(facts["targets"]) == {"fp32"}


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # in PyTorch's own compiler
def test_pytorch_compiles_what_was_trained(project: Project, bundle: Bundle) -> None:
    images = load_examples(bundle, "test")["image"][:1]
    exact = _trained(project, NAME, "cpu")["network"]({"image": images})["logits"]
    compiled = _on_cuda(project, NAME, "cuda compiled")["cuda compiled"]["network"]({"image": images})["logits"]
    np.testing.assert_allclose(compiled, exact, rtol=1e-4, atol=1e-4)
