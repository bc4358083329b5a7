"""Removes from a network the channels that its gates never open, and gates that never change."""

import argparse
import dataclasses
import json
import math
import pathlib
import tempfile

import numpy as np

from larq_seresnet import SEResNet14, files, programs, save_weights
from larq_seresnet.blocks import BLOCKS
from larq_seresnet.export import convert, pack_litert, source
from larq_seresnet.precision import PRECISIONS
from larq_seresnet.training import config, gates
from larq_seresnet.weights import named_weights, read

#: Probabilities that differ by more are said to differ.
TOLERANCE = 1e-4
#: How many images a report lists by their numbers.
LISTED = 50
REPORT = "prune.json"
#: Of the weights, in it.
SHA256 = "weights_sha256"


def main(argv=None):
    """Prunes one network; writes weights and report, returns the weights' path."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    with programs.refusing_bad_input(parser):
        if not 0 <= arguments.share < 1:
            raise ValueError(f"--share must be from 0 to less than 1, received {arguments.share}.")
        model, images, directory = source.load(arguments, as_trained=True)
        check_prunable(model)
        directory = arguments.out_dir or directory / config.PRUNED
        _check_unused(directory)
        files.make_writable(directory)
        smaller, proof = proved(model, images, arguments.share)
        of_what = _trained_on(arguments, images), images.class_names or None
        weights = _write(directory, smaller, proof, of_what)
        gates.write(
            proof["occupancy"],
            directory,
            f"# {model.name}: {len(images.train[0]):,} training images\n\n",
        )
        print(markdown(proof))
        print(f"wrote {weights}; prune.md, {REPORT} and occupancy.* beside it")
    return weights


def _write(directory, smaller, proof, of_what):
    """Writes the weights and what is said of them; returns where the weights are."""
    weights = directory / config.WEIGHTS_FILE
    with tempfile.TemporaryDirectory() as folder:
        spare = pathlib.Path(folder) / config.WEIGHTS_FILE
        save_weights(smaller, spare, *of_what)
        content, digest = spare.read_bytes(), files.digest(spare)
    report = json.dumps(proof | {SHA256: digest}, indent=1) + "\n"
    files.replace_all(
        {  # the report first: weights that it tells may be replaced
            directory / REPORT: lambda part: part.write_text(report, encoding="utf-8"),
            directory / "prune.md": lambda part: part.write_text(markdown(proof), encoding="utf-8"),
            weights: lambda part: part.write_bytes(content),
        }
    )
    return weights


def _check_unused(directory):
    """Raises ValueError where other weights would be lost, or files of theirs lie beside these."""
    weights = directory / config.WEIGHTS_FILE
    told = files.read_report(directory / REPORT)
    if weights.exists() and files.digest(weights) != told.get(SHA256):
        raise ValueError(
            f"--out-dir must not hold weights that this program did not write: {weights} would be "
            "lost."
        )
    converted = sorted(path.name for path in directory.glob("*.tflite"))
    if converted:
        raise ValueError(
            f"--out-dir must not hold files converted from an earlier network: {directory} has "
            f"{', '.join(converted)}. Remove them, or choose another directory."
        )


def _trained_on(arguments, images):
    """The data set of the weights: that of the images, unless these are of other classes."""
    if images.test[1] is not None:
        return images.name
    return read(source.locate(arguments.source)[0]).trained_on


def proved(model, images, share=0.0):
    """Prunes a network, and shows it and what is left all images.

    Args:
        model: A `SEResNet14` that `check_prunable` lets pass.
        images: A `data.ImageSet`.
        share: See `kept_channels`.

    Returns:
        The smaller network, and a dict for json: names, by block the channels that are "kept", the
        blocks whose gates are "settled", "sizes", "occupancy" and "agreement".
    """
    splits = {"training": images.train, "test": images.test}
    before = {split: gates.see(model, each[0]) for split, each in splits.items()}
    kept = kept_channels(before["training"].open, share)
    smaller = pruned(model, kept)
    proof = {
        "model": model.name,
        "pruned": smaller.name,
        "share": share,
        "kept": {block: each.places.tolist() for block, each in kept.items()},
        "settled": [block for block, each in kept.items() if each.settled],
        "sizes": sizes(before=model, after=smaller),
        "occupancy": gates.shares(before["training"].open),
        "agreement": {
            split: compared(before[split], gates.see(smaller, shown), kept, labels)
            for split, (shown, labels) in splits.items()
        },
    }
    return smaller, proof


def _parser():
    parser = argparse.ArgumentParser(
        description="Removes the channels that a trained SEResNet14 never opens, and the attention "
        "of blocks whose gates are the same for every training image. convert.py takes what it "
        "writes, and train.py --weights goes on training it.",
        allow_abbrev=False,
    )
    source.add_arguments(parser)
    parser.add_argument(
        "--share",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="remove channels that are open for less than this share of the training images, too "
        "(default: 0, those alone that never are)",
    )
    parser.add_argument(
        "--out-dir",
        type=pathlib.Path,
        metavar="DIR",
        help="default: pruned/ in the run directory, or in a folder named as the weights",
    )
    return parser


def check_prunable(model):
    """Raises ValueError for a network whose gates close nothing that could be taken out."""
    configuration = json.loads(model.configuration)
    if configuration["attention"] is None:
        raise ValueError(f"{model.name} has no attention, so there are no gates to prune by.")
    for name, fits, allowed in (
        (
            "attention",
            configuration["attention"] not in ("spatial", "cbam"),
            "channel attention alone: spatial attention sees closed channels, too",
        ),
        *config.what_closes(configuration),
    ):
        if not fits:
            raise ValueError(f"`{name}` must be {allowed}, received {configuration[name]!r}.")


@dataclasses.dataclass(frozen=True)
class Kept:
    """What stays of a block's gated channels.

    Attributes:
        places: Their numbers among those that there were, ascending.
        settled: Whether they are open for every training image, so that their gates can go. The
            attention of a block computes all its gates at once, so it goes as a whole or stays.
    """

    places: np.ndarray
    settled: bool


def kept_channels(opened, share=0.0):
    """By block what stays, a `Kept`: of each at least the channel that is open most.

    Args:
        opened: By block for each training image which channels are open, bool, (N, C).
        share: Channels that are open for less than this share of the images go; those that never
            are go in any case.
    """
    found = {}
    for block, each in opened.items():
        often = each.mean(axis=0)
        keep = (often > 0) & (often >= share)
        keep[often.argmax()] = True
        found[block] = Kept(np.flatnonzero(keep), bool((often[keep] == 1).all()))
    return found


def pruned(model, kept):
    """The network without the channels that are not kept, its weights those of `model`.

    Args:
        model: A `SEResNet14` that `check_prunable` lets pass.
        kept: What `kept_channels` returns.

    Returns:
        A `SEResNet14` of fewer `inner` channels, or for gates at the end fewer `outer` ones,
        without the attention of settled blocks.
    """
    before = json.loads(model.configuration)
    channels = [count for count in before["filters"] for _ in (1, 2)]
    after = dict(before)
    if before["gate_at"] == "middle":
        inner = before["inner"] or channels
        after["inner"] = [
            len(kept[block].places) if block in kept else count
            for block, count in zip(BLOCKS, inner, strict=True)
        ]
    else:
        outer = before["outer"] or [list(range(count)) for count in channels]
        after["outer"] = [
            [places[at] for at in kept[block].places] if block in kept else places
            for block, places in zip(BLOCKS, outer, strict=True)
        ]
    after["squeezed"] = [_units(model, block, kept) for block in BLOCKS]
    if not any(after["squeezed"]):
        after["squeezed"] = after["attention"] = None
    smaller = SEResNet14(**after, weights=None)
    for layer in smaller.layers:
        if layer.weights:
            _copy(model.get_layer(layer.name), layer, kept, before)
    return smaller


def _units(model, block, kept):
    """The units between the matrices of a block's attention, 0 where that is gone."""
    if block not in kept or kept[block].settled:
        return 0
    return model.get_layer(f"{block}_se").reduce.units


