"""The command line of training: arguments in, one run directory out."""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import re
import shlex
import shutil
import sys
import tempfile

from larq_seresnet import files, programs, save_weights
from larq_seresnet.preprocessing import CIFAR10_CLASSES, preprocess_input
from larq_seresnet.training import (
    batch_norm,
    callbacks,
    config,
    data,
    facts,
    fitting,
    flags,
    machine,
    pictures,
    sources,
    strategies,
    teacher,
)
from larq_seresnet.weights import SHIPPED, load_weights, read

import tensorflow as tf

#: Where images are: they themselves are compared.
ELSEWHERE = ("dataset", "data_dir")


def main(argv=None):
    """Trains one model and returns its run directory."""
    parser = _parser()
    given, this = _parsed(parser, argv)
    with programs.refusing_bad_input(parser), contextlib.ExitStack() as held:
        held.enter_context(strategies.begin(this.strategy).scope())
        spare = held.enter_context(tempfile.TemporaryDirectory())
        run_dir = strategies.copied_from_chief(this.run_dir, spare)
        resume = this.resume and _has_begun(run_dir)
        if resume:
            settings, known = _resumed(given, run_dir)
        else:
            settings, known = config.Config(**(_of_weights(given.get("weights")) | given)), {}
        last = _last_epoch(settings, this.stop_after)
        images = data.of_run(settings)
        settings = fitting.resolved(settings, images)
        model = _distributed_model(settings, images, this.synchronize_batch_norm)
        run_dir = run_dir or _default_run_dir(model, settings)
        if resume:
            held.enter_context(files.locked(run_dir))
        else:
            _check_claim(run_dir, this.overwrite)
            _check_outside(run_dir, settings)
        checkpoint = callbacks.Checkpoint(run_dir / "checkpoint", model)
        first = _epochs_done(checkpoint, last, run_dir) if resume else 0
        if not first and settings.weights is not None:
            _check_unseen(settings, images)
            load_weights(model, settings.weights)
        epochs = range(first, last)
        known = facts.of_run(settings, images, epochs, known, this.synchronize_batch_norm)
        said = strategies.alone(_said, settings, images)
        if not resume:
            run_dir.mkdir(parents=True, exist_ok=True)
            held.enter_context(files.locked(run_dir))
            _check_claim(run_dir, this.overwrite)  # another process may have been first
            _empty(run_dir)
            settings.save(run_dir, **known)  # first of all: what makes it a run directory
        gates = _gate_recorder(settings, images, run_dir)
        log = callbacks.ErrorLog(run_dir / callbacks.LOG_FILE, images, first)
        if resume:
            settings.save(run_dir, **known)
        is_chief = strategies.is_chief()
        lock = held.pop_all()
    with programs.failing(parser), lock:
        if epochs or not _is_finished(run_dir):
            _train(model, settings, images, run_dir, epochs, (log, gates, checkpoint), said)
    command = [sys.executable, "-m", "larq_seresnet.export.convert", str(run_dir)]
    if is_chief:
        print(f"wrote {run_dir}; to convert it: {shlex.join(command)}")
    return run_dir


def parsed(words):
    """The `Config` that a command line of a new run says, and its run directory."""
    given, this = _parsed(_parser(), words)
    return config.Config(**given), this.run_dir


def _parsed(parser, words):
    """Arguments for `Config`, those that are given, and a namespace of all other flags."""
    known = vars(parser.parse_args(words))
    fields = {field.name for field in dataclasses.fields(config.Config)}
    given = {name: known.pop(name) for name in fields & known.keys()}
    return given, argparse.Namespace(**known)


def _distributed_model(settings, images, synchronized):
    """What `fitting.compiled_model` makes, for the current strategy."""
    if strategies.count() > 1:
        alike = _alike(settings) | facts.of_data(images)
        sizes = len(images.train[0]), len(images.test[0])
        strategies.check(*sizes, settings.batch_size, alike)
    model = fitting.compiled_model(settings, images)
    machine.convolve_in_float32(model)
    strategies.normalise_in_parts(model, settings.batch_size, synchronized)
    return model


def _said(settings, images):
    """What the teacher of a run says, None where it has none."""
    if settings.teacher is None:
        return None
    return teacher.ask_for(settings, images)


