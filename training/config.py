"""Everything that defines a run: one table of its arguments, its recipes, its file.

The module `flags` makes command-line flags of the table.
"""

import dataclasses
import json
import math
import pathlib
from typing import Any

from larq_seresnet import files
from larq_seresnet.arguments import check_choice
from larq_seresnet.layers import FMB_GRADIENTS, GATE_ACTIVATIONS
from larq_seresnet.precision import ENDS, PRECISIONS
from larq_seresnet.seresnet import ATTENTIONS, GATE_PLACES, HEADS, SHORTCUTS

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "weights.h5"
#: The folder in a run directory that prune.py writes.
PRUNED = "pruned"
#: Fields that say where a run reads and what it records, not what is learnt.
ASIDE = ("data_dir", "gate_epochs")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the weights are optimised: what the fields of the same names in `Config` default to."""

    schedule: str
    learning_rate: float
    kernel_rate: float = 0.0
    relaxation: float = 0.0
    batch_size: int = 256
    crop: int = 4


RECIPES = {
    "plain": Recipe(schedule="constant", learning_rate=0.01),
    "fast": Recipe(
        schedule="one_cycle",
        learning_rate=0.01,
        kernel_rate=0.1,
        relaxation=0.8,
        batch_size=128,
        crop=2,
    ),
}
MOST = 2**31 - 1  # what TensorFlow counts with
SCHEDULES = ("constant", "one_cycle")
KEEP_BY = ("gates", "frequency", "random")
COMPUTE_DTYPES = ("auto", "float32", "bfloat16")


def _flag(group, default, help, before=dataclasses.MISSING, **options):
    """A dataclass field that is also a flag: `options` go to argparse.

    `before` is what runs did before there was the field, for configs that lack it.
    """
    metadata = {"group": group, "help": help, "before": before, "options": options}
    return dataclasses.field(default=default, metadata=metadata)


def _recipe_flag(help, **options):
    """A field that a recipe decides where it is not given."""
    return _flag("optimisation", None, help, **options)


def _as_tuples(values):
    return tuple(_as_tuples(each) if isinstance(each, (list, tuple)) else each for each in values)


def _none_or_name(text):
    return None if text == "none" else text


def _channels(text):
    """Numbers of channels, such as 0,1,5."""
    return tuple(map(int, text.split(",")))


@dataclasses.dataclass(frozen=True)
class Config:
    """One run. The model's fields are the arguments of `larq_seresnet.SEResNet14`."""

    precision: str = _flag(
        "model",
        "w1",
        "float32; w1: every weight 1-bit; w1a1: the residual convolutions' inputs too",
        choices=list(PRECISIONS),
    )
    activation: str = _flag(
        "model", "sigmoid", "of the attention values M_c", choices=list(GATE_ACTIVATIONS)
    )
    fmb: bool = _flag("model", True, "binarise the attention values (Eq. 5 and 6)")
    fmb_gradient: str = _flag(
        "model", "straight_through", "gradient through FMB", choices=list(FMB_GRADIENTS)
    )
    attention: str | None = _flag(
        "model",
        "se",
        "se: of channels, scaled 1-bit weights, gates start open; se_paper: bare +-1, no bias; "
        "se_float32: the same, float32 weights; spatial: over positions; cbam: se, then spatial; "
        "none: no attention",
        type=_none_or_name,
        choices=list(ATTENTIONS),
        metavar="{se,se_paper,se_float32,spatial,cbam,none}",
    )
    reduction_ratio: int = _flag(
        "model", 1, "r of the attention's W0, (C, C/r)", type=int, metavar="R"
    )
    shortcut: str = _flag(
        "model",
        "pool",
        "where the shape changes; pool: without weights; conv: He's 1x1 convolution",
        choices=list(SHORTCUTS),
    )
    head: str = _flag(
        "model",
        "norm",
        "after the classifier; norm: BatchNorm of the logits; bias: a bias alone",
        choices=list(HEADS),
    )
    ends: str | None = _flag(
        "model",
        None,
        "kernels of stem and classifier; none: as all others; sum3: sums of three 1-bit kernels; "
        "int8: 8 bits",
        before=None,
        type=_none_or_name,
        choices=list(ENDS),
        metavar="{none,sum3,int8}",
    )
    shift: bool = _flag(
        "model", False, "w1a1: a trained shift of each channel before its sign", before=False
    )
    filters: tuple[int, ...] = _flag(
        "model", (16, 32, 64), "channels of the three stages", type=int, nargs=3, metavar="C"
    )
    gate_at: str = _flag(
        "model",
        "end",
        "where the attention of a block stands: end, before the addition; middle, between its two "
        "convolutions",
        before="end",
        choices=list(GATE_PLACES),
    )
    inner: tuple[int, ...] | None = _flag(
        "model",
        None,
        "channels between the two convolutions of each of the six blocks, default as its stage",
        before=None,
        type=int,
        nargs=6,
        metavar="C",
    )
    outer: tuple[tuple[int, ...], ...] | None = _flag(
        "model",
        None,
        "for each of the six blocks the channels that its branch adds to, such as 0,1,5; default "
        "all",
        before=None,
        type=_channels,
        nargs=6,
        metavar="C,...",
    )
    squeezed: tuple[int, ...] | None = _flag(
        "model",
        None,
        "units between W0 and W1 in each of the six blocks, 0 for one without attention; default "
        "C/r",
        before=None,
        type=int,
        nargs=6,
        metavar="UNITS",
    )
    input_shape: tuple[int, ...] = _flag(
        "model",
        (32, 32, 3),
        "height and width in pixels, and 3; images are resized to it",
        type=int,
        nargs=3,
        metavar=("H", "W", "3"),
    )
    weights: str | None = _flag(
        "model",
        None,
        "to start from: weights.h5 of an earlier run, whose architecture it has unless flags say "
        "otherwise, or cifar10, those that ship",
        metavar="FILE",
    )

    dataset: str | None = _flag(
        "data",
        None,
        "TFDS name, folder of class folders, or digits (embedded); "
        "not given: cifar10 where it can be had, else digits",
        metavar="NAME",
    )
    data_dir: str | None = _flag(
        "data", None, "where TFDS keeps data sets, default TFDS_DATA_DIR or its own", metavar="DIR"
    )
    limit_train: int | None = _flag(
        "data", None, "use this many training images, default all", type=int, metavar="N"
    )
    limit_test: int | None = _flag(
        "data", None, "use this many test images, default all", type=int, metavar="N"
    )
    held_out: int | None = _flag(
        "data",
        None,
        "test on this many of the training images instead, which are not trained on: for choosing",
        type=int,
        metavar="N",
    )
    flip: bool | None = _flag(
        "data",
        None,
        "mirror half of the training images; default on, for digits and TFDS's letters off",
    )

    recipe: str = _flag(
        "optimisation",
        "fast",
        "what the flags marked * default to; fast: learns most in few epochs; plain: Adam at a "
        "constant rate, for comparisons",
        choices=list(RECIPES),
    )
    epochs: int = _flag(
        "optimisation", 10, "passes over the training images", type=int, metavar="N"
    )
    batch_size: int = _recipe_flag("images a step", type=int, metavar="N")
    schedule: str = _recipe_flag(
        "of the rates: constant, or one_cycle, up over the first fifth and linearly down to zero",
        choices=list(SCHEDULES),
    )
    learning_rate: float = _recipe_flag(
        "of Adam, for one_cycle its peak", type=float, metavar="RATE"
    )
    kernel_rate: float = _recipe_flag(
        "learning rate of Muon for the convolutions' kernels, likewise; 0: Adam moves them too",
        type=float,
        metavar="RATE",
    )
    relaxation: float = _recipe_flag(
        "share of the steps over which 1-bit kernels of convolutions harden from real values; "
        "0: 1-bit from the beginning",
        before=0.0,
        type=float,
        metavar="SHARE",
    )
    relaxed_inputs: bool = _flag(
        "optimisation",
        True,
        "let the convolutions' 1-bit inputs harden with their kernels, where a network has any",
        before=False,
    )
    crop: int = _recipe_flag(
        "shift training images by up to so many pixels", type=int, metavar="PIXELS"
    )
    teacher: str | None = _flag(
        "optimisation",
        None,
        "directory of a finished run whose probabilities are learnt from, too, such as that of a "
        "larger float32 network; where images are held out, they must be held out of its training "
        "as well; default: from the labels alone",
        before=None,
        metavar="DIR",
    )
    teacher_share: float = _flag(
        "optimisation",
        0.45,
        "of the teacher in what is learnt, less than half: the label's probability stays greatest",
        before=0.45,
        type=float,
        metavar="SHARE",
    )
    teacher_temperature: float = _flag(
        "optimisation",
        1.0,
        "above 1 the teacher's probabilities become more even",
        before=1.0,
        type=float,
        metavar="T",
    )
    keep: float = _flag(
        "optimisation",
        1.0,
        "share of the weights behind FMB's channels that is kept: gates learn to close the others, "
        "whole channels of them, and after half of the epochs stay as they are; 1: nothing is "
        "made to close",
        before=1.0,
        type=float,
        metavar="SHARE",
    )
    keep_by: str = _flag(
        "optimisation",
        "gates",
        "which channels `keep` keeps: gates: those open for most images, once a term in the loss "
        "has closed others; for comparison, frequency: likewise without the term; random: any",
        before="gates",
        choices=list(KEEP_BY),
    )
    seed: int = _flag(
        "optimisation", 0, "of weights, data order and augmentation", type=int, metavar="N"
    )
    deterministic: bool = _flag(
        "optimisation", False, "same seed, same log, on one machine; somewhat slower"
    )
    compute_dtype: str = _flag(
        "optimisation",
        "auto",
        "of the layers, variables stay float32; auto: bfloat16 where the processor has it",
        choices=list(COMPUTE_DTYPES),
    )

    gate_epochs: tuple[int, ...] = _flag(
        "run",
        (),
        "record the gates after these epochs too, besides the first, tenth and last",
        type=int,
        nargs="+",
        metavar="N",
    )

    def __post_init__(self):
        self._fill()
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("compute_dtype", self.compute_dtype, COMPUTE_DTYPES)
        check_choice("keep_by", self.keep_by, KEEP_BY)
        self._check_numbers()
        self._check_shapes()
        if self.keep < 1:
            self._check_closing()
        elif self.keep_by != "gates":
            raise ValueError(
                f"`keep_by` is for `keep` below 1, received {self.keep_by!r} with keep={self.keep}."
            )

    def _fill(self):
        """Makes tuples of lists, and leaves nothing to the recipe or the precision to decide."""
        for name in ("filters", "input_shape", "gate_epochs", "inner", "outer", "squeezed"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _as_tuples(getattr(self, name)))
        check_choice("recipe", self.recipe, RECIPES)
        for name, value in vars(RECIPES[self.recipe]).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        check_choice("precision", self.precision, PRECISIONS)
        if not (self.relaxation and PRECISIONS[self.precision].input_quantizer):
            object.__setattr__(self, "relaxed_inputs", False)

    def _check_numbers(self):
        """Raises ValueError for a number out of its range."""
        positive = ("epochs", "batch_size", "limit_train", "limit_test", "held_out")
        for name in (*positive, "learning_rate", "teacher_temperature"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"`{name}` must be positive, received {value}.")
            if value is not None and value > MOST:
                raise ValueError(f"`{name}` must be at most {MOST:,}, received {value}.")
        for name in ("kernel_rate", "crop"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` must be 0 or more, received {getattr(self, name)}.")
        if not 0 <= self.relaxation <= 1:
            raise ValueError(f"`relaxation` must be from 0 to 1, received {self.relaxation}.")
        if not 0 < self.keep <= 1:
            raise ValueError(f"`keep` must be above 0 and at most 1, received {self.keep}.")
        if not 0 <= self.teacher_share < 0.5:  # so that errors in training are against the labels
            raise ValueError(
                f"`teacher_share` must be from 0 to less than 0.5, received {self.teacher_share}."
            )
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"`seed` must be from 0 to 2**31 - 1, received {self.seed}.")
        for epoch in self.gate_epochs:
            if not 1 <= epoch <= self.epochs:
                raise ValueError(
                    f"`gate_epochs` must be from 1 to `epochs`, {self.epochs}, received {epoch}."
                )

    def _check_shapes(self):
        """Raises ValueError for images that are none, or smaller than their shifts."""
        if min(self.input_shape) < 1 or self.input_shape[-1] != 3:
            raise ValueError(
                f"`input_shape` must be height, width and 3 (RGB), received {self.input_shape}."
            )
        if self.crop >= min(self.input_shape[:2]):
            raise ValueError(
                f"`crop` must be less than the sides of `input_shape`, {self.input_shape}, "
                f"received {self.crop}."
            )

    def _check_closing(self):
        """Raises ValueError where there are no gates that could close."""
        for name, fits, allowed in (
            ("attention", self.attention == "se", "'se'"),
            *what_closes(vars(self)),
            (
                "fmb_gradient",
                self.fmb_gradient != "none",
                "'straight_through' (or gates do not learn)",
            ),
            ("epochs", self.epochs > 1, "2 or more"),
        ):
            if not fits:
                raise ValueError(
                    f"With `keep` below 1 `{name}` must be {allowed}, received "
                    f"{getattr(self, name)!r}."
                )

    def model_arguments(self) -> dict[str, Any]:
        """The arguments of `SEResNet14`, but for `num_classes`, which the data decide."""
        return {name: getattr(self, name) for name in FLAG_GROUPS["model"] if name != "weights"}

    @property
    def extendable(self) -> bool:
        """Whether a run of fewer epochs is the beginning of one of more."""
        return self.schedule == "constant" and not self.relaxation and self.keep == 1

    def recorded_epochs(self) -> set[int]:
        """After which epochs, counted from 1, gates are recorded."""
        settling = {self.epoch_of_settling()} if self.keep < 1 else set()
        return {1, 10, self.epochs, *settling, *self.gate_epochs}

    def epoch_of_settling(self) -> int:
        """How many epochs gates learn before those that `keep` allows are chosen for good."""
        return math.ceil(self.epochs / 2)

    def changed(self) -> dict[str, Any]:
        """What to give `train.py` for the same run: nothing that is usual."""
        usual = vars(Config(recipe=self.recipe, precision=self.precision)) | {
            "precision": Config.precision,
            "recipe": None,
            "epochs": None,
            "seed": None,
        }
        return {
            name: value
            for name, value in vars(self).items()
            if name not in ASIDE and value != usual[name]
        }

    def save(self, run_dir: pathlib.Path, **facts: Any) -> None:
        """Writes config.json: every argument, and `facts` on the run beside them."""
        content = {"arguments": dataclasses.asdict(self), **facts}
        text = json.dumps(content, indent=2) + "\n"
        files.write_text(run_dir / CONFIG_FILE, text)


_BEFORE = {
    field.name: field.metadata["before"]
    for field in dataclasses.fields(Config)
    if field.metadata["before"] is not dataclasses.MISSING
}
FLAG_GROUPS: dict[str, list[str]] = {}
for _field in dataclasses.fields(Config):
    FLAG_GROUPS.setdefault(_field.metadata["group"], []).append(_field.name)


def what_closes(arguments: dict[str, Any]) -> tuple[tuple[str, bool, str], ...]:
    """What a network's gates of channels must be to close any: argument, whether it is, allowed."""
    return (
        ("fmb", arguments["fmb"], "True (without it no gate is closed)"),
        (
            "activation",
            GATE_ACTIVATIONS[arguments["activation"]].closed == 0,
            "'sigmoid' or 'hard_sigmoid' (gates of -1 and 1 close nothing)",
        ),
        (
            "gate_at",
            arguments["precision"] != "w1a1" or arguments["gate_at"] == "end",
            "'end' for precision 'w1a1', whose second convolutions need all channels",
        ),
    )


def load(run_dir: pathlib.Path) -> tuple[Config, dict[str, Any]]:
    """Reads a run directory's config.json.

    Returns:
        The config, and the facts that were saved beside it.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is not what `Config.save` wrote.
    """
    path = pathlib.Path(run_dir) / CONFIG_FILE
    if not path.exists():
        raise FileNotFoundError(f"{run_dir} is not a run directory: it holds no {CONFIG_FILE}.")
    return read(path)


def is_run(folder: pathlib.Path) -> bool:
    """Whether a folder is a run directory, of whichever version; others have a config.json, too."""
    return isinstance(files.read_report(folder / CONFIG_FILE).get("arguments"), dict)


def of_weights(weights: str | pathlib.Path) -> Config | None:
    """The `Config` of the run that a weight file is of, pruned or not; None of one elsewhere."""
    return facts_of_weights(weights)[0]


def facts_of_weights(weights: str | pathlib.Path) -> tuple[Config | None, dict[str, Any]]:
    """As `of_weights`, and what config.json says besides."""
    path = pathlib.Path(weights).absolute()
    run_dir = path.parent
    while run_dir.name == PRUNED and not is_run(run_dir):  # no run of that name
        run_dir = run_dir.parent
    is_of_run = path.name == WEIGHTS_FILE and is_run(run_dir)
    return load(run_dir) if is_of_run else (None, {})


def read(path: pathlib.Path) -> tuple[Config, dict[str, Any]]:
    """Reads a config.json by whatever name; returns and raises what `load` does."""
    try:
        facts = json.loads(path.read_text())
        return of_saved(facts.pop("arguments")), facts
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise ValueError(f"{path} was not written by this version of train.py: {error}") from error


def of_saved(arguments: dict[str, Any]) -> Config:
    """The `Config` that was saved; what is newer than it is as runs did before there was the field.

    Raises:
        ValueError: If it lacks anything else.
    """
    arguments = {**_BEFORE, **arguments}
    if arguments.pop("teacher_epochs", 0):  # of 0.1: a teacher of its own
        raise ValueError("`teacher_epochs` is no more: see `teacher`")
    lacking = {field.name for field in dataclasses.fields(Config)} - set(arguments)
    if lacking:
        raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
    return Config(**arguments)


def check_same(path: pathlib.Path, kept: Config, wanted: Config) -> None:
    """Checks that the config of a run is what it should be, but for what a machine decides.

    Where runs are extendable it may be of more epochs or fewer.

    Raises:
        ValueError: If it is not; names `path` and the field.
    """
    for field in dataclasses.fields(kept):
        here, there = getattr(wanted, field.name), getattr(kept, field.name)
        free = (
            field.name in (*ASIDE, "compute_dtype")
            or (field.name == "flip" and here is None)  # left to the data
            or (field.name == "epochs" and wanted.extendable)
        )
        if here != there and not free:
            raise ValueError(
                f"{path} is of another grid: `{field.name}` is {there!r} there, {here!r} here."
            )
