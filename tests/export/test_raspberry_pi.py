import importlib.util
import json
import pathlib
import re
import shutil
import subprocess
import sys

import golden
import numpy as np
import pytest
from PIL import Image

import larq_seresnet
from larq_seresnet import files
from larq_seresnet.export import convert, form, runtimes
from larq_seresnet.training import data

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "export" / "raspberry_pi"
EMULATED_PYTHON = ROOT / ".arm64" / "python"
GOLDEN = golden.images()
WEIGHTS = form.WEIGHTS["litert"]
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
    for weights in WEIGHTS:
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
    probabilities, seconds = classify.classify(interpreter, device / "0.png")
    image = larq_seresnet.read_image(device / "0.png")
    np.testing.assert_allclose(probabilities, converted.predict(image[np.newaxis])[0], atol=1e-7)
    assert seconds > 0


def _copy_programs(folder):
    shutil.copy(FOLDER / "classify.py", folder)
    shutil.copy(ROOT / "larq_seresnet" / "images.py", folder)


@pytest.mark.slow
def test_classify_alone_says_what_it_lacks(tmp_path):
    shutil.copy(FOLDER / "classify.py", tmp_path)
    program = "import sys; sys.modules['larq_seresnet'] = None; import classify"
    command = [sys.executable, "-c", program]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 1
    assert process.stderr.startswith("classify.py: error: images.py must lie beside it")


def test_of_two_classes_both_are_named(tmp_path, classify, capsys):
    model = larq_seresnet.SEResNet14(filters=(4, 8, 16), num_classes=2, weights=None)
    converted = convert.to_tflite(model, "litert", input_type="uint8")
    (tmp_path / "two.tflite").write_bytes(converted.tflite)
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    Image.new("RGB", (40, 30)).save(tmp_path / "0.png")
    classify.main([str(tmp_path / "two.tflite"), str(tmp_path / "0.png")])
    assert re.search(r"(cat .*%, dog|dog .*%, cat)", capsys.readouterr().out)


@pytest.mark.slow
def test_a_device_reads_photographs_as_keras_does(tmp_path, stored, trained_model):
    """A folder as from phones, turned, wide and of many formats: class by class, image by image."""
    images = data.load("digits", limit_test=60).test[0]
    photographs = golden.photographs(images, tmp_path)
    (tmp_path / "model.tflite").write_bytes(stored("w1", "litert", input_type="uint8").tflite)
    (tmp_path / "labels.txt").write_text(DIGITS)
    _copy_programs(tmp_path)
    program = (
        "import sys; sys.modules['larq_seresnet'] = sys.modules['tensorflow'] = None\n"
        "import classify; classify.main(['model.tflite', '--top', '10', *sys.argv[1:]])"
    )
    command = [sys.executable, "-c", program, *(path.name for path in photographs)]
    lines = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    read = np.stack([larq_seresnet.read_image(path) for path in photographs])
    assert abs(read.astype(int) - images).max() <= golden.LOSSY
    expected = trained_model("w1").predict(larq_seresnet.preprocess_input(read), verbose=0)
    for line, row in zip(lines.splitlines(), expected, strict=True):
        shares = dict(re.findall(r"(\d) (\d+\.\d)%", line.split(": ")[1]))
        found = [float(shares[str(label)]) for label in range(10)]
        np.testing.assert_allclose(found, 100 * row, atol=0.06)


@pytest.fixture(scope="module")
def fit_in_cpp(tmp_path_factory):
    """A program of image.h alone: reads a file, writes the bytes that a network takes."""
    if not shutil.which("g++"):
        pytest.skip("no g++")
    folder = tmp_path_factory.mktemp("cpp")
    (folder / "fit.cc").write_text(
        """#include "image.h"
#include <iostream>
int main(int, char* argv[]) try {
  const Image image = ReadPpm(argv[1]);
  for (uint8_t byte : Fit(image, std::stoi(argv[2]), std::stoi(argv[3]))) std::cout << byte;
} catch (const std::runtime_error& problem) {
  std::cerr << problem.what() << std::endl;
  return 2;
}
"""
    )
    command = ["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined"]
    subprocess.run([*command, f"-I{FOLDER}", "fit.cc", "-o", "fit"], cwd=folder, check=True)

    def run(path, size):
        words = [folder / "fit", path, *map(str, size)]
        return subprocess.run(words, capture_output=True)

    return run


