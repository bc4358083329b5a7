"""The two kinds of weight files, HDF5 as Keras writes it and packed bits; each proves itself."""

import dataclasses
import hashlib
import json
import math
import os
import re

import h5py
import numpy as np

from larq_seresnet import files

#: Latent weights behind packed bits. Quantizers see their signs alone; so small, a few steps of
#: fine-tuning may still turn them.
LATENT = 0.1
#: The kinds of packed weights, as files have them: which array holds them, in which dtype.
STORED_AS = {True: ("bits", bool), False: ("floats", np.float32), "int8": ("levels", np.int8)}


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a weight file holds.

    Attributes:
        configuration: The arguments of `SEResNet14`.
        trained_on: Name of the data set, if it was given.
        class_names: In the order of the labels, if they were given.
        layers: Arrays by layer, and by their names as `named_weights` has them. Files that version
            0.1 packed hold no names: there it is their numbers, from 0.
    """

    configuration: dict
    trained_on: str | None
    class_names: list[str] | None
    layers: dict[str, dict[str | int, np.ndarray]]


def reader(path):
    """The function that reads a file of its kind; None if it is of neither.

    It takes the path, and returns `Contents` of which the digest was checked; it raises ValueError
    if the file was damaged, or not written by `save_weights`.
    """
    if h5py.is_hdf5(path):
        return _read_hdf5
    return _read_packed if _is_zip(path) else None


def sign_hdf5(path, configuration, trained_on, class_names):
    """Adds to what Keras wrote all that is not weights, and the digest of everything.

    Args:
        path: Of the file.
        configuration: The arguments of `SEResNet14`, as JSON.
        trained_on, class_names: As in `Contents`.
    """
    with h5py.File(path, "r+") as file:
        file.attrs["configuration"] = configuration
        file.attrs["trained_on"] = trained_on or ""
        file.attrs["class_names"] = json.dumps(class_names)
        file.attrs["sha256"] = _digest(file)


def write_packed(path, facts, weights):
    """Writes packed bits.

    Args:
        path: Where to.
        facts: By their names what `Contents` has besides layers.
        weights: Of each weight the layer, the name within it, the kind, a key of `STORED_AS`, and
            the values of that kind.
    """
    packed: dict[bool | str, list[np.ndarray]] = {kind: [] for kind in STORED_AS}
    listed = []
    for layer, name, kind, values in weights:
        listed.append([layer, name, list(values.shape), kind])
        packed[kind].append(values.ravel())
    facts = facts | {"weights": listed}
    arrays = {
        name: np.concatenate(packed[kind]).astype(dtype)
        for kind, (name, dtype) in STORED_AS.items()
        if packed[kind]
    }
    if "bits" in arrays:
        arrays["bits"] = np.packbits(arrays["bits"])
    facts["sha256"] = _digest_of_arrays(facts, arrays)
    files.save_arrays(path, {"facts": np.array(json.dumps(facts)), **arrays})


def names_within(layer, names):
    """What Keras calls the weights of a layer, less what depends on where and when it was built.

    That is all up to the layer's own name, if it is there, and the numbers of scopes, unless
    nothing else tells weights apart.
    """
    outside = re.compile(rf"(.*/)?{re.escape(layer)}(_\d+)?/")
    inside = [outside.sub("", name).removesuffix(":0") for name in names]
    unnumbered = [re.sub(r"_\d+/", "/", name) for name in inside]
    return unnumbered if len(set(unnumbered)) == len(names) else inside


def _is_zip(path):
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


#: HDF5 never ends on some damaged files; what it raises for others is raised again here.
_HDF5_TRIAL = """
import sys
sys.path = [place for place in sys.path if place]  # not the working directory
import contextlib, h5py
def read(name, item):
    dict(item.attrs)
    if isinstance(item, h5py.Dataset):
        item[()]
with contextlib.suppress(Exception), h5py.File(sys.argv[1], "r") as file:
    read("", file)
    file.visititems(read)
