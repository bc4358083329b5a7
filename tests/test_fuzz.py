"""Damaged files of every kind that is read: each is refused in one line, or read as valid."""

import importlib.util
import io
import json
import pathlib
import sys
import time
from functools import partial

import golden
import numpy as np
import pytest
from golden import by_pillow

from larq_seresnet import SEResNet14, files, read_image, save_weights, weight_files, weights
from larq_seresnet.export import convert, pack_tflm, tflm, verify
from larq_seresnet.training import train

#: By kind of file: how many damaged ones are read.
COUNTS = {
    "lce.tflite": 20,
    "litert.tflite": 20,
    "int8.tflite": 20,
    "tflm.tflite": 20,
    "weights.npz": 150,
    "forged.npz": 80,
    "weights.h5": 20,
    "config.json": 100,
    "forged.json": 100,
    "log.csv": 100,
    "gates.npz": 100,
    "labels.txt": 60,
    "image.png": 80,
    "image.jpg": 80,
    "image.webp": 40,
    "image.tif": 40,
    "image.gif": 40,
    "without_pillow.png": 80,
}
SECONDS = 30
TRAIN = "--dataset digits --limit-train 64 --limit-test 4 --filters 4 8 16 --epochs 1".split()


def damaged(content, seed):
    """Bytes of a file after up to four accidents: bits flipped, bytes cut, repeated, forged."""
    random = np.random.default_rng(seed)
    data = bytearray(content)
    for _ in range(random.integers(1, 5)):
        at = int(random.integers(len(data)))
        part = slice(at, at + int(random.choice((1, 2, 4, 8, 64))))
        accident = random.choice(("flip", "cut", "repeat", "forge"), p=(0.4, 0.1, 0.1, 0.4))
        if accident == "flip":
            data[at] ^= 1 << int(random.integers(8))
        elif accident == "cut":
            del data[part if at and random.random() < 0.5 else slice(max(at, 1), None)]
        elif accident == "repeat":
            data[at:at] = data[part]
        else:
            value = random.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, ord("9"), ord("[")))
            data[part] = bytes([value]) * len(data[part])
    return bytes(data)


def forged(value, seed):
    """What json holds, with one value in place of another, whose type or size nobody expects."""
    random = np.random.default_rng(seed)
    value = json.loads(json.dumps(value))
    parent = value
    while True:
        keys = list(parent) if isinstance(parent, dict) else range(len(parent))
        key = keys[int(random.integers(len(keys)))]
        if not isinstance(parent[key], (dict, list)) or not parent[key] or random.random() < 0.3:
            break
        parent = parent[key]
    values = (None, True, -1, 0, 10**30, 0.5, float("nan"), "", "x", [], {}, [[]], {"a": 1}, ["x"])
    if random.random() < 0.1:
        del parent[key]
    else:
        parent[key] = values[int(random.integers(len(values)))]
    return value


@pytest.fixture(scope="module")
def readers(trained, stored, tmp_path_factory):
    """By kind of file: what makes a damaged one of a seed, and what reads it."""
    from larq_seresnet.export import runtimes
    from larq_seresnet.training import callbacks, config

    run = trained("w1")
    packed = tmp_path_factory.mktemp("fuzz") / "weights.npz"
    save_weights(SEResNet14(filters=(4, 8, 16), weights=None), packed, "digits", packed=True)
    readers = {
        "lce.tflite": (stored("w1", "lce").tflite, runtimes.load),
        "litert.tflite": (stored("w1", "litert").tflite, runtimes.load),
        "int8.tflite": (stored("w1", "litert", "int8").tflite, runtimes.load),
        "weights.npz": (packed.read_bytes(), weights.read),
        "weights.h5": ((run / "weights.h5").read_bytes(), weights.read),
        "config.json": ((run / "config.json").read_bytes(), config.read),
        "log.csv": ((run / "log.csv").read_bytes(), callbacks.read_log),
        "gates.npz": ((run / "gates.npz").read_bytes(), callbacks.read_gates),
        "labels.txt": ("cat\ndög\n".encode(), _classify().load_labels),
    }
    images = {path.rpartition(".")[2]: each[1] for path, each in golden.images().items()}
    for ending in ("png", "jpg", "webp", "tif", "gif"):
        readers[f"image.{ending}"] = (images[ending], read_image)
    readers["without_pillow.png"] = (images["png"], _read_without_pillow)
    saved = json.loads((run / "config.json").read_text())
    if tflm.is_installed():
        readers["tflm.tflite"] = (stored("w1", "tflm").tflite, _read_integers)
    return {
        **{kind: (partial(damaged, content), read) for kind, (content, read) in readers.items()},
        "forged.npz": (_forged_weights(packed), weights.read),
        "forged.json": (lambda seed: json.dumps(forged(saved, seed)).encode(), config.read),
    }


