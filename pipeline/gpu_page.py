"""``results/GPU.md``: the last run on a real GPU, of all that ``results/`` keeps: speed beside PyTorch's own.

Made with the README's tables by ``make results``.
"""

from typing import Any

from deploy.measurement import WAYS
from pipeline.matrix import against, piped, ratio, short, tried

NONE = """\
No GPU has run this yet: every row of a CUDA or TensorRT target is `NOT MEASURED`, and nothing is claimed of its speed.

To measure on a host that has one, run `make results` there in a clone. Where there is no DVC, carry the folders
`build/bundle/` and `deploy/` over, with numpy and a runtime:

```
python -m deploy.measure build/bundle/*        # there: writes measured/<host>.json
python -m pipeline.verify --from <host>.json   # here: takes it into results/boards/
make results                                   # here: judges it and makes this page
```

`pytest -m gpu` runs there too: the tests that need one.
"""
HEAD = [
    *("recipe", "what runs it", "verdict", "p50", "latency ratio", "p50 ÷ PyTorch compiled fp16", "on the device"),
    *("one CUDA graph", "graph", "engine"),
]
HOW = (
    "Batch 1, interleaved; a ratio with its 95 % bounds is to the trained network in float32, uncompiled, or to what "
    "stands behind ÷; the next is of medians alone. On the device: the share of a request's wall time by the device's "
    "own clock. Graph and engine: the first digits of the SHA-256 of each that was measured."
)
BEST = "cuda compiled fp16"


def gpu_page(results: list[dict[str, Any]]) -> str:
    """The page's text.

    Args:
        results: what ``results/`` keeps of each host and set. Of the hosts on whose GPU something was tried the one of
            the latest date is shown, each of its recipes as it was measured last.
    """
    runs: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {}  # host -> recipe -> date and verdicts
    for name, recipe in (pair for each in results for pair in each["verdicts"].items()):
        for host, there in recipe["hosts"].items():
            if _tried(recipe, host):
                known = runs.setdefault(host, {})
                known[name] = max(known.get(name, ("", {})), (there["date"], recipe), key=lambda run: run[0])
    title = "# On a GPU\n\nMade by `make results` from the files beside it.\n\n"
    if not runs:
        return title + NONE
    host = max(runs, key=lambda name: max(date for date, _ in runs[name].values()))
    dates = sorted({date for date, _ in runs[host].values()})
    facts = next(iter(runs[host].values()))[1]["hosts"][host]["facts"]
    gpus = [f"{gpu['name']} ({gpu['compute_capability']}, driver {gpu['driver']})" for gpu in facts.get("gpus", [])]
    packages = ", ".join(f"{name} {version}" for name, version in facts.get("packages", {}).items())
    told = f"{', '.join(gpus) or host}; {facts.get('processor', host)}, {facts.get('cores', '?')} cores; "
    told += f"{' and '.join(dates)}.\n\n{packages}.\n\n"
    lines = [
        line
        for name, (_, recipe) in runs[host].items()
        for of in (_of_trained, _of_targets)
        for line in of(name, recipe, host)
    ]
    return f"{title}{told}{HOW}\n\n{piped(HEAD, lines)}\n"


def _tried(recipe: dict[str, Any], host: str) -> dict[str, dict[str, Any]]:
    """The targets on the GPU of ``host`` that were tried there, also those that failed."""
    return {
        target: row
        for target, row in recipe["targets"].items()
        if row["host"] == host and row["device"] == "cuda" and tried(row)
    }


def _of_trained(name: str, recipe: dict[str, Any], host: str) -> list[list[str]]:
    """A row for each way in which the trained network was run there: timed, and no more; or why it failed."""
    there = recipe["hosts"][host]
    lines = []
    for way in WAYS:
        what = f"{recipe['reference']} {way.removeprefix('cuda').strip()}".rstrip()
        if way in there["failed"]:
            lines.append([name, what, f"failed: {there['failed'][way]}", *["–"] * 7])
        elif way in there["latency_ms"]:
            lines.append([name, what, "–", _ms(there["latency_ms"][way]["p50_ms"]), *["–"] * 6])
    return lines


def _of_targets(name: str, recipe: dict[str, Any], host: str) -> list[list[str]]:
    best = recipe["hosts"][host]["latency_ms"].get(BEST, {}).get("p50_ms")
    lines = []
    for target, row in _tried(recipe, host).items():
        what = target.partition("@")[0]
        if row["deployed"] is None:
            lines.append([name, what, f"{row['verdict']}: {row['reason']}", *["–"] * 7])
            continue
        share = "–" if row["device_share"] is None else f"{100 * row['device_share']:.0f} %"
        graph = "yes" if not row["no_graph"] else f"no: {row['no_graph']}"
        beside = f"{row['p50_ms'] / best:.2f}" if best and row["p50_ms"] else "–"
        facts = [row["verdict"], _ms(row["p50_ms"]), f"{ratio(row)} {against(row)}".rstrip(), beside, share, graph]
        engine = short(row["sha256"]) if "tensorrt" in what and row["sha256"] else "–"
        lines.append([name, what, *facts, short(row["graph_sha256"]), engine])
    return lines


def _ms(p50: float | None) -> str:
    return "–" if p50 is None else f"{p50:.3f} ms"
