"""Saves and loads the weights of models; those that ship lie in the folder of the same name."""

import dataclasses
import json
import os
import pathlib
import sys
import warnings

import larq as lq
import numpy as np

from larq_seresnet import files, weight_files
from larq_seresnet.arguments import check_lines, configuration_name
from larq_seresnet.precision import EightBit, SumOfSigns

import tensorflow as tf

#: The weights that ship, by data set: the SHA-256 of each file, by the configuration's name.
SHIPPED: dict[str, dict[str, str]] = {
    "cifar10": {
        "seresnet14_w1_se_sigmoid_fmb": (
            "c6a98cae5c0b5bbc57c90d63622c2f5243549410d6dbc2a6f052672a0830a4da"
        ),
        "seresnet14_w1a1_se_sigmoid_fmb": (
            "62b334b86059f2e422bb4db1dfa60295fdf749d5d27cc4876cd99485a972cf2c"
        ),
        "seresnet14s_w1_se_sigmoid_fmb": (
            "bba4d2891cf2d056084d0cff9c2f75e74f654c7ab1957353460d9abbcd520743"
        ),
        "seresnet14m_w1_se_sigmoid_fmb": (
            "12fc1a36c5ec62edcbaf2454be0917e830155ac6e030ce842e8d4708264ebba7"
        ),
        "seresnet14xs_w1_se_sigmoid_fmb": (
            "99c87e66189f3ec5d9e11707e404fd104a0c7273a7ecc40f93e3cb668dad791c"
        ),
    },
}
_TOP = ("classifier", "classifier_bn")
#: Arguments that files of before lack, and what they were.
_NEWER_ARGUMENTS = {
    "ends": None,
    "shift": False,
    "gate_at": "end",
    "inner": None,
    "outer": None,
    "squeezed": None,
}
#: Arguments that may differ from the file's; shapes and top are checked by themselves.
_FREE_ARGUMENTS = ("fmb_gradient", "input_shape", "num_classes", "include_top", "pooling")


def save_weights(model, path, trained_on=None, class_names=None, packed=False):
    """Writes the weights of a SEResNet14, to be read by ``SEResNet14(..., weights=path)``.

    The file is what ``model.save_weights(path, save_format="h5")`` writes, with latent weights in
    float32, plus the arguments that made the model, what it was trained on, and a SHA-256 digest of
    everything. `load_weights` matches weights by name; Keras's own method goes by their order,
    which depends on what is frozen. An existing file is replaced once the new one is complete.

    Args:
        model: What `SEResNet14` returned.
        path: Where to write it, with any ending. (Keras's own ``model.load_weights`` takes
            ``.weights.h5`` for a file of another layout.)
        trained_on: Name of the data set, stored with the weights.
        class_names: One name per class, in the order of the labels, stored likewise;
            `larq_seresnet.weights.read` returns both.
        packed: Whether to store one bit per weight of 1-bit kernels, and one byte per weight of
            other `ends`, in NumPy's npz: about 34 kB instead of 0.9 MB. A model that loads it
            computes the same; its latent weights lie within +-0.1.

    Raises:
        ValueError: If `model` does not come from `SEResNet14`, if `trained_on` is no name, if a
            weight is NaN or infinite, if two weights of a layer have the same name, or if there are
            not as many names as classes, or one string of them.
    """
    classes = _configuration(model)["num_classes"]
    if trained_on is not None and not isinstance(trained_on, str):
        raise ValueError(
            f"`trained_on` must be None or the name of a data set, received {trained_on!r}."
        )
    _warn_of_other_layers(model)
    _check_weights(model)
    if isinstance(class_names, str):
        raise ValueError(f"`class_names` must be one name per class, received {class_names!r}.")
    if class_names is not None:
        class_names = [str(name) for name in class_names]
        check_lines("class_names", class_names)
        if len(class_names) != classes:
            classes = classes or "none without top"
            raise ValueError(
                f"`class_names` must be as many as the model's classes, {classes}, received "
                f"{len(class_names)}."
            )

    def write(part):
        if packed:
            facts = {
                "configuration": _configuration(model),
                "trained_on": trained_on,
                "class_names": class_names,
            }
            weight_files.write_packed(part, facts, _as_packed(model))
            return
        model.save_weights(part, save_format="h5")
        weight_files.sign_hdf5(part, model.configuration, trained_on, class_names)

    files.replace(path, write)


