import importlib.util
import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from larq_seresnet.export import runtimes
from larq_seresnet.training import data

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "export" / "raspberry_pi"
EMULATED_PYTHON = ROOT / ".arm64" / "python"
DIGITS = "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n"


@pytest.fixture(scope="module")
def classify():
    spec = importlib.util.spec_from_file_location("classify", FOLDER / "classify.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["pillow", "no pillow"])
def pillow(request, monkeypatch):
    """With Pillow, and as where it is not installed."""
    if request.param == "no pillow":
        monkeypatch.setitem(sys.modules, "PIL", None)
    return request.param


@pytest.fixture(scope="module")
def device(stored, tmp_path_factory):
    """A folder as one copies it to a Pi: files of all kinds, labels and images."""
    folder = tmp_path_factory.mktemp("device")
    for weights in ("1bit", "int2", "int4", "int8", "float32"):
        converted = stored("w1", "litert", weights, input_type="uint8")
        (folder / f"{weights}.tflite").write_bytes(converted.tflite)
    (folder / "labels.txt").write_text(DIGITS)
    for number, image in enumerate(data.load("digits", limit_test=3).test[0]):
        Image.fromarray(image).save(folder / f"{number}.png")
        Image.fromarray(image).save(folder / f"{number}.ppm")
    return folder


def _expected(device, weights):
    images = data.load("digits", limit_test=3).test[0]
    return runtimes.load(device / f"{weights}.tflite").predict(images)


def test_labels_come_out(classify, device, capsys, pillow):
    classify.main([str(device / "1bit.tflite"), str(device / "0.png"), str(device / "1.ppm")])
    lines = capsys.readouterr().out.splitlines()
    for line, row in zip(lines, _expected(device, "1bit"), strict=False):
        found = re.findall(r"(\d) (\d+\.\d)%", line.split(": ")[1])
        best = np.argsort(-row)[:3]
        assert found == [(str(label), f"{100 * row[label]:.1f}") for label in best]
    assert len(lines) == 2


def test_int8_outputs_are_probabilities(classify, stored, device):
    converted = stored("w1", "litert", input_type="uint8", output_type="int8")
    (device / "int8_out.tflite").write_bytes(converted.tflite)
    interpreter = classify.load_model(device / "int8_out.tflite")
    image = classify.read_image(device / "0.png")
    probabilities, seconds = classify.classify(interpreter, image)
    np.testing.assert_allclose(probabilities, converted.predict(image[np.newaxis])[0], atol=1e-7)
    assert seconds > 0


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_pngs_are_read_as_pillow_reads_them(classify, tmp_path, mode):
    """A photograph-like ramp with noise, so that a writer uses all filters of PNG."""
    generator = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(40), np.arange(60))[..., np.newaxis] * np.array([1, 2, 1, 0.5])
    pixels = (ramp + generator.integers(0, 9, ramp.shape)).astype(np.uint8)
    image = Image.fromarray(pixels, "RGBA").convert(mode)
    image.save(tmp_path / "image.png")
    expected = np.asarray(image.convert("RGBA"))[..., :3]
    path = tmp_path / "image.png"
    np.testing.assert_array_equal(classify._read(path.read_bytes(), path), expected)
    np.testing.assert_array_equal(classify.read_image(path), expected)


@pytest.mark.parametrize(("ending", "lost"), [("png", 40), ("png", 900), ("ppm", 1), ("ppm", 900)])
def test_files_cut_off_anywhere_are_refused(classify, device, pillow, tmp_path, ending, lost):
    path = tmp_path / f"cut.{ending}"
    path.write_bytes((device / f"0.{ending}").read_bytes()[:-lost])
    with pytest.raises(ValueError, match=r"cut\."):
        classify.read_image(path)


def test_damaged_files_are_refused(classify, device, pillow, tmp_path):
    content = bytearray((device / "0.png").read_bytes())
    content[60:70] = b"0123456789"
    (tmp_path / "bad.png").write_bytes(content)
    (tmp_path / "more.ppm").write_bytes((device / "0.ppm").read_bytes() + b"x")
    with pytest.raises(ValueError, match=r"bad\.png"):
        classify.read_image(tmp_path / "bad.png")
    if pillow == "no pillow":
        with pytest.raises(ValueError, match="must hold 32x32 pixels"):
            classify.read_image(tmp_path / "more.ppm")
        with pytest.raises(ValueError, match="must be PNG or binary PPM, or install Pillow"):
            classify.read_image(device / "labels.txt")


