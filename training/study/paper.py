"""The paper's arms and controls beside them: what is trained of them, and the report on it."""

from typing import Any

from larq_seresnet import files
from larq_seresnet.training import callbacks
from larq_seresnet.training.study import claims, document, figures, measures, modules, tables
from larq_seresnet.training.study.grid import THRESHOLD, Grid
from larq_seresnet.training.study.runs import Run

_LITERAL = {"attention": "se_paper", "fmb_gradient": "none"}
_SIGMOID = {"activation": "sigmoid", "fmb": False}
_TANH = {"activation": "tanh", "fmb": False}
_SIGMOID_FMB = {"activation": "sigmoid", "fmb": True}
_TANH_FMB = {"activation": "tanh", "fmb": True}
_THROUGH = {"attention": "se_paper", "fmb_gradient": "straight_through"}

#: Blocks of arms; an arm is a name and the arguments in which it differs from `Config`'s defaults.
BLOCKS: dict[str, dict[str, dict[str, Any]]] = {
    "paper-literal": {
        "sigmoid": _LITERAL | _SIGMOID,
        "tanh": _LITERAL | _TANH,
        "sigmoid_fmb": _LITERAL | _SIGMOID_FMB,
        "tanh_fmb": _LITERAL | _TANH_FMB,
        "float32_sigmoid": _LITERAL | _SIGMOID | {"precision": "float32"},
    },
    "controls": {
        "no_se": {"attention": None},
        "float32_se": {"attention": "se_float32"} | _SIGMOID,
        "float32_no_se": {"attention": None, "precision": "float32"},
    },
    "gradient": {
        "sigmoid_fmb_through": _THROUGH | _SIGMOID_FMB,
        "tanh_fmb_through": _THROUGH | _TANH_FMB,
    },
    "ours": {
        "scaled": _SIGMOID,
        "scaled_fmb_through": _SIGMOID_FMB | {"fmb_gradient": "straight_through"},
        "scaled_fmb_none": _SIGMOID_FMB | {"fmb_gradient": "none"},
    },
    "activations": {
        "w1a1_no_se": {"attention": None, "precision": "w1a1"},
        "w1a1_sigmoid": _LITERAL | _SIGMOID | {"precision": "w1a1"},
        "w1a1_sigmoid_fmb": _LITERAL | _SIGMOID_FMB | {"precision": "w1a1"},
        "w1a1_tanh": _LITERAL | _TANH | {"precision": "w1a1"},
        "w1a1_tanh_fmb": _LITERAL | _TANH_FMB | {"precision": "w1a1"},
    },
    "annealed": {
        f"annealed_{arm}": arguments | {"schedule": "one_cycle"}
        for arm, arguments in (
            ("no_se", {"attention": None}),
            ("sigmoid", _LITERAL | _SIGMOID),
            ("tanh", _LITERAL | _TANH),
            ("sigmoid_fmb", _LITERAL | _SIGMOID_FMB),
            ("tanh_fmb", _LITERAL | _TANH_FMB),
            ("float32_sigmoid", _LITERAL | _SIGMOID | {"precision": "float32"}),
        )
    },
}
#: All on He's network, as the paper's is.
ARMS = {
    arm: {"shortcut": "conv", "head": "bias", "schedule": "constant"} | arguments
    for block in BLOCKS.values()
    for arm, arguments in block.items()
}
#: By figure of the paper: its arms, and up to which epoch.
CURVES = {
    3: (("sigmoid", "float32_sigmoid"), 10),
    7: (("sigmoid", "tanh"), 10),
    8: (claims.ALL_FOUR, 10),
    9: (("sigmoid", "no_se", "sigmoid_fmb"), 25),
    10: (claims.TO_THE_END, claims.LAST_EPOCH),
}
#: What the recipe `plain` was tuned on: the control, and the paper's own baseline.
TUNED = ("no_se", "sigmoid")
RATES = (0.001, 0.003, 0.01, 0.03)
_FIRST = [*BLOCKS["paper-literal"], *BLOCKS["controls"], *BLOCKS["annealed"]]
_REST = [arm for arm in ARMS if arm not in _FIRST]


