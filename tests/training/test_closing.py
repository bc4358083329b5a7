import numpy as np
import pytest

from larq_seresnet import SEResNet14
from larq_seresnet.training import (
    callbacks,
    channels,
    closing,
    config,
    data,
    fitting,
    train,
)
from larq_seresnet.weights import read

import tensorflow as tf

FLAGS = (
    "--dataset digits --limit-train 512 --limit-test 100 --batch-size 32 --filters 8 8 16 "
    "--gate-at middle --keep 0.5 --epochs 4 --compute-dtype float32 --deterministic"
).split()


@pytest.fixture(scope="module")
def settled(shared):
    """A run whose gates settled after two of four epochs."""
    return shared("settled", lambda path: train.main([*FLAGS, "--run-dir", str(path)]))


def _closing(keep=0.5, gate_at="middle", **arguments):
    settings = config.Config(
        keep=keep, gate_at=gate_at, filters=(4, 4, 8), epochs=4, dataset="digits", **arguments
    )
    images = data.load("digits", limit_train=64, limit_test=10)
    model = fitting.compiled_model(fitting.resolved(settings, images), images)
    each = closing.Closing(model, settings, images, steps=10)
    each.set_model(model)
    return each


def test_a_channel_costs_the_weights_that_go_with_it(small_model):
    """Of filters (4, 8, 16): its filter of the first convolution, and what reads it in the second;
    at the end its filter of the second."""
    middle, end = small_model(gate_at="middle"), small_model()
    costs = {
        block: (
            closing.cost_of_channel(middle, block, "middle"),
            closing.cost_of_channel(end, block, "end"),
        )
        for block in ("stage1_block1", "stage2_block1", "stage3_block2")
    }
    assert costs == {
        "stage1_block1": (9 * 4 + 9 * 4, 9 * 4),
        "stage2_block1": (9 * 4 + 9 * 8, 9 * 8),
        "stage3_block2": (9 * 16 + 9 * 16, 9 * 16),
    }


def test_the_term_by_hand():
    """Two of four channels open for all of four images, one for one of them, one for none."""
    each = _closing()
    block = next(iter(each.modules))
    layer, costs = each.modules[block], each.costs[0]
    gates = np.zeros((4, 1, 1, 4), np.float32)
    gates[..., :2], gates[0, ..., 2] = 1.0, 1.0
    whole = sum(map(np.sum, each.costs))
    quarter = (np.sqrt(0.25 + 1e-3) - np.sqrt(1e-3)) / (np.sqrt(1 + 1e-3) - np.sqrt(1e-3))
    part = (costs / whole * [1, 1, quarter, 0]).sum()
    each.on_epoch_begin(0)
    each.active.assign(1.0)
    term = layer.activity_regularizer
    np.testing.assert_allclose(float(term(gates)) / 4, closing.WEIGHT * part, rtol=1e-5)
    np.testing.assert_allclose(float(each.kept[0]), part, rtol=1e-5)
    each.on_test_begin()
    assert float(term(gates)) == 0.0


def test_gates_that_are_the_same_for_all_images_cost_the_share_that_is_left():
    """So what closes for `keep` is as much as settling keeps."""
    each = _closing()
    generator = np.random.default_rng(0)
    kept = [generator.random(costs.size) < 0.4 for costs in each.costs]
    for layer, open_ in zip(each.modules.values(), kept, strict=True):
        layer.activity_regularizer(np.tile(open_.astype(np.float32), (4, 1, 1, 1)))
    cost = sum(costs[open_].sum() for costs, open_ in zip(each.costs, kept, strict=True))
    share = cost / sum(map(np.sum, each.costs))
    np.testing.assert_allclose(sum(map(float, each.kept)), share, atol=1e-5)


@pytest.mark.parametrize(
    ("step", "wanted"), [(0, 1.0), (10, 0.7), (19, 0.43), (20, None), (35, None)]
)
def test_what_is_wanted_falls_over_half_of_the_steps(step, wanted):
    """The term counts where the batch before was above it."""
    each = _closing(keep=0.4)
    each.model.optimizer.iterations.assign(step)
    for kept, active in ((wanted or 0.9) + 0.01, wanted is not None), ((wanted or 0) - 0.01, False):
        each.on_epoch_begin(0)
        each.kept[0].assign(kept)
        each.on_train_batch_begin(0)
        assert float(each.active) == active