def _copy(layer, smaller, kept, configuration):
    """Gives a layer of the smaller network what it keeps of the weights of the same layer."""
    block, part = _split(layer.name)
    values = {name: weight.numpy() for name, weight in named_weights(layer).items()}
    if block in kept:
        places = kept[block].places
        cut = _CUTS[configuration["gate_at"]] | _CUTS["se"]
        for name, value in values.items():
            axis = cut.get(f"{part}/{name}", cut.get(part))
            if axis is not None:
                values[name] = np.take(value, places, axis)
        scaled = PRECISIONS[configuration["precision"]].scaled_kernel_quantizer is not None
        if part == "se" and "expand/bias" in values and scaled:
            # the scale of W_0 is C ** -0.5 of the channels that there are: all of the argument
            # grows, and its sign, by which FMB goes, must stay
            channels = layer.input_shape[-1]
            values["expand/bias"] = values["expand/bias"] * math.sqrt(channels / len(places))
    smaller.set_weights([values[name] for name in named_weights(smaller)])


#: Along which axis a layer, or one of its weights, has the gated channels: by where the gates are.
_CUTS = {
    "middle": {"1_conv": -1, "1_bn": -1, "2_conv": 2},
    "end": {"2_conv": -1, "2_bn": -1},
    "se": {"se/reduce/kernel": 0, "se/expand/kernel": 1, "se/expand/bias": 0},
}


