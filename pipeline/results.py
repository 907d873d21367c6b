"""``make results`` and ``make bench``: keep what this host measured, and bring the README's tables up to it.

What a board measured is written by ``verify --from``. Not a stage: a run elsewhere must not change what is committed.
"""

import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy.errors import Refused
from deploy.files import read_json, write_bytes, write_json
from deploy.host import describe
from deploy.measurement import FORMAT
from pipeline import charts, stage
from pipeline.gpu_page import gpu_page
from pipeline.matrix import LEGEND, answer, markdown, not_measured, table
from pipeline.published_page import published_page, published_picture
from pipeline.recipe import Project
from pipeline.tradeoff import panels

BLOCKS = {
    kind: re.compile(rf"(<!-- {kind}: made by `make {kind}` -->\n).*?(<!-- end of {kind} -->)", re.DOTALL)
    for kind in ("results", "paper-results", "bench")
}


def results(project: Project) -> None:
    """Write ``results/<host>.json`` and its picture (of another set ``results/<set>/``), and the pages made of them."""
    host = read_json(project.build / "host.json")
    folder = project.root / "results" / Path.cwd().resolve().relative_to(project.root.resolve())  # that of params.yaml
    kept = {
        "format": FORMAT,
        "commit": commit_of(project.root),
        "host": host,
        "verdicts": read_json(project.build / "verdicts.json"),
    }
    write_json(folder / f"{host['name']}.json", kept)
    write_bytes(folder / f"{host['name']}.svg", picture(kept).encode())
    _write_pages(project.root)


def picture(result: dict[str, Any]) -> str:
    """Accuracy, latency and size of all that was measured, as the text of an SVG file."""
    drawn = [charts.tradeoff(panel) for panel in panels(result["verdicts"])]
    return charts.svg_file(charts.svg(charts.beside(drawn)))


def pages(root: Path) -> dict[Path, str]:
    """What is made from ``results/``: the README's tables, every number, the last run on a GPU, and what was published
    beside what was reached, with its picture.
    """
    readme, folder = root / "README.md", root / "results"
    kept = {_set_and_host(path, folder): read_json(path) for path in _kept(folder)}
    kept = {name: each for name, each in kept.items() if not _of_another_format(each)}
    drawn = published_picture(kept)
    return {
        readme: with_tables(readme.read_text(), folder),
        folder / "README.md": every_number(folder),
        folder / "GPU.md": gpu_page(list(kept.values())),
        folder / "PUBLISHED.md": published_page(kept),
    } | ({folder / "PUBLISHED.svg": drawn} if drawn else {})


def _write_pages(root: Path) -> None:
    for path, text in pages(root).items():
        write_bytes(path, text.encode())


def keep_benchmark(root: Path, name: str, lines: str) -> None:
    """Write ``results/bench/<name>.json``, a table with where it was measured, and the README's block of benchmarks."""
    facts = {"command": f"python -m benchmarks.{name}", **here(root), "table": lines}
    write_json(root / "results" / "bench" / f"{name}.json", facts)
    _write_pages(root)


def here(root: Path) -> dict[str, Any]:
    """``date``, ``commit`` and ``host`` of what is measured now."""
    return {"date": datetime.now(UTC).date().isoformat(), "commit": commit_of(root), "host": describe()}


def keep_page(root: Path, name: str, files: Mapping[str, str], numbers: Mapping[str, Any] | None = None) -> None:
    """Write a benchmark's page and its pictures into ``results/<name>/``, and what they were made of.

    Args:
        files: name -> text.
        numbers: that ``files`` were made of; they lie under ``bench/``, for elsewhere they would be taken for what a
            host measured.
    """
    if numbers is not None:
        write_json(root / "results" / "bench" / "numbers" / f"{name}.json", numbers)
    for file, text in files.items():
        write_bytes(root / "results" / name / file, text.encode())


