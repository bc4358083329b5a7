"""Which channels the gates of a network open, for each of some images."""

import dataclasses
import json

import numpy as np

from larq_seresnet import files
from larq_seresnet.layers import GATE_ACTIVATIONS
from larq_seresnet.preprocessing import preprocess_input
from larq_seresnet.training import pictures

import tensorflow as tf

BATCH_SIZE = 250


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a network says of images.

    Attributes:
        probabilities: float32, (N, classes).
        open: By block, for each image which channels its gates let through: bool, (N, C).
    """

    probabilities: np.ndarray
    open: dict[str, np.ndarray]


def see(model, images):
    """Shows a network all images, uint8 (N, H, W, 3): a `Seen`.

    A channel is open where its attention value is on or above the threshold of Eq. 5 and 6, with
    FMB or without.
    """
    modules = [layer for layer in model.layers if layer.name.endswith("_se")]
    probe = tf.keras.Model(model.input, [model.output] + [layer.output for layer in modules])

    @tf.function(input_signature=[tf.TensorSpec(model.input_shape, tf.float32)])
    def answer(batch):
        probabilities, *values = tf.nest.flatten(probe(batch, training=False))
        opened = [
            value[:, 0, 0] >= GATE_ACTIVATIONS[layer.activation].threshold
            for layer, value in zip(modules, values, strict=True)
        ]
        return [probabilities, *opened]

    answers = [
        [each.numpy() for each in answer(preprocess_input(images[start : start + BATCH_SIZE]))]
        for start in range(0, len(images), BATCH_SIZE)
    ]
    probabilities, *opened = map(np.concatenate, zip(*answers, strict=True))
    blocks = [layer.name.removesuffix("_se") for layer in modules]
    return Seen(probabilities, dict(zip(blocks, opened, strict=True)))


def shares(opened):
    """How many channels of each block are open for all, some or none of the images.

    Args:
        opened: `Seen.open`.

    Returns:
        By block a dict for json: counts of its "channels", of those that are open "always",
        "sometimes" and "never", the mean share of images, "open", and that "of_each" channel.
    """
    found = {}
    for block, each in opened.items():
        share = each.mean(axis=0)
        always, never = int((share == 1).sum()), int((share == 0).sum())
        found[block] = {
            "channels": len(share),
            "always": always,
            "sometimes": len(share) - always - never,
            "never": never,
            "open": float(share.mean()),
            "of_each": share.round(4).tolist(),
        }
    return found


def table(found, **more):
    """What `shares` returns as a Markdown table, with all blocks in its last row.

    Args:
        found: From `shares`.
        more: Further columns by title: the cell of each block, and that of all.
    """
    keys = ("channels", "always", "sometimes", "never")
    rows = [
        (
            block,
            *(each[key] for key in keys),
            f"{each['open']:.1%}",
            *(cells[block] for cells, _ in more.values()),
        )
        for block, each in found.items()
    ]
    counts = [sum(each[key] for each in found.values()) for key in keys]
    mean = sum(each["open"] * each["channels"] for each in found.values()) / counts[0]
    rows.append(("all", *counts, f"{mean:.1%}", *(of_all for _, of_all in more.values())))
    return files.table(("block", *keys, "open, mean over images", *more), rows)


def write(found, folder, heading):
    """Writes what `shares` returns into a folder: as text, table and figure."""
    pictures.draw_occupancy(found, folder / "occupancy")
    files.write_text(folder / "occupancy.json", json.dumps(found, indent=1) + "\n")
    files.write_text(
        folder / "occupancy.md", f"{heading}{table(found)}\n![by depth](occupancy.png)\n"
    )