@pytest.mark.parametrize("keep_by", config.KEEP_BY)
@pytest.mark.parametrize("keep", [0.01, 0.3, 0.99])
def test_what_is_kept_costs_at_most_its_share(keep, keep_by):
    each = _closing(keep=keep, keep_by=keep_by)
    chosen = each._chosen()
    assert all(part.any() for part in chosen)
    cost = sum((costs * part).sum() for costs, part in zip(each.costs, chosen, strict=True))
    whole = sum(map(np.sum, each.costs))
    at_least = sum(costs[0] for costs in each.costs)  # a channel of each
    assert cost <= max(keep * whole, at_least)
    assert cost > keep * whole - max(map(np.max, each.costs))
    assert any(layer.activity_regularizer for layer in each.modules.values()) == (
        keep_by == "gates"
    )


def test_those_are_kept_that_are_open_most(monkeypatch):
    each = _closing(keep=0.5)
    counts = [len(costs) for costs in each.costs]
    opened = np.linspace(1, 0, sum(counts))
    monkeypatch.setattr(each, "_opened", lambda: (opened, opened))
    chosen = np.concatenate(each._chosen())
    first = np.cumsum([0, *counts[:-1]])
    assert chosen[first].all()
    others = np.delete(np.arange(sum(counts)), first)
    assert (np.diff(chosen[others].astype(int)) <= 0).all()


def test_gates_settle_for_good(settled):
    """From the middle on the same channels are open for every image; half of the weights."""
    settings, _ = config.load(settled)
    model = SEResNet14(weights=settled / "weights.h5", **settings.model_arguments())
    records = callbacks.read_gates(settled / callbacks.GATES_FILE)
    kept = cost = 0
    for block, layer in closing.modules(model).items():
        bias = model.get_layer(f"{block}_se").expand.bias.numpy()
        assert (np.abs(np.abs(bias) - channels.FOR_GOOD) < 1).all()
        gates = records[4][layer.name]
        np.testing.assert_array_equal(gates, np.tile(bias > 0, (len(gates), 1)))
        each = closing.cost_of_channel(model, block, "middle")
        kept, cost = kept + each * (bias > 0).sum(), cost + each * bias.size
    assert 0.4 < kept / cost <= 0.5
    assert not np.array_equal(records[1]["stage3_block2_fmb"], records[4]["stage3_block2_fmb"])


@pytest.mark.slow
def test_a_resumed_run_settles_as_an_unbroken_one(settled, tmp_path):
    """Cut off while the term was there, and at the moment at which gates settle."""
    flags = [*FLAGS, "--run-dir", str(tmp_path / "run"), "--resume"]
    for more in (["--stop-after", "1"], ["--stop-after", "2"], []):
        train.main([*flags, *more])
    found, expected = (read(each / "weights.h5").layers for each in (tmp_path / "run", settled))
    for layer, values in expected.items():
        for name, value in values.items():
            np.testing.assert_array_equal(found[layer][name], value, err_msg=f"{layer} {name}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "tanh"}, "With `keep` below 1 `activation` must be .* close nothing.,"),
        ({"activation": "hard_tanh"}, "received 'hard_tanh'"),
        ({"fmb": False}, "`fmb` must be True .without it no gate is closed."),
        ({"fmb_gradient": "none"}, "`fmb_gradient` must be 'straight_through'"),
        ({"attention": None}, "With `keep` below 1 `attention` must be 'se', received None"),
        ({"attention": "se_paper"}, "`attention` must be 'se', "),
        ({"attention": "cbam"}, "`attention` must be 'se', "),
        ({"epochs": 1}, "With `keep` below 1 `epochs` must be 2 or more, received 1"),
        (
            {"precision": "w1a1", "gate_at": "middle"},
            "`gate_at` must be 'end' for precision 'w1a1'",
        ),
        ({"keep": 0.0}, "`keep` must be above 0 and at most 1, received 0.0"),
        ({"keep": 1.5}, "received 1.5"),
        (
            {"keep": 1.0, "keep_by": "random"},
            "`keep_by` is for `keep` below 1, received 'random' with keep=1.0",
        ),
        (
            {"keep_by": "size"},
            "`keep_by` must be one of 'gates', 'frequency', 'random', received 'size'",
        ),
    ],
)
def test_what_cannot_close_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        config.Config(**{"keep": 0.5, **arguments})


def test_a_network_of_soft_gates_has_none_that_close():
    assert closing.modules(SEResNet14(weights=None, fmb=False, filters=(4, 4, 4))) == {}
    tf.keras.backend.clear_session()
