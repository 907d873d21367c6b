"""The verdicts as text: can it ship, recipe by target, and every number, for the terminal, Markdown and the page."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from pipeline.verdicts import ABSENT, FAIL, INCONCLUSIVE, NOT_MEASURED, PASS, STALE

NAMED = 3  # recipes that the answer names before it only counts them
LEGEND = (
    "In a cell: the verdict, the score lost by deploying (≤ its 95 % upper bound of the budget), latency ÷ trained."
)
HEADS = [
    "recipe",
    "target",
    "verdict",
    "metric",
    "trained",
    "deployed",
    "drop (95 % at most)",
    "budget",
    "latency ÷ trained",
    "p50",
    "size",
    "memory",
    "n",
]


class Target(NamedTuple):
    """What a target's key in ``verdicts.json`` says: ``tensorrt-fp16@a-board`` is ``tensorrt-fp16``, measured there."""

    name: str
    runtime: str  # with its device: onnxruntime-cpu, tensorrt-rtx-sm89
    precision: str
    host: str  # empty: this one


def parts(target: str) -> Target:
    """A target's key taken apart: ``<runtime>-<precision>``, and after an ``@`` the host that it was returned from."""
    name, _, host = target.partition("@")
    runtime, _, precision = name.rpartition("-")
    return Target(name, runtime, precision, host)


def answer(verdicts: dict[str, Any]) -> str:
    """Can it ship? One sentence."""
    rows = [(name, target, row) for name, recipe in verdicts.items() for target, row in recipe["targets"].items()]
    failed = [row for row in rows if row[2]["verdict"] == FAIL]
    open_ = [row for row in rows if tried(row[2]) and row[2]["verdict"] in (INCONCLUSIVE, NOT_MEASURED)]
    passed = sum(row["verdict"] == PASS for _, _, row in rows)
    absent = sum(not tried(row) for _, _, row in rows)
    undecided = f"{len(open_)} could not be decided ({_named(open_)})"
    if failed:
        start = f"No: {len(failed)} of {len(rows)} deployments fail{'s' * (len(failed) == 1)} ({_named(failed)}); "
        start += f"{undecided}; " if open_ else ""
    elif open_:
        start = f"In part: {undecided}; "
    else:
        start = "Yes, where it was measured: " if passed else "Not yet: nothing is proved; "
    return (
        f"{start}{passed} of {len(rows)} deployments are proved to be as accurate as what was trained, within their "
        f"budgets; {absent} were not measured."
    )


def _named(rows: list[tuple[str, str, dict[str, Any]]]) -> str:
    """``recipe on target``, or on how many, of so many recipes."""
    places: dict[str, list[str]] = {}
    for name, target, _ in rows:
        places.setdefault(name, []).append(target)
    told = [f"{name} on {of[0] if len(of) == 1 else f'{len(of)} targets'}" for name, of in places.items()]
    more = f" and {len(told) - NAMED} more" if len(told) > NAMED else ""
    return ", ".join(told[:NAMED]) + more


def tried(row: dict[str, Any]) -> bool:
    """Whether the target was tried with the recipe as it is now, whatever came of it and whatever else fails."""
    return not {cause["cause"] for cause in row["causes"]} & {ABSENT, STALE}


def counts(verdicts: dict[str, Any]) -> dict[str, int]:
    """How many rows have each verdict, good ones first."""
    words = [row["verdict"] for recipe in verdicts.values() for row in recipe["targets"].values()]
    return {verdict: words.count(verdict) for verdict in (PASS, INCONCLUSIVE, FAIL, NOT_MEASURED)}


