"""Weight files: Keras's HDF5 layout, with what rebuilds the model and proves the file whole."""

import hashlib
import json
import os
import pathlib

import h5py
import numpy as np

from larq_seresnet import files

#: Arguments that may differ from the file's; shapes and top are checked by themselves.
_FREE_ARGUMENTS = ("fmb_gradient", "input_shape", "num_classes", "include_top")


def save_weights(model, path, trained_on=None):
    """Writes the weights of a SEResNet14, to be read by ``SEResNet14(..., weights=path)``.

    The file is what ``model.save_weights(path, save_format="h5")`` writes, latent weights in
    float32, and besides: the arguments that made the model, what it was trained on, and a SHA-256
    digest of all of it. An existing file is replaced once the new one is complete.

    Args:
        model: What `SEResNet14` returned.
        path: Where to; the ending is yours.
        trained_on: Name of the data set, to be kept with the weights.

    Raises:
        ValueError: If `model` does not come from `SEResNet14`.
    """
    configuration = getattr(model, "configuration", None)
    if configuration is None:
        raise ValueError(f"`model` must be what SEResNet14 returned, received {model!r}.")

    def write(part):
        model.save_weights(part, save_format="h5")
        with h5py.File(part, "r+") as file:
            file.attrs["configuration"] = configuration
            file.attrs["trained_on"] = trained_on or ""
            file.attrs["sha256"] = _digest(file)

    files.replace(path, write)


def read_configuration(path):
    """What a weight file says of its model.

    Returns:
        The arguments of `SEResNet14` as a dict, and the name of the data set or None.

    Raises:
        ValueError: If `path` is no weight file of this package, or was damaged.
    """
    with _open(path) as file:
        return json.loads(file.attrs["configuration"]), file.attrs["trained_on"] or None


def load_weights(model, path):
    """Loads a file written by `save_weights` into a model that `SEResNet14` made.

    A model without top takes what it has from a file with top.

    Raises:
        ValueError: If `path` is no weight file of this package, was damaged, or is for other
            arguments or shapes.
    """
    asked = json.loads(model.configuration)
    with _open(path) as file:
        stored = json.loads(file.attrs["configuration"])
        for name in stored:
            if name not in _FREE_ARGUMENTS and asked[name] != stored[name]:
                raise ValueError(
                    f"`weights` {path} is for {name}={stored[name]!r}, "
                    f"received {name}={asked[name]!r}."
                )
        if asked["include_top"] and not stored["include_top"]:
            raise ValueError(
                f"`weights` {path} is for include_top=False, received include_top=True."
            )
        values = {
            layer.name: _layer_values(file, layer, path)
            for layer in model.layers
            if layer.weights and layer.name in file  # an `input_tensor` may bring others
        }
    for layer in model.layers:
        if layer.name in values:
            layer.set_weights(values[layer.name])


def _layer_values(file, layer, path):
    group = file[layer.name]
    values = [group[name][()] for name in group.attrs["weight_names"]]
    received = [tuple(weight.shape) for weight in layer.weights]
    allowed = [value.shape for value in values]
    if received != allowed:
        raise ValueError(
            f"`weights` {path} has the shapes {allowed} for {layer.name}, the model has {received}."
        )
    return values


def _open(path):
    """Opens a weight file and checks its digest."""
    is_path = isinstance(path, (str, os.PathLike))
    if not is_path or not pathlib.Path(path).is_file() or not h5py.is_hdf5(path):
        raise ValueError(
            f"`weights` must be None or the path of a file written by save_weights, "
            f"received {str(path)!r}."
        )
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"`weights` {path} is damaged: {error}") from error
    try:
        if not {"sha256", "configuration", "trained_on"} <= set(file.attrs):
            raise ValueError(f"`weights` {path} was not written by save_weights: it has no digest.")
        digest = _digest(file)
        if digest != file.attrs["sha256"]:
            raise ValueError(
                f"`weights` {path} is damaged: its SHA-256 is {digest}, "
                f"it was written with {file.attrs['sha256']}."
            )
    except BaseException:
        file.close()
        raise
    return file


def _digest(file):
    """SHA-256 of every attribute, and of every array with its name, type and shape."""
    digest = hashlib.sha256()

    def add_attributes(item):
        for name, value in sorted(item.attrs.items()):
            if name != "sha256":
                digest.update(f"{name} {np.asarray(value).tolist()!r}\0".encode())

    def add(name, item):
        add_attributes(item)
        if isinstance(item, h5py.Dataset):
            array = np.ascontiguousarray(item[()])
            digest.update(f"{name} {array.dtype.str} {array.shape}\0".encode() + array.tobytes())

    add_attributes(file)
    file.visititems(add)
    return digest.hexdigest()
