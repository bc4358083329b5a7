"""What the attention of a finished run does: saturation, gradients, what it lets through."""

import json
import pathlib

import numpy as np

from larq_seresnet import SEResNet14, files, preprocess_input
from larq_seresnet.export import prune
from larq_seresnet.layers import GATE_ACTIVATIONS, SpatialAttention
from larq_seresnet.training import callbacks, config, data, fitting, gates

import tensorflow as tf

#: An attention value this close to an end of its range is saturated; the slope of the activation
#: there is at most 4 % of its greatest.
SATURATED = 0.01
FIRST_MODULE = "stage1_block1"
#: Of how many test images it is kept which positions are open.
PICTURED = 6
TINY = float(np.finfo(np.float32).tiny)


def measure(run_dir):
    """Measures a finished run.

    Args:
        run_dir: A run directory with weights and gate records.

    Returns:
        A dict for json. "gates": for each recorded epoch and module, shares of the attention values
        M_c of 256 test images: "saturated", and "open" (on or above the threshold of Eq. 5 and 6);
        of their variance the share that is of images, not of channels, "by_image"; the share of
        gates that are open or closed as after the first recorded epoch, "as_at_first"; and counts
        of its "channels", of those that open for no image ("never_open") and for every one
        ("always_open"). "gradients": for the weights before the first and after the last epoch,
        the root mean square of the loss's gradient in every kernel, on 256 training images. "open":
        for each block of the trained network the share of "channels" and of "positions" that are
        open, and of "both" at once, on 256 test images; and of the network's
        multiply-accumulates the share that its last convolution takes, "work". "occupancy": what
        `gates.shares` says of all training images, where there are gates of channels. "pruned":
        what `prune.proved` says, where gates were asked to close.
    """
    run_dir = pathlib.Path(run_dir)
    settings, facts = config.load(run_dir)
    images = _images(settings)
    trained = fitting.trained(run_dir, settings, len(facts["class_names"]))
    opened = _open(trained, settings.activation, preprocess_input(images.test[0]))
    return _of_all_images(trained, settings) | {
        "gates": _gates(run_dir, settings),
        # the last of all: a step of training moves BatchNorm's averages
        "gradients": _gradients(settings, trained, images.train),
        "open": opened,
    }


def _images(settings):
    """The first of those that it trained on, and of those that it was tested on."""
    count = callbacks.GATE_IMAGES
    return data.load(
        settings.dataset,
        settings.data_dir,
        settings.input_shape[:2],
        limit_train=count,
        limit_test=count,
        held_out=settings.held_out,
    )


def _of_all_images(trained, settings):
    if settings.attention in (None, "spatial"):
        return {}
    images = data.of_run(settings)
    if settings.keep == 1:
        return {"occupancy": gates.shares(gates.see(trained, images.train[0]).open)}
    proof = prune.proved(trained, images)[1]
    return {"occupancy": proof.pop("occupancy"), "pruned": proof}


def first_gates(run_dir):
    """Records of the first SE module alone, in float16: a dict for np.savez."""
    path = run_dir / callbacks.GATES_FILE
    if not path.exists():
        return {}
    with np.load(path) as records:
        return {
            name: records[name].astype(np.float16)
            for name in records.files
            if f"/{FIRST_MODULE}_" in name
        }


def positions(run_dir):
    """Which positions of test images are open, where attention is of positions.

    Returns:
        A dict for np.savez: "images", uint8, (N, H, W, 3), a few of them; for each block such as
        "positions/stage1_block1" bool, (N, H, W), of these; and "shares/stage1_block1" float32,
        (H, W), for which share of all `GATE_IMAGES` a position is open. Empty where no attention is
        of positions.
    """
    settings, facts = config.load(run_dir)
    if settings.attention not in ("spatial", "cbam"):
        return {}
    images = _images(settings).test[0]
    trained = fitting.trained(run_dir, settings, len(facts["class_names"]))
    opened = _opened(trained, settings.activation, preprocess_input(images), "_spatial")
    found = {"images": images[:PICTURED]}
    for block, values in opened.items():
        found[f"positions/{block}"] = values[:PICTURED, ..., 0]
        found[f"shares/{block}"] = values[..., 0].mean(axis=0, dtype=np.float32)
    return found


