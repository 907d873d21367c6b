"""Test items to look at: those whose answer changed by deploying, both ways, and those that were wrong before.

An image is shown as a picture, a text as text, a row of a table by its numbers; classes by their names.
"""

import base64
import io
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from deploy.per_character import BLANK, SIGNS

PICTURE = 64  # pixels at most, of a side
SHOWN = 24  # items at most, of a kind
PLACES = 12  # in texts at most, of a kind
PASSAGES = 6  # long texts at most, of a kind
AROUND = 24  # characters shown on both sides of one that changed
LONG = 160  # characters of a text that is shown whole at most
NUMBERS = 8  # of a row of a table

LOST = "Right before, wrong when deployed"
WON = "Wrong before, right when deployed"
OTHER = "Wrong before, wrong in another way when deployed"
SAME = "Wrong before, and in the same way when deployed"


def examples(
    test: dict[str, np.ndarray], classes: list[str], measurement: dict[str, Any], task: ModuleType
) -> list[dict[str, Any]]:
    """Groups of test items, disagreements first.

    Args:
        test: the arrays of the split ``test``.
        measurement: with ``statistics`` and ``predicted`` of the trained network and of each target that answered.

    Returns:
        Each group: ``title``, ``changed`` (whether deploying changed them), ``all`` (how many there are), and
        ``items`` (those shown), each with ``index`` and one of ``image`` (a data URI), ``text``, ``numbers``, or
        ``before`` ``changed`` ``after`` (a place in a text); ``truth``; ``trained`` and ``others`` (target -> what it
        says, where it says something else).
    """
    answered = {"trained": measurement["trained"]} | {
        target: row for target, row in measurement["targets"].items() if "statistics" in row
    }
    statistics = {network: np.asarray(row["statistics"], dtype=float) for network, row in answered.items()}
    predicted = {network: row["predicted"] for network, row in answered.items()}
    if task.metric.right_or_wrong:
        return _right_or_wrong(test, classes, statistics, predicted)
    if "token" in task.needs:
        return _places(test, classes, predicted, task.counted(test["text"]))
    return _by_score(test, statistics, task)


def _right_or_wrong(
    test: dict[str, np.ndarray],
    classes: list[str],
    statistics: dict[str, np.ndarray],
    predicted: dict[str, list[Any]],
) -> list[dict[str, Any]]:
    """An item is in the first group that it fits: lost, won, another wrong answer, the same wrong answer."""
    right = {network: rows[:, 0] for network, rows in statistics.items()}
    said = {network: [_word(p, classes) for p in row] for network, row in predicted.items()}
    before = right["trained"]
    after = np.array([row for network, row in right.items() if network != "trained"]).reshape(-1, len(before))
    differs = np.array([[word != first for word, first in zip(row, said["trained"])] for row in said.values()]).any(0)
    kinds = {
        LOST: (after < before).any(axis=0),
        WON: (after > before).any(axis=0),
        OTHER: (before == 0) & differs,
        SAME: before == 0,
    }
    groups, seen = [], np.zeros(len(before), dtype=bool)
    for title, fits in kinds.items():
        chosen = np.flatnonzero(fits & ~seen)
        seen |= fits
        items = [
            _item(test, i)
            | {"truth": _truth(test, classes, i), "trained": said["trained"][i]}
            | {"others": {network: row[i] for network, row in said.items() if row[i] != said["trained"][i]}}
            for i in map(int, chosen[:SHOWN])
        ]
        changed = title != SAME
        groups.append({"title": title, "changed": changed, "all": len(chosen), "items": items})
    return [group for group in groups if group["all"]]


def _word(predicted: int | str | None, classes: list[str]) -> str:
    if predicted is None or (isinstance(predicted, int) and predicted < 0):
        return "nothing finite"
    return str(classes[predicted]) if isinstance(predicted, int) and classes else str(predicted)


def _truth(test: dict[str, np.ndarray], classes: list[str], i: int) -> str:
    if "label" in test:
        return str(classes[int(test["label"][i])])
    return line(test["target"][i]) if "target" in test else ""


def _item(test: dict[str, np.ndarray], i: int) -> dict[str, Any]:
    """Item ``i`` as something to look at."""
    image = test.get("image")
    if image is not None and image.ndim == 4 and image.shape[1] in (1, 3):
        return {"index": i, "image": picture(image[i])}
    for name in ("source", "text"):
        if name in test and test[name].dtype == np.uint8 and test[name].ndim == 2:
            text = line(test[name][i])
            return {"index": i, "text": text[:LONG] + "…" * (len(text) > LONG)}
    name = next(name for name in test if name not in ("label", "target", "token"))
    numbers = test[name][i].ravel()
    more = " …" * (numbers.size > NUMBERS)
    return {"index": i, "numbers": f"{name}: " + " ".join(f"{x:.4g}" for x in numbers[:NUMBERS].tolist()) + more}