def _warn_of_other_layers(model):
    """Warns of layers in front of the stem, which the arguments in a file do not tell."""
    stem = [layer.name for layer in model.layers].index("stem_conv")
    before = [
        layer.name
        for layer in model.layers[:stem]
        if not isinstance(layer, tf.keras.layers.InputLayer)
    ]
    if before:
        warnings.warn(
            f"the layers before the stem, {before}, are no part of what the file says of its "
            "model: what loads it must be given an `input_tensor` from layers of these names, and "
            "files converted from it begin with the stem.",
            stacklevel=_calls_in_package(),
        )


def _check_weights(model):
    """Raises ValueError where weights are no numbers, or share a name in their layer."""
    broken = [weight.name for weight in model.weights if not np.isfinite(weight.numpy()).all()]
    if broken:
        raise ValueError(f"`model` must have finite weights, received NaN or infinity in {broken}.")
    for layer in model.layers:
        if len(named_weights(layer)) < len(layer.weights):
            raise ValueError(
                f"`model` must have a name for each weight of a layer, received "
                f"{[weight.name for weight in layer.weights]} in {layer.name}."
            )


def _configuration(model):
    """The arguments that made a model."""
    if not isinstance(getattr(model, "configuration", None), str):
        raise ValueError(
            f"`model` must be what SEResNet14 returned, or have its `configuration`, received "
            f"{model!r}."
        )
    return json.loads(model.configuration)


def named_weights(layer):
    """A layer's variables by their names within it: "kernel", in the attention "reduce/kernel".

    Names, because Keras orders weights anew where a part of the layer is frozen.
    """
    names = weight_files.names_within(layer.name, [weight.name for weight in layer.weights])
    return dict(zip(names, layer.weights, strict=True))


def copy_weights(source, target):
    """Gives a layer the values of another one's weights of the same names."""
    values = named_weights(source)
    target.set_weights([values[name].numpy() for name in named_weights(target)])


def _kernel_quantizer(layer, weight):
    return getattr(layer, "kernel_quantizer", None) if weight.shape.rank > 1 else None


def is_one_bit(layer, weight):
    """Whether a layer's weight counts by its signs alone."""
    return isinstance(_kernel_quantizer(layer, weight), lq.quantizers.SteSign)


def _as_packed(model):
    """Of each weight its layer, its name, its kind, and what is kept of it."""
    for layer in model.layers:
        for name, weight in named_weights(layer).items():
            yield (layer.name, name, *_kind_and_values(layer, weight))


def _kind_and_values(layer, weight):
    """The kind of a weight in packed files, and its bits, its levels, or its values."""
    quantizer = _kernel_quantizer(layer, weight)
    if is_one_bit(layer, weight):
        return True, weight.numpy() >= 0
    if isinstance(quantizer, (SumOfSigns, EightBit)):
        return "int8", quantizer.levels(weight).numpy()
    return False, weight.numpy()


def load_weights(model, weights):
    """Loads weights into a model that `SEResNet14` made.

    A model without top, or with another number of classes, gets all but the classifier; the latter
    case gives a warning if the weights come from a file.

    Args:
        model: From `SEResNet14`.
        weights: The path of a file written by `save_weights`, or a key of `SHIPPED`.

    Raises:
        ValueError: If `model` does not come from `SEResNet14`, or `weights` is neither, was
            damaged, or is for other arguments or shapes.
    """
    asked = _NEWER_ARGUMENTS | _configuration(model)
    shipped = isinstance(weights, str) and weights in SHIPPED
    path = _shipped_file(weights, asked) if shipped else weights
    contents = read(path)
    _check_arguments(contents.configuration, asked, path)
    layers, classes = contents.layers, contents.configuration["num_classes"]
    if asked["num_classes"] != classes:
        layers = {name: layers[name] for name in layers if name not in _TOP}
        if asked["include_top"] and not shipped:
            warnings.warn(
                f"`weights` {path} is for num_classes={classes}, received num_classes="
                f"{asked['num_classes']}: the classifier keeps its initial weights.",
                stacklevel=_calls_in_package(),
            )
    unknown = set(layers) - {layer.name for layer in model.layers} - set(_TOP)
    if unknown:
        raise ValueError(f"`weights` {path} has layers that the model lacks: {sorted(unknown)}.")
    # an `input_tensor` may bring others
    fitting = [layer for layer in model.layers if layer.weights and layer.name in layers]
    found = [_fitting_values(layer, layers[layer.name], path) for layer in fitting]
    for layer, values in zip(fitting, found, strict=True):
        layer.set_weights(values)


