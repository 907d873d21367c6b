"""70,000 handwritten digits, 28 x 28, grey values 0 to 255.

LeCun, Bottou, Bengio & Haffner, "Gradient-based learning applied to document recognition" (1998), Proceedings of the
IEEE 86:2278-2324.
Unit: an image. No image occurs twice in the 70,000; the 10,000 published for testing are `test`.
"""

from pipeline.idx import prepare_images

MIRROR = "mnist"
AMAZON, GOOGLE = "https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"
SOURCES = {
    "train-images-idx3-ubyte.gz": {
        "urls": [f"{AMAZON}/train-images-idx3-ubyte.gz", f"{GOOGLE}/train-images-idx3-ubyte.gz"],
        "sha256": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "bytes": 9_912_422,
    },
    "train-labels-idx1-ubyte.gz": {
        "urls": [f"{AMAZON}/train-labels-idx1-ubyte.gz", f"{GOOGLE}/train-labels-idx1-ubyte.gz"],
        "sha256": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "bytes": 28_881,
    },
    "t10k-images-idx3-ubyte.gz": {
        "urls": [f"{AMAZON}/t10k-images-idx3-ubyte.gz", f"{GOOGLE}/t10k-images-idx3-ubyte.gz"],
        "sha256": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "bytes": 1_648_877,
    },
    "t10k-labels-idx1-ubyte.gz": {
        "urls": [f"{AMAZON}/t10k-labels-idx1-ubyte.gz", f"{GOOGLE}/t10k-labels-idx1-ubyte.gz"],
        "sha256": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        "bytes": 4_542,
    },
}
LICENCE = "unstated by its authors; often cited as CC BY-SA 3.0"
CLASSES = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
NETWORK = {"shape": [1, 28, 28], "classes": 10}
SCALED = True

prepare = prepare_images
