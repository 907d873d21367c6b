import dataclasses
import re
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measured import measurement, row, statistics
from onnx import TensorProto, helper
from test_judge import f1_task

from deploy import trt as trt_module
from deploy.contract import Bundle
from deploy.cuda import Cuda
from deploy.engines import _compiler
from deploy.errors import Refused
from deploy.measurement import read_measurement
from deploy.targets import engine_targets, targets
from deploy.tasks import load_task
from deploy.tasks.metric import Metric
from deploy.trt import load_tensorrt
from models.sequence_classifier import RowClassifier
from pipeline import intervals
from pipeline import judge as judging
from pipeline.absent import measure_by
from pipeline.advice import CAUSE, Advice, advice, paragraph
from pipeline.export import to_onnx
from pipeline.int8 import to_int8
from pipeline.judge import causes, judge, unmeasured
from pipeline.recipe import Budget
from pipeline.verdicts import CAUSES, FAIL, INCONCLUSIVE, NOT_MEASURED, PASS

NO_LATENCY = Budget(1.0, {})
INT8 = {"precision": "int8-cpu"}
LOST_40 = statistics(list(range(3, 43)))
NUMBER = re.compile(r"(?<![\w.-])-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?![\w-])")
CONSTANTS = {95.0, 65504.0, 50.0}  # of the text itself: per cent, float16's largest, units that a bootstrap takes


def bits_task() -> Any:
    return types.SimpleNamespace(
        metric=Metric("entropy per character", "bits", False, 0.0, None, right_or_wrong=False),
        score=lambda counts: float(counts[:, 0].sum() / counts[:, 1].sum()),
        details=lambda _: {},
    )


def judged(
    facts: dict[str, Any],
    target: str = "onnxruntime-cpu-int8",
    floor: float = 90.0,
    budget: Budget = NO_LATENCY,
    siblings: bool = True,
    contract: str = "now",
    task: Any = None,
    **trained: Any,
) -> dict[str, Any]:
    """A recipe's entry of verdicts.json: ``facts`` on ``target``, beside two faithful copies."""
    rows = {"onnxruntime-cpu-fp16": row(precision="fp16"), "onnxruntime-cuda-fp16": row(precision="fp16")}
    with pytest.MonkeyPatch.context() as patch:
        if task:
            task.details = lambda _: {}
            patch.setattr(judging, "load_task", lambda _: task)
        return judge(measurement((rows if siblings else {}) | {target: facts}, **trained), contract, floor, budget)


def told(entry: dict[str, Any], target: str = "onnxruntime-cpu-int8") -> str:
    return paragraph(advice("mine", target, entry["targets"][target], entry))


