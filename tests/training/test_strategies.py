import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from larq_seresnet import SEResNet14
from larq_seresnet.training import callbacks, config, data, fitting, strategies, train
from larq_seresnet.weights import named_weights, read

ROOT = pathlib.Path(__file__).parents[2]
#: Rates so low that rounding cannot turn a sign: at others a network of bits soon differs from
#: itself where sums are taken in another order.
FLAGS = (
    "--dataset digits --limit-train 158 --limit-test 51 --batch-size 64 --filters 4 8 16 "
    "--gate-at middle --keep 0.5 --epochs 4 --gate-epochs 2 --compute-dtype float32 "
    "--deterministic --learning-rate 1e-5 --kernel-rate 1e-5"
).split()
EXACT = ["--synchronize-batch-norm"]


@pytest.fixture(scope="module")
def of_one(shared):
    """The run directory of one device; not to be changed."""
    return shared("of_one", lambda path: train.main([*FLAGS, "--run-dir", str(path)]))


def _cluster(count):
    """TF_CONFIG of so many workers on this machine."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    workers = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return [
        json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})
        for index in range(count)
    ]


def _begin(run_dir, count, *flags):
    words = [*EXACT, "--strategy", "multi_worker", "--run-dir", str(run_dir), *flags]
    return [
        subprocess.Popen(
            [sys.executable, "training/train.py", *FLAGS, *words],
            cwd=ROOT,
            env={**os.environ, "TF_CONFIG": of_worker},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for of_worker in _cluster(count)
    ]


def _initial(run_dir):
    """By layer the weights that a run began with."""
    settings, facts = config.load(run_dir)
    classes = len(facts["class_names"])
    model = SEResNet14(num_classes=classes, weights=None, **settings.model_arguments())
    fitting.initialise(model, settings.seed)
    return {
        layer.name: {name: each.numpy() for name, each in named_weights(layer).items()}
        for layer in model.layers
        if layer.weights
    }


def _check_is_as_of_one(run_dir, of_one):
    received, expected = (callbacks.read_log(path / "log.csv") for path in (run_dir, of_one))
    assert len(received) == len(expected) == 4
    for row, other in zip(received, expected, strict=True):
        for name in ("learning_rate", "train_error", "test_error"):
            assert row[name] == pytest.approx(other[name], abs=1e-6), name
        for name in ("train_loss", "test_loss"):
            assert row[name] == pytest.approx(other[name], rel=2e-4), name
    (weights, gates), (own, own_gates) = (
        (read(path / "weights.h5").layers, callbacks.read_gates(path / "gates.npz"))
        for path in (run_dir, of_one)
    )
    initial = _initial(of_one)
    for layer, values in own.items():
        for name, value in values.items():
            tolerance = 3e-6 + 1e-3 * np.abs(value).max()  # the first is a tenth of all steps
            np.testing.assert_allclose(
                weights[layer][name], value, atol=tolerance, err_msg=f"{layer} {name}"
            )
            moved, expected = (
                each - initial[layer][name] for each in (weights[layer][name], value)
            )
            apart = np.linalg.norm(moved - expected) / max(np.linalg.norm(expected), 1e-6)
            assert apart < 0.2, f"{layer} {name}"  # Adam makes steps of gradients that are noise
    kernel = own["stage2_block1_1_conv"]["kernel"] - initial["stage2_block1_1_conv"]["kernel"]
    assert np.abs(kernel).max() > 1e-5  # Muon moved it
    assert gates.keys() == own_gates.keys() == {1, 2, 4}
    for epoch, modules in own_gates.items():
        for name, value in modules.items():
            np.testing.assert_allclose(gates[epoch][name], value, atol=1e-3)


@pytest.mark.slow
def test_two_workers_of_which_one_died_give_what_one_gives(of_one, tmp_path):
    """Muon, hardening, gates that close and settle, BatchNorm, gate records."""
    run_dir = tmp_path / "run"
    chief, other = processes = _begin(run_dir, 2, "--resume")
    log = run_dir / "log.csv"
    while all(each.poll() is None for each in processes):
        if log.exists() and len(log.read_text().splitlines()) > 2:
            break
        time.sleep(0.05)
    other.send_signal(signal.SIGKILL)
    _, errors = chief.communicate()
    other.wait()
    assert chief.returncode == 1, errors
    assert errors.splitlines()[-1].startswith("train.py: error: ")
    done = len(callbacks.read_log(log))
    assert 2 <= done < 4
    for process in _begin(run_dir, 2, "--resume"):
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    _check_is_as_of_one(run_dir, of_one)
    facts = json.loads((run_dir / "config.json").read_text())
    assert facts["replicas"] == 2 and len(facts["resumed"]) == 1
    assert facts["synchronize_batch_norm"]


#: Closing takes a mean over replicas that hardly shows in the losses of so few steps.
ON_TWO_DEVICES = """
import numpy as np
import tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
own = tf.config.LogicalDeviceConfiguration()
tf.config.set_logical_device_configuration(cpu, [own, own])
from larq_seresnet.training import strategies, train
strategy = strategies.begin("mirrored")
strategies.begin = lambda name: strategy  # TensorFlow takes one a process
train.main()
with strategy.scope():
    mean = strategies.traced(lambda x: strategies.mean(tf.reduce_mean(x)), (None, 1))
    assert float(mean(np.array([[1], [2], [3], [6]], np.float32))) == 3.0