def line(text: np.ndarray) -> str:
    """UTF-8 bytes, 0 after the end, as text."""
    return bytes(text).rstrip(b"\0").decode("utf-8", "replace")


def _places(
    test: dict[str, np.ndarray], classes: list[str], predicted: dict[str, list[str]], counted: np.ndarray
) -> list[dict[str, Any]]:
    """Places in texts whose label a deployed network tells otherwise than the trained one, in the texts' order.

    Args:
        counted: at which bytes a label counts ``(n, longest)``.
    """
    others: dict[tuple[int, int], dict[str, str]] = {}  # text and byte -> network -> what it says
    for network, texts in predicted.items():
        for i, (was, now) in enumerate(zip(predicted["trained"], texts)):
            if was != now:
                for at in (k for k in range(min(len(was), len(now))) if was[k] != now[k]):
                    others.setdefault((i, at), {})[network] = _label(now[at], classes)
    kinds: dict[str, list[dict[str, Any]]] = {LOST: [], WON: [], OTHER: []}
    for (i, at), said in sorted(others.items()):
        if counted[i, at]:
            truth = str(classes[int(test["token"][i, at])])
            trained = _label(predicted["trained"][i][at], classes)
            kind = LOST if trained == truth else WON if truth in said.values() else OTHER
            place = _place(test["text"][i], counted[i], at) | {"index": i, "truth": truth, "trained": trained}
            kinds[kind].append(place | {"others": said})
    return [
        {"title": title, "changed": True, "all": len(places), "items": places[:PLACES]}
        for title, places in kinds.items()
        if places
    ]


def _label(sign: str, classes: list[str]) -> str:
    """The class that the task's ``decode`` gave a sign."""
    return "nothing finite" if sign == SIGNS[-1] else str(classes[SIGNS.index(sign)])


def _place(text: np.ndarray, counted: np.ndarray, at: int) -> dict[str, str]:
    """The character or word that byte ``at`` counts for, with what stands around it."""
    whole = bytes(text).rstrip(b"\0")
    end = at + 1
    while end < len(whole) and not counted[end] and whole[end] > BLANK:
        end += 1
    before, changed, after = (part.decode("utf-8", "replace") for part in (whole[:at], whole[at:end], whole[end:]))
    return {"before": before[-AROUND:], "changed": changed, "after": after[:AROUND]}


def _by_score(test: dict[str, np.ndarray], statistics: dict[str, np.ndarray], task: ModuleType) -> list[dict[str, Any]]:
    """Units whose own score changed most by deploying, told by their scores."""
    metric, n = task.metric, len(statistics["trained"])
    scores = {network: [task.score(rows[i : i + 1]) for i in range(n)] for network, rows in statistics.items()}
    others = [network for network in scores if network != "trained"]
    if not others:
        return []
    drops = np.array([[metric.drop(a, b) for a, b in zip(scores["trained"], scores[network])] for network in others])
    drops = np.nan_to_num(drops)  # (targets, n)
    groups = []
    for title, sign in (("Lost most by deploying", 1.0), ("Gained most by deploying", -1.0)):
        most = (sign * drops).max(axis=0)
        order = [int(i) for i in np.argsort(-most, kind="stable") if round(most[i], metric.places) > 0]
        items = [
            _item(test, i)
            | {"truth": "", "trained": f"{scores['trained'][i]:.{metric.places}f} {metric.unit}"}
            | {"others": {network: f"{scores[network][i]:.{metric.places}f} {metric.unit}" for network in others}}
            for i in order[:PASSAGES]
        ]
        groups.append({"title": title, "changed": True, "all": len(order), "items": items})
    return [group for group in groups if group["items"]]


def picture(image: np.ndarray) -> str:
    """An image ``(1 or 3, height, width)`` as a data URI: a grey one as ink on paper, its largest value black.

    Of numbers that are no uint8 the image's least becomes 0 and its greatest 255.
    """
    if image.dtype != np.uint8:
        above = image.astype(np.float64) - float(image.min())
        image = np.rint(255 * (above / (above.max() or 1))).astype(np.uint8)
    if len(image) == 3:
        pixels = image.transpose(1, 2, 0)
    else:
        pixels = 255 - (255.0 * image[0] / max(1, image.max())).astype(np.uint8)
    small = Image.fromarray(pixels)
    small.thumbnail((PICTURE, PICTURE))
    data = io.BytesIO()
    small.save(data, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