def cases() -> dict[str, tuple[dict[str, Any], str]]:
    """Name -> the entry and its target; each name begins with the cause that it is of."""
    cpu, gpu = "onnxruntime-cpu-int8", "tensorrt-fp16"
    timed = {"latency_s": [2e-3 + 1e-6 * (i % 3) for i in range(700)]}
    uneven = np.random.default_rng(0).lognormal(0, 0.1, 700) * 1e-3
    before = np.random.default_rng(0).integers(5, 15, (300, 3)).astype(float)
    worse = before + np.array([-4, 0, 4])
    bits = np.column_stack([np.random.default_rng(0).normal(230, 5, 200), np.full(200, 100.0)])
    open_bits = bits + np.column_stack([np.random.default_rng(1).normal(2, 5, 200), np.zeros(200)])
    f1: dict[str, Any] = {"task": f1_task(), "floor": 10.0, "siblings": False}
    unbounded: dict[str, Any] = {"task": f1_task(bounded=False), "floor": 10.0, "siblings": False}
    bit: dict[str, Any] = {"task": bits_task(), "floor": 2.5, "siblings": False, "budget": Budget(0.02, {})}
    one = Budget(1.0, {cpu: 1.0, gpu: 1.0})

    def corpus(before: np.ndarray, after: np.ndarray, **how: Any) -> dict[str, Any]:
        return judged(row(**INT8, statistics=after.tolist()), statistics=before.tolist(), **how)

    return {
        "not trained": (judged(row(**INT8), floor=99.9), cpu),
        "not trained, and more": (judged(row(**INT8, **timed, statistics=LOST_40), floor=99.9, budget=one), cpu),
        "not trained, bits": (corpus(bits, bits, **bit | {"floor": 2.2}), cpu),
        "stale": (judged(row(**INT8), contract="another"), cpu),
        "absent": (
            judged({"precision": "fp16", "device": "cuda", "reason": "no NVIDIA GPU that works here"}, gpu),
            gpu,
        ),
        "no answer": (judged({**INT8, "device": "cpu", "reason": "", "failed": "got image: too many rows"}), cpu),
        "not finite": (judged(row(precision="fp16", finite=False, statistics=LOST_40), gpu), gpu),
        "not finite, int8": (judged(row(**INT8, finite=False)), cpu),
        "not finite, fp32": (judged(row(finite=False, error_max=None), "tensorrt-fp32"), "tensorrt-fp32"),
        "another network": (judged(row(error_max=0.25), "onnxruntime-cpu-fp32"), "onnxruntime-cpu-fp32"),
        "accuracy FAIL": (judged(row(**INT8, statistics=LOST_40)), cpu),
        "accuracy FAIL, fp16": (judged(row(precision="fp16", statistics=LOST_40), gpu), gpu),
        "accuracy FAIL, F1": (corpus(before, worse, **f1), cpu),
        "accuracy FAIL, bits": (corpus(bits, bits * (1.02, 1), **bit), cpu),
        "accuracy INCONCLUSIVE": (judged(row(**INT8, statistics=statistics(list(range(9))))), cpu),
        "accuracy INCONCLUSIVE, undecidable": (judged(row(**INT8, statistics=statistics(list(range(12))))), cpu),
        "accuracy INCONCLUSIVE, identical": (corpus(before, before, **f1 | {"budget": Budget(0.5, {})}), cpu),
        "accuracy INCONCLUSIVE, bits": (corpus(bits, open_bits, **bit), cpu),
        "no bound": (corpus(before, before, **unbounded), cpu),
        "no bound, few units": (corpus(before[:20], worse[:20], **unbounded), cpu),
        "latency FAIL": (judged(row(**INT8, **timed), budget=one), cpu),
        "latency INCONCLUSIVE": (judged(row(**INT8, latency_s=uneven.tolist()), budget=one), cpu),
        "latency NOT MEASURED": (judged(row(precision="fp16", device="cuda"), gpu, budget=one), gpu),
    }


CASES = cases()


def test_every_cause_has_its_paragraph() -> None:
    assert set(CAUSE) == set(CAUSES)
    first = {name: entry["targets"][target]["causes"][0] for name, (entry, target) in CASES.items()}
    assert {cause["cause"] for cause in first.values()} == set(CAUSES)
    for name, cause in first.items():
        kind = name.partition(",")[0]
        assert kind in (cause["cause"], f"{cause['cause']} {cause['verdict']}"), (name, cause)


def test_causes_are_of_the_parts_that_do_not_pass_worst_first_and_what_explains_first() -> None:
    entry, target = CASES["not trained, and more"]
    assert [cause["cause"] for cause in entry["targets"][target]["causes"]] == ["not trained", "accuracy", "latency"]
    entry = judged(row(finite=False, error_max=None, statistics=LOST_40), "onnxruntime-cpu-fp32", siblings=False)
    found = entry["targets"]["onnxruntime-cpu-fp32"]
    assert [cause["cause"] for cause in found["causes"]] == ["not finite", "another network", "accuracy"]
    assert {cause["verdict"] for cause in found["causes"]} == {found["verdict"]} == {FAIL}
    assert sorted(found["reason"].split("; ")) == sorted(cause["reason"] for cause in found["causes"])
    for found in (facts for entry, _ in CASES.values() for facts in entry["targets"].values()):
        assert (found["causes"] == []) == (found["verdict"] == PASS)
        assert not found["causes"] or found["causes"][0]["verdict"] == found["verdict"]
    assert causes([]) == []


def test_the_worse_cause_is_told_whole_and_the_others_in_a_sentence() -> None:
    slow_and_open = judged(
        row(**INT8, statistics=statistics(list(range(9))), latency_s=[2e-3] * 700),
        budget=Budget(1.0, {"onnxruntime-cpu-int8": 1.0}),
    )
    text = told(slow_and_open)
    assert text.startswith("The answers of onnxruntime-cpu-int8 (median 2.000 ms) take 2.00 times as long")
    assert text.endswith(
        "Also INCONCLUSIVE: the accuracy went from 99.67 to 99.00 %, 0.67 points worse; the budget allows 1 point."
    )