def _read_integers(path):
    from larq_seresnet.export import runtimes

    pack_tflm.unpacked(runtimes.load(path).tflite)


def _read_without_pillow(path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "PIL", None)
        read_image(path)


def _forged_weights(path):
    """Packed weights with other facts, under the digest that they should have."""
    arrays = files.load_arrays(path)
    facts = json.loads(str(arrays.pop("facts")))

    def make(seed):
        other = forged({**facts, "weights": facts["weights"][:9]}, seed)
        other["sha256"] = weight_files._digest_of_arrays(other, arrays)
        file = io.BytesIO()
        np.savez(file, facts=np.array(json.dumps(other)), **arrays)
        return file.getvalue()

    return make


def _classify():
    root = pathlib.Path(__file__).parent.parent
    path = root / "export" / "raspberry_pi" / "classify.py"
    spec = importlib.util.spec_from_file_location("classify", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*(EXIF|Truncated|tag):UserWarning")  # Pillow's, of metadata
@pytest.mark.parametrize("kind", COUNTS)
def test_damaged_files_are_refused_or_valid(readers, kind, tmp_path):
    if kind not in readers:
        pytest.skip("no tflite-micro of the tested build: pip install '.[tflm]' brings it")
    make, read = readers[kind]
    path = tmp_path / kind
    refused = 0
    for seed in range(COUNTS[kind]):
        path.write_bytes(make(seed))
        started = time.perf_counter()
        try:
            read(path)
        except ValueError:
            refused += 1
        except Exception as error:
            pytest.fail(f"seed {seed}: {error!r}")
        assert time.perf_counter() - started < SECONDS, seed
    assert refused
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture(scope="module")
def programs(trained, stored, tmp_path_factory):
    """By file: its content, and the program and words that read it, the file for None."""
    folder = tmp_path_factory.mktemp("programs")
    run, model = trained("w1"), stored("w1", "litert", input_type="uint8").tflite
    weights_file, image = run / "weights.h5", by_pillow(golden.RGB, "PNG")
    (folder / "model.tflite").write_bytes(model)
    (folder / "labels.txt").write_text("\n".join("0123456789"))
    (folder / "image.png").write_bytes(image)
    packed = folder / "weights.npz"
    save_weights(
        SEResNet14(filters=(4, 8, 16), weights=weights_file), packed, "digits", packed=True
    )
    good = [folder / "model.tflite", folder / "image.png"]
    labels = ["--labels", folder / "labels.txt"]
    classify = _classify().main
    photographs = golden.only("JPEG")
    return {
        "model.tflite": (30, model, classify, [None, good[1], *labels]),
        "image.png": (10, image, classify, [good[0], None, *labels]),
        "image.jpg": (10, photographs["photograph.jpg"], classify, [good[0], None, *labels]),
        "labels.txt": (10, "\n".join("0123456789").encode(), classify, [*good, "--labels", None]),
        "file.tflite": (15, model, verify.main, [None, packed, "--limit-test", 4]),
        "weights.npz": (10, packed.read_bytes(), verify.main, [good[0], None, "--limit-test", 4]),
        "weights.h5": (10, weights_file.read_bytes(), convert.main, [None, "--limit-test", 4]),
        "start.h5": (5, weights_file.read_bytes(), train.main, [*TRAIN, "--weights", None]),
    }


@pytest.mark.slow
def test_programs_end_in_a_line_whatever_a_file_holds(programs, tmp_path, capsys, monkeypatch):
    """A hundred damaged files: a result, or exit code 1 or 2, a line and nothing left behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train.fitting, "fit", lambda *_: None)  # by then a file has been read
    monkeypatch.setattr(train.pictures, "draw_curves", lambda *_: None)  # of no epochs
    assert sum(count for count, *_ in programs.values()) == 100
    for name, (count, content, program, words) in programs.items():
        path = tmp_path / name
        refused = 0
        for seed in range(count):
            path.write_bytes(damaged(content, seed))
            try:
                program([str(path if word is None else word) for word in words])
            except SystemExit as stop:
                refused += 1
                said = capsys.readouterr().err
                if isinstance(stop.code, str):  # a file that was read, and computes another model
                    assert stop.code.startswith("not verified: "), (name, seed)
                else:
                    assert stop.code in (1, 2), (name, seed)
                    assert ": error: " in said.splitlines()[-1], (name, seed, said)
                    assert "Traceback" not in said, (name, seed)
                    assert not list(tmp_path.rglob("*.part")), (name, seed)
        assert refused, name
        path.unlink()


def test_damage_is_the_same_for_a_seed():
    content = bytes(range(256))
    assert damaged(content, 3) == damaged(content, 3) != damaged(content, 4)