def _calls_in_package():
    """For `warnings.warn`: how far up the user's own line is, who may call SEResNet14 or us."""
    frame, calls = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(f"{__package__}."):
        frame, calls = frame.f_back, calls + 1
    return calls


def _check_arguments(stored, asked, path):
    """Checks that weights for the arguments `stored` are weights for `asked`."""
    if stored.keys() != asked.keys():
        raise ValueError(
            f"`weights` {path} is of another version, whose arguments differ in "
            f"{sorted(stored.keys() ^ asked.keys())}."
        )
    for name, value in stored.items():
        if asked[name] != value and name not in _FREE_ARGUMENTS:
            raise ValueError(
                f"`weights` {path} is for {name}={value!r}, received {name}={asked[name]!r}: "
                "larq_seresnet.from_weights makes the network that such a file is of."
            )
    if asked["include_top"] and not stored["include_top"]:
        raise ValueError(f"`weights` {path} is for include_top=False, received include_top=True.")


def _fitting_values(layer, values, path):
    """A file's values for a layer, in the order of its weights; their names and shapes checked."""
    received = {name: tuple(weight.shape) for name, weight in named_weights(layer).items()}
    if values.keys() == set(range(len(received))):  # of version 0.1
        values = dict(zip(received, values.values(), strict=True))
    allowed = {name: value.shape for name, value in values.items()}
    if received != allowed:
        raise ValueError(
            f"`weights` {path} has the shapes {allowed} for {layer.name}, the model has {received}."
        )
    return [values[name] for name in received]


def shipped_files():
    """The paths of the files that ship, by their names without ending."""
    folder = pathlib.Path(__file__).with_suffix("")
    return {
        f"{name}_{dataset}": folder / f"{name}_{dataset}.npz"
        for dataset, shipped in SHIPPED.items()
        for name in shipped
    }


def _shipped_file(dataset, configuration):
    """The file that ships for a configuration, its SHA-256 checked."""
    whole = {"include_top": True, "fmb_gradient": "straight_through"}
    name = configuration_name(configuration | whole)
    if name not in SHIPPED[dataset]:
        raise ValueError(
            f"`weights` {dataset!r} do not ship for {name}. What ships: "
            f"{', '.join(SHIPPED[dataset])}; weights=None starts from initial ones."
        )
    path, digest = shipped_files()[f"{name}_{dataset}"], SHIPPED[dataset][name]
    received = files.digest(path) if path.exists() else "no file"
    if received != digest:
        raise ValueError(f"{path} is damaged: its SHA-256 must be {digest}, is {received}.")
    return path


def read(path):
    """What a weight file of either kind holds, its digest checked: `weight_files.Contents`.

    Raises:
        ValueError: If `path` is no weight file of this package, or was damaged.
    """
    is_path = isinstance(path, (str, os.PathLike))
    reader = weight_files.reader(path) if is_path and pathlib.Path(path).is_file() else None
    if reader is None:
        names = "".join(f"{name!r}, " for name in SHIPPED)
        raise ValueError(
            f"`weights` must be None, {names}or the path of a file written by "
            f"larq_seresnet.save_weights, received {str(path)!r}"
            f"{'' if not is_path or os.path.exists(path) else ', which does not exist'}."
        )
    contents = reader(path)
    return dataclasses.replace(contents, configuration=_NEWER_ARGUMENTS | contents.configuration)
