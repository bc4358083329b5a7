import functools
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from larq_seresnet import SEResNet14, preprocess_input, save_weights
from larq_seresnet.blocks import BLOCKS
from larq_seresnet.export import convert, prune, source
from larq_seresnet.training import channels, closing, config, data, facts, gates, train
from larq_seresnet.weights import read

import tensorflow as tf

SMALL = (4, 8, 16)
NETWORKS = {
    "middle": {"gate_at": "middle"},
    "end": {},
    "w1a1": {"precision": "w1a1"},
    "float32": {"precision": "float32", "gate_at": "middle"},
    "int8": {"gate_at": "middle", "ends": "int8"},
    "paper": {"attention": "se_paper"},
    "pruned before": {"gate_at": "middle", "inner": (3, 2, 8, 5, 9, 11), "squeezed": (2,) * 6},
    "pruned before, end": {
        "outer": ((0, 1, 3), (0, 1, 2, 3), (2, 3, 4), (1, 2, 5, 6, 7), (*range(16),), (0, 1, 15)),
        "squeezed": (2,) * 6,
    },
}


@pytest.fixture
def many():
    return np.random.default_rng(1).integers(0, 256, (40, 32, 32, 3), np.uint8)


def _network(images, settled, **arguments):
    """One whose gates are settled in some blocks, in others what initial weights make of them."""
    tf.keras.utils.set_random_seed(0)
    model = SEResNet14(**{"filters": SMALL, "weights": None, **arguments})
    for layer in model.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.momentum = 0.0
            layer.beta.assign(np.random.default_rng(0).normal(0, 0.3, layer.beta.shape))
    model(preprocess_input(images), training=True)
    generator = np.random.default_rng(2)
    for block, layer in closing.modules(model).items():
        bias = model.get_layer(f"{block}_se").expand.bias
        if bias is None:
            continue
        keep = generator.random(layer.output_shape[-1]) < 0.6
        keep[0] = True
        if block in settled:
            bias.assign(np.where(keep, channels.FOR_GOOD, -channels.FOR_GOOD))
        else:
            bias.assign(generator.normal(0, 0.3, bias.shape))
    return model


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "paper"])
def test_without_what_is_settled_a_network_computes_the_same(name, many):
    model = _network(many, BLOCKS, **NETWORKS[name])
    seen = gates.see(model, many)
    kept = prune.kept_channels(seen.open)
    smaller = prune.pruned(model, kept)
    assert all(each.settled for each in kept.values())
    assert sum(len(each.places) for each in kept.values()) < sum(
        each.shape[1] for each in seen.open.values()
    )
    configuration = json.loads(smaller.configuration)
    assert configuration["attention"] is None
    agreement = prune.compared(seen, gates.see(smaller, many), kept, None)
    assert agreement["largest_difference"] < 1e-5
    assert not agreement["opened"] and not agreement["other_gates"]
    assert smaller.count_params() < model.count_params()


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_not_settled_keeps_its_gates(name, many):
    """Of a block with gates that open now and then, a kept gate sees the same argument as before,
    as long as no closed channel has a part in it."""
    model = _network(many, BLOCKS[:2], **NETWORKS[name])
    for block in BLOCKS[2:] if name != "paper" else ():  # a channel that is closed, and alone so
        attention = model.get_layer(f"{block}_se")
        bias = attention.expand.bias.numpy()
        bias[1] = -channels.FOR_GOOD
        attention.expand.bias.assign(bias)
    seen = gates.see(model, many)
    kept = prune.kept_channels(seen.open)
    smaller = prune.pruned(model, kept)
    for block, each in kept.items():
        names = {layer.name for layer in smaller.layers}
        assert (f"{block}_se" in names) == (not each.settled)
    assert name == "paper" or 0 < sum(each.settled for each in kept.values()) < 6
    agreement = prune.compared(seen, gates.see(smaller, many), kept, None)
    # where an image has the same gates, it has the same probabilities
    assert not agreement["opened"]
    assert set(agreement["other"]) <= set(agreement["other_gates"])
    converted = convert.to_tflite(
        smaller, weights="float32" if name == "float32" else "1bit", strip=True
    )
    inputs = preprocess_input(many)
    expected = smaller.predict(inputs, verbose=0)
    assert np.median(np.abs(converted.predict(inputs) - expected)) < 1e-5


