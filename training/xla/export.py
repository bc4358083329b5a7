"""Lowers trainings to XLA, for an accelerator whose machine has JAX but not this TensorFlow.

    python training/reproduce.py --profile goals --print-commands > commands
    python training/xla/export.py lowered < commands
    python3 lowered/run.py lowered trained --processes 16     # there
    python training/xla/collect.py lowered trained            # here: run directories

It is the same training: `lowering.py` traces what `train.py` computes, and `philox.py` has its
draws.
"""

import argparse
import dataclasses
import hashlib
import json
import pathlib
import shlex
import shutil
import sys
import zlib

import numpy as np

from larq_seresnet import files, programs
from larq_seresnet.training import batch_norm, config, data, facts, fitting, teacher, train
from larq_seresnet.training.xla import lowering

#: What a program does not depend on, and what stands for it; of a crop it is whether there is one.
ASIDE = {"seed": 0, "epochs": 2, "gate_epochs": (), "data_dir": None, "teacher": None}
RUNS_FILE = "runs.json"
#: What trains there, and what it needs.
SCRIPTS = ("run.py", "fit.py", "compiled.py", "philox.py", "../channels.py")


def main(argv=None):
    """Lowers the trainings whose commands stand on standard input."""
    parser = argparse.ArgumentParser(
        description="Lowers trainings to XLA; their commands, of train.py, a line each, the most "
        "important first, come from standard input, for example from reproduce.py "
        "--print-commands.",
        allow_abbrev=False,
    )
    parser.add_argument("lowered", type=pathlib.Path, help="folder to make, or to complete")
    parser.add_argument(
        "--part",
        type=int,
        nargs=2,
        default=(0, 1),
        metavar=("I", "N"),
        help="lower every N-th program, from the I-th on: for N processes at once",
    )
    given = parser.parse_args(argv)
    with programs.refusing_bad_input(parser):
        index, count = given.part
        if not 0 <= index < count:
            raise ValueError(f"--part must be I of N, from 0 to N - 1, received {index} {count}.")
        entries, wanted, sets = _entries(sys.stdin)
        given.lowered.mkdir(parents=True, exist_ok=True)
        if index == 0:
            _write_entries(given.lowered, entries, sets)
            _write_said(given.lowered, entries, sets)
        for key, (settings, images, taught) in list(wanted.items())[index::count]:
            if not (given.lowered / key / "facts.json").exists():
                teaches = taught and len(sets[images_name(taught)].train[0])
                _write_program(given.lowered / key, *lowering.program(settings, images, teaches))
                print(f"{key}: {settings.changed()}", flush=True)
    print(f"{given.lowered}: {len(entries)} runs of {len(wanted)} programs")


def _entries(commands):
    """What runs.json holds; by the name of a program what it is made of; by name the data sets."""
    asked = {}
    for run_dir, settings in (_parsed(line) for line in commands if line.strip()):
        if asked.setdefault(run_dir, settings) != settings:
            raise ValueError(f"each --run-dir must be of one training, received {run_dir} twice.")
    _check(asked)
    sets = _resolve(asked)
    teachers = _taught(asked)
    _check_teachers(asked, sets)
    entries, wanted, code = {}, {}, facts.digest_of_code()
    for run_dir, settings in asked.items():
        images, taught = sets[images_name(settings)], teachers.get(run_dir)
        key = _key(settings, taught, code)
        wanted.setdefault(key, (settings, images, taught))
        finished = settings.teacher and settings.teacher not in asked
        entry = _entry(run_dir, settings, images, taught) | {
            "program": key,
            "teacher_sha256": teacher.digest(settings.teacher) if finished else None,
        }
        # a teacher is waited for by its name
        same = json.dumps([dataclasses.asdict(settings), taught and run_dir], sort_keys=True)
        entries.setdefault(same, entry)["run_dirs"].append(run_dir)
    return list(entries.values()), wanted, sets


def _parsed(line):
    """The run directory and the settings of a command."""
    words = shlex.split(line)
    script = next((i for i, word in enumerate(words) if word.endswith("train.py")), None)
    if script is None:
        raise ValueError(f"each line must be a command of train.py, received {line.strip()!r}.")
    settings, run_dir = train.parsed(words[script + 1 :])
    if run_dir is None:
        raise ValueError(f"each command must have its --run-dir, received {line.strip()!r}.")
    if settings.teacher:  # as run directories are written
        settings = dataclasses.replace(settings, teacher=str(pathlib.Path(settings.teacher)))
    return str(run_dir), settings


def _resolve(asked):
    """Leaves nothing in the settings to the data or the machine; returns the data sets by name."""
    loaded, sets = {}, {}
    for run_dir, settings in asked.items():
        read = images_name(settings)
        images = loaded[read] = loaded.get(read) or data.of_run(settings)
        dtype = settings.compute_dtype.replace("auto", "bfloat16")  # of the accelerator
        settings = dataclasses.replace(settings, compute_dtype=dtype)
        asked[run_dir] = settings = fitting.resolved(settings, images)
        sets[images_name(settings)] = images
    return sets


def _views(settings):
    """What a teacher is asked about for a run: which images, and which views of them."""
    return {"images": images_name(settings), "crop": settings.crop, "flip": settings.flip}


