"""Packs the weights of finished runs for the package, and writes their model card.

    python training/ship.py RUN_DIR [RUN_DIR ...]

writes, for every run, larq_seresnet/weights/NAME_DATASET.npz, its log and its confusion matrix in
results/weights, and the card of all that ships, larq_seresnet/weights/README.md; then prints what
`SHIPPED` in larq_seresnet/weights.py must say. For a checkout: an installed package is left alone.
"""

import argparse
import dataclasses
import json
import pathlib
import shlex

import numpy as np
from sklearn.metrics import confusion_matrix

from larq_seresnet import SEResNet14, files, preprocess_input, programs, save_weights
from larq_seresnet.training import callbacks, config, data, fitting, flags, pictures
from larq_seresnet.training.facts import check_data
from larq_seresnet.weights import SHIPPED

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "larq_seresnet" / "weights"
LOGS = ROOT / "results" / "weights"
#: What the card calls the run directory of a teacher.
TEACHER = "runs/teacher"
CARD = """\
# Weights that ship

`SEResNet14` loads them by its arguments, unless `weights` is None. Kernels are packed, one bit
a weight, or a byte where `ends` are not 1-bit; the rest is float32. The container is NumPy's npz,
read without pickle; the SHA-256 of every file stands in `larq_seresnet/weights.py`.

{table}
Errors are of the last epoch, top-1, on all test images, computed in float32 from these files; the
logs are of training and its compute dtype. The confusion matrices are below.

## Data

{data}

## Limits

32 x 32 pixels, one object that fills the image, and no class for "none of these": images of
anything else get one of the ten labels too, often with high probability. Errors are not spread
evenly over the classes, as the matrices show. Not for decisions on which anyone's safety depends.

## How they were trained

Each command is for the code of the commit beside it: recipe `fast` has changed since the older
ones.

{training}
## Confusion

{pictures}"""


def main(argv=None):
    """Packs, measures and describes."""
    parser = argparse.ArgumentParser(
        prog="ship.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", type=pathlib.Path, nargs="+", metavar="RUN_DIR")
    arguments = parser.parse_args(argv)
    with programs.refusing_bad_input(parser):
        if not PACKAGE.parent.is_dir():
            raise ValueError(f"ship.py is for a checkout, {PACKAGE.parent} does not exist.")
        for run_dir in arguments.run_dir:
            ship(run_dir)
    described = [json.loads(path.read_text()) for path in sorted(LOGS.glob("*.json"))]
    files.write_text(PACKAGE / "README.md", card(described))
    for each in described:
        print(f'        "{each["name"]}": (\n            "{each["sha256"]}"\n        ),')


def ship(run_dir):
    """Packs one run, and writes its log, confusion matrix and what the card says of it."""
    settings, facts = config.load(run_dir)
    _check(run_dir, settings, facts)
    images = data.load(settings.dataset, settings.data_dir, settings.input_shape[:2], limit_train=1)
    check_data(facts, images, ("class_names", "test_images", "test_images_sha256"))
    model = fitting.trained(run_dir, settings, len(images.class_names))
    stem = f"{model.name}_{settings.dataset}"
    target = PACKAGE / f"{stem}.npz"
    for folder in (PACKAGE, LOGS):
        folder.mkdir(parents=True, exist_ok=True)
    save_weights(model, target, settings.dataset, images.class_names, packed=True)
    packed = SEResNet14(
        num_classes=len(images.class_names), weights=target, **settings.model_arguments()
    )
    probabilities = packed.predict(preprocess_input(images.test[0]), batch_size=500, verbose=0)
    classes, labels = probabilities.argmax(axis=1), images.test[1]
    matrix = confusion_matrix(labels, classes)
    pictures.draw_confusion(matrix, images.class_names, model.name, LOGS / f"{stem}.png")
    taught = pathlib.Path(settings.teacher) if settings.teacher else None
    if taught:
        settings = dataclasses.replace(settings, teacher=TEACHER)
    shipped = {
        "name": model.name,
        "file": target.name,
        "bytes": target.stat().st_size,
        "sha256": files.digest(target),
        "images": int(matrix.sum()),
        "wrong": int(matrix.sum() - np.trace(matrix)),
        "wrong_of_each_thousand": [
            int((classes[start : start + 1000] != labels[start : start + 1000]).sum())
            for start in range(0, len(labels), 1000)
        ],
        "run": {"arguments": dataclasses.asdict(settings), **facts},
        "command": _command(settings),
    }
    texts = {f"{stem}.csv": files.read_text(run_dir / callbacks.LOG_FILE)}
    if taught:
        shipped["teacher_command"] = _command(config.load(taught)[0], run_dir=TEACHER)
        texts[f"{stem}.teacher.csv"] = files.read_text(taught / callbacks.LOG_FILE)
    texts[f"{stem}.json"] = json.dumps(shipped, indent=1) + "\n"
    for name, content in texts.items():
        files.write_text(LOGS / name, content)