def test_a_kept_gate_goes_by_the_sign_it_went_by(many):
    """The scale of W_0 depends on how many channels there are; the bias grows with it."""
    model = _network(many, (), gate_at="middle")
    layer = model.get_layer("stage3_block2_se")
    places = np.array([0, 3, 4, 9])
    smaller = prune.pruned(model, {"stage3_block2": prune.Kept(places, settled=False)})
    there = smaller.get_layer("stage3_block2_se")
    assert there.reduce.kernel.shape == (4, 16) and there.expand.kernel.shape == (16, 4)
    maps = np.random.default_rng(0).normal(size=(50, 2, 2, 16)).astype(np.float32)
    maps[..., np.delete(np.arange(16), places)] = 0.0
    np.testing.assert_array_equal(
        layer(maps).numpy()[..., places] >= 0.5, there(maps[..., places]).numpy() >= 0.5
    )


def test_which_channels_stay():
    opened = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 1, 0], [1, 0, 1, 0]], bool)
    for share, places in ((0.0, [0, 1, 2]), (0.25, [0, 1, 2]), (0.3, [0, 2]), (0.6, [0])):
        (kept,) = prune.kept_channels({"block": opened}, share).values()
        assert kept.places.tolist() == places
        assert kept.settled == (places == [0])
    (none,) = prune.kept_channels({"block": np.zeros((4, 3), bool)}).values()
    assert none.places.tolist() == [0] and not none.settled


def test_images_are_named(many):
    """One image opens a channel that is removed, and is of another class then."""
    before = gates.Seen(np.eye(3, dtype=np.float32), {"b": np.eye(3, dtype=bool)})
    after = gates.Seen(np.eye(3, dtype=np.float32)[[0, 1, 1]], {"b": np.eye(3, dtype=bool)[:, :2]})
    found = prune.compared(before, after, {"b": prune.Kept(np.array([0, 1]), False)}, np.arange(3))
    assert found["opened"] == found["other"] == found["other_class"] == [2]
    assert found["other_gates"] == []
    assert found["error"] == [0.0, pytest.approx(1 / 3)]


@pytest.mark.slow
def test_from_a_run_to_a_smaller_file_that_goes_on_training(shared, tmp_path, capsys):
    flags = (
        "--dataset digits --limit-train 512 --limit-test 100 --batch-size 32 --filters 8 8 16 "
        "--gate-at middle --keep 0.5 --epochs 4 --compute-dtype float32 --deterministic"
    ).split()
    run_dir = shared("settled", lambda path: train.main([*flags, "--run-dir", str(path)]))
    weights = prune.main([str(run_dir), "--out-dir", str(tmp_path / "pruned")])
    assert sorted(path.name for path in weights.parent.iterdir()) == [
        "occupancy.json", "occupancy.md", "occupancy.png", "occupancy.svg",
        "prune.json", "prune.md", "weights.h5",
    ]  # fmt: skip
    proof = json.loads((weights.parent / "prune.json").read_text())
    for split, count in (("training", 512), ("test", 360)):
        each = proof["agreement"][split]
        assert each["images"] == count and not each["other"] and not each["opened"]
        assert each["error"][0] == each["error"][1]
    sizes = proof["sizes"]
    assert sizes["after"]["weights"] < 0.65 * sizes["before"]["weights"]
    assert sizes["after"]["bytes"] < sizes["before"]["bytes"]
    configuration = read(weights).configuration
    assert configuration["attention"] is None and max(configuration["inner"]) <= 16
    report = (weights.parent / "prune.md").read_text()
    assert "| all | 64 |" in report
    assert "removed; all 872 images are of the same class as before.**" in report
    convert.main([str(weights.parent), "--strip"])
    with pytest.raises(SystemExit):  # or the file of the former network would seem to be its own
        prune.main([str(run_dir), "--share", "0.5", "--out-dir", str(weights.parent)])
    assert "files converted from an earlier network" in capsys.readouterr().err
    assert (weights.parent / "lce_1bit.tflite").stat().st_size < sizes["before"]["bytes"] + 3000
    flags = "--dataset digits --limit-train 128 --limit-test 50 --epochs 1".split()
    flags += ["--weights", str(weights), "--run-dir", str(tmp_path / "on")]
    onwards = train.main(flags)
    assert read(onwards / "weights.h5").configuration == configuration


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"activation": "tanh"},
            "`activation` must be 'sigmoid' or .* .gates of -1 and 1 close nothing",
        ),
        ({"fmb": False}, "`fmb` must be True .without it no gate is closed., received False"),
        ({"attention": None}, "no_se.* has no attention, so there are no gates to prune by"),
        ({"attention": "cbam"}, "`attention` must be channel attention alone: .* 'cbam'"),
        (
            {"precision": "w1a1", "gate_at": "middle"},
            "`gate_at` must be 'end' for precision 'w1a1', .* received 'middle'",
        ),
    ],
)
def test_what_cannot_be_pruned_is_refused(arguments, message, small_model):
    with pytest.raises(ValueError, match=message):
        prune.check_prunable(small_model(**arguments))