@pytest.mark.parametrize("kind", range(5))
def test_every_filter_of_png_is_undone(classify, kind):
    """Against the definition, pixel by pixel."""
    rows = np.random.default_rng(kind).integers(0, 256, (2, 5, 3))
    pixels = np.zeros((3, 6, 3), np.int64)
    pixels[1, 1:] = rows[0]
    filtered = np.zeros((5, 3), np.int64)
    for x in range(5):
        for c in range(3):
            left = rows[1, x - 1, c] if x else 0
            up, corner = rows[0, x, c], rows[0, x - 1, c] if x else 0
            nearest = min((left, up, corner), key=lambda value: abs(left + up - corner - value))
            guess = (0, left, up, (left + up) // 2, nearest)[kind]
            filtered[x, c] = (rows[1, x, c] - guess) % 256
    classify._unfilter(kind, filtered.astype(np.uint8), pixels, 2)
    np.testing.assert_array_equal(pixels[2, 1:], rows[1])


def test_images_are_averaged_to_the_models_size(classify):
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    middle = image[:, 16:80].reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(classify.resize(image, 32, 32), middle, atol=0.51)
    np.testing.assert_array_equal(classify.resize(image[:32, :32], 32, 32), image[:32, :32])
    assert classify.resize(np.full((7, 9, 3), 200, np.uint8), 32, 32).min() == 200


def test_bad_input_is_refused_in_one_line(classify, stored, device, tmp_path, capsys):
    (tmp_path / "lce.tflite").write_bytes(stored("w1", "lce", input_type="uint8").tflite)
    (tmp_path / "float.tflite").write_bytes(stored("w1", "litert").tflite)
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    (tmp_path / "cut.png").write_bytes((device / "0.png").read_bytes()[:-40])
    (tmp_path / "cut.ppm").write_bytes((device / "0.ppm").read_bytes()[:-40])
    good, image = device / "1bit.tflite", device / "0.png"
    for arguments, message in (
        ((device / "labels.txt", image), "this LiteRT does not take"),
        ((tmp_path / "lce.tflite", image), "is for LCE"),
        ((tmp_path / "float.tflite", image), "must take uint8, it takes float32"),
        ((good, tmp_path / "cut.png"), "cut.png is"),
        ((good, tmp_path / "cut.ppm"), "cut.ppm is"),
        ((good, device / "none.png"), "No such file"),
        ((good, image, "--labels", tmp_path / "labels.txt"), "must name 10 classes, received 2"),
        ((good, image, "--labels", tmp_path / "none"), "copy the labels.txt"),
    ):
        with pytest.raises(SystemExit) as stop:
            classify.main([str(argument) for argument in arguments])
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


@pytest.mark.slow
def test_an_emulated_pi_computes_the_same(device):
    """On aarch64, with LiteRT 1.4.0, which knows no INT2 and says so."""
    if not EMULATED_PYTHON.exists():
        pytest.skip("no emulated aarch64: export/raspberry_pi/emulator.sh makes one")
    shutil.copy(FOLDER / "classify.py", device)
    program = """
import json, pathlib, platform, sys
sys.path.insert(0, ".")
import classify
found = {"machine": platform.machine()}
for weights in ("1bit", "int2", "int4", "int8", "float32"):
    try:
        model = classify.load_model(pathlib.Path(weights + ".tflite"))
    except ValueError as error:
        found[weights] = str(error)
        continue
    images = [classify.read_image(pathlib.Path(f"{number}.png")) for number in range(3)]
    found[weights] = [classify.classify(model, image)[0].tolist() for image in images]
print(json.dumps(found))
"""
    result = subprocess.run(
        [EMULATED_PYTHON, "-c", program], cwd=device, capture_output=True, text=True, check=True
    )
    found = json.loads(result.stdout.splitlines()[-1])
    assert found.pop("machine") == "aarch64"
    assert "this LiteRT does not take int2.tflite" in found.pop("int2")
    for weights, probabilities in found.items():
        tolerance = 1e-2 if weights == "int8" else 1e-5
        np.testing.assert_allclose(probabilities, _expected(device, weights), atol=tolerance)
    command = [EMULATED_PYTHON, "classify.py", "1bit.tflite", "0.png"]
    shown = subprocess.run(command, cwd=device, capture_output=True, text=True, check=True).stdout
    best = _expected(device, "1bit")[0].argmax()
    assert shown.startswith(f"0.png: {best} ")