def with_tables(readme: str, folder: Path) -> str:
    """``readme`` with its blocks made anew from ``results/``:
    ``<host>.json``, ``paper/**/<host>.json``, ``bench/<name>.json``.
    """
    made = {
        "results": "\n".join(_first(path) for path in sorted(folder.glob("*.json"))),
        "paper-results": "\n".join(_block(path) for path in sorted((folder / "paper").glob("**/*.json"))),
        "bench": "\n".join(_benchmark(read_json(path)) for path in sorted((folder / "bench").glob("*.json"))),
    }
    for kind, block in BLOCKS.items():
        found = block.search(readme)
        if found is None:
            raise Refused(f"README.md: the lines that begin and end its block of {kind} are missing; put them back")
        readme = readme[: found.start()] + found[1] + made[kind] + found[2] + readme[found.end() :]
    return readme


def _benchmark(facts: dict[str, Any]) -> str:
    host = facts["host"]
    return (
        f"{facts['table']}\n\n`{facts['command']}` on {host['processor']}, {host['cores']} cores, torch "
        f"{host['packages']['torch']}; {facts['date']}, commit `{facts['commit']}`.\n"
    )


def every_number(folder: Path) -> str:
    """``results/README.md``: all that was measured, in one table a host and set."""
    text = "# Every number\n\nMade by `make results`, `zoo-results` and `paper-results` from the files beside it.\n"
    for path in _kept(folder):
        result = read_json(path)
        told = _of_another_format(result) or f"{table(result['verdicts'])}\n\n{_where(result)}"
        text += f"\n## {_set_and_host(path, folder)}\n\n{told}\n"
    return text


def _set_and_host(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder).with_suffix(""))


def _kept(folder: Path) -> list[Path]:
    """Every host's file, of the starter set and of the others."""
    apart = {"bench", "boards"}  # benchmarks, and what boards measured
    return sorted(path for path in folder.glob("**/*.json") if path.relative_to(folder).parts[0] not in apart)


def _of_another_format(result: dict[str, Any]) -> str:
    """What to say of a host's results that an older or newer version kept; empty of this version's."""
    if result.get("format") == FORMAT:
        return ""
    return (
        f"{result['host']['name']}: kept by another version of Plumbline (format {result.get('format', 1)}, expected "
        f"{FORMAT}). `make results` on that host, or `make paper-results`, keeps them anew."
    )


def _first(path: Path) -> str:
    """The first screen: sentence, matrix, picture."""
    result = read_json(path)
    if told := _of_another_format(result):
        return f"{told}\n"
    shown = f"![Accuracy against latency of every deployment; area is size](results/{path.stem}.svg)"
    return f"**{answer(result['verdicts'])}**\n\n{_block(path)}\n{shown}\n"


def _block(path: Path) -> str:
    result = read_json(path)
    told = _of_another_format(result) or f"{LEGEND}\n\n{markdown(result['verdicts'])}\n\n{_where(result)}"
    return f"{told}\n"


def _where(result: dict[str, Any]) -> str:
    """Where and when it was measured, and how much was not."""
    host, packages = result["host"], result["host"]["packages"]
    versions = ", ".join(
        f"{name} {packages[name]}" for name in ("torch", "onnxruntime-gpu", "onnxruntime") if name in packages
    )
    absent = sum(len(rows) for rows in not_measured(result["verdicts"]).values())
    return (
        f"{host['processor']}, {host['cores']} cores, {len(host['gpus']) or 'no'} GPU; {versions}; batch 1, one "
        f"thread; {_dates(result)}, commit `{result['commit']}`. {absent} rows were not measured, "
        f"each with its reason in the report."
    )


def _dates(result: dict[str, Any]) -> str:
    return " and ".join(sorted({recipe["date"] for recipe in result["verdicts"].values() if recipe["date"]}))


def commit_of(root: Path) -> str:
    """The commit that this tree is at; ``-dirty`` where a tracked file other than the lock and the results differs."""
    apart = [":!*dvc.lock", ":!results", ":!README.md"]
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *apart)
    return _git(root, "rev-parse", "--short=10", "HEAD") + ("-dirty" if changed else "")


def _git(root: Path, *words: str) -> str:
    answer = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True)
    if answer.returncode:
        raise Refused(
            f"git {' '.join(words)}: {answer.stderr.strip()}. Results are kept with the commit they were measured at: "
            f"run this in a clone."
        )
    return answer.stdout.strip()


if __name__ == "__main__":
    stage.run(results)
