"""What is lowered to XLA trains as `train.py` does; in place of JAX, TensorFlow computes here."""

import importlib.util
import io
import itertools
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from larq_seresnet.training import callbacks, config, data, fitting, teacher, train
from larq_seresnet.training.xla import collect, export, lowering, philox
from larq_seresnet.weights import read

import tensorflow as tf

COMMON = (
    "--dataset digits --limit-train 240 --limit-test 100 --filters 4 8 16 "
    "--compute-dtype float32 --seed 3"
)
#: At rates that turn no signs: rounding would, and networks would part.
STILL = "--learning-rate 1e-5 --kernel-rate 1e-5"


@pytest.mark.parametrize(
    ("seed", "epoch", "flip", "crop", "batch_size"),
    [(7, 0, True, 2, 32), (0, 3, False, 4, 35), (1, 1, True, 1, 100)],
)
def test_draws_are_those_of_training(seed, epoch, flip, crop, batch_size):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (70, 12, 12, 3), np.uint8), np.arange(70, dtype=np.int32)
    batches = data.training_batches(
        data.ImageSet("noise", ("a",), images, images),
        batch_size,
        seed,
        epoch + 1,
        epoch,
        flip=flip,
        crop=crop,
    )
    seen, labels = (np.concatenate(part) for part in zip(*batches.as_numpy_iterator()))
    order, shift, mirrored = philox.of_epoch(seed, epoch, 70, batch_size, flip, crop)
    np.testing.assert_array_equal(labels, order)
    moved = data.moved(images[0][order], tf.constant(shift), tf.constant(mirrored))
    np.testing.assert_array_equal(seen, data.preprocess_input(moved))


@pytest.mark.parametrize("shape", [(3, 3, 16, 31), (16, 8)])
def test_first_kernels_are_those_of_training(shape):
    expected = tf.keras.initializers.GlorotUniform(4_000_000_001)(shape)
    np.testing.assert_array_equal(philox.glorot(4_000_000_001, shape), expected)


class Traced:
    """In place of compiled.py's `Program`: the same functions, computed by TensorFlow."""

    def __init__(self, lowering, program, folder):
        self.lowering = lowering
        self.functions = {
            name: tf.function(function, autograph=False, input_signature=specs)
            for name, (function, specs) in self._all(lowering).items()
        }
        self.facts = json.loads((folder / "facts.json").read_text())
        self.arrays = dict(np.load(folder / "state.npz"))
        self.begin = types.MethodType(program.begin, self)

    @staticmethod
    def _all(lowering):
        said = lowering.said(len(lowering.images.train[0]))
        return lowering.functions() | {"said": said}

    def call(self, name, state, *arguments):
        for variable, value in zip(self.lowering.state, state, strict=True):
            if isinstance(variable, tf.Variable):
                variable.assign(value)
        found = tf.nest.flatten(self.functions[name](*map(tf.constant, arguments)))
        state[:] = [tf.convert_to_tensor(value).numpy() for value in self.lowering.state]
        return [value.numpy() for value in found]


@pytest.fixture
def lowered(tmp_path, monkeypatch):
    """Lowers commands; returns run.py, its entries, images and a program for each entry."""

    def lower(*commands):
        lowerings, made = [], lowering.Lowering
        monkeypatch.setattr(
            lowering, "Lowering", lambda *given: lowerings.append(made(*given)) or lowerings[-1]
        )
        lines = "".join(f"python training/train.py {words}\n" for words in commands)
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        folder = tmp_path / "lowered"
        export.main([str(folder)])
        monkeypatch.syspath_prepend(str(folder))
        spec = importlib.util.spec_from_file_location("lowered_run", folder / "run.py")
        run = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(run)
        known = {"device": "TensorFlow", "jax": "none"}
        monkeypatch.setattr(run.compiled, "on_device", np.asarray)
        monkeypatch.setattr(run.compiled, "device", lambda: known)
        entries = json.loads((folder / export.RUNS_FILE).read_text())
        programs = [
            Traced(made_one, run.compiled.Program, folder / entry["program"])
            for made_one, entry in zip(lowerings, entries)
        ]
        return folder, run, entries, programs

    return lower


def _assert_same_records(run_dir, expected_dir):
    """Logs and gates, but for rounding."""
    rows, expected = (
        callbacks.read_log(each / callbacks.LOG_FILE) for each in (run_dir, expected_dir)
    )
    for figure in ("learning_rate", "train_loss", "train_error", "test_loss", "test_error"):
        np.testing.assert_allclose(
            [row[figure] for row in rows], [row[figure] for row in expected], rtol=1e-3
        )
    gates, same = (
        callbacks.read_gates(each / callbacks.GATES_FILE) for each in (run_dir, expected_dir)
    )
    assert gates.keys() == same.keys()
    for epoch, layers in same.items():
        for layer, values in layers.items():
            np.testing.assert_allclose(gates[epoch][layer], values, atol=1e-2)


