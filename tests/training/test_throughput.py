import re

import pytest

from larq_seresnet.training import throughput

import tensorflow as tf


def test_every_convolution_is_timed_forward_and_back(small_model, monkeypatch):
    """One second each: 13 convolutions three ways, but for the gradient of the image."""
    monkeypatch.setattr(throughput.timeit, "repeat", lambda operator, number, repeat: [3.0, 1.0])
    assert throughput.convolution_seconds(small_model(), 2, tf.float32) == 13 * 3 - 1


@pytest.mark.slow
def test_all_three_rates_are_measured(capsys, monkeypatch):
    monkeypatch.setattr(throughput.batch_norm, "IMAGES", 100)
    monkeypatch.setattr(throughput, "REPEATS", 2)
    monkeypatch.setattr(throughput, "PROFILED_STEPS", 3)
    flags = "--dataset digits --filters 16 32 64 --images 128 --epochs 2 --turns 1 --profile"
    rates = throughput.main(flags.split())
    assert {name: len(found) for name, found in rates.items()} == {
        "plain model.fit": 1,
        "train.py": 1,
        "convolutions alone": 1,
    }
    printed = capsys.readouterr().out
    assert "convolutions alone: median" in printed
    assert re.search(
        r"before a test, of 100 images: [\d.]+ s, [\d.]+% of an epoch of 50,000", printed
    )
    times = dict(re.findall(r"^(\w+): ([\d.]+), \d+%$", printed, re.M))
    filters = sum(float(time) for name, time in times.items() if "Conv2DBackpropFilter" in name)
    assert filters > max(float(time) for name, time in times.items() if "Norm" in name)


def test_a_set_may_be_smaller_than_what_is_measured_by_default(folder, monkeypatch):
    monkeypatch.setattr(throughput, "_measured", lambda plain, images, arguments: images)
    images = throughput.main(["--dataset", str(folder)])
    assert len(images.train[0]) + len(images.test[0]) == 20


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--epochs 1", "--epochs must be at least 2, received 1"),
        ("--turns 0", "--turns must be at least 1, received 0"),
        ("--images 0", "--images must be at least 1, received 0"),
        (
            "--dataset digits --images 512 --precision w2",
            "`precision` must be one of 'float32', 'w1', 'w1a1'",
        ),
        ("--dataset no_such_set", "no_such_set"),
    ],
)
def test_bad_arguments_are_refused(given, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        throughput.main(given.split())
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