"""


def _read_hdf5(path):
    problem = files.trial("-c", _HDF5_TRIAL, path)
    if problem:
        raise ValueError(f"`weights` {path} is damaged: {problem}")
    try:
        with h5py.File(path, "r") as file:
            written = file.attrs["sha256"] if set(_ATTRIBUTES) <= set(file.attrs) else None
            if written is not None:
                digest, contents = _digest(file), _hdf5_contents(file)
    except Exception as error:  # which one depends on the byte that is wrong
        raise ValueError(f"`weights` {path} is damaged: {error}") from error
    if written is None:
        raise ValueError(
            f"`weights` {path} was not written by larq_seresnet.save_weights: it has no "
            "digest. What Keras wrote, the model's own method load_weights or "
            "tf.keras.models.load_model reads."
        )
    _check_digest(path, digest, written)
    _check_contents(path, contents)
    return contents


_ATTRIBUTES = ("sha256", "configuration", "trained_on")


def _hdf5_contents(file):
    return Contents(
        json.loads(file.attrs["configuration"]),
        file.attrs["trained_on"] or None,
        json.loads(file.attrs.get("class_names", "null")),
        {
            name: _hdf5_layer(name, group)
            for name, group in file.items()
            if len(group.attrs.get("weight_names", ()))
        },
    )


def _hdf5_layer(name, group):
    paths = [os.fsdecode(path) for path in group.attrs["weight_names"]]  # bytes, by h5py's version
    return {
        weight: group[path][()]
        for weight, path in zip(names_within(name, paths), paths, strict=True)
    }


def _read_packed(path):
    arrays = files.load_arrays(path)
    try:
        facts = json.loads(str(arrays.pop("facts", "{}")))
        written = facts.get("sha256")
        if written is not None:
            digest, contents = _digest_of_arrays(facts, arrays), _packed_contents(facts, arrays)
    except Exception as error:
        raise ValueError(f"`weights` {path} is damaged: {error}") from error
    if written is None:
        raise ValueError(
            f"`weights` {path} was not written by larq_seresnet.save_weights: it has no digest."
        )
    _check_digest(path, digest, written)
    _check_contents(path, contents)
    return contents


def _packed_contents(facts, arrays):
    bits, floats, levels = (
        arrays.get(name, np.zeros(0, np.uint8)) for name, _ in STORED_AS.values()
    )
    unpacked = {
        True: np.where(np.unpackbits(bits), np.float32(LATENT), np.float32(-LATENT)),
        False: floats,
        "int8": np.float32(LATENT) * levels / np.abs(levels).max(initial=1),
    }
    taken = dict.fromkeys(STORED_AS, 0)
    layers: dict[str, dict[str | int, np.ndarray]] = {}
    for layer, *name, shape, kind in facts["weights"]:
        first, count = taken[kind], math.prod(shape)
        taken[kind] += count
        values = unpacked[kind][first : first + count]
        of_layer = layers.setdefault(layer, {})
        of_layer[name[0] if name else len(of_layer)] = values.reshape(shape)
    return Contents(facts["configuration"], facts["trained_on"], facts.get("class_names"), layers)


def _check_contents(path, contents):
    """Checks what a digest cannot tell: that a file holds the kinds of things that ours do."""
    names, data_set = contents.class_names, contents.trained_on
    if not (
        isinstance(contents.configuration, dict)
        and (data_set is None or isinstance(data_set, str))
        and (names is None or isinstance(names, list))
        and all(isinstance(name, str) for name in names or ())
        and (names is None or len(names) == contents.configuration.get("num_classes"))
    ):
        raise ValueError(f"`weights` {path} was not written by larq_seresnet.save_weights.")


def _check_digest(path, received, written):
    if received != written:
        raise ValueError(
            f"`weights` {path} is damaged: its SHA-256 is {received}, "
            f"it was written with {written}."
        )


def _digest(file):
    """SHA-256 of every attribute of an HDF5 file, and of every array as `_describe` has it."""
    digest = hashlib.sha256()

    def add_attributes(item):
        for name, value in sorted(item.attrs.items()):
            if name != "sha256":
                digest.update(f"{name} {np.asarray(value).tolist()!r}\0".encode())

    def add(name, item):
        add_attributes(item)
        if isinstance(item, h5py.Dataset):
            digest.update(_describe(name, item[()]))

    add_attributes(file)
    file.visititems(add)
    return digest.hexdigest()


def _digest_of_arrays(facts, arrays):
    known = {name: value for name, value in facts.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    for name, array in arrays.items():
        digest.update(_describe(name, array))
    return digest.hexdigest()


def _describe(name, array):
    """An array with its name, type and shape, as bytes."""
    array = np.ascontiguousarray(array)
    return f"{name} {array.dtype.str} {array.shape}\0".encode() + array.tobytes()
