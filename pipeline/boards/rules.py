"""The facts of the data files here, and whether a node holds to a rule of theirs."""

import functools
from pathlib import Path
from typing import Any

import yaml
from onnx import NodeProto, helper

from pipeline.boards.graph import View, type_name

UNKNOWN = "unknown"


@functools.cache
def facts(file: str) -> dict[str, Any]:
    """A data file of this folder."""
    found: dict[str, Any] = yaml.safe_load((Path(__file__).parent / file).read_text())
    return found


def holds(entry: dict[str, Any], tensorrt: str) -> bool:
    """Whether ``tensorrt`` is within ``from`` and ``to`` of ``entry``."""
    order = facts("devices.yaml")["order"]
    since, until = entry.get("from", order[0]), entry.get("to", order[-1])
    return since != "never" and order.index(since) <= order.index(tensorrt) <= order.index(until)


def broken(rule: dict[str, Any], node: NodeProto, view: View) -> tuple[bool, str, str]:
    """Whether ``node`` breaks ``rule``, what came, and the severity where it is not the rule's own."""
    came = _came(rule, node, view)
    if came is None or rule.get("constant") or rule.get("static") is not None:
        return came is not None, ", ".join(map(str, came or [])), ""
    if came == [UNKNOWN]:
        return not rule.get("dynamic"), "computed, or its shape or type is not in the graph", UNKNOWN
    return not _satisfies(rule, came), ", ".join(map(str, came)), ""


def _came(rule: dict[str, Any], node: NodeProto, view: View) -> list[Any] | None:
    """What the subject of ``rule`` is in ``node``; ``None``: not there, or nothing to say against it."""
    if "attribute" in rule:
        return attribute(node, rule)
    [kind] = {"input", "output", "rank", "dtype", "static"} & set(rule)
    names = node.output if kind == "output" else node.input
    value = names[rule[kind]] if rule[kind] < len(names) else ""
    if not value:
        return None
    if kind == "output":
        return ["used"]
    if kind == "input" and rule.get("constant"):
        return None if value in view.constant else [f"{value} is computed"]
    if kind == "static":
        shape = view.shapes.get(value, ["?"])
        return None if all(isinstance(size, int) for size in shape) else [str(shape)]
    found = {"input": view.values.get(value), "dtype": [view.types[value]] if value in view.types else None}
    found["rank"] = [len(view.shapes[value])] if value in view.shapes else None
    return [UNKNOWN] if found[kind] is None else found[kind]


def attribute(node: NodeProto, rule: dict[str, Any]) -> list[Any] | None:
    """The elements of the attribute that ``rule`` names, or of its default."""
    for item in node.attribute:
        if item.name == rule["attribute"]:
            value = helper.get_attribute_value(item)
            if (node.op_type, item.name) == ("Cast", "to"):
                value = type_name(value)
            values = value if isinstance(value, list) else [value]
            return [word.decode() if isinstance(word, bytes) else word for word in values]
    return [rule["default"]] if "default" in rule else None


def _satisfies(rule: dict[str, Any], came: list[Any]) -> bool:
    if "in" in rule:
        allowed = rule["in"] if isinstance(rule["in"], list) else facts("operators.yaml")["types"][rule["in"]]
        return all(value in allowed for value in came)
    if "range" in rule:
        return all(rule["range"][0] <= value <= rule["range"][1] for value in came)
    if "above" in rule:
        return all(value > rule["above"] for value in came)
    if "halves" in rule:  # of two directions; one that is alone has 1 to 3 activations
        half = len(came) // 2
        return len(came) not in (2, 4, 6) or came[:half] == came[half:]
    if "lacks" in rule:
        return rule["lacks"] not in came[0]
    if "diagonal" in rule:
        return all(len(set(term)) == len(term) for term in came[0].replace("...", "").partition("->")[0].split(","))
    return False  # `never`, `unused`: that it is there breaks the rule
