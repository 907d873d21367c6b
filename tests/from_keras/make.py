"""Trains a small CNN in Keras on the project's digits, and has Keras export it: a file as people bring it.

Made with Python 3.11, keras 3.15.1, tensorflow-cpu 2.21.0 (backend), tf2onnx 1.17.0, onnx 1.23.2, numpy 2.4.6 and
protobuf 7.36.2, in an environment of its own, from the root of the project after `dvc repro prepare@digits`:

    python3.11 -m venv keras-env
    keras-env/bin/pip install keras==3.15.1 tensorflow-cpu==2.21.0 tf2onnx==1.17.0 onnx==1.23.2 numpy==2.4.6 \
        protobuf==7.36.2
    KERAS_BACKEND=tensorflow keras-env/bin/python tests/from_keras/make.py

Input (n, 8, 8, 1) float32, grey values / 16, which is not part of the model; output (n, 10) float32, the softmax.
Another run gives the same weights bit for bit, but other numbers in the names of inner tensors, and so another hash.
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

DATA = Path("build/prepare/digits")
WRITTEN = Path(__file__).with_name("digits.onnx")


def load(split: str) -> tuple[np.ndarray, np.ndarray]:
    """``(n, 8, 8, 1)`` float32 of 0 to 1, and the classes ``(n,)``."""
    with np.load(DATA / f"{split}.npz") as arrays:
        return np.moveaxis(arrays["image"], 1, -1).astype(np.float32) / 16.0, arrays["label"]


def build() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(10, activation="softmax"),
        ]
    )


def main() -> None:
    """Train on `train`, keep the epoch of the least loss on `select`, write the file, print its accuracy on `test`."""
    keras.utils.set_random_seed(0)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    model = build()
    model.summary()
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    best = keras.callbacks.EarlyStopping("val_loss", patience=20, restore_best_weights=True)
    model.fit(*load("train"), 32, 200, verbose=2, callbacks=[best], validation_data=load("select"))
    model.export(WRITTEN, format="onnx")
    image, label = load("test")
    right = np.count_nonzero(model.predict(image, verbose=0).argmax(1) == label)
    print(f"epoch {best.best_epoch + 1}, test: {right} of {len(label)} right; {WRITTEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
