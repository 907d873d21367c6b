"""Stage ``report``: the verdicts as a page to look at, as Markdown, as charts in files and as DVC's plots.

What a recipe lacks (a file that is damaged, missing, or of another version) costs the page one line, and no more.
"""

import re
import shutil
from functools import cache, partial
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape
from tqdm import tqdm

from deploy.files import write_bytes
from pipeline import charts, matrix, stage
from pipeline.absent import measure_by, why
from pipeline.advice import advice, paragraph
from pipeline.plots import write_plots
from pipeline.preflight import word as preflight_word
from pipeline.recipe import Project, Recipe
from pipeline.section import part, read_object, section
from pipeline.tradeoff import panels
from pipeline.verdicts import ABSENT, FAIL, PASS, STALE

MAIN = ("accuracy", "latency")  # the charts of a recipe that are files too
SPEED_HEADS = ["recipe", "network", "data", "arithmetic", "examples a second", "least to greatest"]
SPEED_HEADS += ["trained for", "epochs", "batch"]
OPEN_AT_MOST = 12  # recipes; of more, those alone are open whose verdicts are not all PASS

Speed = tuple[str, list[str], dict[int, float]]  # recipe, a cell a head, and by what a column of numbers is sorted


def report(project: Project) -> None:
    """Write ``report.html`` (one file, nothing from elsewhere), ``report.md``, ``charts/`` and ``plots/``."""
    lacking: list[str] = []
    verdicts = part(lacking, "the verdicts", lambda: read_object(project.build / "verdicts.json"), {})
    host = part(lacking, "the host", lambda: _host(read_object(project.build / "host.json")), [])
    known = {name: recipe for name, recipe in project.recipes.items() if name in verdicts}
    lacking += [f"{name}: no verdict; run `dvc repro`" for name in project.recipes if name not in known]
    verdicts = {name: verdicts[name] for name in known}  # of a recipe that is gone nothing is shown
    sections = [
        section(project, name, recipe, verdicts[name])
        for name, recipe in tqdm(known.items(), desc="report", unit=" recipes", disable=None)
    ]
    page = _page()
    for of in sections:
        of["html"] = part(lacking, of["name"], partial(_of_recipe, page, of, len(sections)), "")
    drawn = [(panel, charts.tradeoff(panel)) for panel in panels(verdicts)]
    unproved = _unproved(verdicts)
    returned = _returned(verdicts)
    speeds = _speeds(known, sections)
    part(lacking, "DVC's plots", lambda: write_plots(project), None)
    html = page.get_template("report.html").render(
        answer=matrix.answer(verdicts),
        counts=matrix.counts(verdicts),
        columns=matrix.columns(verdicts),
        verdicts=verdicts,
        sections=sections,
        notes={of["name"]: of["notes"] for of in sections},
        unproved=unproved,
        tradeoff=[(panel, charts.svg(chart)) for panel, chart in drawn],
        absent=_absent(verdicts),
        boards={name: part(lacking, f"the boards of {name}", partial(_boards, project, name), {}) for name in known},
        heads=matrix.HEADS,
        rows=[(row, matrix.cells(row)) for row in matrix.measured(verdicts)],
        speed_heads=SPEED_HEADS,
        speeds=speeds,
        host=host,
        returned=returned,
        lacking=lacking,
        dates=sorted({recipe["date"] for recipe in verdicts.values() if recipe["date"]}),
    )
    write_bytes(project.build / "report.html", html.encode())
    write_bytes(project.build / "report.md", _markdown(verdicts, unproved, speeds, lacking).encode())
    shutil.rmtree(project.build / "charts", ignore_errors=True)  # of recipes that are gone
    if drawn:
        together = charts.svg(charts.beside([chart for _, chart in drawn]))
        _write_chart(project.build / "charts" / "tradeoff", together)
    for of in sections:
        for chart in (chart for chart in of["charts"] if chart["file"] in MAIN):
            _write_chart(project.build / "charts" / f"{of['name']}-{chart['file']}", chart["svg"])
    print(f"{matrix.answer(verdicts)}\nThe page: {project.build / 'report.html'}")