def _split(name):
    """The block that a layer is of, and what it is called there."""
    parts = name.split("_", 2)
    return ("_".join(parts[:2]), parts[2]) if len(parts) == 3 else (name, "")


#: By precision, how the file is stored that takes fewest bytes.
_SMALLEST = {"float32": "float32", "w1": "1bit_half", "w1a1": "1bit"}


def sizes(**models):
    """What networks of one precision take, by name: "weights" of the kernels, and "bytes" of LCE's
    "file" of the smallest kind that all of them can have."""
    (precision,) = {json.loads(model.configuration)["precision"] for model in models.values()}
    way = _SMALLEST[precision]
    try:
        stored = {name: _stored(model, way) for name, model in models.items()}
    except ValueError:
        if way != pack_litert.HALF:
            raise
        way = "1bit"  # a bias that settles gates for good can be too large for float16
        stored = {name: _stored(model, way) for name, model in models.items()}
    return {
        name: {
            "weights": sum(math.prod(each.shape) for each in model.weights if each.shape.rank > 1),
            "file": f"lce, {way}" + ", fewest bytes" * (way != "float32"),
            "bytes": len(stored[name]),
        }
        for name, model in models.items()
    }


def _stored(model, way):
    memory = None if way == "float32" else "fewest-bytes"
    return convert.to_tflite(model, weights=way, strip=True, memory=memory).tflite


def compared(before, after, kept, labels):
    """How the two networks answer the same images: a dict for json.

    "opened" are the images for which a removed channel would have opened, by their numbers;
    "other_gates" those for which a kept gate is another; "other_class" and "other" those of another
    class, and of probabilities that differ by more than `TOLERANCE`.
    """
    difference = np.abs(before.probabilities - after.probabilities).max(axis=1)
    classes, new = (each.probabilities.argmax(axis=1) for each in (before, after))
    removed = [np.delete(before.open[block], each.places, axis=1) for block, each in kept.items()]
    others = [
        before.open[block][:, each.places] != (True if each.settled else after.open[block])
        for block, each in kept.items()
    ]
    found = {
        "images": len(difference),
        "largest_difference": float(difference.max()),
        "other": np.flatnonzero(difference > TOLERANCE).tolist(),
        "other_class": np.flatnonzero(classes != new).tolist(),
        "opened": np.flatnonzero(np.concatenate(removed, axis=1).any(axis=1)).tolist(),
        "other_gates": np.flatnonzero(np.concatenate(others, axis=1).any(axis=1)).tolist(),
    }
    if labels is not None:
        found["error"] = [float((each != labels).mean()) for each in (classes, new)]
    return found


