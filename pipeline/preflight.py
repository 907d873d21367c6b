"""Stage ``preflight@recipe``: what each board's TensorRT, and its DLA, will say to each graph, before anyone builds.

The facts are in ``boards/``, each with source and date; what they do not say is told as not known, which is no pass.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import NodeProto

from deploy.contract import Bundle, open_bundle
from deploy.files import write_json
from pipeline import stage
from pipeline.boards.graph import View, key, read_graph
from pipeline.boards.rules import UNKNOWN, broken, facts, holds
from pipeline.recipe import PRECISIONS, Project

REFUSED, RESTRICTED = "refused", "restricted"
FLOOR = 18  # the oldest opset that the exporter writes


@dataclass(frozen=True)
class Device:
    """The GPU or the DLA of a board; ``upgrade`` is what to do with a board that is too old to build for."""

    name: str
    jetpack: tuple[str, ...]
    unit: str
    tensorrt: str
    cuda: str
    python: str
    boards: tuple[str, ...]
    has_dla: bool
    opsets: dict[str, int]  # `least`, `most` documented; above, up to `perhaps`, nobody says
    upgrade: str = ""


@dataclass(frozen=True)
class Finding:
    """What a device has against a node; ``node`` and ``operator`` are empty where it is against the whole graph."""

    node: str
    operator: str
    severity: str  # refused; restricted: it builds, with this loss; unknown: nobody says
    what: str
    came: str
    rewrite: str


def devices() -> list[Device]:
    """All devices, older boards first."""
    data = facts("devices.yaml")
    fields = {field.name for field in dataclasses.fields(Device)}
    rows = []
    for name, row in data["devices"].items():
        known: dict[str, Any] = {
            word: tuple(value) if isinstance(value, list) else value for word, value in row.items() if word in fields
        }
        rows.append(Device(name=name, opsets=data["tensorrt"][row["tensorrt"]]["opsets"], **known))
    return rows


def preflight(graph: Path, device: Device) -> list[Finding]:
    """What ``device`` has against ``graph``; nothing where every node is supported.

    Raises:
        Refused: the file is no ONNX graph.
    """
    return _preflight(read_graph(graph), device)


def preflight_recipe(project: Project, name: str) -> None:
    """Write ``build/preflight/<name>.json``: device -> precision -> ``ok``, findings, or why there is no such graph."""
    bundle = open_bundle(project.build / "bundle" / name)
    views = {
        precision: {graph: read_graph(bundle.path(file)) for graph, file in graphs.items()}
        for precision, graphs in bundle.graphs.items()
    }
    table = {device.name: {each: _cell(bundle, views, each, device) for each in PRECISIONS} for device in devices()}
    write_json(project.build / "preflight" / f"{name}.json", table)
    for device, row in table.items():
        print(f"{name}: {device}: {', '.join(f'{precision} {word(cell)}' for precision, cell in row.items())}")


def _cell(bundle: Bundle, views: dict[str, dict[str, View]], precision: str, device: Device) -> Any:
    if reason := bundle.lacks(precision):
        return {"absent": reason}
    found = [
        {"graph": graph} | dataclasses.asdict(finding)
        for graph, view in views[precision].items()
        for finding in _preflight(view, device)
    ]
    return found or "ok"


def word(cell: Any) -> str:
    """A cell of the table in a word: ``ok``, ``absent``, or the worst of ``refused``, ``unknown``, ``restricted``."""
    if isinstance(cell, list):
        return next(w for w in (REFUSED, UNKNOWN, RESTRICTED) if any(found["severity"] == w for found in cell))
    return cell if isinstance(cell, str) else "absent"


def _preflight(view: View, device: Device) -> list[Finding]:
    found = _board(view, device)
    if device.upgrade and view.opset > device.opsets["most"]:
        return found  # what its operators take is documented for its own opsets
    found += [finding for node in view.nodes for finding in _operator(node, view, device.tensorrt)]
    return found + (_dla(view, device) if device.unit == "dla" else [])


def _board(view: View, device: Device) -> list[Finding]:
    """The whole graph against the device: too old a board, or an opset that its documents do not name."""
    least, most = device.opsets["least"], device.opsets["most"]
    came, known = f"opset {view.opset}", f"TensorRT {device.tensorrt} documents opsets {least} to {most}"
    if device.upgrade:
        what = known if view.opset > most else f"TensorRT {device.tensorrt} has no strongly typed networks"
        what = f"JetPack {device.jetpack[0]}: {what}; the exporter writes opset {FLOOR} at least"
        return [Finding("", "", REFUSED, what, came, device.upgrade)]
    if not least <= view.opset <= most:
        fix = f"Export with an opset of {max(least, FLOOR)} to {most}."
        unsure = view.opset <= device.opsets.get("perhaps", most)
        what = f"{known}; whether it takes this one is not known" if unsure else known
        return [Finding("", "", UNKNOWN, what, came, fix)]
    return []


def _operator(node: NodeProto, view: View, tensorrt: str) -> list[Finding]:
    """A node against the parser of a TensorRT."""
    data = facts("operators.yaml")
    name = node.name or f"of {', '.join(node.output)}"
    entry = data["operators"].get(key(node))
    if entry is None or tensorrt in entry.get("unknown", []):
        why = entry["why"] if entry else "no data file names it"
        fix = "Write it with operators that are known, or try it on the board."
        return [Finding(name, key(node), UNKNOWN, f"not known whether TensorRT {tensorrt} takes it: {why}", "", fix)]
    if not holds(entry, tensorrt):
        since = "no TensorRT takes it" if entry["from"] == "never" else f"TensorRT takes it from {entry['from']} on"
        fix = entry.get("rewrite", "Write it with other operators, or upgrade the board.")
        return [Finding(name, key(node), REFUSED, since, f"TensorRT {tensorrt}", fix)]
    rules = [rule for rule in entry.get("rules", []) if holds(rule, tensorrt)]
    if "types" in entry:
        rules.append({"dtype": 0, "in": entry["types"], "what": "not this type", "rewrite": "Cast before it"})
    found = [broken(rule, node, view) for rule in rules]
    return [
        Finding(name, key(node), severity or rule.get("severity", REFUSED), rule["what"], came, rule["rewrite"])
        for rule, (is_broken, came, severity) in zip(rules, found)
        if is_broken
    ]


def _dla(view: View, device: Device) -> list[Finding]:
    """What does not run on the DLA, node by node, and what must be fixed before a build for it."""
    data = facts("dla.yaml")
    limits = data["limits"]
    found = []
    for value in view.inputs:
        shape = view.shapes.get(value, ["?"])
        if not all(isinstance(size, int) for size in shape) or (shape and int(shape[0]) > limits["batch"]):
            fix = f"Fix them in the profile, min = opt = max, the batch at {limits['batch']} at most."
            what = f"{value}: the DLA has no free axes, and batches of {limits['batch']} at most"
            found.append(Finding("", "", RESTRICTED, what, str(shape), fix))
    if not set(view.types.values()) & set(limits["types"]):
        what = "the DLA computes float16 and int8 only"
        return [*found, Finding("", "", REFUSED, what, "no tensor of these", "Deploy the fp16 graph there.")]
    early = set(view.constant)
    for node in view.nodes:
        if node.op_type in data["build_time"] or (node.input and set(filter(None, node.input)) <= early):
            early |= set(node.output)  # shapes are fixed, so that the builder computes it
        else:
            found += _layer(node, view, device.tensorrt, data)
    return found


def _layer(node: NodeProto, view: View, tensorrt: str, data: dict[str, Any]) -> list[Finding]:
    name, fix = node.name or f"of {', '.join(node.output)}", "GPU fallback"
    entry = data["operators"].get(key(node))
    kind = view.types.get((*node.input, "")[0], UNKNOWN)  # of another type than the DLA's, there is no doubt
    if entry and tensorrt in entry.get("unknown", []) and kind in (UNKNOWN, *data["limits"]["types"]):
        what = f"not known whether the DLA takes it under TensorRT {tensorrt}"
        return [Finding(name, key(node), UNKNOWN, what, "", fix)]
    if entry is None or not holds(entry, tensorrt):
        fix = data["rewrites"].get(key(node), fix)
        return [Finding(name, key(node), RESTRICTED, "not on the DLA: it runs on the GPU", "", fix)]
    rules = [*entry.get("rules", []), {"dtype": 0, "in": data["limits"]["types"], "what": "float16 and int8 only",
                                       "rewrite": "Cast before it"}]  # fmt: skip
    found = [(rule, broken(rule, node, view)) for rule in rules if holds(rule, tensorrt)]
    found += [
        ({"what": f"axes of {data['limits']['size']} at most", "rewrite": fix}, (True, str(shape), ""))
        for shape in (view.shapes.get(value, []) for value in node.output)
        if any(isinstance(size, int) and size > data["limits"]["size"] for size in shape[1:])
    ]
    return [
        Finding(
            name, key(node), severity or RESTRICTED, f"on the GPU, not the DLA: {rule['what']}", came, rule["rewrite"]
        )
        for rule, (is_broken, came, severity) in found
        if is_broken
    ]


if __name__ == "__main__":
    stage.run_named(preflight_recipe)