def _moved(run_dir, layer, weight):
    """How far training moved a weight."""
    settings, facts = config.load(run_dir)
    model = fitting.trained(run_dir, settings, len(facts["class_names"]))
    values = getattr(model.get_layer(layer), weight).numpy()
    fitting.initialise(model, settings.seed)
    is_drawn = values.ndim > 1
    return values - getattr(model.get_layer(layer), weight).numpy() if is_drawn else values


def _assert_same_steps(found, expected, layer, weight):
    """That two trainings moved a weight to the same place, a step or more from where it was."""
    moved = _moved(expected, layer, weight)
    assert np.abs(moved).max() > 1e-5
    np.testing.assert_allclose(_moved(found, layer, weight), moved, atol=5e-6)


def _assert_same_runs(runs):
    """That a run which was lowered, and one that train.py finished, are what it trains alone."""
    expected = runs / "expected"
    for name in ("taught", "halfway"):
        _assert_same_records(runs / name, expected)
        _assert_same_steps(runs / name, expected, "stem_bn", "beta")  # of Adam
    # of Muon; a finished run keeps the signs alone
    _assert_same_steps(runs / "halfway", expected, "stage2_block2_1_conv", "kernel")
    weights = [read(runs / name / "weights.h5") for name in ("taught", "expected")]
    assert weights[0].configuration == weights[1].configuration
    settings, others = (config.load(runs / name)[0] for name in ("taught", "expected"))
    assert settings.changed() == others.changed()


@pytest.mark.slow
def test_trains_what_train_py_trains(lowered, tmp_path, monkeypatch):
    """A teacher, and a network that it teaches, whose gates close; in one go and in two."""
    monkeypatch.chdir(tmp_path)
    of_teacher = (
        f"{COMMON} {STILL} --precision float32 --no-fmb --attention none --epochs 1 "
        "--batch-size 240"
    )
    of_taught = (
        f"{COMMON} {STILL} --gate-at middle --keep 0.5 --teacher runs/teacher --epochs 3 "
        "--batch-size 64"
    )
    folder, run, entries, programs = lowered(
        f"{of_teacher} --run-dir runs/teacher",
        f"{of_taught} --run-dir runs/taught",
        f"{of_taught} --keep-by frequency --run-dir runs/frequency",
    )
    assert "opened" in programs[2].facts["functions"]
    trained = tmp_path / "trained"
    trained.mkdir()
    images = run.fit.Images(folder)
    clock = itertools.count()  # asked before an epoch, when it begins and when it is trained
    monkeypatch.setattr(run.fit, "time", types.SimpleNamespace(time=clock.__next__))

    def train_to(place, until):
        run.fit.Run(entries[place], programs[place], images, trained).train(until)

    train_to(0, math.inf)
    train_to(1, next(clock) + 3)
    collect.main([str(folder), str(trained)])
    assert len(callbacks.read_log(tmp_path / "runs/taught/log.csv")) == 1
    (tmp_path / "runs/taught").rename(tmp_path / "runs/halfway")
    other = entries[1] | {"program": "another"}
    with pytest.raises(ValueError, match="is of another program: "):
        run.fit.Run(other, programs[1], images, trained)
    train_to(1, math.inf)
    assert not list(trained.glob("*.part.npz"))
    later = [entry | {"commit": "later"} for entry in entries]
    (folder / export.RUNS_FILE).write_text(json.dumps(later))
    collect.main([str(folder), str(trained)])

    words = of_taught.split()
    train.main([*words, "--run-dir", "runs/expected"])
    train.main([*words, "--run-dir", "runs/halfway", "--resume"])
    _assert_same_runs(tmp_path / "runs")
    _, known = config.load(tmp_path / "runs/taught")
    assert known["processor"].startswith("TensorFlow")
    assert known["commit"] == entries[1]["commit"]


