"""Run directories of what `run.py` trained, as `train.py` would have written them.

    python training/xla/collect.py lowered trained

What is not finished becomes a run with a checkpoint: `train.py --resume` goes on with it.
"""

import argparse
import csv
import json
import pathlib

import numpy as np

from larq_seresnet import SEResNet14, files, programs, save_weights
from larq_seresnet.layers import GATE_ACTIVATIONS
from larq_seresnet.training import callbacks, config, data, facts, fitting, teacher
from larq_seresnet.training.xla.export import RUNS_FILE
from larq_seresnet.weight_files import LATENT


def main(argv=None):
    """Writes the run directories that are not there yet."""
    parser = argparse.ArgumentParser(
        description="Writes run directories of what run.py trained; those that exist stay as they "
        "are.",
        allow_abbrev=False,
    )
    parser.add_argument("lowered", type=pathlib.Path, help="what export.py wrote")
    parser.add_argument("trained", type=pathlib.Path, help="what run.py wrote")
    given = parser.parse_args(argv)
    with programs.refusing_bad_input(parser):
        entries = json.loads((given.lowered / RUNS_FILE).read_text())
        # teachers first, and each data set once
        entries.sort(key=lambda entry: (bool(entry["teacher"]), entry["images"]))
        images, name, problems = None, None, []
        for entry, run_dir, found in _missing(entries, given.trained):
            settings = config.Config(**entry["arguments"])
            if entry["images"] != name:
                images, name = data.of_run(settings), entry["images"]
            try:
                _collect(entry, settings, images, run_dir, found, given)
            except ValueError as problem:  # the others go on
                problems.append(f"{run_dir}: {problem}")
            else:
                print(run_dir, flush=True)
        if problems:
            raise ValueError("not collected: " + " ".join(problems))


def _collect(entry, settings, images, run_dir, found, given):
    """Writes one run directory; ValueError, before anything is written, if it cannot be one."""
    state = json.loads((given.lowered / entry["program"] / "facts.json").read_text())
    with np.load(found) as arrays:
        known = json.loads(str(arrays["facts"]))
        if known.get("program") != entry["program"]:
            raise ValueError(
                f"{found} was trained by another program than {given.lowered} holds: "
                f"{known.get('program')}, not {entry['program']}. Train it anew in another folder."
            )
        of_run = _facts(settings, images, known)
        if entry["teacher"]:
            _check_teacher(entry, settings.teacher, given.trained)
        _write(run_dir, settings, images, state["state"], dict(arrays), of_run)


def _check_teacher(entry, run_dir, trained):
    """Raises ValueError unless a directory holds the very training that taught a run."""
    taught_by = trained / f"{entry['teacher']}.npz"
    if entry["teacher_sha256"]:  # it was finished before
        is_same = teacher.digest(run_dir) == entry["teacher_sha256"]
    else:
        is_same = taught_by.exists() and _losses_of(taught_by) == _losses_in(run_dir)
    if not is_same:
        raise ValueError(
            f"`teacher` {run_dir} is another training than the one that taught it: move it away, "
            "to collect that one."
        )


def _losses_of(found):
    """What a training's log says of the loss of every epoch, as in the file of a log."""
    with np.load(found) as arrays:
        losses = arrays["log"][:, callbacks.LOG_COLUMNS.index("train_loss")]
    return [f"{loss:.6f}" for loss in losses]


def _losses_in(run_dir):
    rows = callbacks.read_log(pathlib.Path(run_dir) / callbacks.LOG_FILE)
    return [f"{row['train_loss']:.6f}" for row in rows]


def _missing(entries, trained):
    """Entries of runs.json, a run directory that is not there yet, and what was trained of it."""
    for entry in entries:
        for suffix in (".npz", ".part.npz"):
            found = trained / f"{entry['name']}{suffix}"
            for run_dir in map(pathlib.Path, entry["run_dirs"]):
                if not found.exists():
                    continue
                if not (run_dir / config.CONFIG_FILE).exists():
                    yield entry, run_dir, found
                else:
                    _say_left_alone(run_dir, found)


