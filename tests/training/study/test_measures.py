import json
import shutil

import numpy as np
import pytest

from larq_seresnet import SEResNet14, preprocess_input, save_weights
from larq_seresnet.training import callbacks, config, data, fitting, reproduce
from larq_seresnet.training.study import grid, measures, modules, paper

import tensorflow as tf


def test_measures_of_a_run(trained):
    found = measures.measure(trained("w1"))
    (epoch,) = found["gates"]
    assert epoch == "1"
    modules = found["gates"]["1"]
    assert len(modules) == 6
    with np.load(trained("w1") / "gates.npz") as records:
        gates = records["epoch001/stage3_block2_fmb"]
    last = modules["stage3_block2_se"]
    assert last["channels"] == 16
    assert last["open"] == pytest.approx(gates.mean())
    assert last["never_open"] == (gates.max(axis=0) == 0).sum()
    assert last["always_open"] == (gates.min(axis=0) == 1).sum()
    assert last["as_at_first"] == 1
    with np.load(trained("w1") / "gates.npz") as records:
        values = records["epoch001/stage3_block2_se"].astype(float)
    between_channels = values.mean(axis=0).var()
    assert last["by_image"] == pytest.approx(1 - between_channels / values.var())
    for when in ("initial", "final"):
        gradients = found["gradients"][when]
        assert len(gradients) == 26
        assert all(value > 0 for value in gradients.values())
    assert found["gradients"]["initial"] != found["gradients"]["final"]
    settings, _ = config.load(trained("w1"))
    model = fitting.trained(trained("w1"), settings, 10)
    images = data.load("digits", limit_test=256).test[0]
    opened = measures._open(model, "sigmoid", preprocess_input(images))
    assert found["open"] == opened  # of the network as it was trained


def test_literal_fmb_lets_no_gradient_through():
    model = SEResNet14(filters=(4, 8, 16), attention="se_paper", fmb_gradient="none", weights=None)
    gradients = measures._rms_gradients(
        model, np.random.default_rng(0).normal(size=(8, 32, 32, 3)), np.arange(8)
    )
    assert all((value == 0) == ("_se/" in name) for name, value in gradients.items())


def test_collected_logs_are_small_and_whole(trained, tmp_path):
    measures.collect(trained("w1"), tmp_path)
    name = trained("w1").name
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {f"{name}{end}" for end in (".csv", ".json", ".npz", ".measures.json")}
    assert callbacks.read_log(tmp_path / f"{name}.csv")
    with np.load(tmp_path / f"{name}.npz") as gates:
        assert set(gates) == {"epoch001/stage1_block1_se", "epoch001/stage1_block1_fmb"}


def test_the_open_positions_are_kept(trained, small_model, tmp_path):
    assert measures.positions(trained("w1")) == {}
    run_dir, model = tmp_path / "run", small_model(attention="cbam")
    shutil.copytree(trained("w1"), run_dir)
    saved = json.loads((run_dir / "config.json").read_text())
    saved["arguments"]["attention"] = "cbam"
    (run_dir / "config.json").write_text(json.dumps(saved))
    save_weights(model, run_dir / "weights.h5")
    found = measures.positions(run_dir)
    images = data.load("digits", limit_test=256).test[0]
    np.testing.assert_array_equal(found["images"], images[:6])
    gates = tf.keras.Model(model.input, model.get_layer("stage3_block1_spatial_fmb").output)
    expected = gates(preprocess_input(images)).numpy()[..., 0]
    np.testing.assert_array_equal(found["positions/stage3_block1"], expected[:6])
    np.testing.assert_allclose(found["shares/stage3_block1"], expected.mean(axis=0))
    assert len(found) == 1 + 6 + 6


def test_gates_are_drawn_by_depth(tmp_path, write_log):
    """Of an arm with two modules; without new measures nothing is drawn."""
    run = next(each for each in reproduce.PROFILES["short"].runs if each.name == "sigmoid_seed0")
    write_log(tmp_path / "logs", run, 25)
    module = {"open": 1, "saturated": 0, "channels": 4, "never_open": 0, "always_open": 4}
    convolution = {"stage1_block1_1_conv/kernel": 0.5}
    gradients = {f"stage1_block{block}_se/reduce/kernel": 0.1 * block for block in (1, 2)}
    measured = {
        "gates": {"10": {f"stage1_block{block}_se": dict(module) for block in (1, 2)}},
        "gradients": dict.fromkeys(("initial", "final"), convolution | gradients),
    }
    path = tmp_path / "logs" / "sigmoid_seed0.measures.json"
    path.write_text(json.dumps(measured))
    paper.write_report(tmp_path)
    assert not (tmp_path / "depth.png").exists()
    for number, each in enumerate(measured["gates"]["10"].values(), start=1):
        each |= {"by_image": 0.25 * number, "as_at_first": 1 - 0.25 * number}
    path.write_text(json.dumps(measured))
    panels, names = modules.by_depth(grid.Grid(tmp_path / "logs", paper.ARMS))
    assert names == ["stage1_block1", "stage1_block2"]
    values = [each["sigmoid"] for each in panels.values()]
    np.testing.assert_allclose(values, [[0.25, 0.5], [0.75, 0.5], [0.2, 0.4], [0.2, 0.4]])
    paper.write_report(tmp_path)
    assert (tmp_path / "depth.png").exists()
    assert "![Gates by depth](depth.png)" in (tmp_path / "report.md").read_text()