"""


@pytest.mark.slow
def test_two_devices_of_a_machine_give_what_one_gives(of_one, tmp_path):
    words = [*FLAGS, *EXACT, "--strategy", "mirrored", "--run-dir", str(tmp_path / "run")]
    subprocess.run([sys.executable, "-c", ON_TWO_DEVICES, *words], cwd=ROOT, check=True)
    _check_is_as_of_one(tmp_path / "run", of_one)


def test_parts_of_batches_are_the_batches():
    images = data.load("digits", limit_train=95, limit_test=31)
    options = {"batch_size": 40, "seed": 3, "epochs": 2, "flip": True, "crop": 4}
    batches = data.training_batches(images, **options).as_numpy_iterator()
    parts = [data.training_batches(images, **options, part=(at, 3)) for at in range(3)]
    parts = zip(*(each.as_numpy_iterator() for each in parts), strict=True)
    for (whole, labels), each in zip(batches, parts, strict=True):
        np.testing.assert_array_equal(np.concatenate([part[0] for part in each]), whole)
        np.testing.assert_array_equal(np.concatenate([part[1] for part in each]), labels)
        means = [np.mean(part[3] * part[1]) for part in each]
        assert np.mean(means) == pytest.approx(np.mean(labels))
    tests = [data.test_batches(images, 8, part=(at, 3)).as_numpy_iterator() for at in range(3)]
    labels = [part[1] for each in zip(*tests, strict=True) for part in each]
    assert min(map(len, labels)) > 0
    np.testing.assert_array_equal(np.concatenate(labels), images.test[1])


@pytest.mark.parametrize(
    "described",
    [
        None,
        "{",
        "[]",
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}',
        '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}',
    ],
)
def test_a_cluster_that_is_none_is_refused(monkeypatch, capsys, described):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if described is not None:
        monkeypatch.setenv("TF_CONFIG", described)
    with pytest.raises(SystemExit) as stop:
        train.main(["--strategy", "multi_worker", "--dataset", "digits"])
    assert stop.value.code == 2
    assert "needs the environment variable TF_CONFIG, such as {" in capsys.readouterr().err


def test_every_replica_needs_an_image(monkeypatch):
    monkeypatch.setattr(strategies, "count", lambda: 4)
    strategies.check(100, 4, 32, {})
    with pytest.raises(ValueError, match=r"each of 4 replicas .* epoch of 99 has 3; received 32"):
        strategies.check(99, 4, 32, {})
    with pytest.raises(ValueError, match="a test image for each of 4 replicas, received 3"):
        strategies.check(100, 3, 32, {})