def tuning():
    """Runs for the rate of recipe `plain`, on held-out training images."""
    return [
        Run(
            f"{arm}_rate{rate}",
            ARMS[arm]
            | {"recipe": "plain", "epochs": 5, "seed": 0, "held_out": 5000, "learning_rate": rate}
            | {"dataset": "cifar10"},
        )
        for rate in RATES
        for arm in TUNED
    ]


def smoke():
    """Runs of seconds that show that all of it works."""
    return _grid(
        [(_FIRST, lambda arm: 2, range(2))],
        dataset="digits",
        limit_train=256,
        limit_test=callbacks.GATE_IMAGES,
        batch_size=64,
        filters=(8, 8, 16),  # oneDNN crashes in a strided 1x1 of 4 channels, AVX2 and one thread
        compute_dtype="float32",
    )


def short():
    """Three seeds of what the paper has and of controls, two of other readings; 10 or 25 epochs."""
    return _grid(
        [(_FIRST, _until_table_iii, range(3)), (_REST, _until_table_iii, range(2))],
        dataset="cifar10",
    )


def full():
    """Five seeds of all, and the 100 epochs of figure 10, of its control and of float32."""
    return _grid(
        [
            (_FIRST + _REST, _until_table_iii, range(5)),
            (claims.TO_THE_END, lambda arm: claims.LAST_EPOCH, range(1)),
        ],
        dataset="cifar10",
    )


def _grid(plan, **common):
    """Runs in the order of `plan`, (arms, their epochs, seeds): all arms of one seed first.

    A constant rate makes a short run the beginning of a long one: what comes twice is run once.
    """
    found: dict[str, Run] = {}
    for arms, epochs, seeds in plan:
        for seed in seeds:
            for arm in arms:
                name = f"{arm}_seed{seed}"
                last = max(epochs(arm), found[name].arguments["epochs"] if name in found else 0)
                arguments = {"recipe": "plain", "epochs": last, "seed": seed}
                found[name] = Run(name, ARMS[arm] | arguments | common)
    return list(found.values())


def _until_table_iii(arm):
    return 25 if arm in claims.TABLE_III_ARMS else 10


def write_report(results):
    """Draws report.md, summary.csv and the figures of a folder from the logs it holds."""
    grid = Grid(results / "logs", ARMS)
    document.write(results / "report.md", tables.report(grid, BLOCKS, results))
    summary = tables.summary(grid)
    files.write_text(results / "summary.csv", summary)
    for number, (arms, last) in CURVES.items():
        figures.draw_errors(
            grid,
            {arm: claims.named(arm) for arm in arms},
            results / f"figure{number:02d}",
            last,
            claims.STATED,
            THRESHOLD if number == 9 else None,
            "log" if number == 10 else "linear",
        )
    panels, names = modules.by_depth(grid)
    if names:
        figures.draw_depth(panels, names, results / modules.FIGURE)
    if tables.gates_log(grid).exists():
        _draw_gates(callbacks.read_gates(tables.gates_log(grid)), results)


def write_tuning(results):
    """Likewise, where there are logs: the report tells what the rate was chosen by."""
    if any((results / "logs").glob("*.csv")):
        write_report(results)


def _draw_gates(records, results):
    """Figures 4 and 5, the first SE module's gates at epochs 1 and 10, and 6, their histogram."""

    def first_module(epoch):
        layers = (f"{measures.FIRST_MODULE}_{end}" for end in ("se", "fmb"))
        title = f"First SE module, sigmoid + FMB, seed 0, epoch {epoch}"
        return *(records[epoch][layer] for layer in layers), title

    last = min(claims.GATES_EPOCH, max(records))
    figures.draw_gate_values(*first_module(min(records)), results / "figure04")
    figures.draw_gate_values(*first_module(last), results / "figure05")
    figures.draw_gate_histogram(*first_module(last), results / "figure06")
