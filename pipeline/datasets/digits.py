"""1,797 handwritten digits, 8 x 8, grey values 0 to 16.

The test set of UCI's "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998). scikit-learn carries
it, so that no network is needed.
Unit: an image. No image occurs twice.
"""

from pipeline import uci_digits

SOURCES = uci_digits.SOURCES
LICENCE = uci_digits.LICENCE
CLASSES = uci_digits.CLASSES
NETWORK = {"shape": [1, 8, 8], "classes": 10}  # what a network's constructor is given
SCALED = True  # the z-score of the input, fitted on `train`, is part of the network

prepare = uci_digits.prepare_digits
