import json
import pathlib
import shutil
import subprocess
import sys

import pytest

from larq_seresnet.export import tflm
from larq_seresnet.export.microcontroller import emulate

EXPORT = pathlib.Path(emulate.__file__).parents[1]
IMAGES = 3
#: Takes the place of each tool: compiles nothing, and plays the processor by TFLM in Python.
TOOL = """#!{python}
import os, pathlib, re, sys
tool, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
if words == ["--version"]:
    print(tool, "1.2\\nand more")
elif tool == "arm-none-eabi-size":
    print("main  :\\nsection size addr\\n.text 1000 0\\n.rodata 200 0\\n.data 30 0\\n.bss 4 0")
elif tool == "cmake":
    with open(os.environ["CALLS"], "a") as calls:
        print(*words, file=calls)
elif tool == "qemu-system-arm":
    if os.environ.get("BROKEN") == "aborts":
        sys.exit("main: error: the arena is too small")
    sys.path.insert(0, {export!r})
    import numpy as np, tflm
    text = pathlib.Path("model.h").read_text()
    def numbers(name):
        body = re.search(name + r"[^=]*= {{(.*?)}};", text, re.S)[1]
        return np.array(re.findall(r"-?\\d+", body), int)
    pixels = np.fromfile("images.bin", np.uint8).reshape(-1, 32, 32, 3)
    tables = numbers("kPixel").reshape(3, 256).astype(np.int8)
    taken = np.stack([tables[c][pixels[..., c]] for c in range(3)], axis=-1)
    outputs = tflm._predict(numbers("kFile").astype(np.uint8).tobytes(), taken).astype(int) + 128
    program = words[words.index("-kernel") + 1]
    if os.environ.get("BROKEN", "none") in program:
        outputs[0] = 255 * (np.arange(10) == (outputs[0].argmax() + 1) % 10)
    for row in outputs:
        print("a name", *row)
    print(len(outputs), "images, 6000 us, 4321 bytes of the arena")
"""


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """The folder of the tools that are found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("cmake", "arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm"):
        (folder / name).write_text(TOOL.format(python=sys.executable, export=str(EXPORT)))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return folder


@pytest.fixture
def emulated(trained, stored, tmp_path, tools, monkeypatch):
    """Runs the program; without git, for the checkout is none."""
    monkeypatch.setattr(emulate, "_commit", lambda folder: None)
    file = tmp_path / "tflm_1bit.tflite"
    file.write_bytes(stored("w1", "tflm").tflite)
    words = [str(file), str(trained("w1")), "--limit-test", str(IMAGES)]
    words += ["--tflm-dir", str(tmp_path / "tflm"), "--out-dir", str(tmp_path / "out")]
    return lambda: emulate.main(words)


@pytest.mark.slow
@pytest.mark.skipif(not tflm.is_installed(), reason="no tflite-micro")
def test_outputs_are_compared_and_sizes_are_told(emulated, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BROKEN", "m4_CMSIS-NN")  # its kernels may round otherwise: no failure
    rows = emulated()
    assert [(row["cpu"], row["kernels"]) for row in rows] == [
        (cpu, kernels) for cpu in ("cortex-m4", "cortex-m55") for kernels in emulate.KERNELS
    ]
    assert [row["same_outputs"] for row in rows] == [IMAGES, IMAGES - 1, IMAGES, IMAGES]
    assert [row["same_class"] for row in rows] == [IMAGES, IMAGES - 1, IMAGES, IMAGES]
    for row in rows:
        assert (row["text"], row["rodata"], row["ram"], row["arena_used"]) == (1000, 200, 34, 4321)
        assert row["instructions"] == 2_000_000  # 6 ms of 1 GHz for three images
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 8  # one to configure and one to build for each
    assert "-DCPU=cortex-m55" in calls[6] and "-DCMSIS_NN=ON" in calls[6]
    written = json.loads((tmp_path / "out" / "microcontroller.json").read_text())
    assert written["rows"] == rows and written["qemu"] == "qemu-system-arm 1.2"
    assert written["file"] == "tflm_1bit.tflite"
    text = (tmp_path / "out" / "microcontroller.md").read_text()
    assert "| cortex-m4 | reference | 1,000 | 200 | 34 | 4,321 | 2,000,000 | 3 | 3 |" in text
    assert text in capsys.readouterr().out

    monkeypatch.setenv("BROKEN", "reference")
    with pytest.raises(SystemExit, match="not the same: the reference kernels give other outputs"):
        emulated()


@pytest.mark.skipif(not tflm.is_installed(), reason="no tflite-micro")
def test_what_fails_is_said_in_one_line(emulated, tools, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BROKEN", "aborts")
    with pytest.raises(SystemExit) as stop:
        emulated()
    assert stop.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "qemu-system-arm -M mps2-an386 failed: main: error: the arena is too small" in said
    assert not list((tmp_path / "out").iterdir())
    (tools / "qemu-system-arm").unlink()
    with pytest.raises(SystemExit) as stop:
        emulated()
    assert stop.value.code == 2
    assert "qemu-system-arm is needed, and not installed." in capsys.readouterr().err


@pytest.mark.skipif(not tflm.is_installed(), reason="no tflite-micro")
def test_files_for_others_are_refused_before_anything_is_built(
    stored, trained, tools, tmp_path, capsys
):
    file = tmp_path / "lce_1bit.tflite"
    file.write_bytes(stored("w1", "lce").tflite)
    with pytest.raises(SystemExit) as stop:
        emulate.main([str(file), str(trained("w1")), "--tflm-dir", str(tmp_path)])
    assert stop.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "lce_1bit.tflite must be a file for TFLM, it is for LCE: convert.py --runtime" in said
    assert not (tmp_path / "calls").exists()


def test_the_commit_is_that_of_a_checkout_of_its_own(tmp_path):
    assert emulate._commit(tmp_path) is None
    if shutil.which("git"):
        inside = pathlib.Path(__file__).parent  # of another repository, if of any
        assert emulate._commit(inside) is None
        git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
        for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
            subprocess.run([*git, *words], check=True)
        assert len(emulate._commit(tmp_path)) == 40
