import pytest

from larq_seresnet import SEResNet14
from larq_seresnet.export import convert

FILTERS = (4, 8, 16)


@pytest.fixture(scope="session")
def trained_model(trained):
    """Models of short trainings on digits, by precision; not to be changed."""
    models = {}

    def get(precision="w1"):
        if precision not in models:
            weights = trained(precision) / "weights.h5"
            models[precision] = SEResNet14(precision=precision, filters=FILTERS, weights=weights)
        return models[precision]

    return get


@pytest.fixture(scope="session")
def base(trained_model, shared):
    """What the converters make of them, by precision and runtime."""

    def get(precision="w1", runtime="lce"):
        def make(path):
            path.write_bytes(convert.convert(trained_model(precision), runtime))

        return shared(f"{precision}_{runtime}.tflite", make).read_bytes()

    return get


@pytest.fixture(scope="session")
def stored(base):
    """Files for a device, by precision, runtime and the other arguments of `store`."""

    def get(precision="w1", runtime="lce", weights="1bit", strip=True, **options):
        return convert.store(base(precision, runtime), runtime, weights, strip=strip, **options)[0]

    return get
