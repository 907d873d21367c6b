"""scikit-learn's handwritten digits (``digits.py``) enlarged from 8 x 8 to 28 x 28, the size of MNIST.

Unit: an image. No image occurs twice.
"""

from functools import partial

from pipeline import uci_digits

SOURCES = uci_digits.SOURCES
LICENCE = uci_digits.LICENCE
CLASSES = uci_digits.CLASSES
NETWORK = {"shape": [1, 28, 28], "classes": 10}
SCALED = True

prepare = partial(uci_digits.prepare_enlarged, side=28)
