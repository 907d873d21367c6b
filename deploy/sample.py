"""Let a deployed language model write: its graph reads a byte a call, and its state is carried from call to call.

``python -m deploy.sample BUNDLE --start TEXT`` writes the start and what comes after it to standard output, as it
comes. The same seed, temperature and precision give the same text, here and from the server (``deploy.server``).
"""

import argparse
import codecs
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from deploy.contract import Bundle, open_bundle
from deploy.errors import Refused
from deploy.run import Run
from deploy.runtimes import open_onnxruntime
from deploy.sampling import draw
from deploy.state import carried, from_zero
from deploy.targets import GRAPHS

TASK = "language_model"
PRECISIONS = GRAPHS["onnxruntime-cpu"]  # as a target's name has it -> as the graph's folder is called


def main() -> None:
    """The command line of ``python -m deploy.sample``."""
    parser = argparse.ArgumentParser(prog="python -m deploy.sample", description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a folder with a contract.json")
    parser.add_argument("--start", metavar="TEXT", required=True, help="what the network reads first")
    parser.add_argument("--characters", metavar="N", type=int, default=400, help="written after the start (400)")
    parser.add_argument("--temperature", metavar="T", type=float, default=0.8, help="0: always the likeliest (0.8)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="another seed, another text (0)")
    parser.add_argument("--precision", default="fp32", help=f"{', '.join(PRECISIONS)} (fp32)")
    asked = parser.parse_args()
    start = os.fsencode(asked.start)  # the bytes as they were typed
    try:
        check_wishes(start, asked.characters, asked.temperature, asked.seed)
        bundle = open_bundle(asked.bundle)
        run = open_writer(bundle, asked.precision)
        written = write(run, start, asked.characters, asked.temperature, asked.seed, longest(bundle))
        sys.stdout.buffer.write(start)
        for character in written:
            sys.stdout.buffer.write(character.encode())
            sys.stdout.buffer.flush()
        sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # whoever read it has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit("sample: stopped.")
    except (Refused, OSError, MemoryError) as error:
        sys.exit(f"sample: {error}")


def check_wishes(start: bytes, characters: int, temperature: float, seed: int) -> None:
    """Refuse what no text can be written with.

    Raises:
        Refused: an empty start or one with a byte 0, no characters, a temperature or a seed below 0, a temperature
            that is not finite.
    """
    if not start:
        raise Refused(
            "--start: empty, expected at least one byte: the network tells what comes after something. "
            "Give it a letter or a line feed."
        )
    if 0 in start:
        raise Refused(f"--start: a byte 0 at place {start.index(0)}, which ends a text in training. Take it out.")
    if characters < 1:
        raise Refused(f"--characters: {characters}, expected 1 or more. Ask for some.")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise Refused(
            f"--temperature: {temperature}, expected a finite number from 0. Take 0 for the likeliest at every place, "
            f"1 for the network's own chances."
        )
    if seed < 0:
        raise Refused(f"--seed: {seed}, expected an integer from 0. Any other gives another text.")


def open_writer(bundle: Bundle, precision: str) -> Run:
    """The language model of ``bundle`` at ``precision``, on ONNX Runtime's processor; its state starts at zero.

    Args:
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``.

    Raises:
        Refused: the bundle is of another task, there is no such precision, or the bundle has none.
    """
    if bundle.task != TASK:
        raise Refused(
            f"{bundle.folder}: a bundle of the task {bundle.task}, expected {TASK}: no other writes. "
            f"Give a recipe's of that task, such as build/bundle/gru_python."
        )
    if precision not in PRECISIONS:
        raise Refused(f"--precision: {precision!r}, expected one of {', '.join(PRECISIONS)}. Choose one of them.")
    if why := bundle.lacks(PRECISIONS[precision]):
        here = [name for name, of in PRECISIONS.items() if of in bundle.graphs]
        raise Refused(
            f"--precision: {precision}, and {bundle.folder} has no graph of it: {why.rstrip('.')}. "
            f"Expected one that it has: {', '.join(here)}. Choose one, or make the bundle again with it."
        )
    graph = bundle.graphs[PRECISIONS[precision]]["network"]
    return from_zero(open_onnxruntime(bundle.path(graph)), bundle.io["network"])


def longest(bundle: Bundle) -> int:
    """Of how many bytes a call is at most, of those that the bundle foresees."""
    return bundle.ranges.get("time", [1, 1, 1])[2]


def write(run: Run, start: bytes, characters: int, temperature: float, seed: int, piece: int = 1) -> Iterator[str]:
    """What ``run`` writes after ``start``, a character at a time: so many; a byte that is no UTF-8 is U+FFFD.

    Args:
        run: ``text`` ``(1, time)`` uint8 and a state to ``logits`` ``(1, time, 256)`` and the next one.
        temperature: logits are divided by it; at 0 the likeliest byte is taken.
        piece: bytes of the start that are read at once; what is written afterwards is read one by one.

    Raises:
        Refused: the network gave no number.
    """
    chance = np.random.default_rng(seed).random
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    state: dict[str, np.ndarray] = {}
    for at in range(0, len(start), piece):
        said = run({"text": np.frombuffer(start, np.uint8)[None, at : at + piece]} | state)
        state = carried(said)
    left = characters
    while True:
        byte = bytes(draw(said["logits"][:, -1], [temperature], [0], [chance]))
        for character in decode(byte)[:left]:
            yield character
            left -= 1
        if not left:
            return
        said = run({"text": np.frombuffer(byte, np.uint8)[None]} | state)
        state = carried(said)


if __name__ == "__main__":
    main()
