"""The page of the last run on a GPU, of results made by judging."""

from typing import Any

from measured import measurement, row

from pipeline.gpu_page import gpu_page
from pipeline.judge import judge
from pipeline.recipe import Budget

GPU = {"name": "NVIDIA H200", "compute_capability": "9.0", "driver": "580.1"}
SLOW = {"latency_s": [2e-3 + 1e-6 * (i % 5) for i in range(700)], "alone_s": None}


def result(recipe: str, date: str, **host: Any) -> dict[str, Any]:
    """What ``make results`` keeps of one recipe that ran on a host with a GPU and in PyTorch's four ways."""
    on_gpu = {"device": "cuda", "device_s": 2e-4, "device_share": 0.914, "no_graph": "", "on_cpu": []}
    targets = {
        "onnxruntime-cpu-fp32": row(),
        "onnxruntime-cuda-fp16": row(precision="fp16", **on_gpu | {"device_share": None}),
        "tensorrt-fp16": row(precision="fp16", **on_gpu | {"no_graph": "network: a | b"}),
        "tensorrt-int8": {"precision": "int8-tensorrt", "device": "cuda", "reason": "no such graph"},
        "tensorrt-fp32": {"precision": "fp32", "device": "cuda", "reason": "", "failed": "out of memory"},
    }
    if not host.get("gpus"):
        targets = {"onnxruntime-cpu-fp32": row()}
    facts = measurement(targets, latency={"cpu": SLOW, "cuda": SLOW, "cuda compiled fp16": row()})
    facts |= {"date": date, "host": {"name": f"host-{recipe}", "gpus": [], "packages": {"torch": "2.13.0"}} | host}
    judged = judge(facts, "now", 90.0, Budget(1.0, {})) | {"reference": "PyTorch"}
    return {"verdicts": {recipe: judged}}


def test_without_a_gpu_the_page_says_so_and_how_to_get_one() -> None:
    page = gpu_page([result("r", "2026-01-01")])
    assert "No GPU has run this yet" in page and "python -m pipeline.verify --from" in page and "| r |" not in page


def test_the_last_run_is_shown_beside_pytorchs_own_ways() -> None:
    kept = [
        result("older", "2026-01-01", gpus=[GPU]),
        result("last", "2026-02-01", gpus=[GPU], processor="Xeon", cores=16),
        result("none", "2026-03-01"),
    ]
    page = gpu_page(kept)
    assert "NVIDIA H200 (9.0, driver 580.1); Xeon, 16 cores; 2026-02-01." in page and "torch 2.13.0." in page
    lines = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in page.splitlines() if "| last" in line]
    assert [line[1] for line in lines] == [
        "PyTorch",
        "PyTorch compiled fp16",
        "onnxruntime-cuda-fp16",
        "tensorrt-fp16",
        "tensorrt-fp32",
    ]
    assert lines[0][3] == "2.002 ms" and lines[1][3] == "0.503 ms"
    assert (
        lines[2][2] == "PASS" and lines[2][4].startswith("0.25 (0.25–0.25)") and lines[2][5:8] == ["1.00", "–", "yes"]
    )
    assert lines[2][8] == f"`{'ab' * 4}`"
    assert lines[3][6] == "91 %" and "no: network: a \\" in page
    assert "out of memory" in lines[4][2] and lines[4][2].startswith("FAIL")
    assert "older" not in page and "none" not in page and "onnxruntime-cpu" not in page


def test_two_files_that_hold_one_host_show_it_once_as_it_was_last() -> None:
    first, second = (result("r", date, gpus=[GPU], name="away") for date in ("2026-01-01", "2026-01-03"))
    other = result("s", "2026-01-02", gpus=[GPU], name="away")
    page = gpu_page([second, other, first])
    assert page.count("| r | tensorrt-fp16 |") == 1 and page.count("| s | tensorrt-fp16 |") == 1
    assert "2026-01-02 and 2026-01-03." in page


def test_a_host_whose_gpu_was_not_used_does_not_replace_one_whose_was() -> None:
    idle = result("r", "2026-05-01", name="idle")
    idle["verdicts"]["r"]["hosts"]["idle"]["facts"]["gpus"] = [GPU]
    page = gpu_page([result("r", "2026-01-01", gpus=[GPU], name="away"), idle])
    assert "2026-01-01." in page and "| r | tensorrt-fp16 |" in page


def test_a_run_that_came_back_from_another_machine_is_found() -> None:
    here, there = result("r", "2026-01-01"), result("r", "2026-01-02", gpus=[GPU], name="away")["verdicts"]["r"]
    mine = here["verdicts"]["r"]
    mine["targets"] |= {f"{target}@away": facts for target, facts in there["targets"].items()}
    mine["hosts"] |= there["hosts"]
    page = gpu_page([here])
    assert "| r | tensorrt-fp16 | PASS |" in page and "@" not in page and "tensorrt-int8" not in page
