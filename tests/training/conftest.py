import json

import numpy as np
import pytest

from larq_seresnet.training import callbacks, config

import tensorflow as tf


@pytest.fixture(scope="session")
def write_log():
    """Writes the log and config of a `Run` that never was, one error in every row."""

    def write(logs, run, rows, error=0.5, told=None, **changed):
        logs.mkdir(parents=True, exist_ok=True)
        arguments = {**vars(config.Config(**run.arguments)), **changed}
        facts = {"train_images": 50000, "test_images": 10000} | (told or {})
        (logs / f"{run.name}.json").write_text(json.dumps({"arguments": arguments, **facts}))
        lines = [",".join(callbacks.LOG_COLUMNS)]
        lines += [f"{epoch + 1},0.01,1,{error},1,{error},9,9,cifar10" for epoch in range(rows)]
        (logs / f"{run.name}.csv").write_text("\n".join(lines) + "\n")

    return write


@pytest.fixture
def numbered(tmp_path):
    """Makes a folder of so many images of each class, no two alike."""

    def make(*counts):
        root = tmp_path / "numbered"
        for label, count in enumerate(counts):
            (root / f"class{label}").mkdir(parents=True, exist_ok=True)
            for number in range(count):
                image = np.full((8, 8, 3), (number, label, 0), np.uint8)
                path = root / f"class{label}" / f"{number}.png"
                path.write_bytes(tf.io.encode_png(image).numpy())
        return root

    return make


@pytest.fixture
def folder(tmp_path):
    """Ten images each of red and blue, of several sizes and formats."""
    root = tmp_path / "colours"
    for colour, name in enumerate(("blue", "red")):
        (root / name).mkdir(parents=True)
        for index in range(10):
            image = np.zeros((20 + index, 30, 3), np.uint8)
            image[..., 2 - 2 * colour] = 200
            encoded = (tf.io.encode_png if index % 2 else tf.io.encode_jpeg)(image)
            ending = "png" if index % 2 else "jpg"
            (root / name / f"{index}.{ending}").write_bytes(encoded.numpy())
    return root