@pytest.mark.parametrize("size", [(32, 32), (16, 24), (5, 7), (1, 1)])
@pytest.mark.parametrize("shape", [(16, 24), (50, 61), (3, 100)])
@pytest.mark.parametrize("ending", ["ppm", "pgm"])
def test_images_are_fitted_in_cpp_to_the_same_bytes(fit_in_cpp, tmp_path, size, shape, ending):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    path = tmp_path / f"image.{ending}"
    path.write_bytes(golden.by_pillow(pixels if ending == "ppm" else pixels[..., 0], "PPM"))
    found = np.frombuffer(fit_in_cpp(path, size).stdout, np.uint8).reshape(*size, 3)
    np.testing.assert_array_equal(found, larq_seresnet.read_image(path, size))


def test_the_table_of_images_says_what_programs_do(fit_in_cpp, tmp_path, monkeypatch):
    rows = {}
    for name, (kind, content, pixels, tolerance) in GOLDEN.items():
        path = tmp_path / name
        path.write_bytes(content)
        ways = [abs(larq_seresnet.read_image(path, None).astype(int) - pixels).max() <= tolerance]
        with monkeypatch.context() as context:
            context.setitem(sys.modules, "PIL", None)
            try:
                ways.append((larq_seresnet.read_image(path, None) == pixels).all())
            except ValueError:
                ways.append(False)
        ways.append(fit_in_cpp(path, (16, 24)).stdout == pixels.tobytes())
        assert rows.setdefault(kind, ways) == ways
    header = ("file", "`read_image`", "without Pillow", "classify.cc")
    lines = [(kind, *("yes" if way else "refused" for way in rows[kind])) for kind in rows]
    assert files.table(header, lines) in (ROOT / "export" / "README.md").read_text()


@pytest.mark.parametrize("name", [*GOLDEN, "cut.ppm", "none.ppm"])
def test_cpp_reads_the_same_or_refuses_by_name(fit_in_cpp, tmp_path, name):
    _, content, pixels, _ = GOLDEN.get(name, GOLDEN["image.ppm"])
    if name != "none.ppm":
        (tmp_path / name).write_bytes(content[:-1] if name == "cut.ppm" else content)
    result = fit_in_cpp(tmp_path / name, (16, 24))
    if name in ("image.ppm", "image.pgm"):
        np.testing.assert_array_equal(np.frombuffer(result.stdout, np.uint8), pixels.ravel())
    else:
        assert result.returncode == 2
        assert result.stderr.decode().startswith(f"{tmp_path / name} ")


def test_bad_input_is_refused_in_one_line(classify, stored, device, tmp_path, capsys):
    (tmp_path / "lce.tflite").write_bytes(stored("w1", "lce", input_type="uint8").tflite)
    (tmp_path / "float.tflite").write_bytes(stored("w1", "litert").tflite)
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    (tmp_path / "latin.txt").write_bytes("\n".join(["k\xe4fer"] * 10).encode("latin-1"))
    (tmp_path / "cut.png").write_bytes((device / "0.png").read_bytes()[:-40])
    (tmp_path / "cut.ppm").write_bytes((device / "0.ppm").read_bytes()[:-40])
    good, image = device / "1bit.tflite", device / "0.png"
    for arguments, message in (
        ((device / "labels.txt", image), "this LiteRT does not take"),
        ((tmp_path / "lce.tflite", image), "is for LCE"),
        (
            (tmp_path / "float.tflite", image),
            "must take uint8 (1, any, any, 3), not float32 (1, 32, 32, 3)",
        ),
        ((good, tmp_path / "cut.png"), "cut.png is"),
        ((good, image, "--top", "0"), "--top must be from 1 to 10, received 0"),
        ((good, image, "--top", "11"), "--top must be from 1 to 10, received 11"),
        ((good, image, "--threads", "0"), "--threads must be from 1 to 256, received 0"),
        ((good, image, "--threads", "-3"), "--threads must be from 1 to 256, received -3"),
        ((good, image, "--labels", tmp_path / "latin.txt"), "latin.txt must be UTF-8"),
        ((good, tmp_path), "Is a directory"),
        ((tmp_path, image), "Is a directory"),
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
    _copy_programs(device)
    program = """
import json, pathlib, platform, sys
sys.path.insert(0, ".")
import classify
found = {"machine": platform.machine()}
for weights in sys.argv[1:]:
    try:
        model = classify.load_model(pathlib.Path(weights + ".tflite"))
    except ValueError as error:
        found[weights] = str(error)
        continue
    images = [pathlib.Path(f"{number}.png") for number in range(3)]
    found[weights] = [classify.classify(model, image)[0].tolist() for image in images]
print(json.dumps(found))
"""
    result = subprocess.run(
        [EMULATED_PYTHON, "-c", program, *WEIGHTS],
        cwd=device,
        capture_output=True,
        text=True,
        check=True,
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
