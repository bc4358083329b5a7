"""Run directories of what `xla_train.py` trained, as `train.py` would have written them.

    python training/xla_collect.py lowered trained
"""

import argparse
import csv
import json
import pathlib
import platform

import numpy as np

from larq_seresnet import SEResNet14, files, programs, save_weights
from larq_seresnet.layers import GATE_ACTIVATIONS
from larq_seresnet.training import callbacks, config, data, facts
from larq_seresnet.training.xla_export import RUNS_FILE
from larq_seresnet.weights import LATENT

import tensorflow as tf


def main(argv=None):
    """Writes the run directories of all runs that are finished, but those that are there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("lowered", type=pathlib.Path)
    parser.add_argument("trained", type=pathlib.Path)
    given = parser.parse_args(argv)
    with programs.failing(parser):
        entries = json.loads((given.lowered / RUNS_FILE).read_text())
        images = {}
        for entry in entries:
            finished = given.trained / f"{entry['name']}.npz"
            run_dirs = [pathlib.Path(run_dir) for run_dir in entry["run_dirs"]]
            missing = [each for each in run_dirs if not (each / config.WEIGHTS_FILE).exists()]
            if not finished.exists() or not missing:
                continue
            settings = config.Config(**entry["arguments"])
            read = tuple(getattr(settings, name) for name in config.FLAG_GROUPS["data"])
            if read not in images:
                images[read] = data.of_run(settings)
            program = json.loads((given.lowered / entry["program"] / "facts.json").read_text())
            with np.load(finished) as arrays:
                for run_dir in missing:
                    _write(run_dir, settings, images[read], program, dict(arrays))
                    print(run_dir, flush=True)


def _write(run_dir, settings, images, program, arrays):
    run_dir.mkdir(parents=True, exist_ok=True)
    known = json.loads(str(arrays["facts"]))
    settings.save(run_dir, **_facts(settings, images, known))
    _write_log(run_dir / callbacks.LOG_FILE, images, arrays["log"])
    gates = _gates(settings, arrays)
    if gates:
        gates["dataset"] = np.array(images.name)
        path = run_dir / callbacks.GATES_FILE
        files.replace(path, lambda part: files.save_arrays(part, gates))
    model = SEResNet14(
        num_classes=len(images.class_names), weights=None, **settings.model_arguments()
    )
    _set_weights(model, program["state"], arrays)
    save_weights(model, run_dir / config.WEIGHTS_FILE, images.name, images.class_names)


def _gates(settings, arrays):
    """What `callbacks.GateRecorder` keeps; attention was rounded to float16, FMB's gates are exact."""
    gate, found = GATE_ACTIVATIONS[settings.activation], {}
    for name in (name for name in arrays if name.startswith("gates/")):
        values = arrays[name].astype(np.float32)
        module = name.removeprefix("gates/")
        found[module] = values
        if settings.fmb:
            opened = np.where(values >= gate.threshold, 1.0, gate.closed).astype(np.float32)
            found[module.removesuffix("_se") + "_fmb"] = opened
    return found


def _facts(settings, images, known):
    """What `facts.of_run` says, of the machine that trained."""
    versions = {"python": platform.python_version(), "jax": known["jax"]}
    found = facts.of_run(settings, images, 0, {}, False)
    return found | {
        "versions": found["versions"] | versions,
        "processor": f"{known['device']}, training/xla_train.py",
    }


def _write_log(path, images, rows):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(callbacks.LOG_COLUMNS)
        for epoch, rate, *errors, seconds in rows:
            figures = (f"{each:.6f}" for each in errors)
            speed = f"{len(images.train[0]) / seconds:.1f}"
            row = (int(epoch), f"{rate:.6g}", *figures, f"{seconds:.2f}", speed, images.name)
            writer.writerow(row)


def _set_weights(model, state, arrays):
    """Gives a model the values of the state; what was kept as bits becomes +-`LATENT`."""
    values = {}
    for number, variable in enumerate(state):
        if variable["kept"]:
            kept = arrays[f"state/{number}"]
            if variable["signs"]:
                bits = np.unpackbits(kept, count=int(np.prod(variable["shape"])))
                kept = np.where(bits.reshape(variable["shape"]), LATENT, -LATENT)
            values[variable["name"]] = kept
    for weight in model.weights:
        weight.assign(values.pop(weight.name))
    if values:
        raise ValueError(f"the network has no {next(iter(values))}.")


if __name__ == "__main__":
    main()