@pytest.fixture
def run(monkeypatch):
    folder = pathlib.Path(export.__file__).parent
    for place in (folder, folder.parent):  # run.py is copied beside the others
        monkeypatch.syspath_prepend(str(place))
    spec = importlib.util.spec_from_file_location("run_alone", folder / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def work(run, tmp_path, monkeypatch):
    """Trains entries as one process does, with stand-ins for `Program` and `Run`."""

    def work(train, entries, graphs=False):
        monkeypatch.setattr(run.compiled, "Program", lambda folder, graphs: graphs)
        monkeypatch.setattr(
            run.fit,
            "Run",
            lambda entry, program, images, trained: types.SimpleNamespace(
                train=lambda until: train(trained / f"{entry['name']}.npz", program)
            ),
        )
        (tmp_path / "runs.json").write_text(json.dumps(entries))
        trained = tmp_path / "trained"
        trained.mkdir()
        run._work(tmp_path, trained, math.inf, graphs)
        return sorted(path.name for path in trained.iterdir() if path.suffix != ".claim")

    return work


def test_what_cannot_be_a_graph_is_trained_without(work):
    asked = []

    def train_one(path, graphs):
        asked.append((path.stem, graphs))
        if graphs:
            raise RuntimeError("a convolution cannot be captured")
        path.touch()

    entries = [{"name": name, "program": name, "teacher": None} for name in "ab"]
    assert work(train_one, entries, graphs=True) == ["a.npz", "b.npz"]
    assert asked == [("a", True), ("a", False), ("b", False)]


def test_what_is_taught_does_not_wait_for_a_teacher_that_failed(work):
    def train_one(path, graphs):
        if path.stem == "teacher":
            raise RuntimeError("the loss is no number")
        path.touch()

    entries = [
        {"name": "teacher", "program": "wide", "teacher": None},
        {"name": "taught", "program": "small", "teacher": "teacher"},
        {"name": "other", "program": "small", "teacher": None},
    ]
    assert work(train_one, entries) == ["other.npz", "taught.failed", "teacher.failed"]


def test_what_is_taught_waits_as_long_as_its_teacher_lives(run, tmp_path, monkeypatch):
    taught = {"name": "taught", "teacher": "teacher"}
    ended = subprocess.Popen(["true"])
    ended.wait()
    claim = tmp_path / "teacher.claim"
    claim.write_text(str(ended.pid))
    folders = tmp_path / "lowered", tmp_path
    with pytest.raises(ValueError, match="its teacher teacher said nothing and is not in training"):
        run._is_taught(taught, *folders, math.inf)
    assert not run._is_taught(taught, *folders, 0)  # time is over for both: neither has failed
    claim.write_text(str(os.getpid()))
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            (tmp_path / "teacher.said.npy").touch()

    monkeypatch.setattr(run, "time", types.SimpleNamespace(time=time.time, sleep=sleep))
    assert run._is_taught(taught, *folders, math.inf)
    assert len(slept) == 3


def test_what_failed_is_named_at_the_end(tmp_path):
    """A process for each of two runs whose programs are not there."""
    lowered, trained = tmp_path / "lowered", tmp_path / "trained"
    lowered.mkdir()
    for script in export.SCRIPTS:
        shutil.copy(pathlib.Path(export.__file__).parent / script, lowered)
    entries = [{"name": name, "program": "none", "teacher": None} for name in "ab"]
    (lowered / export.RUNS_FILE).write_text(json.dumps(entries))
    (trained / "autotune" / "chosen").mkdir(parents=True)  # none waits for the first to compile
    command = [sys.executable, lowered / "run.py", lowered, trained, "--processes", "2"]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert f"failed: ['a', 'b']; why stands in {trained}/process*.txt" in ended.stderr
    said = "".join(path.read_text() for path in trained.glob("process*.txt"))
    assert "a failed: FileNotFoundError" in said


def test_what_a_killed_process_trained_has_failed(run, tmp_path):
    for name, process in (("finished", 1), ("cut_off", 1), ("in_time", 2)):
        (tmp_path / f"{name}.claim").write_text(str(process))
    (tmp_path / "finished.npz").touch()
    (tmp_path / "refused.failed").touch()
    workers = [types.SimpleNamespace(pid=1, returncode=-9)]
    workers += [types.SimpleNamespace(pid=2, returncode=0)]
    assert run._failed(tmp_path, workers) == ["cut_off", "refused"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            "train.py --run-dir runs/a --teacher runs/b/",
            "no command has --run-dir runs/b, which is no finished run",
        ),
        (
            f"train.py {COMMON} --limit-test 5 --run-dir runs/t --held-out 9\n"
            f"train.py {COMMON} --limit-test 5 --run-dir runs/a --held-out 20 --teacher runs/t/",
            "`teacher` runs/t must be trained without the images that are held out",
        ),
        ("train.py --run-dir runs/a --weights cifar10", "runs/a must begin with new weights"),
        ("train.py --epochs 3", "each command must have its --run-dir"),
        (
            "\n".join(
                f"train.py {COMMON} --run-dir runs/{name} {flags}"
                for name, flags in (
                    ("t", ""),
                    ("a", "--teacher runs/t --crop 2"),
                    ("b", "--teacher runs/t --crop 4"),
                )
            ),
            "must be asked about the same views by all it teaches: runs/b needs",
        ),
        (
            f"train.py {COMMON} --run-dir runs/a\ntrain.py {COMMON} --run-dir runs/a --crop 1",
            "each --run-dir must be of one training, received runs/a twice",
        ),
        ("make coffee", "each line must be a command of train.py, received 'make coffee'"),
    ],
)
def test_refuses_commands_that_it_cannot_lower(line, problem, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(line + "\n"))
    with pytest.raises(SystemExit) as ended:
        export.main([str(tmp_path / "lowered")])
    assert ended.value.code == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "lowered").exists()