def markdown(proof):
    """A report: what was there, what stays, and how the two answer all images."""
    before, after = proof["sizes"]["before"], proof["sizes"]["after"]
    kept = {block: len(places) for block, places in proof["kept"].items()}
    stay = {block: "no" if block in proof["settled"] else "yes" for block in kept}
    more = {"kept": (kept, sum(kept.values())), "gates stay": (stay, "")}
    size_rows = [
        ("weights of kernels", f"{before['weights']:,}", f"{after['weights']:,}"),
        (f"bytes of the file ({before['file']})", f"{before['bytes']:,}", f"{after['bytes']:,}"),
    ]
    return (
        f"# {proof['model']}, pruned\n\n{verdict(proof)}\n\nIt is now {proof['pruned']}.\n\n"
        + gates.table(proof["occupancy"], **more)
        + "\nOpen: of the training images. "
        + (
            f"Removed: what opens for less than {proof['share']:.1%} of them.\n\n"
            if proof["share"]
            else "Removed: what never opens.\n\n"
        )
        + files.table(("", "before", "after"), size_rows)
        + "\n"
        + files.table(
            ("", "training images", "test images"),
            [(what, *(tell(each) for each in proof["agreement"].values())) for what, tell in _TOLD],
        )
    )


def verdict(proof):
    """What came out, in a sentence or two."""
    kept = sum(map(len, proof["kept"].values()))
    before = sum(each["channels"] for each in proof["occupancy"].values())
    if kept == before and not proof["settled"]:
        rarely = (
            f"open for less than {proof['share']:.1%} of" if proof["share"] else "closed for all"
        )
        return (
            f"**Nothing was removed: no channel is {rarely} training images, and no block has "
            "gates that are open for all of them.** --share removes channels that open more rarely "
            "than it says; train.py --keep trains a network to close channels."
        )
    found = proof["agreement"].values()
    images, other, opened = (
        sum(count(each) for each in found)
        for count in (
            lambda each: each["images"],
            lambda each: len(each["other_class"]),
            lambda each: len(each["opened"]),
        )
    )
    removed = (
        f"{before - kept} of {before} channels and the gates of {len(proof['settled'])} blocks"
    )
    if not other and not opened:
        return f"**{removed} were removed; all {images:,} images are of the same class as before.**"
    return (
        f"**{removed} were removed; of {images:,} images {other:,} are of another class than "
        f"before, and for {opened:,} a removed channel would have opened.**"
    )


def _listed(key):
    def tell(found):
        numbers = found[key]
        if not numbers:
            return "none"
        shown = ", ".join(map(str, numbers[:LISTED]))
        return f"{len(numbers):,}: {shown}{', ...' if len(numbers) > LISTED else ''}"

    return tell


def _error(which):
    return lambda found: f"{found['error'][which]:.2%}" if "error" in found else "-"


_TOLD = (
    ("images", lambda found: f"{found['images']:,}"),
    ("error before", _error(0)),
    ("error after", _error(1)),
    ("largest difference of a probability", lambda found: f"{found['largest_difference']:.2e}"),
    (f"images beyond {TOLERANCE}", _listed("other")),
    ("images of another class", _listed("other_class")),
    ("images for which a removed channel would have opened", _listed("opened")),
    ("images for which a kept gate is another", _listed("other_gates")),
)


if __name__ == "__main__":
    main()