def numbers(value: Any) -> set[float]:
    """All numbers in a row or an entry, at whatever depth, as numbers and not in words."""
    if isinstance(value, dict | list):
        return set().union(*map(numbers, value.values() if isinstance(value, dict) else value))
    return {float(value)} if isinstance(value, int | float) and not isinstance(value, bool) else set()


@pytest.mark.parametrize("name", CASES)
def test_every_number_of_a_paragraph_is_one_of_the_row(name: str) -> None:
    entry, target = CASES[name]
    known = numbers(entry["targets"][target]) | numbers(entry["trained"]) | numbers(entry["budget"])
    known |= {abs(number) for number in known}
    said = re.sub(r"`[^`]*`|Ship [^(]*\(drop [^)]*\)|Ship \S+ instead: [^.]* [\d.]+ ms", "", told(entry, target))
    for word in NUMBER.findall(said):
        came = float(word.replace(",", ""))
        rounding = (
            0.005 * abs(came) if "e" in word else 0.5 * 10.0 ** -len(word.partition(".")[2]) if "." in word else 0
        )
        assert came in CONSTANTS or any(abs(came - number) <= rounding * 1.001 for number in known), (word, said)


@pytest.mark.parametrize("name", CASES)
def test_a_paragraph_is_short_and_whole(name: str) -> None:
    entry, target = CASES[name]
    given = advice("mine", target, entry["targets"][target], entry)
    assert len(paragraph(Advice(given.found, given.sure, given.means, given.todo)).split()) <= 105
    assert all(len(sentence.split()) <= 24 for sentence in given.also)
    if len(given.also) <= 1:
        assert len(paragraph(given).split()) <= 110
    for part in (given.found, given.sure, given.means, given.todo, *given.also):
        assert re.fullmatch(r"[A-Z].*\.", part), part
        assert "None" not in part and "nan" not in part and "  " not in part and " ," not in part
    assert not re.search(r"-0\.0+\b", paragraph(given))


def test_units_are_those_of_the_metric() -> None:
    text = told(*CASES["accuracy FAIL"])
    assert "The accuracy went from 99.67 to 95.56 %, 4.11 points worse; the budget allows 1 point." in text
    assert "40 right answers became wrong and 3 wrong ones right" in text
    lower = CASES["accuracy FAIL"][0]["targets"]["onnxruntime-cpu-int8"]["drop_lower95"]
    assert f"the true loss at {lower:.2f} points or more" in text
    assert re.search(r"The F1 went from [\d.]+ to [\d.]+ %, [\d.]+ points worse", told(*CASES["accuracy FAIL, F1"]))
    bits = told(*CASES["accuracy FAIL, bits"])
    assert re.search(
        r"The entropy per character went from 2\.\d{4} to 2\.\d{4} bits, 0\.\d{4} bits worse; the budget "
        r"allows 0\.02 bits\.",
        bits,
    )
    assert re.search(r"at 0\.\d{4} bits or more", bits)
    assert "0.02 bits" in told(*CASES["accuracy INCONCLUSIVE, bits"])


def test_an_open_accuracy_says_how_many_units_would_decide_where_that_is_known() -> None:
    entry, target = CASES["accuracy INCONCLUSIVE"]
    units = entry["targets"][target]["units_to_decide"]
    assert f"About {units:,} items would decide (it would pass" in told(entry, target)
    above = told(judged(row(**INT8, statistics=statistics(list(range(16))))))
    assert re.search(r"About [\d,]+ items would decide \(it would fail", above)
    assert "no longer test set would decide" in told(*CASES["accuracy INCONCLUSIVE, undecidable"])
    assert "cannot be told for this metric" in told(*CASES["accuracy INCONCLUSIVE, bits"])


