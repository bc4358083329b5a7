"""Weight files: HDF5 as Keras writes it, or packed bits; each rebuilds and proves itself.

Those that ship lie in the folder of the same name.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import re
import sys
import warnings

import h5py
import larq as lq
import numpy as np

from larq_seresnet import files
from larq_seresnet.arguments import configuration_name
from larq_seresnet.precision import EightBit, SumOfSigns

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
#: Latent weights behind packed bits. Quantizers see their signs alone; so small, a few steps of
#: fine-tuning may still turn them.
LATENT = 0.1
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
        ValueError: If `model` does not come from `SEResNet14`, if a weight is NaN or infinite, if
            two weights of a layer have the same name, or if there are not as many names as classes.
    """
    classes = _configuration(model)["num_classes"]
    broken = [weight.name for weight in model.weights if not np.isfinite(weight.numpy()).all()]
    if broken:
        raise ValueError(f"`model` must have finite weights, received NaN or infinity in {broken}.")
    if class_names is not None:
        class_names = [str(name) for name in class_names]
        if len(class_names) != classes:
            raise ValueError(
                f"`class_names` must be as many as the model's classes, {classes}, received "
                f"{len(class_names)}."
            )
    for layer in model.layers:
        if len(named_weights(layer)) < len(layer.weights):
            raise ValueError(
                f"`model` must have a name for each weight of a layer, received "
                f"{[weight.name for weight in layer.weights]} in {layer.name}."
            )

    def write(part):
        if packed:
            _write_packed(model, part, trained_on, class_names)
            return
        model.save_weights(part, save_format="h5")
        with h5py.File(part, "r+") as file:
            file.attrs["configuration"] = model.configuration
            file.attrs["trained_on"] = trained_on or ""
            file.attrs["class_names"] = json.dumps(class_names)
            file.attrs["sha256"] = _digest(file)

    files.replace(path, write)


def _configuration(model):
    """The arguments that made a model."""
    if not isinstance(getattr(model, "configuration", None), str):
        raise ValueError(f"`model` must be what SEResNet14 returned, received {model!r}.")
    return json.loads(model.configuration)


def named_weights(layer):
    """A layer's variables by their names within it: "kernel", in the attention "reduce/kernel".

    Names, because Keras orders weights anew where a part of the layer is frozen.
    """
    names = _names_within(layer.name, [weight.name for weight in layer.weights])
    return dict(zip(names, layer.weights, strict=True))


def copy_weights(source, target):
    """Gives a layer the values of another one's weights of the same names."""
    values = named_weights(source)
    target.set_weights([values[name].numpy() for name in named_weights(target)])


def _names_within(layer, names):
    """What Keras calls the weights of a layer, less what depends on where and when it was built.

    That is all up to the layer's own name, if it is there, and the numbers of scopes, unless
    nothing else tells weights apart.
    """
    outside = re.compile(rf"(.*/)?{re.escape(layer)}(_\d+)?/")
    inside = [outside.sub("", name).removesuffix(":0") for name in names]
    unnumbered = [re.sub(r"_\d+/", "/", name) for name in inside]
    return unnumbered if len(set(unnumbered)) == len(names) else inside


def _write_packed(model, path, trained_on, class_names):
    weights: list[list] = []
    packed: dict[bool | str, list[np.ndarray]] = {kind: [] for kind in _STORED_AS}
    for layer in model.layers:
        for name, weight in named_weights(layer).items():
            kind, values = _as_packed(layer, weight)
            weights.append([layer.name, name, weight.shape.as_list(), kind])
            packed[kind].append(values.ravel())
    facts = {
        "configuration": _configuration(model),
        "trained_on": trained_on,
        "class_names": class_names,
        "weights": weights,
    }
    arrays = {
        name: np.concatenate(packed[kind]).astype(dtype)
        for kind, (name, dtype) in _STORED_AS.items()
        if packed[kind]
    }
    if "bits" in arrays:
        arrays["bits"] = np.packbits(arrays["bits"])
    facts["sha256"] = _digest_of_arrays(facts, arrays)
    files.save_arrays(path, {"facts": np.array(json.dumps(facts)), **arrays})


#: The kinds of packed weights, as files have them: which array holds them, in which dtype.
_STORED_AS = {True: ("bits", bool), False: ("floats", np.float32), "int8": ("levels", np.int8)}


def _kernel_quantizer(layer, weight):
    return getattr(layer, "kernel_quantizer", None) if weight.shape.rank > 1 else None


def is_one_bit(layer, weight):
    """Whether a layer's weight counts by its signs alone."""
    return isinstance(_kernel_quantizer(layer, weight), lq.quantizers.SteSign)


def _as_packed(layer, weight):
    """What is kept of a weight, and its kind: its bits, its levels, or its values."""
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
                f"`weights` {path} is for {name}={value!r}, received {name}={asked[name]!r}."
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
    received = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "no file"
    if received != digest:
        raise ValueError(f"{path} is damaged: its SHA-256 must be {digest}, is {received}.")
    return path


def read(path):
    """What a weight file of either kind holds, its digest checked: a `Contents`.

    Raises:
        ValueError: If `path` is no weight file of this package, or was damaged.
    """
    is_path = isinstance(path, (str, os.PathLike))
    kind = None
    if is_path and pathlib.Path(path).is_file():
        kind = _read_hdf5 if h5py.is_hdf5(path) else _read_packed if _is_zip(path) else None
    if kind is None:
        names = "".join(f"{name!r}, " for name in SHIPPED)
        raise ValueError(
            f"`weights` must be None, {names}or the path of a file written by "
            f"larq_seresnet.save_weights, received {str(path)!r}"
            f"{'' if not is_path or os.path.exists(path) else ', which does not exist'}."
        )
    contents = kind(path)
    return dataclasses.replace(contents, configuration=_NEWER_ARGUMENTS | contents.configuration)


def _is_zip(path):
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


#: HDF5 never ends on some damaged files; what it raises for others is raised again here.
_HDF5_TRIAL = """
import contextlib, sys, h5py
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
        for weight, path in zip(_names_within(name, paths), paths, strict=True)
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
        arrays.get(name, np.zeros(0, np.uint8)) for name, _ in _STORED_AS.values()
    )
    unpacked = {
        True: np.where(np.unpackbits(bits), np.float32(LATENT), np.float32(-LATENT)),
        False: floats,
        "int8": np.float32(LATENT) * levels / np.abs(levels).max(initial=1),
    }
    taken = dict.fromkeys(_STORED_AS, 0)
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
