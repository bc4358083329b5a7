"""What the SE modules of a finished run do: saturation, gradients, channels in use."""

import json
import pathlib

import numpy as np

from larq_seresnet import SEResNet14, files, preprocess_input
from larq_seresnet.training import callbacks, config, data, train

import tensorflow as tf

#: An attention value this close to an end of its range is saturated; the slope of the activation
#: there is at most 4 % of its greatest.
SATURATED = 0.01
FIRST_MODULE = "stage1_block1"


def measure(run_dir):
    """Measures a finished run.

    Args:
        run_dir: A run directory with weights and gate records.

    Returns:
        A dict for json. "gates": for each recorded epoch and module, shares of the attention values
        M_c of 256 test images: "saturated", and "open" (on or above the threshold of Eq. 5 and 6);
        and counts of its "channels", of those that open for no image ("never_open") and for every
        one ("always_open"). "gradients": for the weights before the first and after the last epoch,
        the root mean square of the loss's gradient in every kernel, on 256 training images.
    """
    run_dir = pathlib.Path(run_dir)
    settings, facts = config.load(run_dir)
    return {"gates": _gates(run_dir, settings), "gradients": _gradients(run_dir, settings, facts)}


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


def collect(run_dir, logs):
    """Copies what a report needs of a finished run: log, config, measures and first gates."""
    logs.mkdir(parents=True, exist_ok=True)
    name = run_dir.name
    found = json.dumps(measure(run_dir), indent=1) + "\n"
    gates = first_gates(run_dir)
    if gates:
        files.replace(logs / f"{name}.npz", lambda part: files.save_arrays(part, gates))
    files.replace(logs / f"{name}.measures.json", lambda part: part.write_text(found))
    for source in (config.CONFIG_FILE, callbacks.LOG_FILE):
        content = (run_dir / source).read_text()
        target = logs / f"{name}{pathlib.Path(source).suffix}"
        files.replace(target, lambda part, content=content: part.write_text(content))


def _gates(run_dir, settings):
    path = run_dir / callbacks.GATES_FILE
    if not path.exists():
        return {}
    low, threshold = (0.0, 0.5) if settings.activation == "sigmoid" else (-1.0, 0.0)
    margin = SATURATED * (1.0 - low)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for epoch, layers in callbacks.read_gates(path).items():
        found[str(epoch)] = {}
        for module in (name for name in layers if name.endswith("_se")):
            values = layers[module]
            opened = values >= threshold
            found[str(epoch)][module] = {
                "saturated": float(((values < low + margin) | (values > 1.0 - margin)).mean()),
                "open": float(opened.mean()),
                "channels": values.shape[1],
                "never_open": int((~opened.any(axis=0)).sum()),
                "always_open": int(opened.all(axis=0).sum()),
            }
    return found


def _gradients(run_dir, settings, facts):
    images = data.load(
        settings.dataset,
        settings.data_dir,
        settings.input_shape[:2],
        callbacks.GATE_IMAGES,
        limit_test=1,
    )
    arguments = {"num_classes": len(facts["class_names"]), **settings.model_arguments()}
    model = SEResNet14(**arguments, weights=None)
    train.initialise(model, settings.seed)
    trained = SEResNet14(**arguments, weights=run_dir / config.WEIGHTS_FILE)
    inputs = preprocess_input(images.train[0])
    return {
        "initial": _rms_gradients(model, inputs, images.train[1]),
        "final": _rms_gradients(trained, inputs, images.train[1]),
    }


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