def test_pruned_weights_know_what_they_were_trained_on(small_model, tmp_path):
    """On images of other classes, which tell nothing of an error."""
    save_weights(small_model(), tmp_path / "own.h5", "cifar10", tuple("abcdefghij"))
    flags = ["--dataset", "digits", "--limit-test", "5"]
    weights = prune.main([str(tmp_path / "own.h5"), *flags])
    contents = read(weights)
    assert (contents.trained_on, tuple(contents.class_names)) == ("cifar10", tuple("abcdefghij"))
    agreement = json.loads((weights.parent / "prune.json").read_text())["agreement"]
    assert not any("error" in each for each in agreement.values())


def test_a_run_is_pruned_by_the_images_that_it_was_trained_on(shared, tmp_path):
    """Not by those that it held out, which are what it is judged by; with a share, end to end."""
    flags = (
        "--dataset digits --limit-train 64 --held-out 40 --batch-size 32 --filters 4 4 8 "
        "--epochs 1 --compute-dtype float32"
    ).split()
    run_dir = shared("held_out", lambda path: train.main([*flags, "--run-dir", str(path)]))
    shutil.copytree(run_dir, tmp_path / "run")
    pruned = prune.main([str(tmp_path / "run")])
    assert config.of_weights(pruned) == config.load(run_dir)[0]  # pruned again, it is by the same
    for place in (run_dir / "weights.h5", run_dir):
        flags = ["--share", "0.99", "--out-dir", str(tmp_path / place.name)]
        weights = prune.main([str(place), *flags])
        proof = json.loads((weights.parent / "prune.json").read_text())
        counts = {split: each["images"] for split, each in proof["agreement"].items()}
        assert counts == {"training": 64, "test": 40}
    held_out = data.load("digits", limit_train=64, held_out=40).test[0]
    model = SEResNet14(**read(run_dir / "weights.h5").configuration, weights=run_dir / "weights.h5")
    classes = model.predict(preprocess_input(held_out), verbose=0).argmax(axis=1)
    smaller = SEResNet14(**read(weights).configuration, weights=weights)
    other = smaller.predict(preprocess_input(held_out), verbose=0).argmax(axis=1) != classes
    assert proof["agreement"]["test"]["other_class"] == np.flatnonzero(other).tolist()


def test_a_run_whose_images_moved_is_pruned_by_the_same_ones(tmp_path):
    """And by all images of another data set."""
    for label in range(2):
        for number in range(10):
            path = tmp_path / "set" / f"class{label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (number, label, 0)).save(path)
    images = data.load(str(tmp_path / "set"), held_out=5)
    settings = config.Config(dataset=images.name, held_out=5, filters=(4, 4, 4))
    (tmp_path / "run").mkdir()
    settings.save(tmp_path / "run", **facts.of_data(images))
    weights = tmp_path / "run" / "weights.h5"
    save_weights(SEResNet14(filters=(4, 4, 4), num_classes=2, weights=None), weights, images.name)
    (tmp_path / "set").rename(tmp_path / "moved")
    for count, expected in ((10, 12), (9, 15)):  # of 17 to train with
        load = functools.partial(data.load, str(tmp_path / "moved"))
        assert len(source._as_trained(load, weights, str(tmp_path / "moved")).train[0]) == expected
        (tmp_path / "moved" / "class0" / f"{count - 1}.png").unlink()
        (tmp_path / "moved" / "class1" / f"{count - 1}.png").unlink()


