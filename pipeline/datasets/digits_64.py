"""scikit-learn's handwritten digits (``digits.py``) enlarged from 8 x 8 to 64 x 64, for networks that ask for more.

Unit: an image. No image occurs twice.
"""

from functools import partial

from pipeline import uci_digits

SOURCES = uci_digits.SOURCES
LICENCE = uci_digits.LICENCE
CLASSES = uci_digits.CLASSES
NETWORK = {"shape": [1, 64, 64], "classes": 10}
SCALED = True

prepare = partial(uci_digits.prepare_enlarged, side=64)
