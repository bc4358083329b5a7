import os
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest

from larq_seresnet import preprocess_input
from larq_seresnet.export import anatomy, c_array, convert, flatbuffer

FOLDER = pathlib.Path(__file__).parents[2] / "export" / "microcontroller"
CXX = shutil.which("g++") or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(CXX is None, reason="no C++ compiler")
METHODS = c_array.METHODS.values()
LABELS = ["zero", 'say "one"', "zwölf", *map(str, range(3, 10))]

DUMP = """
#include <cstdio>
#include MODEL_HEADER
struct Resolver {
  int count = 0;
  int Add() { ++count; return 0; }
  METHODS
};
int main() {
  Resolver resolver;
  if (!model::AddOperators(resolver) || resolver.count != model::kOperators) return 1;
  std::fwrite(model::kFile, 1, sizeof(model::kFile), stdout);
  std::fwrite(model::kPixel, 1, sizeof(model::kPixel), stdout);
  for (const char* label : model::kLabels) std::printf("%s\\n", label);
  std::printf("%d %d %d %d %d %d %d", model::kHeight, model::kWidth, model::kChannels,
              model::kClasses, model::kArenaBytes, model::kZeroPoint, model::kOne);
}
""".replace("METHODS", " ".join(f"int {name}() {{ return Add(); }}" for name in METHODS))

#: What main.cc needs of TFLM, with an interpreter that says of each image what its first pixel is.
DECLARATIONS = {
    "micro/micro_interpreter.h": """
#include <cstddef>
#include <cstdint>
enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };
struct TfLiteTensor { struct { int8_t* int8; } data; };
namespace tflite {
struct Model {};
struct MicroOpResolver {};
class MicroInterpreter {
 public:
  MicroInterpreter(const Model*, const MicroOpResolver&, uint8_t*, size_t) {}
  TfLiteStatus AllocateTensors() { return kTfLiteOk; }
  TfLiteTensor* input(size_t) { return &in_; }
  TfLiteTensor* output(size_t) { return &out_; }
  size_t arena_used_bytes() const { return 123; }
  TfLiteStatus Invoke() {
    for (int8_t& each : given_) each = -128;
    given_[(taken_[0] + 128) / 26] = taken_[1];
    return kTfLiteOk;
  }
 private:
  int8_t taken_[32 * 32 * 3], given_[10];
  TfLiteTensor in_{{taken_}}, out_{{given_}};
};
}  // namespace tflite
""",
    "micro/micro_mutable_op_resolver.h": """
#include "tensorflow/lite/micro/micro_interpreter.h"
namespace tflite {
template <unsigned int count>
class MicroMutableOpResolver : public MicroOpResolver {
 public:
  METHODS
};
}  // namespace tflite
""".replace(
        "METHODS",
        " ".join(f"TfLiteStatus {name}() {{ return kTfLiteOk; }}" for name in METHODS),
    ),
    "micro/micro_time.h": """
#include <cstdint>
namespace tflite {
inline uint32_t ticks_per_second() { return 7; }
inline uint32_t GetCurrentTimeTicks() { static uint32_t ticks = 0; return ticks += 7; }
}  // namespace tflite
""",
    "schema/schema_generated.h": """
#include "tensorflow/lite/micro/micro_interpreter.h"
namespace tflite {
inline const Model* GetModel(const void* file) { return static_cast<const Model*>(file); }
}  // namespace tflite
""",
}


@pytest.fixture(scope="module")
def tflite(base):
    return base("w1", "tflm")


def _program(folder, source, tflite, *flags):
    header = folder / "model.h"
    header.write_text(c_array.header(tflite, "a network", LABELS, arena=70_000))
    command = [CXX, "-std=c++17", "-Wall", "-Wextra", "-Werror", f'-DMODEL_HEADER="{header}"']
    subprocess.run([*command, *flags, str(source), "-o", str(folder / "program")], check=True)
    return folder / "program"


