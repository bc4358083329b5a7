import dataclasses
import json

import pytest

from larq_seresnet.training.study import frontier


def test_cost_by_hand():
    """Of the narrowest network: 27 weights in the stem, 4 x 9 a stage, 2 x 2 in its SE, 10."""
    found = frontier.cost({"filters": (1, 1, 1)})
    assert found.weights == 27 + 3 * 4 * 9 + 3 * 2 * 2 + 10
    convolutions = 1024 * (27 + 36) + 256 * 36 + 64 * 36
    assert found.macs == convolutions + 3 * 2 * 2 + 10
    one = 4 * 32 * 32  # bytes of a map; the input has three channels
    assert 3 * one <= found.memory <= 4 * one
    assert 3000 < found.file < 20_000


def test_a_file_costs_what_that_of_trained_weights_does(stored):
    """Which are not equal: initial ones would be stored once."""
    trained = len(stored(weights="1bit_half", memory="fewest-bytes").tflite)
    assert frontier.cost({"filters": (4, 8, 16)}).file == pytest.approx(trained, abs=16)


def test_the_report_has_a_row_a_shape_and_asks_for_costs_once(tmp_path, write_log, monkeypatch):
    asked = []
    cost = frontier.Cost(weights=200_000, file=34_567, macs=12_345_678, memory=98_765)

    def ask(arguments):
        asked.extend([arguments] * (arguments != frontier.WITNESS))
        return cost

    monkeypatch.setattr(frontier, "cost", ask)
    for run, error in zip(frontier.runs()[:2], (0.25, 0.125), strict=True):
        write_log(tmp_path / "logs", run, frontier.BUDGET, error)
    for _ in range(2):
        frontier.write_report(tmp_path)
    assert asked == list(frontier.SHAPES.values())
    text = (tmp_path / "README.md").read_text()
    costs = "200,000 | 34,567 | 12,345,678 | 98,765"
    assert f"| `he` | - | {costs} | 25.00% (25.0%) |" in text
    assert f"| `he_int8` | ends int8 | {costs} | 12.50% (12.5%) |" in text
    assert f"| `32_48_48` | filters 32-48-48 | {costs} | - |" in text
    kept = json.loads((tmp_path / "costs.json").read_text())
    kept["he"]["arguments"] = "of another time"
    (tmp_path / "costs.json").write_text(json.dumps(kept))
    frontier.write_report(tmp_path)
    assert asked[-1] == frontier.SHAPES["he"]
    assert len(asked) == len(frontier.SHAPES) + 1
    cost = dataclasses.replace(cost, file=30_000)  # of another converter
    frontier.write_report(tmp_path)
    assert len(asked) == 2 * len(frontier.SHAPES) + 1


@pytest.mark.parametrize("name", frontier.SHAPES)
def test_every_shape_is_a_network_of_one_size(name):
    """No conversion: the weights alone, by the widths."""
    from larq_seresnet import SEResNet14

    model = SEResNet14(weights=None, **frontier.SHAPES[name])
    bits = sum(each.shape.num_elements() for each in model.weights if each.shape.rank > 1)
    assert 160_000 < bits < 225_000
