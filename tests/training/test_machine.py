"""What trains where there is no bfloat16, and how much memory is free."""

import numpy as np
import pytest

from larq_seresnet import SEResNet14
from larq_seresnet.precision import layers_in
from larq_seresnet.training import fitting, machine, train

import tensorflow as tf


def _step(model, images):
    """As `fit` computes it: probabilities and the gradients of their loss."""

    @tf.function
    def step(inputs):
        with tf.GradientTape() as tape:
            probabilities = tf.cast(model(inputs, training=True), tf.float32)
            loss = -tf.reduce_mean(tf.math.log(probabilities[:, 3]))
        return probabilities, tape.gradient(loss, model.trainable_variables)

    found = step.get_concrete_function(images)
    multiplied = [each for each in found.graph.get_operations() if each.type.startswith("Conv2D")]
    return found(images), {each.get_attr("T").name for each in multiplied}


@pytest.mark.parametrize("attention", ["se", "cbam"])
def test_convolutions_in_float32_compute_what_those_in_bfloat16_do(attention, monkeypatch):
    monkeypatch.setattr(machine, "has_bfloat16", lambda: False)
    images = tf.random.stateless_uniform((4, 32, 32, 3), seed=(0, 0), minval=-2, maxval=2)
    with layers_in("bfloat16"):
        model = SEResNet14(filters=(8, 16, 16), attention=attention, weights=None)
    fitting.initialise(model, 0)
    before = model.get_weights()
    (expected, expected_gradients), dtypes = _step(model, images)
    assert "bfloat16" in dtypes
    model.set_weights(before)  # moving averages moved
    machine.convolve_in_float32(model)
    (found, gradients), dtypes = _step(model, images)
    assert dtypes == {"float32"}
    np.testing.assert_allclose(found, expected, atol=0.01)
    for one, other in zip(gradients, expected_gradients, strict=True):
        assert one.dtype == other.dtype
    flat = [
        tf.concat([tf.reshape(each, -1) for each in all_], 0)
        for all_ in (gradients, expected_gradients)
    ]
    assert np.corrcoef(*flat)[0, 1] > 0.99


def test_a_training_in_bfloat16_convolves_in_float32_where_there_is_no_bfloat16(
    monkeypatch, tmp_path
):
    convolve, dtypes = machine._in_float32, []

    def watched(convolution, inputs, kernel):
        result = convolve(convolution, inputs, kernel)
        dtypes.append((inputs.dtype.name, kernel.dtype.name, result.dtype.name))
        return result

    monkeypatch.setattr(machine, "_in_float32", watched)
    flags = "--dataset digits --limit-train 32 --limit-test 8 --filters 8 8 8 --epochs 1"
    for has_bfloat16 in (True, False):
        monkeypatch.setattr(machine, "has_bfloat16", lambda answer=has_bfloat16: answer)
        run_dir = tmp_path / str(has_bfloat16)
        train.main([*flags.split(), "--compute-dtype", "bfloat16", "--run-dir", str(run_dir)])
        assert bool(dtypes) != has_bfloat16
    assert set(dtypes) == {("bfloat16", "bfloat16", "bfloat16")}


def test_networks_in_float32_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(machine, "has_bfloat16", lambda: False)
    model = SEResNet14(filters=(8, 16, 16), weights=None)
    machine.convolve_in_float32(model)
    images = tf.zeros((1, 32, 32, 3))
    _, dtypes = _step(model, images)
    assert dtypes == {"float32"}
    assert not any("convolution_op" in vars(layer) for layer in model.layers)


@pytest.mark.parametrize(
    ("line", "folder", "names"),
    [
        ("0::/jobs/1", "", ("memory.max", "memory.current", "inactive_file")),
        (
            "4:memory:/jobs/1",
            "memory",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    ],
)
def test_free_memory_is_that_of_a_container_or_job(line, folder, names, tmp_path, monkeypatch):
    *names, given_back = names
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "_OWN_CGROUPS", tmp_path / "own")
    of_the_machine = machine.free_memory()
    (tmp_path / "own").write_text(f"9:pids:/\n{line}\n")
    group = tmp_path / folder / "jobs" / "1"
    group.mkdir(parents=True)
    assert machine.free_memory() > of_the_machine / 2  # of a group that says nothing
    for path, limit, taken, left in (
        (group, "max", 400, None),
        (group.parent, 1000, 700, 300),
        (group, 600, 400, 200),
    ):
        for name, value in zip(names, (limit, taken), strict=True):
            (path / name).write_text(f"{value}\n")
        assert machine.free_memory() == left or left is None
    (group / "memory.stat").write_text(f"anon 10\n{given_back} 50\n")
    assert machine.free_memory() == 250  # files that were read take no memory from anybody