def test_what_can_be_shipped_passes_is_on_the_same_device_and_loses_least() -> None:
    lost = row(**INT8, statistics=LOST_40)
    rows = {
        "onnxruntime-cuda-fp32": row(device="cuda"),
        "onnxruntime-cpu-a": row(precision="fp16", statistics=statistics([0, 1, 2, 3])),
        "onnxruntime-cpu-b": row(precision="fp16"),
        "onnxruntime-cpu-c": row(precision="fp16", statistics=LOST_40),
        "onnxruntime-cpu-int8": lost,
        "tensorrt-int8": lost | {"device": "cuda"},
    }
    entry = judge(measurement(rows), "now", 90.0, Budget(1.0, {}))
    assert "Ship onnxruntime-cpu-b today: it passes (drop 0.00 points)." in told(entry)
    assert "Ship onnxruntime-cuda-fp32 today: it passes (drop 0.00 points)." in told(entry, "tensorrt-int8")
    del entry["targets"]["onnxruntime-cpu-b"]
    assert "Ship onnxruntime-cpu-a today: it passes (drop 0.11 points)." in told(entry)
    for target in ("onnxruntime-cpu-a", "onnxruntime-cuda-fp32"):
        entry["targets"][target]["verdict"] = INCONCLUSIVE
    assert "Ship" not in told(entry)


def test_what_is_faster_is_named_only_where_it_is_faster_and_passes() -> None:
    def slow(others: float) -> str:
        rows = {
            "onnxruntime-cpu-fp16": row(precision="fp16", latency_s=[others] * 700),
            "onnxruntime-cpu-int8": row(**INT8, latency_s=[2e-3] * 700),
        }
        budget = Budget(1.0, {"onnxruntime-cpu-int8": 1.0})
        return told(judge(measurement(rows), "now", 90.0, budget))

    assert "Ship onnxruntime-cpu-fp16 instead: it passes and takes 0.500 ms." in slow(0.5e-3)
    assert "No other target of this recipe that passes is faster here." in slow(3e-3)
    few = judged(
        row(**INT8, latency_s=[2e-3] * 5),
        budget=Budget(1.0, {"onnxruntime-cpu-int8": 1.0}),
        siblings=False,
        latency={"cpu": {"latency_s": [1e-3] * 5, "alone_s": None}},
    )
    assert few["targets"]["onnxruntime-cpu-int8"]["p50_ms"] is None  # five rounds earn no median
    assert "The answers of onnxruntime-cpu-int8 take 2.00 times as long" in told(few)


def returned(rows: dict[str, dict[str, Any]], here: dict[str, dict[str, Any]], ratio: float = 1.0) -> dict[str, Any]:
    """A recipe's entry of verdicts.json, as ``verify`` joins what a board without PyTorch measured to what this host did."""
    budget = Budget(1.0, {"tensorrt-int8": ratio})
    there = measurement(rows, latency={}) | {"host": {"name": "a-cpu-board"}, "date": "2026-01-02"}
    entry = judge(measurement(here), "now", 90.0, Budget(1.0, {}))
    judged_there = judge(there, "now", 90.0, budget)["targets"]
    entry["targets"] |= {f"{target}@a-cpu-board": row for target, row in judged_there.items()}
    return entry | {"budget": {"drop": 1.0, "latency_ratio": budget.latency_ratio}}


def test_what_can_be_shipped_is_of_the_same_host_then_of_the_same_kind_of_device() -> None:
    gpu = {"device": "cuda", "on_cpu": None, "no_graph": ""}
    there = {
        "tensorrt-int8": row(**gpu, precision="int8-tensorrt", statistics=LOST_40),
        "tensorrt-fp16": row(**gpu, precision="fp16", statistics=statistics([0, 1, 2, 3])),
        "onnxruntime-cpu-fp32": row(),
    }
    entry = returned(there, {"onnxruntime-cuda-fp32": row(device="cuda"), "onnxruntime-cpu-int8": row(**INT8)})
    failed = "tensorrt-int8@a-cpu-board"
    for better in ("tensorrt-fp16@a-cpu-board", "onnxruntime-cpu-fp32@a-cpu-board", "onnxruntime-cuda-fp32"):
        assert f"Ship {better} today: it passes" in told(entry, failed)
        entry["targets"][better]["verdict"] = INCONCLUSIVE
    assert "Ship onnxruntime-cpu-int8 today: it passes" in told(entry, failed)