@cache  # the tests write the report often, and compiling its templates takes a tenth of a second
def _page() -> jinja2.Environment:
    """The templates, and what they may call."""
    folder = Path(__file__).parent
    page = jinja2.Environment(
        autoescape=True, loader=jinja2.FileSystemLoader(folder), undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    page.filters |= {"prose": prose, "broken": broken, "size": charts.size, "number": matrix.number}
    page.filters |= {"rate": rate}
    page.globals |= {"ratio": matrix.ratio, "against": matrix.against, "trained": matrix.trained}
    page.globals |= {"amount": matrix.amount}
    page.globals |= {"interval": interval, "lost": lost, "named": named}
    page.globals |= {"style": Markup((folder / "report.css").read_text())}  # noqa: S704  # ours
    page.globals |= {"script": Markup((folder / "report.js").read_text())}  # noqa: S704  # ours
    return page


def _of_recipe(page: jinja2.Environment, section: dict[str, Any], of: int) -> str:
    few = of <= OPEN_AT_MOST
    return page.get_template("section.html").render(section=section, few=few)


def _host(host: dict[str, Any]) -> list[tuple[str, str]]:
    """What the page tells of the host, the summary of it first."""
    gpus = [f"{gpu['name']} ({gpu['compute_capability']}, driver {gpu['driver']})" for gpu in host["gpus"]]
    short = ", ".join(gpu["name"] for gpu in host["gpus"]) or "no GPU"
    return [
        ("host", f"{host['processor']}, {host['cores']} cores, {short}"),
        ("memory", f"{host['memory_gib']} GiB"),
        ("GPUs", ", ".join(gpus) or f"none: {host['gpu_error']}"),
        ("system", f"{host['system']} {host['machine']}, Python {host['python']}"),
        ("packages", ", ".join(f"{name} {version}" for name, version in host["packages"].items())),
        ("instruction set", " ".join(host["instruction_set"])),
    ]


def _returned(verdicts: dict[str, Any]) -> dict[str, list[str]]:
    """The other hosts that rows were returned from -> on which dates they were measured."""
    found: dict[str, set[str]] = {}
    for target, row in (of for recipe in verdicts.values() for of in recipe["targets"].items()):
        if (host := matrix.parts(target).host) and row["date"]:
            found.setdefault(host, set()).add(row["date"])
    return {host: sorted(dates) for host, dates in found.items()}


def broken(target: str) -> Markup:
    """A target's name as HTML, of which a line may end after the ``@`` and nowhere else."""
    of = matrix.parts(target)
    lines = [f"{of.name}@", of.host] if of.host else [target]
    return Markup("<wbr>").join(Markup('<span class="name">{}</span>').format(line) for line in lines)


def prose(text: str) -> Markup:
    """Text as HTML, with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704  # escaped on this line


def lost(row: dict[str, Any], metric: dict[str, Any]) -> str:
    """What deploying cost, in words: a gain is told as one."""
    drop = round(row["drop"], metric["places"])
    told = f"{abs(drop):.{metric['places']}f} {metric['drop_unit']}"
    return f"gained {told}" if drop < 0 else f"lost {told}"


def named(reading: str, data: dict[str, Any] | None) -> str:
    """A further reading with its class's name in place of its number."""
    classes = data["classes"] if data else []
    found = re.fullmatch(r"(.* of class )(\d+)", reading)
    return f"{found[1]}{classes[int(found[2])]}" if found and int(found[2]) < len(classes) else reading


def rate(value: float) -> str:
    """So many a second, or so many seconds: whole ones where there are many."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def interval(row: dict[str, Any], budget: float) -> dict[str, float] | None:
    """Where a drop's bounds and a drop of nothing lie between minus the budget and 1.25 budgets, in per cent."""
    if row["drop_lower95"] is None:
        return None
    at = {
        key: min(100.0, max(0.0, 100 * (value + budget) / (2.25 * budget)))
        for key, value in {"from": row["drop_lower95"], "to": row["drop_upper95"]}.items()
    }
    return at | {"zero": 100 / 2.25, "budget": 200 / 2.25}


def _unproved(verdicts: dict[str, Any]) -> list[dict[str, Any]]:
    """What was tried or fails and does not pass, worst first: a paragraph, and the targets of a recipe that it is of.

    Of a row that fails and was not tried either, ``_absent`` tells why. A recipe with nothing measured is here too.
    """
    entries: dict[tuple[str, str, str], dict[str, Any]] = {}
    for name, recipe in verdicts.items():
        for target, row in recipe["targets"].items():
            causes = [cause for cause in row["causes"] if cause["cause"] not in (ABSENT, STALE)]
            if not causes and (row["verdict"] == PASS or recipe["trained"]["score"] is not None):
                continue
            told = paragraph(advice(name, target, row | {"causes": causes or row["causes"]}, recipe))
            key = (name, row["verdict"], told.replace(target, ""))  # one for all that it is true of
            entry = entries.setdefault(key, {"recipe": name, "verdict": row["verdict"], "advice": told, "targets": []})
            entry["targets"].append(target)
    return sorted(entries.values(), key=lambda entry: entry["verdict"] != FAIL)


def _absent(verdicts: dict[str, Any]) -> list[dict[str, Any]]:
    """Why rows were not measured, host by host: each reason, what would measure them, and the rows by recipe."""
    groups: dict[tuple[str, str], dict[str, list[str]]] = {}
    for reason, places in matrix.not_measured(verdicts).items():
        for name, target in places:
            by_recipe = groups.setdefault((matrix.parts(target).host, reason), {})
            by_recipe.setdefault(name, []).append(target)
    return [
        {"host": host, "reason": why(reason, host), "by": measure_by(reason, host=host)}
        | {"places": places, "n": sum(map(len, places.values()))}
        for (host, reason), places in sorted(groups.items(), key=lambda group: group[0][0])  # this host's first
    ]


def _speeds(recipes: dict[str, Recipe], sections: list[dict[str, Any]]) -> list[Speed]:
    """How fast each recipe was trained that was trained here, those of one file of ``models/`` together."""
    rows: list[tuple[str, Speed]] = []
    for of in (of for of in sections if of["speed"]):
        recipe, speed = recipes[of["name"]], of["speed"]
        cells = [of["name"], f"{recipe.network.file}: {recipe.network.class_}", recipe.data, speed["mode"]]
        cells += [rate(speed["median"]), f"{rate(speed['least'])} to {rate(speed['greatest'])}"]
        cells += [f"{rate(speed['total_s'])} s", str(speed["epochs"]), str(speed["batch"])]
        keys = ("median", "least", "total_s", "epochs", "batch")
        rows.append((recipe.network.file, (of["name"], cells, {i: speed[key] for i, key in enumerate(keys, start=4)})))
    return [row for _, row in sorted(rows, key=lambda of: of[0])]


def _boards(project: Project, name: str) -> dict[str, dict[str, tuple[str, list[str]]]]:
    """Device -> precision that is TensorRT's -> what pre-flight says in a word, and its findings in words."""
    shown: dict[str, dict[str, tuple[str, list[str]]]] = {}
    for device, row in read_object(project.build / "preflight" / f"{name}.json").items():
        shown[device] = {}
        for precision, cell in row.items():
            if precision == "int8-cpu":  # for ONNX Runtime's CPU alone
                continue
            told = [cell["absent"]] if isinstance(cell, dict) else []
            for found in cell if isinstance(cell, list) else []:
                node = f"{found['operator']} {found['node']!r}: " if found["operator"] else ""
                came = f" (here {found['came']})" if found["came"] else ""
                told.append(f"{node}{found['what']}{came}. {found['rewrite'].rstrip('.')}.")
            shown[device][precision] = (preflight_word(cell), list(dict.fromkeys(told)))
    return shown


def _write_chart(path: Path, svg: str) -> None:
    """``path`` with ``.svg`` and ``.png``."""
    write_bytes(path.with_name(f"{path.name}.svg"), charts.svg_file(svg).encode())
    write_bytes(path.with_name(f"{path.name}.png"), charts.png(svg))


def _markdown(verdicts: dict[str, Any], unproved: list[dict[str, Any]], speeds: list[Speed], lacking: list[str]) -> str:
    """The page's words and numbers as Markdown."""
    parts = ["# Plumbline report", matrix.answer(verdicts), *lacking]
    parts += [matrix.markdown(verdicts), matrix.table(verdicts)]
    parts += [
        f"**{entry['recipe']} on {', '.join(entry['targets'])}: {entry['verdict']}.** {entry['advice']}"
        for entry in unproved
    ]
    for group in _absent(verdicts):
        places = "; ".join(f"{name}: {', '.join(targets)}" for name, targets in group["places"].items())
        on = f" on {group['host']}" if group["host"] else ""
        parts.append(f"**NOT MEASURED**{on}: {group['reason']}. {group['by']} ({places})")
    if speeds:
        parts.append(matrix.piped(SPEED_HEADS, [cells for _, cells, _ in speeds]))
    return "\n\n".join(part.replace("<", "&lt;") for part in parts) + "\n"  # a reason may quote anything


if __name__ == "__main__":
    stage.run(report)
