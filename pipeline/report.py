"""Stage ``report``: the verdicts as a page to look at, as Markdown, as charts in files and as DVC's plots.

What a recipe lacks (a file that is damaged, missing, or of another version) costs the page one line, and no more.
"""

import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape
from tqdm import tqdm

from deploy.files import write_bytes
from pipeline import charts, matrix, stage
from pipeline.absent import measure_by
from pipeline.advice import advice, paragraph
from pipeline.plots import write_plots
from pipeline.recipe import Project
from pipeline.section import part, read_object, section
from pipeline.tradeoff import panels
from pipeline.verdicts import FAIL, NOT_MEASURED, PASS

OPEN_AT_MOST = 12  # recipes; of more, those alone are open whose verdicts are not all PASS


def report(project: Project) -> None:
    """Write ``report.html`` (one file, nothing from elsewhere), ``report.md``, ``charts/`` and ``plots/``."""
    lacking: list[str] = []
    verdicts = part(lacking, "the verdicts", lambda: read_object(project.build / "verdicts.json"), {})
    host = part(lacking, "the host", lambda: read_object(project.build / "host.json"), {})
    known = {name: recipe for name, recipe in project.recipes.items() if name in verdicts}
    lacking += [f"{name}: no verdict; run `dvc repro`" for name in project.recipes if name not in known]
    verdicts = {name: verdicts[name] for name in known}  # of a recipe that is gone nothing is shown
    sections = [
        section(project, name, recipe, verdicts[name])
        for name, recipe in tqdm(known.items(), desc="report", unit=" recipes", disable=None)
    ]
    drawn = [(panel, charts.tradeoff(panel)) for panel in panels(verdicts)]
    unproved = _unproved(verdicts)
    part(lacking, "DVC's plots", lambda: write_plots(project), None)
    html = _template().render(
        answer=matrix.answer(verdicts),
        counts=matrix.counts(verdicts),
        columns=matrix.columns(verdicts),
        verdicts=verdicts,
        sections=sections,
        few=len(sections) <= OPEN_AT_MOST,
        unproved=unproved,
        tradeoff=[(panel, charts.svg(chart)) for panel, chart in drawn],
        absent=_absent(verdicts),
        heads=matrix.HEADS,
        rows=[(row, matrix.cells(row)) for row in matrix.measured(verdicts)],
        host=host,
        lacking=lacking,
        dates=sorted({recipe["date"] for recipe in verdicts.values() if recipe["date"]}),
    )
    write_bytes(project.build / "report.html", html.encode())
    write_bytes(project.build / "report.md", _markdown(verdicts, unproved, lacking).encode())
    if drawn:
        together = charts.svg(charts.beside([chart for _, chart in drawn]))
        _write_chart(project.build / "charts" / "tradeoff", together)
    for of in sections:
        for chart in of["charts"]:
            _write_chart(project.build / "charts" / f"{of['name']}-{chart['file']}", chart["svg"])
    print(f"{matrix.answer(verdicts)}\nThe page: {project.build / 'report.html'}")


def _template() -> jinja2.Template:
    folder = Path(__file__).parent
    page = jinja2.Environment(
        autoescape=True, loader=jinja2.FileSystemLoader(folder), undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    page.filters |= {"prose": prose, "size": charts.size, "number": matrix.number}
    page.globals |= {"ratio": matrix.ratio, "trained": matrix.trained, "interval": interval, "amount": matrix.amount}
    page.globals |= {"style": Markup((folder / "report.css").read_text())}  # noqa: S704  # ours
    page.globals |= {"script": Markup((folder / "report.js").read_text())}  # noqa: S704  # ours
    return page.get_template("report.html")


def prose(text: str) -> Markup:
    """Text as HTML, with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704  # escaped on this line


def interval(row: dict[str, Any], budget: float) -> dict[str, float] | None:
    """Where a drop's bounds, the drop itself and nothing lie between minus the budget and 1.25 budgets, in per cent."""
    if row["drop_lower95"] is None:
        return None
    at = {
        key: min(100.0, max(0.0, 100 * (value + budget) / (2.25 * budget)))
        for key, value in {"from": row["drop_lower95"], "to": row["drop_upper95"], "at": row["drop"]}.items()
    }
    return at | {"zero": 100 / 2.25, "budget": 200 / 2.25}


def _unproved(verdicts: dict[str, Any]) -> list[dict[str, Any]]:
    """Every row that was tried or fails and is not PASS, worst first, with a paragraph for each reason in a recipe."""
    entries: dict[tuple[str, str, str], dict[str, Any]] = {}
    for name, recipe in verdicts.items():
        for target, row in recipe["targets"].items():
            if row["verdict"] == PASS or (row["verdict"] == NOT_MEASURED and row["deployed"] is None):
                continue
            told = paragraph(advice(name, target, row, recipe))
            key = (name, row["verdict"], row["causes"][0]["reason"])
            entry = entries.setdefault(key, {"recipe": name, "verdict": row["verdict"], "advice": told, "targets": []})
            entry["targets"].append(target)
    return sorted(entries.values(), key=lambda entry: entry["verdict"] != FAIL)


def _absent(verdicts: dict[str, Any]) -> list[dict[str, Any]]:
    """The reasons why rows were not measured, each with what would measure them and the rows, by recipe."""
    groups = []
    for (verdict, reason), places in matrix.not_measured(verdicts).items():
        if verdict == NOT_MEASURED:
            by_recipe: dict[str, list[str]] = {}
            for name, target in places:
                by_recipe.setdefault(name, []).append(target)
            groups.append({"reason": reason, "by": measure_by(reason), "places": by_recipe, "n": len(places)})
    return groups


def _write_chart(path: Path, svg: str) -> None:
    """``path`` with ``.svg`` and ``.png``."""
    write_bytes(path.with_name(f"{path.name}.svg"), charts.svg_file(svg).encode())
    write_bytes(path.with_name(f"{path.name}.png"), charts.png(svg))


def _markdown(verdicts: dict[str, Any], unproved: list[dict[str, Any]], lacking: list[str]) -> str:
    """The page's words and numbers as Markdown."""
    parts = ["# Plumbline report", matrix.answer(verdicts), *lacking]
    parts += [matrix.markdown(verdicts), matrix.table(verdicts)]
    parts += [
        f"**{entry['recipe']} on {', '.join(entry['targets'])}: {entry['verdict']}.** {entry['advice']}"
        for entry in unproved
    ]
    for group in _absent(verdicts):
        places = "; ".join(f"{name}: {', '.join(targets)}" for name, targets in group["places"].items())
        parts.append(f"**NOT MEASURED**: {group['reason']}. {group['by']} ({places})")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    stage.run(report)
