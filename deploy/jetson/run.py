#!/usr/bin/env python3
"""What a person runs on the board: `python3 run.py`. Plain enough for any Python 3 to read as far as the check."""

import sys
import time
from pathlib import Path

begun = time.monotonic()

if sys.version_info < (3, 10):  # noqa: UP036  # what this file is for
    sys.exit(
        "run: Python {}.{} came, 3.10 or newer was expected, as JetPack 6 has it. Boards of the Orin series can be "
        "upgraded to JetPack 6.1 or newer; Nano, TX1 and TX2 end at JetPack 4, Xavier at JetPack 5: run ONNX Runtime "
        "there.".format(*sys.version_info)  # no f-string before Python 3.6
    )

sys.path.insert(0, str(Path(__file__).resolve().parent))

try:
    from deploy.jetson.kit import main  # once it is known that it can be read
except KeyboardInterrupt:
    sys.exit("run: stopped before anything was begun.")
except ModuleNotFoundError as error:
    if error.name != "numpy":
        again = "Unpack the archive again, or copy it again from where it was made."
        sys.exit("run: " + str(error) + ": not a whole kit. " + again)
    fix = "`sudo apt install python3-numpy`, and use /usr/bin/python3."
    sys.exit("run: " + sys.executable + " finds no numpy, which the kit needs: " + fix)

main(begun)