def test_whoever_normalised_otherwise_says_what_bytes_become(small_model):
    """As of grey images, on which nothing else is said."""
    model = small_model(input_shape=(32, 32, 1))
    normalised = np.linspace(-3, 3, 256, dtype=np.float32)[:, np.newaxis]
    inputs = np.random.default_rng(0).uniform(-3, 3, (50, 32, 32, 1)).astype(np.float32)
    tflite = convert.to_tflite(model, "tflm", images=inputs, strip=True).tflite
    told = c_array.header(tflite, "grey", ["a"] * 10, arena=70_000, normalised=normalised)
    taken = anatomy.interface(flatbuffer.read(tflite))[0]
    rows = told.split("kPixel[kChannels][256] = {")[1].split("}")[0].replace("{", "")
    numbers = [int(number) for number in rows.split(",")]
    np.testing.assert_array_equal(numbers, taken.stored(normalised)[:, 0])


@needs_compiler
def test_a_header_holds_the_file_its_labels_and_what_pixels_become(tflite, tmp_path):
    (tmp_path / "dump.cc").write_text(DUMP)
    program = _program(tmp_path, tmp_path / "dump.cc", tflite)
    said = subprocess.run([program], capture_output=True, check=True).stdout
    assert said[: len(tflite)] == tflite
    said = said[len(tflite) :]
    table = np.frombuffer(said[: 3 * 256], np.int8).reshape(3, 256)
    taken = anatomy.interface(flatbuffer.read(tflite))[0]
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    looked_up = np.stack([table[channel][image[..., channel]] for channel in range(3)], axis=-1)
    np.testing.assert_array_equal(looked_up, taken.stored(preprocess_input(image)))
    *labels, numbers = said[3 * 256 :].decode().splitlines()
    assert labels == LABELS
    assert numbers == "32 32 3 10 70000 -128 256"


@needs_compiler
def test_the_program_reads_images_and_prints_classes(tflite, tmp_path):
    """With TFLM's declarations, and an interpreter of this test's own behind them."""
    for name, content in DECLARATIONS.items():
        path = tmp_path / "tensorflow" / "lite" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#pragma once\n{content}")
    program = _program(tmp_path, FOLDER / "main.cc", tflite, f"-I{tmp_path}")
    taken = anatomy.interface(flatbuffer.read(tflite))[0]
    images = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)
    (tmp_path / "images.bin").write_bytes(images.tobytes())
    lines = subprocess.run(
        [program, tmp_path / "images.bin"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert re.fullmatch("3 images, 3000000 us, 123 bytes of the arena", lines.pop())
    for line, image in zip(lines, taken.stored(preprocess_input(images)), strict=True):
        first, second = image.reshape(-1)[:2].astype(int)
        expected = np.zeros(10, int)
        expected[(first + 128) // 26] = second + 128
        assert line == f"{LABELS[expected.argmax()]} {' '.join(map(str, expected))}"
    failed = subprocess.run([program], capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr == "main: error: usage: main IMAGES, a file of raw pixels\n"
    for size in (0, images[0].size - 1, images.size + 1):
        (tmp_path / "images.bin").write_bytes(bytes(size))
        failed = subprocess.run([program, tmp_path / "images.bin"], capture_output=True, text=True)
        assert failed.returncode == 1
        assert failed.stderr == "main: error: IMAGES is not of whole images of the model's size\n"
    failed = subprocess.run([program, tmp_path / "none"], capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr.startswith("main: error: IMAGES cannot be read")


@needs_compiler
@pytest.mark.skipif("TFLM_DIR" not in os.environ, reason="TFLM_DIR names no checkout of TFLM")
def test_the_program_fits_tflms_own_sources(tflite, tmp_path):
    root = pathlib.Path(os.environ["TFLM_DIR"])
    downloads = root / "tensorflow/lite/micro/tools/make/downloads"
    folders = [root, downloads / "flatbuffers/include", downloads / "gemmlowp", downloads / "ruy"]
    flags = [f"-isystem{folder}" for folder in folders]
    _program(tmp_path, FOLDER / "main.cc", tflite, "-fsyntax-only", *flags)


def test_only_files_for_tflm_become_headers(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        convert.main([str(tmp_path), "--c-array"])
    assert stop.value.code == 2
    assert "--c-array is for --runtime tflm, received lce" in capsys.readouterr().err
