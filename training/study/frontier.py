"""The shapes that S might have: what a file of 40 kB gives, by widths, gates and ends."""

import dataclasses
import json
from typing import Any

import numpy as np

from larq_seresnet import SEResNet14, files
from larq_seresnet.export import anatomy, convert, flatbuffer, prune
from larq_seresnet.training import data
from larq_seresnet.training.study import document, figures
from larq_seresnet.training.study.ablation import HELD_OUT
from larq_seresnet.training.study.estimates import each_seed
from larq_seresnet.training.study.grid import Grid
from larq_seresnet.training.study.runs import arms_of, budget_arm, budget_run

BUDGET, SEEDS = 6, (0, 1)
_EVEN = {"filters": (32, 48, 48)}
_EIGHT_BIT = {"ends": "int8"}
#: By name, the arguments of `Config` of `w1` networks with some 200,000 weights. Widths are
#: multiples of 16: others train more slowly, and their files need more operators.
SHAPES: dict[str, dict[str, Any]] = {
    "he": {},
    "he_int8": _EIGHT_BIT,
    "he_sum3": {"ends": "sum3"},
    "he_no_se": {"attention": None},
    "16_48_48": {"filters": (16, 48, 48)},
    "16_48_48_r4_int8": {"filters": (16, 48, 48), "reduction_ratio": 4} | _EIGHT_BIT,
    "32_32_64_r4_int8": {"filters": (32, 32, 64), "reduction_ratio": 4} | _EIGHT_BIT,
    "32_64_32_r4_int8": {"filters": (32, 64, 32), "reduction_ratio": 4} | _EIGHT_BIT,
    "48_48_32_r4_int8": {"filters": (48, 48, 32), "reduction_ratio": 4} | _EIGHT_BIT,
    "32_48_48": _EVEN,
    "32_48_48_sum3": _EVEN | {"ends": "sum3"},
    "32_48_48_int8": _EVEN | _EIGHT_BIT,
    "32_48_48_r2_int8": _EVEN | {"reduction_ratio": 2} | _EIGHT_BIT,
    "32_48_48_r4_int8": _EVEN | {"reduction_ratio": 4} | _EIGHT_BIT,
    "32_48_48_r8_int8": _EVEN | {"reduction_ratio": 8} | _EIGHT_BIT,
    "32_48_48_no_se_int8": _EVEN | {"attention": None} | _EIGHT_BIT,
}


#: A network of all that takes bytes: uneven widths, gates, 8-bit ends.
WITNESS: dict[str, Any] = {"filters": (4, 8, 8), "inner": (3, 4, 5, 6, 7, 8)} | _EIGHT_BIT


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a network takes on a device.

    Attributes:
        weights: Of kernels, how many.
        file: Bytes of LCE's file in its smallest form, for `w1` "1bit_half", without names.
        macs: Multiply-accumulates of one image.
        memory: Bytes of activations that live at once in LiteRT at most, filters not unpacked.
    """

    weights: int
    file: int
    macs: int
    memory: int


def cost(arguments):
    """The `Cost` of a network, from its converted files.

    Its weights are initial ones, but for the numbers beside the kernels: equal ones would stand in
    the file once, and those of a trained network are not equal.
    """
    model = SEResNet14(weights=None, **arguments)
    generator = np.random.default_rng(0)
    for weight in model.weights:
        if weight.shape.rank == 1:
            weight.assign(generator.uniform(0.5, 1.5, weight.shape))
    plain = convert.convert(model, "litert")
    content = flatbuffer.read(plain)
    sizes = prune.sizes(network=model)["network"]
    return Cost(
        weights=sizes["weights"],
        file=sizes["bytes"],
        macs=sum(anatomy.macs(content).values()),
        memory=anatomy.peak_activations(content),
    )


def runs():
    """All shapes with the first seed, then with the next one."""
    return [
        budget_run(name, arguments | {"held_out": HELD_OUT}, BUDGET, seed)
        for seed in SEEDS
        for name, arguments in SHAPES.items()
    ]


def write_report(results):
    """Draws README.md and frontier.png of a folder from the logs it holds."""
    grid = Grid(results / "logs", arms_of(runs()))
    costs = costs_of(SHAPES, results / "costs.json")
    found = {name: grid.at(BUDGET, budget_arm(name, BUDGET))[0] for name in SHAPES}
    rows = [
        (
            f"`{name}`",
            _described(arguments),
            *(f"{getattr(costs[name], part):,}" for part in ("weights", "file", "macs", "memory")),
            each_seed(found[name]),
        )
        for name, arguments in SHAPES.items()
    ]
    header = (
        "",
        "differs from He's widths, 1-bit ends, r = 1 in",
        "weights",
        "file, bytes",
        "multiply-accumulates",
        "activations, bytes",
        "error",
    )
    text = (
        "# Shapes of one size\n\n"
        f"`python training/reproduce.py --profile frontier`: `w1`, sigmoid + FMB, {BUDGET} epochs "
        f"of recipe `fast`. {data.describe(*grid.data())} Mean and the seeds' values. File: LCE, "
        "`1bit_half`. Activations: the most that LiteRT keeps at once.\n\n"
        + files.table(header, rows)
        + f"\n![error against bytes](frontier.png)\n\nA larger dot computes more, a "
        f"darker one needs more memory. From {grid.provenance()}\n"
    )
    document.write(results / "README.md", text)
    drawn = {name: (costs[name], errors) for name, errors in found.items() if errors.size}
    figures.draw_frontier(drawn, results / "frontier")


def costs_of(shapes, path):
    """The costs of all shapes, kept beside the report: to convert takes longer than to draw.

    They are taken anew once the converter makes another file of `WITNESS`.

    Args:
        shapes: By name the arguments of `SEResNet14`.
        path: Of the file that keeps them.
    """
    kept = json.loads(path.read_text()) if path.exists() else {}
    witness = cost(WITNESS).file
    if kept.pop("witness", None) != witness:
        kept = {}
    wanted = {name: json.dumps(arguments) for name, arguments in shapes.items()}
    for name, arguments in shapes.items():
        if kept.get(name, {}).get("arguments") != wanted[name]:
            kept[name] = {"arguments": wanted[name], **vars(cost(arguments))}
    kept = {name: kept[name] for name in shapes}
    text = json.dumps({"witness": witness} | kept, indent=1) + "\n"
    files.write_text(path, text)
    return {
        name: Cost(**{part: value for part, value in each.items() if part != "arguments"})
        for name, each in kept.items()
    }


def _described(arguments):
    return ", ".join(f"{name} {_value(value)}" for name, value in arguments.items()) or "-"


def _value(value):
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