def test_of_another_host_nothing_is_said_of_this_one() -> None:
    away = "tensorrt-fp16@a-cpu-board"
    reason = (
        "no NVIDIA GPU that works on this host (there is no nvidia-smi); measure on a host that has one: `dvc repro`"
    )
    text = told(returned({"tensorrt-fp16": {"precision": "fp16", "device": "cuda", "reason": reason}}, {}), away)
    assert f"The target {away} was not measured there: no NVIDIA GPU that works on that host (" in text
    assert "Measure the bundle of now on a-cpu-board, and take in what comes back: `python -m pipeline.verify" in text
    assert "this host" not in text and "dvc repro" not in text
    entry = returned({"tensorrt-fp16": row(precision="fp16", device="cuda")}, {})
    entry["targets"][away] |= {
        "verdict": NOT_MEASURED,
        "causes": [{"cause": "stale", "verdict": NOT_MEASURED, "reason": ""}],
    }
    assert told(entry, away).endswith(
        "on a-cpu-board, and take in what comes back: `python -m pipeline.verify --from FILE`."
    )
    assert measure_by(
        "LSTM 'a': TensorRT has no int8 form of it, x. Deploy fp16 there", host="a-cpu-board"
    ) == measure_by("LSTM 'a': TensorRT has no int8 form of it, x. Deploy fp16 there")


def test_a_latency_is_told_against_what_it_was_divided_by_on_its_own_host() -> None:
    gpu = {"device": "cuda", "precision": "fp32"}
    quick = row(latency_s=[1e-6] * 700)
    slow = row(**gpu | {"precision": "int8-tensorrt"}, latency_s=[2e-3] * 700)
    entry = returned({"tensorrt-fp32": row(**gpu), "tensorrt-int8": slow}, {"onnxruntime-cpu-fp32": quick}, ratio=1.5)
    target = "tensorrt-int8@a-cpu-board"
    cause = {"cause": "latency", "verdict": FAIL, "reason": "slow"}
    ratio = {"latency_ratio": 4.0, "latency_ratio_lower95": 3.9, "latency_ratio_upper95": 4.1}
    entry["targets"][target] |= ratio | {"verdict": FAIL, "causes": [cause], "latency_against": "tensorrt-fp32"}
    text = told(entry, target)
    assert (
        f"The answers of {target} (median 2.000 ms) take 4.00 times as long as those of tensorrt-fp32; the budget"
        in text
    )
    assert "the budget allows 1.5." in text and "On a-cpu-board it is slower than you declared" in text
    del entry["targets"]["tensorrt-fp32@a-cpu-board"]
    assert "No other target of this recipe that passes is faster there." in told(
        entry, target
    )  # this host's is no match
    cause["verdict"] = entry["targets"][target]["verdict"] = INCONCLUSIVE
    text = told(entry, target)
    assert "time again. Measure the bundle of now on a-cpu-board" in text and "dvc repro" not in text
    entry["targets"][target] |= {"latency_ratio": None}
    cause["verdict"] = NOT_MEASURED
    assert "take `tensorrt-int8` out of the recipe's `latency_ratio:`" in told(entry, target)


def test_another_network_is_the_runtimes_fault_only_where_another_runtime_has_the_same_graph_right() -> None:
    alone = told(*CASES["another network"][:1], "onnxruntime-cpu-fp32")
    assert "Look first at stage `export`" in alone and "Ship" not in alone  # fp16 is made from the same graph
    rows = {"onnxruntime-cpu-fp32": row(), "tensorrt-fp32": row(device="cuda", error_max=0.25)}
    text = told(judge(measurement(rows), "now", 90.0, Budget(1.0, {})), "tensorrt-fp32")
    assert "Ship onnxruntime-cpu-fp32 today" in text
    assert "onnxruntime-cpu-fp32 computes the same graph rightly, so look at the runtime of tensorrt-fp32" in text


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 120),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    budget=st.floats(0.01, 30),
    ratio=st.one_of(st.none(), st.floats(0.5, 4)),
    floor=st.floats(0, 100),
    rounds=st.integers(1, 80),
    finite=st.booleans(),
    precision=st.sampled_from(["fp32", "fp16", "int8-cpu"]),
    device=st.sampled_from(["cpu", "cuda"]),
)
def test_nothing_that_is_not_a_pass_reads_like_one(
    n: int,
    ends: tuple[float, float],
    budget: float,
    ratio: float | None,
    floor: float,
    rounds: int,
    finite: bool,
    precision: str,
    device: str,
) -> None:
    wrong = [list(range(int(share * n))) for share in ends]
    facts = row(
        statistics=statistics(wrong[1], n),
        finite=finite,
        error_max=1e-6 if finite else None,
        precision=precision,
        device=device,
        latency_s=[1e-3 + 1e-4 * (i % 3) for i in range(rounds)],
    )
    trained = {
        "statistics": statistics(wrong[0], n),
        "latency": {"cpu": {"latency_s": [1e-3] * rounds, "alone_s": None}},
    }
    with pytest.MonkeyPatch.context() as patch:  # bounds near the exact ones, in no time; the verdict is by exact tests
        patch.setattr(intervals, "drop_interval", intervals.tango_interval)
        allowed = Budget(budget, {} if ratio is None else {"t": ratio})
        entry = judge(measurement({"t": facts}, **trained), "now", floor, allowed)
    if entry["targets"]["t"]["verdict"] != PASS:
        text = told(entry, "t")
        assert not re.search(r"\b(proved|proven|within|safe|good to)\b", text)
        assert "Ship" not in text and "you can ship" not in text  # nothing passes here
        assert "None" not in text and "nan" not in text


