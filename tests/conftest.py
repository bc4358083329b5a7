import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # for files that import larq first
if "PYTEST_XDIST_WORKER" in os.environ:  # one thread for each of the processes side by side
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import fcntl
import gc
import pathlib

import numpy as np
import pytest

# What imports TensorFlow is imported where it is used: of pytest-xdist's processes the first, which
# the others wait for, needs none of it.

gc.set_threshold(100_000, 20, 50)  # to trace a network makes many objects, and hardly any waste

ROOT = pathlib.Path(__file__).parent.parent
SMALL = (4, 8, 16)


@pytest.fixture(scope="session")
def small_model():
    """One small model of every configuration that is asked for; not to be changed."""
    from larq_seresnet import SEResNet14

    models = {}

    def get(**arguments):
        key = repr(sorted(arguments.items()))
        if key not in models:
            models[key] = SEResNet14(**{"filters": SMALL, "weights": None, **arguments})
        return models[key]

    return get


@pytest.fixture
def images():
    """Eight images of noise, uint8, (8, 32, 32, 3)."""
    return np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def inputs(images):
    """The same, as a model takes them."""
    from larq_seresnet import preprocess_input

    return preprocess_input(images)


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Makes what several tests need once, though they run in processes side by side."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def get(name, make):
        """The path of that name, which `make` writes where it is not there yet."""
        path = folder / name
        with open(folder / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                part = folder / f"{name}.part"
                make(part)
                part.rename(path)
        return path

    return get


@pytest.fixture(scope="session")
def trained(shared):
    """Run directories of short trainings on digits, by precision; not to be changed."""
    from larq_seresnet.training import train

    def get(precision):
        flags = (
            "--dataset digits --limit-train 512 --limit-test 100 --batch-size 32 --epochs 1 "
            f"--precision {precision} --filters 4 8 16 --compute-dtype float32"
        )
        return shared(
            f"trained_{precision}",
            lambda path: train.main([*flags.split(), "--run-dir", str(path)]),
        )

    return get


@pytest.fixture(scope="session")
def trained_model(trained):
    """Models of short trainings on digits, by precision; not to be changed."""
    from larq_seresnet import SEResNet14

    models = {}

    def get(precision="w1"):
        if precision not in models:
            weights = trained(precision) / "weights.h5"
            models[precision] = SEResNet14(precision=precision, filters=SMALL, weights=weights)
        return models[precision]

    return get


@pytest.fixture(scope="session")
def base(trained_model, shared):
    """What the converters make of them, by precision, runtime and whether scales are rounded."""
    from larq_seresnet import preprocess_input
    from larq_seresnet.export import half
    from larq_seresnet.export.convert import convert  # now, for tests patch it later
    from larq_seresnet.training import data

    images = preprocess_input(data.load("digits", limit_train=100, limit_test=50).train[0])

    def get(precision="w1", runtime="lce", rounded=False):
        def make(path):
            model = trained_model(precision)
            path.write_bytes(convert(half.rounded(model) if rounded else model, runtime, images))

        name = f"{precision}_{runtime}{'_rounded' * rounded}.tflite"
        return shared(name, make).read_bytes()

    return get


@pytest.fixture(scope="session")
def stored(base):
    """Files for a device, by precision and the attributes of `form.Form`."""
    from larq_seresnet.export import convert, form

    def get(precision="w1", runtime="lce", weights="1bit", strip=True, **options):
        tflite = base(precision, runtime, rounded=weights == "1bit_half")
        return convert.store(tflite, form.Form(runtime, weights, strip=strip, **options))[0]

    return get