def collect(run_dir, logs):
    """Copies what a report needs of a finished run: log, config, measures and some gates."""
    logs.mkdir(parents=True, exist_ok=True)
    name = run_dir.name
    found = json.dumps(measure(run_dir), indent=1) + "\n"
    kept = first_gates(run_dir) | positions(run_dir)
    if kept:
        files.replace(logs / f"{name}.npz", lambda part: files.save_arrays(part, kept))
    files.write_text(logs / f"{name}.measures.json", found)
    for source in (config.CONFIG_FILE, callbacks.LOG_FILE):
        target = logs / f"{name}{pathlib.Path(source).suffix}"
        files.write_text(target, files.read_text(run_dir / source))


def _gates(run_dir, settings):
    path = run_dir / callbacks.GATES_FILE
    if not path.exists():
        return {}
    gate = GATE_ACTIVATIONS[settings.activation]
    low, threshold = gate.closed, gate.threshold
    margin = SATURATED * (1.0 - low)
    found: dict[str, dict[str, dict[str, float]]] = {}
    records = callbacks.read_gates(path)
    first = records[min(records)] if records else {}
    for epoch, layers in records.items():
        found[str(epoch)] = {}
        for module in (name for name in layers if name.endswith("_se")):
            values = layers[module]
            opened = values >= threshold
            variance = values.var(dtype=float)
            found[str(epoch)][module] = {
                "saturated": float(((values < low + margin) | (values > 1.0 - margin)).mean()),
                "open": float(opened.mean()),
                "by_image": float(values.var(axis=0, dtype=float).mean() / max(variance, TINY)),
                "as_at_first": float((opened == (first[module] >= threshold)).mean()),
                "channels": values.shape[1],
                "never_open": int((~opened.any(axis=0)).sum()),
                "always_open": int(opened.all(axis=0).sum()),
            }
    return found


def _gradients(settings, trained, images):
    classes = trained.output_shape[-1]
    model = SEResNet14(num_classes=classes, weights=None, **settings.model_arguments())
    fitting.initialise(model, settings.seed)
    inputs = preprocess_input(images[0])
    return {
        "initial": _rms_gradients(model, inputs, images[1]),
        "final": _rms_gradients(trained, inputs, images[1]),
    }


def _open(model, activation, inputs):
    channels, places = (_opened(model, activation, inputs, end) for end in ("_se", "_spatial"))
    work = {layer.name: _macs(layer) for layer in model.layers}
    found = {}
    for block in channels or places:
        shares = [
            each[block].mean(axis=(1, 2, 3)) if each else np.ones(len(inputs))
            for each in (channels, places)
        ]
        found[block] = {
            "channels": float(shares[0].mean()),
            "positions": float(shares[1].mean()),
            "both": float((shares[0] * shares[1]).mean()),
            "work": work[f"{block}_2_conv"] / sum(work.values()),
        }
    return found


def _macs(layer):
    """Multiply-accumulates of an image."""
    size = sum(each.shape.num_elements() for each in layer.weights if each.shape.rank > 1)
    shape = layer.output_shape
    of_maps = isinstance(layer, (tf.keras.layers.Conv2D, SpatialAttention))
    return size * int(np.prod(shape[1:3])) if of_maps else size


def _opened(model, activation, inputs, ending):
    """By block, where its attention values of one kind are on or above the threshold: bool."""
    layers = {
        layer.name.removesuffix(ending): layer.output
        for layer in model.layers
        if layer.name.endswith(ending)
    }
    if not layers:
        return {}
    threshold = GATE_ACTIVATIONS[activation].threshold
    values = tf.keras.Model(model.input, layers).predict(inputs, verbose=0)
    return {block: found >= threshold for block, found in values.items()}


def _rms_gradients(model, inputs, labels):
    kernels = [weight for weight in model.trainable_weights if weight.shape.rank > 1]
    with tf.GradientTape() as tape:
        losses = tf.keras.losses.sparse_categorical_crossentropy(
            labels, model(inputs, training=True)
        )
        loss = tf.reduce_mean(losses)
    gradients = tape.gradient(loss, kernels, unconnected_gradients="zero")
    return {
        kernel.name.removesuffix(":0"): float(tf.sqrt(tf.reduce_mean(tf.square(gradient))))
        for kernel, gradient in zip(kernels, gradients, strict=True)
    }


def mean_share(modules, key):
    """The mean of what the SE modules of a run say, each channel counting alike."""
    channels = sum(module["channels"] for module in modules.values())
    return sum(module[key] * module["channels"] for module in modules.values()) / channels


def mean_count(runs, key):
    """The mean over runs of what the SE modules of each count together."""
    return np.mean([sum(module[key] for module in modules.values()) for modules in runs])
