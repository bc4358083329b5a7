import pathlib
import re
import runpy
import subprocess
import sys

import golden
import numpy as np
import pytest
from PIL import Image

from larq_seresnet import SEResNet14
from larq_seresnet.preprocessing import CIFAR10_CLASSES
from larq_seresnet.weights import read

import tensorflow as tf

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def _run(folder, name, *arguments):
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


def _is_conv(layer):
    return isinstance(layer, tf.keras.layers.Conv2D)


@pytest.fixture
def photograph(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photograph.jpg")
    return tmp_path / "photograph.jpg"


@pytest.mark.slow
def test_what_the_readme_shows_runs(photograph, tmp_path, monkeypatch, capsys):
    photograph.rename(tmp_path / "cat.jpg")
    for number, (name, content) in enumerate(golden.only("JPEG").items()):
        folder = tmp_path / "flowers" / ("rose", "tulip")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    readme = (EXAMPLES.parent / "README.md").read_text()
    program = "\n".join(re.findall(r"```python\n(.*?)```", readme, re.DOTALL))
    assert "read_image" in program
    assert "data.load" in program
    monkeypatch.chdir(tmp_path)
    exec(program, {})
    shown = capsys.readouterr().out
    assert set(re.findall(r"\('(\w+)', ", shown)) < set(CIFAR10_CLASSES)
    assert "Epoch 5/5" in shown


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("predict.py", "none.jpg", "No such file or directory: 'none.jpg'"),
        ("run_in_litert.py", "words.jpg", "words.jpg is no image, or is damaged"),
        ("fine_tune.py", "cifra10", "`dataset` must be a TFDS name"),
    ],
)
def test_bad_input_is_refused_in_one_line(tmp_path, monkeypatch, capsys, name, argument, message):
    (tmp_path / "words.jpg").write_text("a cat")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, argument])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(EXAMPLES / name))
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{name}: error: ")
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["words.jpg"]


@pytest.mark.slow
def test_tensorflow_starts_without_a_word(tmp_path):
    command = [sys.executable, str(EXAMPLES / "predict.py"), "none.jpg"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 2
    assert len(process.stderr.splitlines()) == 1


@pytest.mark.slow
def test_keras_and_a_device_say_the_same(photograph, tmp_path):
    keras = _run(tmp_path, "predict.py", photograph)
    assert len(keras) == 3
    assert {line.split()[0] for line in keras} < set(CIFAR10_CLASSES)
    size, device = _run(tmp_path, "run_in_litert.py", photograph)
    assert 36_000 < int(size.removesuffix(" bytes").replace(",", "")) < 42_000
    assert list(tmp_path.iterdir()) == [photograph]
    names = re.findall(r"'(\w+)', ([\d.]+)", device)
    for (name, probability), line in zip(names, keras, strict=True):
        assert line.split()[0] == name
        assert abs(float(line.split()[1][:-1]) - 100 * float(probability)) < 0.1


@pytest.mark.slow
def test_fine_tuning_learns_other_classes(tmp_path):
    lines = _run(tmp_path, "fine_tune.py", "digits", "--epochs", "3")
    accuracies = [
        float(value) for line in lines for value in re.findall(r"val_accuracy: ([\d.]+)", line)
    ]
    assert accuracies[-1] > 0.8
    contents = read(tmp_path / "fine_tuned.npz")
    assert (contents.trained_on, contents.class_names) == ("digits", list("0123456789"))
    tuned = SEResNet14(**contents.configuration, weights=tmp_path / "fine_tuned.npz")
    before, after = (
        np.concatenate([np.sign(layer.kernel).ravel() for layer in model.layers if _is_conv(layer)])
        for model in (SEResNet14(), tuned)
    )
    assert np.mean(before == after) > 0.7  # some 0.8; from other beginnings 0.5