def _train(model, settings, images, run_dir, epochs, written, said):
    """Trains the epochs of a range, counted from 0, and writes what a run directory holds.

    Args:
        written: The run's `ErrorLog`, `GateRecorder` and `Checkpoint`.
        said: What a teacher says, or None.
    """
    log, gates, checkpoint = written
    (run_dir / config.WEIGHTS_FILE).unlink(missing_ok=True)  # of before these epochs
    _tell_of_stale(run_dir)
    board = tf.keras.callbacks.TensorBoard(run_dir / "tensorboard", write_graph=False)
    last_of_all = None if settings.extendable else settings.epochs
    statistics = batch_norm.BatchNormEstimator(images, last_of_all)
    # after the log, whose clock stops before it; the checkpoint last: an epoch is done when
    # all else of it is written
    run_callbacks = [log, statistics, gates, board, checkpoint]
    fitting.fit(model, settings, images, epochs, run_callbacks, said)
    pictures.draw_curves(
        callbacks.read_log(run_dir / callbacks.LOG_FILE),
        f"{model.name}\n{_data_name(settings)}, {settings.recipe}, seed {settings.seed}",
        run_dir / "curves.png",
    )
    # the last of all: a run that has weights is finished
    save_weights(model, run_dir / config.WEIGHTS_FILE, images.name, images.class_names)


def _tell_of_stale(run_dir):
    """Names what was made of the weights that are no more; a user may have put it to use."""
    made = [*run_dir.glob("*.tflite"), *run_dir.glob(f"{config.PRUNED}/{config.WEIGHTS_FILE}")]
    if made and strategies.is_chief():
        names = ", ".join(sorted(str(path.relative_to(run_dir)) for path in made))
        print(f"of the weights before these epochs, to be made anew: {names}")


def _parser():
    parser = argparse.ArgumentParser(
        description="Trains SEResNet14 and writes a run directory: config.json, log.csv, "
        "weights.h5, gates.npz, curves.png, checkpoint/, tensorboard/.",
        allow_abbrev=False,
    )
    group = flags.add_to(parser)["run"]
    group.add_argument(
        "--run-dir",
        type=pathlib.Path,
        metavar="DIR",
        help="where everything goes; default runs/ and a name made of model, data, recipe and seed",
    )
    existing = group.add_mutually_exclusive_group()
    existing.add_argument(
        "--resume",
        action="store_true",
        help="go on after the last finished epoch of --run-dir, or begin where there is none",
    )
    existing.add_argument(
        "--overwrite", action="store_true", help="delete the run that --run-dir holds"
    )
    group.add_argument(
        "--strategy",
        choices=strategies.NAMES,
        default="none",
        help="none: on one device; mirrored: on all GPUs of this machine; multi_worker: on the "
        "machines that TF_CONFIG names, see training/distributed.md",
    )
    group.add_argument(
        "--synchronize-batch-norm",
        action="store_true",
        help="with several replicas: BatchNorm of the whole batch, as on one device, not of each "
        "replica's part; slower",
    )
    group.add_argument(
        "--stop-after",
        type=int,
        metavar="N",
        help="stop after epoch N, for --resume to go on; the schedule still ends at --epochs",
    )
    return parser


def _alike(settings):
    """The arguments that must not differ between the processes of one training."""
    every = dataclasses.asdict(settings)
    return {name: every[name] for name in every if name not in ELSEWHERE}


def _has_begun(run_dir):
    """Whether there is a run to go on with; where there is nothing at all, it begins."""
    if run_dir is None:
        raise ValueError("--resume needs --run-dir, the run to go on with.")
    if not (run_dir / config.CONFIG_FILE).exists() and _is_empty(run_dir):
        print(f"{run_dir} holds no run to go on with: it begins", file=sys.stderr)
        return False
    return True


def _is_empty(run_dir):
    """Whether a folder is not there, or holds nothing but what a process that was killed left."""
    return not run_dir.exists() or all(
        path.name == files.LOCK_FILE or path.suffix == ".part" for path in run_dir.iterdir()
    )


def _resumed(given, run_dir):
    """Settings and facts of the run in `run_dir`, with what may change from the command line."""
    settings, known = config.load(run_dir)
    changed = {
        name: value
        for name, value in given.items()
        if _as_saved(name, value, settings) != getattr(settings, name)
    }
    changeable = {*ELSEWHERE, *config.ASIDE, "teacher"}  # `facts` sees to it that it is the same
    if settings.extendable:
        changeable.add("epochs")
    fixed = sorted(set(changed) - changeable)
    if fixed:
        hint = " The schedule is laid out for all epochs: see --stop-after." * ("epochs" in fixed)
        raise ValueError(
            f"`{fixed[0]}` of a run cannot change when it is resumed: it is "
            f"{flags.format_value(getattr(settings, fixed[0]))}, received "
            f"{flags.format_value(changed[fixed[0]])}.{hint}"
        )
    return dataclasses.replace(settings, **changed), known


def _of_weights(path):
    """The arguments of the network that a weight file is of, which flags may say otherwise."""
    if path is None or path in SHIPPED:
        return {}
    configuration = read(path).configuration
    if None in configuration["input_shape"]:  # of a network without top
        del configuration["input_shape"]
    names = set(config.FLAG_GROUPS["model"]) & set(configuration)
    return {name: configuration[name] for name in names}


