"""Decoding on the host: a graph says what may come next, a character a call; greedy and beam search make a line of it.

The graph takes ``character`` ``(rows,)`` uint8, the one before (0 = start), and any further inputs ``(rows, ...)``. It
gives ``logits`` ``(rows, classes)``, at most 256, where class 0 is the end of the line. A state is carried from call to
call (``deploy/state.py``); every other input stays as it is.

A line is at most ``longest`` characters: one that has not ended by then is cut there. Where the graph gives logits that
are not finite, the line has no answer.
"""

import numpy as np

from deploy.run import Run
from deploy.state import carried

END = 0
NO_ANSWER = 255  # fills such a row: a byte that UTF-8 never holds, so that it equals no text


def greedy(step: Run, inputs: dict[str, np.ndarray], longest: int) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest character at every place; the lower one of two alike.

    Args:
        step: the graph.
        inputs: all that it takes but ``character``, ``(lines, ...)``, at least one line.
        longest: characters of a line at most; 1 or more.

    Returns:
        The lines ``(lines, longest)`` uint8, padded with 0; and their log-probabilities ``(lines,)`` in nats, the end's
        included, NaN where there is no answer.
    """
    lines = len(next(iter(inputs.values())))
    characters = np.zeros((lines, longest), np.uint8)
    score, ended = np.zeros(lines), np.zeros(lines, bool)
    previous = np.zeros(lines, np.uint8)
    for place in range(longest):
        said = step({"character": previous, **inputs})
        log = log_probabilities(said["logits"])
        best = np.nan_to_num(log).argmax(axis=1)  # the end where there is no number, and the score becomes NaN
        score += np.where(ended, 0.0, log[np.arange(lines), best])
        previous = np.where(ended, END, best).astype(np.uint8)
        characters[:, place] = previous
        ended |= previous == END
        if ended.all():
            break
        inputs = _advance(inputs, said, np.arange(lines))
    characters[np.isnan(score)] = NO_ANSWER
    return characters, score


def beam(step: Run, inputs: dict[str, np.ndarray], longest: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest line that a beam of ``width`` finds; at 1 the greedy one, and wide enough the likeliest of all.

    A line's beginnings are compared by the sum of their log-probabilities, with no regard to their length; one that has
    ended keeps its place until it falls out. ``step`` is asked for ``lines * width`` rows at a time. A line has no
    answer where any beginning in its beam gets logits that are not finite.

    Args:
        step: the graph.
        inputs: all that it takes but ``character``, ``(lines, ...)``, at least one line.
        longest: characters of a line at most; 1 or more.
        width: beginnings of a line that are kept; 1 or more.

    Returns:
        As ``greedy``.
    """
    lines = len(next(iter(inputs.values())))
    first_row = width * np.arange(lines)[:, None]  # (lines, 1)
    inputs = {name: np.repeat(array, width, axis=0) for name, array in inputs.items()}
    characters = np.zeros((lines, width, longest), np.uint8)
    score = np.full((lines, width), -np.inf)
    score[:, 0] = 0.0  # one beginning, the empty one; the rest of the beam is vacant
    ended, lost = np.zeros((lines, width), bool), np.zeros(lines, bool)
    previous = np.zeros(lines * width, np.uint8)
    for place in range(longest):
        said = step({"character": previous, **inputs})
        log = log_probabilities(said["logits"]).reshape(lines, width, -1)
        asked = ~ended & np.isfinite(score)
        lost |= (asked & np.isnan(log[:, :, 0])).any(axis=1)
        log = np.nan_to_num(log)  # of lines that are lost, and of rows whose answer nobody asked for
        log[ended] = np.where(np.arange(log.shape[2]) == END, 0.0, -np.inf)
        total = (score[:, :, None] + log).reshape(lines, -1)
        best = np.argsort(-total, axis=1, kind="stable")[:, :width]
        parent, character = np.divmod(best, log.shape[2])  # (lines, width)
        score = np.take_along_axis(total, best, axis=1)
        characters = np.take_along_axis(characters, parent[:, :, None], axis=1)
        characters[:, :, place] = character
        ended = np.take_along_axis(ended, parent, axis=1) | (character == END)
        if (ended[:, 0] | lost).all():  # log-probabilities only fall: none overtakes a best one that has ended
            break
        previous = character.astype(np.uint8).ravel()
        inputs = _advance(inputs, said, (first_row + parent).ravel())
    characters[lost] = NO_ANSWER
    return characters[:, 0], np.where(lost, np.nan, score[:, 0])


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Log-softmax of ``(rows, classes)`` in float64, nats; a row that is not finite is NaN throughout."""
    finite = np.isfinite(logits).all(axis=1, keepdims=True)
    exact = np.where(finite, logits, 0.0).astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    exact -= np.log(np.exp(exact).sum(axis=1, keepdims=True))
    return np.where(finite, exact, np.nan)


def _advance(inputs: dict[str, np.ndarray], said: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """The inputs of the next call, whose row ``i`` goes on from row ``rows[i]`` of the last one."""
    return {name: array[rows] for name, array in (inputs | carried(said)).items()}
