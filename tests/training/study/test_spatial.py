import json
import shutil

import numpy as np

from larq_seresnet import files
from larq_seresnet.training.study import goals, measures, spatial

import tensorflow as tf


def _run(name):
    return next(run for run in spatial.runs() if run.name == name)


def test_what_is_open_is_told_block_by_block(tmp_path, write_log):
    """By hand: two blocks that take 40 and 10 % of the work, half and nothing of each closed."""
    logs = tmp_path / "logs"
    for arm, errors in {"none": (0.2, 0.22, 0.21), "position_fmb": (0.19, 0.2, 0.21)}.items():
        for seed, error in enumerate(errors):
            write_log(logs, _run(f"{arm}_budget6_seed{seed}"), 6, error)
    block = {"channels": 1.0, "positions": 0.5, "both": 0.5, "work": 0.4}
    measured = {
        "gates": {},
        "gradients": {},
        "open": {
            "stage1_block1": block,
            "stage1_block2": block | {"positions": 1.0, "both": 1.0, "work": 0.1},
        },
    }
    (logs / "position_fmb_budget6_seed0.measures.json").write_text(json.dumps(measured))
    records = {
        "images": np.zeros((2, 32, 32, 3), np.uint8),
        "positions/stage1_block1": np.ones((2, 32, 32), bool),
        "shares/stage1_block1": np.repeat([[0.0], [0.5]], [8, 24], axis=0) * np.ones(32),
    }
    files.save_arrays(logs / "position_fmb_budget6_seed0.npz", records)
    (tmp_path / "device").mkdir()
    proof = {"bytes": 40_000, "argmax_agreement": 0.9999, "images": 10_000}
    (tmp_path / "device" / "lce_1bit.json").write_text(json.dumps(proof))
    spatial.write_report(tmp_path)
    text = (tmp_path / "README.md").read_text()
    for row in (
        "| no attention | 21.00% (20.0%, 22.0%, 21.0%) | - |",
        "| both + FMB | - | - |",
        "| spatial attention with FMB | spatial + FMB minus no attention | -1.00 [-2.00, ",
        "| spatial + FMB | 6 | 1 | 20.00% | - | 50% 100% | 20.0% (20.0% to 20.0%) | 1.25 |",
    ):
        assert row in text
    assert "Positions that are closed for all these images, block by block: 25%." in text
    assert "40,000 bytes, the class of the Keras model for 9,999 of 10,000 images" in text
    assert (tmp_path / "positions.png").read_bytes().startswith(b"\x89PNG")


def test_trainings_that_stand_elsewhere_too_are_counted(tmp_path, write_log):
    """From the logs: who trains both anew has other ones."""
    for number, run in enumerate(spatial.runs()[:3]):
        write_log(tmp_path / "spatial" / "logs", run, 6, 0.2 + number / 100)
    write_log(tmp_path / "goals" / "logs", goals.runs()[0], 6, 0.3)
    spatial.write_report(tmp_path / "spatial")
    assert "the same ones" not in (tmp_path / "spatial" / "README.md").read_text()
    first = next((tmp_path / "spatial" / "logs").glob("none*.csv"))
    shutil.copy(first, tmp_path / "goals" / "logs" / "no_se_budget6_seed0.csv")
    spatial.write_report(tmp_path / "spatial")
    assert "1 of these 3 trainings" in (tmp_path / "spatial" / "README.md").read_text()


def test_open_positions_and_channels_by_hand(small_model, inputs):
    model = small_model(attention="cbam")
    found = measures._open(model, "sigmoid", inputs)
    assert list(found) == [f"stage{stage}_block{block}" for stage in (1, 2, 3) for block in (1, 2)]
    names = ("stage2_block1_fmb", "stage2_block1_spatial_fmb")
    layers = [model.get_layer(name).output for name in names]
    channels, positions = (each.numpy() for each in tf.keras.Model(model.input, layers)(inputs))
    block = found["stage2_block1"]
    np.testing.assert_allclose(
        [block["channels"], block["positions"], block["both"]],
        [channels.mean(), positions.mean(), (channels * positions).mean()],
        rtol=1e-5,
    )
    residual = 4 * 32 * 32 * 9 * 4 * 4 + 16 * 16 * 9 * (4 * 8 + 3 * 8 * 8)
    residual += 8 * 8 * 9 * (8 * 16 + 3 * 16 * 16)
    channels, positions = (4, 4, 8, 8, 16, 16), (32, 32, 16, 16, 8, 8)
    gates = sum(2 * each**2 for each in channels) + sum(49 * 2 * size**2 for size in positions)
    whole = residual + 32 * 32 * 9 * 3 * 4 + gates + 16 * 10
    np.testing.assert_allclose(block["work"], 16 * 16 * 9 * 8 * 8 / whole)