@pytest.mark.parametrize("part", [("0", "0"), ("4", "4"), ("-1", "2")])
def test_parts_that_are_none_are_refused(part, tmp_path, capsys):
    with pytest.raises(SystemExit):
        export.main([str(tmp_path / "lowered"), "--part", *part])
    assert "--part must be I of N, from 0 to N - 1, received" in capsys.readouterr().err


@pytest.mark.slow
def test_a_teacher_may_be_finished(run, lowered, tmp_path, monkeypatch, capsys):
    """Then the folder holds what it says, and its pupils wait for nobody."""
    monkeypatch.chdir(tmp_path)
    of_teacher = f"{COMMON} --precision float32 --no-fmb --attention none --epochs 1"
    train.main([*of_teacher.split(), "--run-dir", "runs/teacher"])
    pupil = f"{COMMON} --epochs 1 --teacher runs/teacher"
    folder, _, (entry,), (program,) = lowered(f"{pupil} --run-dir runs/taught")
    trained = tmp_path / "trained"
    trained.mkdir()
    assert run._is_taught(entry, folder, trained, 0)
    settings = config.Config(**entry["arguments"])
    expected = teacher.ask_for(settings, data.of_run(settings)).probabilities
    np.testing.assert_array_equal(
        np.load(run.fit.said_by("runs+teacher", folder, trained)), expected
    )
    run.fit.Run(entry, program, run.fit.Images(folder), trained).train(math.inf)
    collect.main([str(folder), str(trained)])
    facts = config.load(tmp_path / "runs/taught")[1]
    assert facts["teacher_sha256"] == teacher.digest("runs/teacher")

    shutil.rmtree("runs/taught")
    train.main([*of_teacher.split(), "--run-dir", "runs/teacher", "--overwrite", "--seed", "4"])
    with pytest.raises(SystemExit):
        collect.main([str(folder), str(trained)])
    assert "runs/teacher is another training than the one that tau" in capsys.readouterr().err


def test_runs_of_another_teacher_are_not_collected(tmp_path):
    """Which lies in its place: one training is told from another by its losses."""
    pictures = np.zeros((4, 2, 2, 3), np.uint8), np.zeros(4, np.int32)
    images = data.ImageSet("noise", ("a",), pictures, pictures)
    entry = {"teacher": "teacher", "teacher_sha256": None}
    log = np.array([[1, 0.1, 2.3456789, 0.9, 2.2, 0.8, 1.5]])
    collect._write_log(tmp_path / callbacks.LOG_FILE, images, log)
    for loss, is_same in ((2.3456789, True), (2.3457, False)):
        log[0, 2] = loss
        np.savez(tmp_path / "teacher.npz", log=log)
        if is_same:
            collect._check_teacher(entry, tmp_path, tmp_path)
            continue
        with pytest.raises(ValueError, match="is another training than the one that taught it"):
            collect._check_teacher(entry, tmp_path, tmp_path)


def test_what_cannot_be_collected_does_not_keep_others_from_it(tmp_path, monkeypatch, capsys):
    def collected(entry, settings, images, run_dir, found, given):
        if entry["name"] == "a":
            raise ValueError("it is no run")

    entries = [
        {"name": name, "teacher": None, "images": "x", "arguments": {}, "run_dirs": [name]}
        for name in "ab"
    ]
    (tmp_path / export.RUNS_FILE).write_text(json.dumps(entries))
    for entry in entries:
        (tmp_path / f"{entry['name']}.npz").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(collect, "_collect", collected)
    monkeypatch.setattr(collect.data, "of_run", lambda settings: None)
    with pytest.raises(SystemExit) as ended:
        collect.main([str(tmp_path), str(tmp_path)])
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == "b\n"
    assert "not collected: a: it is no run" in said.err


def test_each_teacher_keeps_its_name():
    """Two of the same settings: those whom the second teaches wait for the second."""
    lines = [
        f"train.py {COMMON} --run-dir runs/{folder}/{name} {flags}".replace("@", folder)
        for folder in "ab"
        for name, flags in (("teacher", ""), ("pupil", "--teacher runs/@/teacher"))
    ]
    entries, _, _ = export._entries(lines)
    names = {entry["name"]: entry for entry in entries}
    for folder in "ab":
        assert names[f"runs+{folder}+pupil"]["teacher"] == f"runs+{folder}+teacher"
        assert names[f"runs+{folder}+teacher"]["said"]


def test_batches_must_be_of_one_size():
    assert lowering._size_of_equal(10_000, 500) == 500
    assert lowering._size_of_equal(256, 250) == 128
    with pytest.raises(ValueError, match="received 502"):
        lowering._size_of_equal(502, 250)
