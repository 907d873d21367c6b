"""70,000 pictures of clothes from Zalando's shop, 28 x 28, grey values 0 to 255, in MNIST's own form.

Xiao, Rasul & Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms" (2017,
arXiv:1708.07747); the names of the classes are its table 1's.
Unit: an image. No image occurs twice in the 70,000; the 10,000 published for testing are `test`.
"""

from pipeline.idx import prepare_images

MIRROR = "fashion-mnist"
ZALANDO = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
SOURCES = {
    "train-images-idx3-ubyte.gz": {
        "urls": [f"{ZALANDO}/train-images-idx3-ubyte.gz"],
        "sha256": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "bytes": 26_421_880,
    },
    "train-labels-idx1-ubyte.gz": {
        "urls": [f"{ZALANDO}/train-labels-idx1-ubyte.gz"],
        "sha256": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "bytes": 29_515,
    },
    "t10k-images-idx3-ubyte.gz": {
        "urls": [f"{ZALANDO}/t10k-images-idx3-ubyte.gz"],
        "sha256": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "bytes": 4_422_102,
    },
    "t10k-labels-idx1-ubyte.gz": {
        "urls": [f"{ZALANDO}/t10k-labels-idx1-ubyte.gz"],
        "sha256": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        "bytes": 5_148,
    },
}
LICENCE = "MIT (Zalando SE)"
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
NETWORK = {"shape": [1, 28, 28], "classes": 10}
SCALED = True

prepare = prepare_images