def _check_unseen(settings, images):
    """Raises ValueError where weights to begin with were trained on images that are held out."""
    weights = settings.weights
    if weights is None or not settings.held_out:
        return
    run, facts = None, {}
    if weights in SHIPPED:
        of_others = images.class_names != CIFAR10_CLASSES
    else:
        contents = read(weights)
        names = tuple(contents.class_names or ())
        of_others = names != images.class_names if names else contents.trained_on != images.name
        run, facts = config.facts_of_weights(weights)
    if not of_others:
        data.check_unseen(f"`weights` {weights}", images, settings.held_out, run, facts)


def _as_saved(name, value, settings):
    """An argument as config.json has it of a run with such settings."""
    if name == "relaxed_inputs":  # off where there are none
        return dataclasses.replace(settings, relaxed_inputs=value).relaxed_inputs
    if name == "compute_dtype":
        return fitting.compute_dtype(value)
    if name == "dataset":
        return sources.full_name(value)
    return tuple(value) if isinstance(value, list) else value


def _last_epoch(settings, stop_after):
    if stop_after is not None and not 1 <= stop_after <= settings.epochs:
        raise ValueError(
            f"`stop_after` must be from 1 to `epochs`, {settings.epochs}, received {stop_after}."
        )
    return stop_after or settings.epochs


def _epochs_done(checkpoint, last, run_dir):
    done = checkpoint.restore()
    logged, finished = _epochs_logged(run_dir), _is_finished(run_dir)
    if not done and (finished or logged > 1):  # a first row may be of an epoch that was cut off
        if not finished or logged < last:
            raise ValueError(
                f"{run_dir} has no checkpoint of its {logged} epochs to go on from. --overwrite "
                "begins anew, another --run-dir leaves it alone."
            )
        done = logged
    if done > last:
        raise ValueError(
            f"the run has {done} epochs already, it cannot be resumed to end at {last}."
        )
    return done


def _epochs_logged(run_dir):
    """How many rows a log has, the last of which may have been cut off."""
    log = run_dir / callbacks.LOG_FILE
    return max(0, len(log.read_bytes().splitlines()) - 1) if log.exists() else 0


def _is_finished(run_dir):
    return (run_dir / config.WEIGHTS_FILE).exists()


def _default_run_dir(model, settings):
    dataset = re.sub(r"[:*?\\\[\]]", "_", pathlib.Path(settings.dataset).name)
    if settings.held_out:
        dataset += f"_held_out{settings.held_out}"
    name = f"{model.name}_{dataset}_{settings.recipe}{settings.epochs}_seed{settings.seed}"
    return pathlib.Path("runs") / name


def _data_name(settings):
    if settings.held_out:
        return f"{settings.dataset}, tested on {settings.held_out} training images"
    return settings.dataset


def _check_claim(run_dir, overwrite):
    """Raises ValueError where something is that was not asked to be deleted."""
    if run_dir.exists() and (not run_dir.is_dir() or not _is_empty(run_dir)):
        if not overwrite:
            raise ValueError(
                f"`run_dir` {run_dir} exists: --resume goes on with it, --overwrite deletes it, "
                f"another --run-dir leaves it alone."
            )
        if not config.is_run(run_dir):
            raise ValueError(
                f"`run_dir` {run_dir} is no earlier run, so --overwrite leaves it alone."
            )


def _check_outside(run_dir, settings):
    """Raises ValueError where what a run needs would be deleted with the one before it."""
    place, needed = run_dir.resolve(), dict(vars(settings))
    if not os.path.isabs(settings.dataset):  # of TFDS, or embedded
        del needed["dataset"]
    for name in ("weights", "teacher", "dataset", "data_dir"):
        path = needed.get(name)
        if path and pathlib.Path(path).resolve().is_relative_to(place):
            raise ValueError(
                f"`{name}` {path} must not be in `run_dir` {run_dir}: it would be lost."
            )
    if "dataset" in needed and place.is_relative_to(settings.dataset):
        raise ValueError(
            f"`run_dir` {run_dir} must not be in `dataset` {settings.dataset}: it would be taken "
            f"for a class of images. --run-dir says where else."
        )


def _empty(run_dir):
    """Deletes an earlier run, config.json last: what is left half deleted is a run."""
    for path in sorted(run_dir.iterdir(), key=lambda path: path.name == config.CONFIG_FILE):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != files.LOCK_FILE:
            path.unlink()


def _gate_recorder(settings, images, run_dir):
    return callbacks.GateRecorder(
        run_dir / callbacks.GATES_FILE,
        preprocess_input(images.test[0][: callbacks.GATE_IMAGES]),
        settings.recorded_epochs(),
        images.name,
    )


if __name__ == "__main__":
    main()