def _say_left_alone(run_dir, found):
    """Tells of a run directory that has fewer epochs than were trained meanwhile."""
    log = run_dir / callbacks.LOG_FILE
    here = len(callbacks.read_log(log)) if log.exists() else 0
    with np.load(found) as arrays:
        there = len(arrays["log"])
    if here < there:
        print(
            f"{run_dir} has {here} epochs and is left alone, {found} has {there}: move the "
            "directory away to collect those"
        )


def _write(run_dir, settings, images, state, arrays, of_run):
    run_dir.mkdir(parents=True, exist_ok=True)
    _write_log(run_dir / callbacks.LOG_FILE, images, arrays["log"])
    gates = _gates(settings, arrays)
    if gates:
        gates["dataset"] = np.array(images.name)
        path = run_dir / callbacks.GATES_FILE
        files.replace(path, lambda part: files.save_arrays(part, gates))
    if len(arrays["log"]) < settings.epochs:
        _write_checkpoint(run_dir, settings, images, state, arrays)
    else:
        model = SEResNet14(
            num_classes=len(images.class_names), weights=None, **settings.model_arguments()
        )
        values = {
            variable["name"]: _value(arrays[f"state/{number}"], variable)
            for number, variable in enumerate(state)
            if variable["kept"]
        }
        for weight in model.weights:
            weight.assign(values[weight.name])
        save_weights(model, run_dir / config.WEIGHTS_FILE, images.name, images.class_names)
    settings.save(run_dir, **of_run)  # the last: the run is there


def _write_checkpoint(run_dir, settings, images, state, arrays):
    model = fitting.compiled_model(settings, images)
    checkpoint = callbacks.Checkpoint(run_dir / "checkpoint", model)
    variables = {each.name: each for each in (*model.weights, *model.optimizer.variables)}
    for number, variable in enumerate(state):
        if variable["name"] in variables:
            variables[variable["name"]].assign(arrays[f"state/{number}"])
    checkpoint.epoch.assign(len(arrays["log"]))
    checkpoint.manager.save()


def _value(kept, variable):
    """The values of a weight; those kept as bits are +-`LATENT`, as in packed files."""
    if not variable["signs"]:
        return kept
    bits = np.unpackbits(kept, count=int(np.prod(variable["shape"])))
    return np.where(bits, LATENT, -LATENT).reshape(variable["shape"])


def _facts(settings, images, known):
    """What `facts.of_run` says, of the machine that trained."""
    found = facts.of_run(settings, images, range(settings.epochs), {}, False)
    return found | {
        "commit": known["commit"],  # which lowered it, not which collects it
        "versions": found["versions"] | {"jax": known["jax"]},
        "processor": f"{known['device']}, training/xla",
    }


def _write_log(path, images, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(callbacks.LOG_COLUMNS)
        for epoch, rate, *errors, seconds in rows:
            figures = (f"{each:.6f}" for each in errors)
            speed = f"{len(images.train[0]) / seconds:.1f}"
            row = (int(epoch), f"{rate:.6g}", *figures, f"{seconds:.2f}", speed, images.name)
            writer.writerow(row)


def _gates(settings, arrays):
    """What `GateRecorder` keeps: attention was rounded to float16, FMB's gates are exact."""
    gate, found = GATE_ACTIVATIONS[settings.activation], {}
    for name in (name for name in arrays if name.startswith("gates/")):
        values = arrays[name].astype(np.float32)
        module = name.removeprefix("gates/")
        found[module] = values
        if settings.fmb:
            opened = np.where(values >= gate.threshold, 1.0, gate.closed).astype(np.float32)
            found[module.removesuffix("_se") + "_fmb"] = opened
    return found


if __name__ == "__main__":
    main()