def _check(asked):
    """Raises ValueError for what cannot be trained there."""
    for run_dir, settings in asked.items():
        is_asked = settings.teacher is None or settings.teacher in asked
        if not is_asked and not (pathlib.Path(settings.teacher) / config.WEIGHTS_FILE).exists():
            raise ValueError(
                f"a teacher must be finished, or trained with those it teaches: no command has "
                f"--run-dir {settings.teacher}, which is no finished run."
            )
        if settings.weights is not None:
            raise ValueError(f"{run_dir} must begin with new weights, not {settings.weights}.")


def _taught(asked):
    """By teacher, the settings of a run that it teaches; all of them must need the same views."""
    first = {}
    for run_dir, settings in asked.items():
        if settings.teacher:
            other = first.setdefault(settings.teacher, settings)
            if _views(settings) != _views(other):
                raise ValueError(
                    f"a teacher must be asked about the same views by all it teaches: {run_dir} "
                    f"needs {_views(settings)}, another {_views(other)}."
                )
    return first


def _check_teachers(asked, sets):
    """Raises ValueError for a teacher that `facts.of_run` would refuse once all is trained."""
    for settings in asked.values():
        if settings.teacher is None:
            continue
        images, other = sets[images_name(settings)], asked.get(settings.teacher)
        if other is None:
            teacher.check(settings.teacher, images, settings.held_out)
            continue
        what, of_other = f"`teacher` {settings.teacher}", sets[images_name(other)]
        for name, own, its in (
            ("images of", settings.input_shape, other.input_shape),
            ("the classes", images.class_names, of_other.class_names),
        ):
            if own != its:
                raise ValueError(f"{what} must know {name} {own}, it knows {its}.")
        if settings.held_out:
            of_data = facts.of_data(of_other)
            data.check_unseen(what, images, settings.held_out, other, of_data)


def images_name(settings):
    """What tells the images of some settings from others, as part of a file's name."""
    read = [
        getattr(settings, name) for name in ("dataset", "limit_train", "limit_test", "held_out")
    ]
    return "_".join(str(part).replace("/", "+") for part in (*read, *settings.input_shape[:2]))


def _key(settings, taught, code):
    """The name of the program of some settings, of what it teaches, if that is anything, and of
    the code that it is lowered from."""
    crop = min(settings.crop, 1)
    same = dataclasses.asdict(dataclasses.replace(settings, **ASIDE, crop=crop))
    asked_about = taught and images_name(taught)
    text = json.dumps([same, bool(settings.teacher), asked_about, code], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _entry(run_dir, settings, images, taught):
    """What a run is, but for its program."""
    steps = fitting.steps_of(settings, images)
    settles = settings.epoch_of_settling() if settings.keep < 1 else None
    lengths = {}
    if settings.schedule == "one_cycle":
        lengths["schedule"] = steps * settings.epochs
    if settings.relaxation:
        lengths["Relaxation"] = fitting.hardening_steps(settings, images)
    if settles:
        lengths["Closing"] = steps * settles
    return {
        "name": _name(run_dir),
        "run_dirs": [],
        "commit": facts.commit(*facts.CODE, without=facts.NOT_CODE),
        "arguments": dataclasses.asdict(settings),
        "lengths": lengths,
        "gate_epochs": sorted(settings.recorded_epochs()),
        "extendable": settings.extendable,
        "estimated": batch_norm.IMAGES,
        "settles": settles,
        "teacher": settings.teacher and _name(settings.teacher),
        "images": images_name(settings),
        "said": taught
        and {
            "images": images_name(taught),
            "views": teacher.views(taught.flip, taught.crop),
        },
    }


def _name(run_dir):
    return str(run_dir).replace("/", "+")


def _write_entries(lowered, entries, sets):
    """Writes what all programs have in common."""
    for script in SCRIPTS:
        shutil.copy(pathlib.Path(__file__).parent / script, lowered)
    for name, images in sets.items():
        train_part, test_part = images.train, images.test
        arrays = dict(
            train=train_part[0],
            train_labels=train_part[1],
            test=test_part[0],
            test_labels=test_part[1],
        )
        path = lowered / f"{name}.npz"
        files.replace(path, lambda part, arrays=arrays: files.save_arrays(part, arrays))
    (lowered / RUNS_FILE).write_text(json.dumps(entries, indent=1) + "\n")


def _write_said(lowered, entries, sets):
    """Writes what those teachers say that are finished already."""
    for stale in lowered.glob("*.said.npy"):
        stale.unlink()
    finished = {entry["teacher"]: entry for entry in entries if entry["teacher_sha256"]}
    for name, entry in finished.items():
        settings = config.Config(**entry["arguments"])
        said = teacher.ask_for(settings, sets[entry["images"]])
        path = lowered / f"{name}.said.npy"
        files.replace(path, lambda part, said=said: _save(part, said.probabilities))


def _save(path, array):
    with open(path, "wb") as file:  # NumPy would add an ending to a path
        np.save(file, array)


def _write_program(folder, known, arrays, modules):
    folder.mkdir(exist_ok=True)
    for name, module in modules.items():
        (folder / f"{name}.hlo.z").write_bytes(zlib.compress(module))
    files.replace(folder / "state.npz", lambda part: files.save_arrays(part, arrays))
    (folder / "facts.json").write_text(json.dumps(known))


if __name__ == "__main__":
    main()