def _check(run_dir, settings, facts, limits=("limit_train", "limit_test", "held_out")):
    """Checks that a run is whole, on all images, and of code that one can go back to.

    A teacher may hold some images out: it is not what ships.
    """
    epochs = len(callbacks.read_log(run_dir / callbacks.LOG_FILE))
    if not (run_dir / config.WEIGHTS_FILE).exists() or epochs < settings.epochs:
        raise ValueError(f"{run_dir} must be a finished run, received {epochs} epochs.")
    for name in limits:
        if getattr(settings, name) is not None:
            raise ValueError(
                f"{run_dir} must be a run on all images, received `{name}` "
                f"{getattr(settings, name)}."
            )
    if settings.weights not in (None, *SHIPPED):
        raise ValueError(
            f"{run_dir} must begin with initial weights, or with those that ship, received "
            f"`weights` {settings.weights}."
        )
    for part in (facts, *facts.get("resumed", [])):
        if part["commit"] is None or part["commit"].endswith("-dirty"):
            raise ValueError(
                f"{run_dir} must be of code that was committed, received {part['commit']}."
            )
    if settings.teacher:
        _check(pathlib.Path(settings.teacher), *config.load(settings.teacher), limits=())


def card(shipped):
    """The model card of what the json files in `LOGS` say."""
    table = files.table(
        ("configuration", "file", "bytes", "test error", "wrong", "SHA-256"),
        [
            (
                each["name"],
                f"`{each['file']}`",
                f"{each['bytes']:,}",
                f"{each['wrong'] / each['images']:.2%}",
                f"{each['wrong']:,} of {each['images']:,}",
                f"`{each['sha256'][:16]}...`",
            )
            for each in shipped
        ],
    )
    training = "".join(
        f"`{each['name']}`: recipe `{each['run']['arguments']['recipe']}`, "
        f"{each['run']['arguments']['epochs']} epochs, seed {each['run']['arguments']['seed']}, "
        f"{_code(each['run'])}\n([log](../../results/weights/{_stem(each)}.csv), "
        f"[config](../../results/weights/{_stem(each)}.json)):\n\n"
        f"    {each['command']}\n\n{_teacher(each)}"
        for each in shipped
    )
    pictures = "".join(
        f"![{each['name']}](../../results/weights/{_stem(each)}.png)\n" for each in shipped
    )
    described = " ".join(sorted({_data(each["run"]) for each in shipped}))
    return CARD.format(table=table, training=training, pictures=pictures, data=described)


def _teacher(shipped):
    if "teacher_command" not in shipped:
        return ""
    return (
        f"Its teacher ([log](../../results/weights/{_stem(shipped)}.teacher.csv)):\n\n"
        f"    {shipped['teacher_command']}\n\n"
    )


def _command(settings, **others):
    words = flags.words(settings.changed() | others)
    return shlex.join(["python", "training/train.py", *words])


def _code(run):
    later = [
        f"commit {each['commit']} after epoch {each['after_epoch']}"
        for each in run.get("resumed", [])
        if each["commit"] != run["commit"]
    ]
    return ", ".join([f"commit {run['commit']}", *later])


def _data(run):
    return data.describe(config.of_saved(run["arguments"]), run)


def _stem(shipped):
    return shipped["file"].removesuffix(".npz")


if __name__ == "__main__":
    main()