def measured(verdicts: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that were measured, each with ``recipe``, ``target`` and its recipe's budget and metric."""
    return [
        row
        | {"recipe": name, "target": target, "metric": recipe["metric"], "budget": recipe["budget"]["drop"]}
        | {"latency_budget": recipe["budget"]["latency_ratio"].get(parts(target).name)}
        for name, recipe in verdicts.items()
        for target, row in recipe["targets"].items()
        if row["deployed"] is not None
    ]


def not_measured(verdicts: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Why -> recipe and target of the rows that were not tried, also of those that fail for their network's sake."""
    reasons: dict[str, list[tuple[str, str]]] = {}
    for name, recipe in verdicts.items():
        for target, row in recipe["targets"].items():
            for cause in row["causes"]:
                if cause["cause"] in (ABSENT, STALE):
                    reasons.setdefault(cause["reason"], []).append((name, target))
    return reasons


def columns(verdicts: dict[str, Any]) -> list[str]:
    """The targets that were tried with some recipe, those of this host first: the columns of the matrix."""
    found = {target: None for recipe in verdicts.values() for target, row in recipe["targets"].items() if tried(row)}
    return [target for host in hosts(found) for target in found if parts(target).host == host]


def hosts(targets: Iterable[str]) -> list[str]:
    """Where targets were measured: this host, which is the empty word, and the others as they come."""
    return list(dict.fromkeys(["", *(parts(target).host for target in targets)]))


def cells(row: dict[str, Any]) -> list[str]:
    """A measured row as text, one cell a head of ``HEADS``."""
    unit, drop_unit = row["metric"]["unit"], row["metric"]["drop_unit"]
    places = row["metric"]["places"]
    budget = f", budget {row['latency_budget']:g}" if row["latency_budget"] else ", no budget"
    return [
        row["recipe"],
        row["target"],
        row["verdict"],
        row["metric"]["name"],
        f"{number(row['trained'], places)} {unit}",
        f"{number(row['deployed'], places)} {unit}",
        f"{number(row['drop'], places)} ({number(row['drop_upper95'], places)})",
        amount(row["budget"], drop_unit),
        f"{ratio(row)} {against(row)}".rstrip() + (budget if row["latency_ratio"] is not None else ""),
        "–" if row["p50_ms"] is None else f"{row['p50_ms']:.3f} ms",
        f"{row['size_bytes'] / 1000:.1f} kB",
        "–" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 1e6:.1f} MB",
        str(row["n"]),
    ]


def ratio(row: dict[str, Any]) -> str:
    """Deployed / trained latency with its 95 % bounds, or a dash."""
    if row["latency_ratio"] is None:
        return "–"
    return f"{row['latency_ratio']:.2f} ({row['latency_ratio_lower95']:.2f}–{row['latency_ratio_upper95']:.2f})"


def against(row: dict[str, Any]) -> str:
    """What the latency ratio divides by, where that is not the trained network: a board may have no PyTorch."""
    return "" if row["latency_against"] in (None, "trained") else f"÷ {row['latency_against']}"


def number(value: float | None, places: int = 2) -> str:
    """So many places, or a dash where there is none; never a negative zero."""
    return "–" if value is None else f"{round(value, places) + 0.0:.{places}f}"


def amount(value: float | str, unit: str) -> str:
    """A value, or what it was rounded to, with its unit where it has one: ``1 point``, ``0.2 points``."""
    told = value if isinstance(value, str) else f"{value:g}"
    return f"{told} {unit.removesuffix('s') if told == '1' else unit}".rstrip()


def brief(row: dict[str, Any] | None, recipe: dict[str, Any]) -> str:
    """One cell of the matrix: verdict, drop with its upper bound and the budget, latency ratio; or a dash."""
    if row is None:
        return "–"
    if row["deployed"] is None:
        return str(row["verdict"])
    drop, upper = (number(row[key], recipe["metric"]["places"]) for key in ("drop", "drop_upper95"))
    text = f"{row['verdict']} {drop} (≤ {upper} of {recipe['budget']['drop']:g})"
    if row["latency_ratio"] is None:
        return text
    return f"{text}, {row['latency_ratio']:.2f} ×" + (f" ({against(row)})" if against(row) else "")


def trained(recipe: dict[str, Any]) -> str:
    """The trained network's score in words, or a dash."""
    score = recipe["trained"]["score"]
    metric = recipe["metric"]
    return "–" if score is None else f"{number(score, metric['places'])} {metric['unit']} {metric['name']}"


def markdown(verdicts: dict[str, Any]) -> str:
    """The matrix as a Markdown table."""
    targets = columns(verdicts)
    rows = [
        [name, trained(recipe), *(brief(recipe["targets"].get(target), recipe) for target in targets)]
        for name, recipe in verdicts.items()
    ]
    return piped(["recipe", "trained", *targets], rows)


def piped(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; a cell is one line, whatever it holds."""
    lines = [head, ["---"] * len(head), *rows]
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def terminal(verdicts: dict[str, Any]) -> str:
    """The matrix in columns, one block a runtime and host, and what a cell holds."""
    blocks: dict[str, list[str]] = {}
    for target in columns(verdicts):
        of = parts(target)
        blocks.setdefault(f"{of.runtime}@{of.host}" if of.host else of.runtime, []).append(target)
    text = []
    for head, targets in blocks.items():
        lines = [[head, "trained", *(parts(target).precision for target in targets)]]
        for name, recipe in verdicts.items():
            row = [brief(recipe["targets"].get(target), recipe) for target in targets]
            lines.append([name, trained(recipe), *row])
        widths = [max(len(line[i]) for line in lines) for i in range(len(targets) + 2)]
        padded = ("   ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)
        text += [*padded, ""]
    text.append(LEGEND)
    return "\n".join(text)


def table(verdicts: dict[str, Any]) -> str:
    """Every number of the measured rows as a Markdown table, each with the first digits of its graph's hash."""
    rows = [[*cells(row), short(row["graph_sha256"])] for row in measured(verdicts)]
    return piped([*HEADS, "graph"], rows)


def short(hashes: str | dict[str, str]) -> str:
    """The first digits of the hash of one graph, or of each."""
    return " ".join(f"`{h[:8]}`" for h in ([hashes] if isinstance(hashes, str) else hashes.values()))