@pytest.mark.parametrize("said", ['<script>alert(1)</script> & "x"', "a `b", "x" * 2000, "line\nline", "%s {0} \\1"])
def test_what_a_runtime_said_is_quoted_and_never_escaped_or_let_loose(said: str) -> None:
    failed = told(judged({**INT8, "device": "cpu", "reason": "", "failed": said}))
    absent = told(judged({**INT8, "device": "cpu", "reason": said}))
    for text in (failed, absent):
        assert text.count("`") % 2 == 0 and len(text) < 1200
        if "<" in said:
            assert said in text and "&lt;" not in text


def test_a_recipe_without_a_measurement_has_advice_too(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        read_measurement(tmp_path / "mine.json")
    absent = unmeasured(str(refused.value), "fp16", load_task("classification").metric)
    assert [cause["cause"] for cause in absent["causes"]] == ["absent"] and absent["verdict"] == NOT_MEASURED
    entry = {"host": None, "targets": {"t": absent}, "trained": {"score": None}}
    text = paragraph(advice("mine", "t", absent, entry))
    assert "not measured on this host: " in text and "Run `dvc repro measure@mine`, then `dvc repro`." in text


def reasons(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Reasons as the code that gives them words them -> what the answer must hold."""
    found: dict[str, str] = {}
    host: dict[str, Any] = {"gpus": [], "gpu_error": "there is no nvidia-smi"}
    names = {target.name: target for target in engine_targets()}
    entries = {
        name: {"files": {}, "graph_sha256": bundle.graph_sha256(target.precision)} for name, target in names.items()
    }
    rows = {target.name: target.reason for target in targets(bundle, host, tmp_path, entries)}
    found[rows["onnxruntime-cuda-fp32"]] = "`dvc repro` on a host with an NVIDIA GPU"
    found[rows["tensorrt-rtx-sm89-fp32"]] = "compute capability 8.9, such as a GeForce RTX 40."
    found[rows["tensorrt-rtx-sm120-fp32"]] = "compute capability 12.0, such as a GeForce RTX 50."
    found[rows["tensorrt-rtx-sm86-fp32"].replace("8.6", "10.3")] = "compute capability 10.3."
    found[targets(bundle, host, tmp_path, {})[-1].reason] = "--single-item build@RECIPE"
    entries["tensorrt-fp32"]["graph_sha256"] = {"network": "other"}
    found[{t.name: t.reason for t in targets(bundle, host, tmp_path, entries)}["tensorrt-fp32"]] = "build@RECIPE"
    with pytest.raises(Refused) as no_gpu:
        _compiler(bundle, host, names["tensorrt-fp32"])
    found[str(no_gpu.value)] = "pip install -c constraints.txt -e '.[tensorrt]'"

    bare = dataclasses.replace(bundle, graphs={"fp32": bundle.graphs["fp32"]}, refused={})
    rows = {target.name: target.reason for target in targets(bare, host, tmp_path, {})}
    found[rows["onnxruntime-cpu-int8"]] = "Add int8-cpu to the recipe's `precisions:` in `params.yaml`"

    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(trt_module.importlib, "import_module", absent)
    with pytest.raises(Refused) as missing:
        load_tensorrt("tensorrt_rtx")
    monkeypatch.undo()
    found[str(missing.value)] = "Run `pip install -c constraints.txt -e '.[rtx]'`, then `dvc repro`."
    monkeypatch.setattr("deploy.cuda.NAMES", ("libnone.so",))
    with pytest.raises(Refused) as no_cuda:
        Cuda()
    found[str(no_cuda.value)] = "Install the CUDA runtime"
    for operator, expected in (
        ("GRU", "TensorRT has no int8 form of a recurrent layer (LSTM, GRU, RNN). Deploy fp16 there."),
        ("LSTM", "Deploy fp16 there, or int8 with ONNX Runtime on a CPU."),
        ("Relu", "take int8-tensorrt out of the recipe's `precisions:`"),
    ):
        tensor = helper.make_tensor_value_info
        graph = helper.make_graph(
            [helper.make_node(operator, ["x"], ["y"], name="n")],
            "g",
            [tensor("x", TensorProto.FLOAT, None)],
            [tensor("y", TensorProto.FLOAT, None)],
        )
        onnx.save(helper.make_model(graph), tmp_path / "g.onnx")
        with pytest.raises(Refused) as refused:
            to_int8(tmp_path / "g.onnx", "int8-tensorrt", [], lambda _: (0.0, 0.0), True)
        found[str(refused.value)] = expected
    rows = RowClassifier((1, 4, 4), 3, "GRU", units=5).eval()
    image = {"image": np.zeros((2, 1, 4, 4), np.float32)}
    onnx.save(to_onnx(rows, image, ("logits",)), tmp_path / "g.onnx")
    with pytest.raises(Refused) as small:
        to_int8(tmp_path / "g.onnx", "int8-cpu", [], lambda _: (0.0, 0.0), True)
    found[str(small.value)] = "Deploy fp32, and take int8-cpu out of the recipe's `precisions:`"
    return found


def test_each_reason_has_what_would_measure_it_or_says_that_nothing_would(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = reasons(bundle, tmp_path, monkeypatch)
    assert "" not in given and len(given) >= 13
    for reason, expected in given.items():
        assert expected in measure_by(reason), reason
        assert ("No command would measure it" in measure_by(reason)) == (
            "has no int8 form" in reason or "to quantize" in reason or "not be an int8 network" in reason
        )
        text = told(judged({**INT8, "device": "cpu", "reason": reason}, siblings=False))
        assert "@RECIPE" not in text and text.count("dvc repro") <= 2
        assert "Mend what the reason names" not in text
    assert "build@RECIPE" in measure_by("it was not built: run the build stage")
    assert "build@mine" in measure_by("it was not built: run the build stage", "mine")


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("g.onnx: tensorrt 10.3 cannot parse this graph: node 'a' (B): c. Write the network without", "No command"),
        ("g.onnx: tensorrt 10.3 cannot build this graph: no memory. Free memory on the GPU, or", "Free memory"),
        ("e.engine: tensorrt 10.3 does not work on this machine: x (y). Update the GPU's driver", "Update the GPU's"),
        ("e.engine: missing or changed since it was built. Build it again: `dvc repro --force` its stage.", "build@"),
        ("e.engine: tensorrt 10.3 cannot load this engine on this GPU (x). Engines are tied to the GPU", "build@"),
        ("g.onnx: onnxruntime's quantizer cannot quantize this graph: x", "No command"),
        ("g.onnx: ONNX's checker refuses the graph made from it: x", "No command"),
        ("g.onnx: onnxruntime cannot open this graph: x. Make it again: `dvc repro`.", "No command"),
        (
            "g.onnx: onnxruntime was asked for CUDAExecutionProvider and fell back to CPUExecutionProvider. Install the "
            "CUDA and cuDNN that onnxruntime-gpu 1.31.1 was built with.",
            "Install the CUDA and cuDNN that onnxruntime-gpu 1.31.1 was built with, then run `dvc repro`.",
        ),
        ("something new", "Mend what the reason names, then run `dvc repro` on this host."),
    ],
)
def test_reasons_that_take_a_gpu_or_a_broken_graph_to_give(reason: str, expected: str) -> None:
    assert expected in measure_by(reason)
    files = [Path(judging.__file__).parent, Path(trt_module.__file__).parent]
    source = "".join(path.read_text() for folder in files for path in folder.glob("*.py") if path.name != "advice.py")
    words = re.findall(
        r"cannot \w+ this \w+|does not work on this machine|changed since it was built|fell back to|"
        r"onnxruntime's quantizer|ONNX's checker refuses",
        reason,
    )
    assert reason == "something new" or any(word in source for word in words)  # it is still said so