def test_a_network_whose_gates_all_change_stays_as_it_is():
    proof = {
        "kept": {"a": [0, 1], "b": [0]},
        "settled": [],
        "occupancy": {"a": {"channels": 2}, "b": {"channels": 1}},
    }
    assert "closed for all training" in prune.verdict(proof | {"share": 0.0})
    assert "open for less than 25.0% of training" in prune.verdict(proof | {"share": 0.25})


def test_weights_are_not_lost_to_pruned_ones(small_model, tmp_path, capsys):
    """Neither those that are pruned, in place, nor what was pruned of others beside them."""
    (tmp_path / "run").mkdir()
    save_weights(small_model(), tmp_path / "run" / "weights.h5", "digits")
    kept = (tmp_path / "run" / "weights.h5").read_bytes()
    flags = ["--limit-test", "5"]
    with pytest.raises(SystemExit):
        prune.main([str(tmp_path / "run"), "--out-dir", str(tmp_path / "run"), *flags])
    said = capsys.readouterr().err
    assert "--out-dir must not hold weights that this program did not write" in said
    assert (tmp_path / "run" / "weights.h5").read_bytes() == kept
    save_weights(small_model(), tmp_path / "a.npz", "digits", packed=True)
    weights = prune.main([str(tmp_path / "a.npz"), *flags])
    assert weights == tmp_path / "a" / "pruned" / "weights.h5"
    save_weights(small_model(), weights, "digits")  # trained on, in place
    kept = weights.read_bytes()
    with pytest.raises(SystemExit):
        prune.main([str(tmp_path / "a.npz"), *flags])
    assert f"{weights} would be lost" in capsys.readouterr().err
    assert weights.read_bytes() == kept


def test_pruning_that_was_cut_off_can_be_done_again(small_model, tmp_path, monkeypatch):
    save_weights(small_model(), tmp_path / "a.npz", "digits", packed=True)
    flags = [str(tmp_path / "a.npz"), "--limit-test", "5"]
    with monkeypatch.context() as patched:
        patched.setattr(prune.gates, "write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prune.main(flags)
    weights, report = (tmp_path / "a" / "pruned" / name for name in ("weights.h5", "prune.json"))
    assert weights.exists()
    before = report.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(prune, "save_weights", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prune.main(flags)
    assert report.read_bytes() == before
    assert prune.main(flags) == weights


def test_a_bias_beyond_float16_does_not_stop_pruning():
    """Of gates that settled for good in a wide module."""
    model = SEResNet14(filters=(4, 8, 80), gate_at="middle", weights=None)
    bias = model.get_layer("stage3_block1_se").expand.bias
    bias.assign(channels.biases(np.arange(80) < 40))
    smaller = SEResNet14(filters=(4, 8, 16), weights=None)
    both = prune.sizes(before=model, after=smaller)
    assert both["before"]["file"] == both["after"]["file"] == "lce, 1bit, fewest bytes"
    alone = prune.sizes(after=smaller)["after"]
    assert alone["file"] == "lce, 1bit_half, fewest bytes"
    assert alone["bytes"] < both["after"]["bytes"]


@pytest.mark.parametrize("share", ["-0.1", "1", "nan"])
def test_bad_shares_are_refused(share, small_model, tmp_path, capsys):
    save_weights(small_model(), tmp_path / "own.npz", "digits", packed=True)
    with pytest.raises(SystemExit) as stop:
        prune.main([str(tmp_path / "own.npz"), "--share", share])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--share must be from 0 to less than 1, received" in line
    assert [path.name for path in tmp_path.iterdir()] == ["own.npz"]
