"""What defines a training run: plain options, checked when made, in the groups of --help."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from jaxnet.tables.reading.options import ReadOptions

TASKS = ("auto", "classification", "regression")
OPTIMIZERS = ("sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop", "adagrad")
SCHEDULES = ("constant", "cosine", "warmup")
LOSSES = ("auto", "quantile")
DTYPES = ("float32", "float64", "bfloat16")
SWITCHES = ("auto", "on", "off")
CLASS_WEIGHTS = ("balanced",)
NUMBERS = ("auto", "standard", "bins")
# The options that a resumed run may change; the others define what it computes.
RESUMABLE = frozenset(
    {"epochs", "learning_rate", "schedule", "patience", "max_time", "device", "on_disk"}
    | {"checkpoint_every", "keep", "tensorboard", "devices", "accumulate", "remat"}
)


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The table and how it is read."""

    data: str | None = None
    """A .csv, .csv.gz, .tsv, .parquet or .npz file, or a folder of such (no .npz) with the same
    columns; without it, the handwritten digits."""
    target: str | None = None
    """The column to predict."""
    task: str = "auto"
    """auto, classification or regression; auto says what it chose and why."""
    categorical: tuple[str, ...] = ()
    """Columns of numbers or codes to be taken as categories (text always is)."""
    drop: tuple[str, ...] = ()
    """Columns to leave out."""
    sample_weight: str | None = None
    """A column of numbers of at least 0, how much each row counts in the loss; it is no feature."""
    missing: str = "fill"
    """fill or error: fill missing values of features (numbers and dates with the median of
    training, marked where training had some; text as a category of its own), or refuse them."""
    numbers: str = "auto"
    """standard, bins or auto: standardise each number, or give its place in each of 16 bins between
    its quantiles beside it; auto takes bins for at least 200 training rows, and as many as there
    are bins, of at most 60 numbers."""
    validation: float = 0.2
    """The share of the rows held out for validation."""
    delimiter: str | None = None
    """The character between the columns of a CSV, or tab; by default found from its rows."""
    encoding: str | None = None
    """The encoding of a CSV that is not UTF-8, as latin-1; UTF-16 with its mark is found."""
    decimal: str | None = None
    """. or ,: the decimal sign of numbers in text; by default the one that the columns agree on."""
    missing_words: tuple[str, ...] = ()
    """Texts that are missing values beside empty cells, in place of NA, null, nan and their like
    without quotes; '' for none."""
    dates: str | None = None
    """day-first or month-first, for dates as 01/02/2023; or a format of dates, as %d.%m.%Y."""


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """The network between the columns and the target."""

    hidden: tuple[int, ...] = (128,)
    """The sizes of the hidden layers."""
    activation: str = "relu"
    """relu, my_relu, tanh, gelu or silu."""
    ensemble: int = 1
    """Train so many networks of different initial weights in one program, and average what they
    predict: probabilities, or numbers."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How it is trained."""

    loss: str = "auto"
    """auto: cross-entropy for classes, squared error for numbers; or quantile, for numbers: the
    median, and the quantiles 0.1 and 0.9 around it as an interval."""
    optimizer: str = "adam"
    """sgd, momentum, nesterov, adam, adamw, rmsprop or adagrad, as in torch.optim."""
    learning_rate: float = 1e-3
    """The learning rate, or the highest of a schedule."""
    weight_decay: float | None = None
    """L2 added to the gradient (decoupled for adamw); by default torch's: 0, for adamw 0.01."""
    schedule: str = "cosine"
    """constant, cosine (to 0 at the end) or warmup (cosine after a rise over a tenth of the steps).
    """
    batch_size: int | None = None
    """Rows per step; by default 32, or all of a smaller table."""
    epochs: int | None = None
    """Passes over the training rows; by default 4,000 over the square root of their number: 336 for
    142 rows, 9 for 208,000."""
    patience: int | None = None
    """Stop after that many epochs without a lower validation loss; by default, never."""
    evaluate_every: int = 1
    """Epochs between evaluations on the validation rows; the last epoch always has one."""
    clip_norm: float | None = None
    """Scale the gradient down to this norm where it is longer; by default, never."""
    class_weight: str | None = None
    """balanced: rows count in the loss by the inverse of their class's frequency."""
    label_smoothing: float = 0.0
    """The share of each training row's class that all classes divide, as in torch."""
    dropout: float = 0.0
    """The share of hidden units that is set to 0 in a step, other ones for each row."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where and how it is run."""

    seed: int = 0
    """Of the split, the initial weights and the order of the rows."""
    dtype: str = "float32"
    """float32, float64, or bfloat16: products in it, of parameters that stay float32."""
    gram: str = "auto"
    """auto, on or off: the first layer in its dual form, for sgd, momentum and nesterov on more
    columns than rows: the same training, at a cost that does not grow with the columns."""
    on_disk: str = "auto"
    """auto, on or off: memory-mapped arrays beside the file, for tables larger than memory; auto
    for a folder of files, or a table that may take more than a quarter of the memory."""
    device: str = "auto"
    """auto, cpu or gpu."""
    out: str | None = None
    """The run's folder, which must not hold a run; by default the next free runs/NAME-1, -2, ..."""
    max_time: float | None = None
    """Stop, and save, after that many seconds of training; by default, never."""
    checkpoint_every: float = 10.0
    """Seconds between checkpoints; 0 saves after every epoch. The end and a signal save too."""
    keep: int = 3
    """Checkpoints to keep: the last ones. Each holds the best weights so far as well."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard too, to the run's folder (extra `tensorboard`)."""


@dataclass(frozen=True, kw_only=True)
class ScaleOptions:
    """Beyond one device, and one device's memory."""

    devices: int | str | None = None
    """How many devices divide the rows of each batch, or all; or a mesh, as data=4,model=2, where
    the wide layers' columns are divided over model. By default one, with several processes all."""
    deterministic: bool = False
    """Train to the same bits on 1, 2, 4 or 8 devices, in any number of processes; slower."""
    accumulate: int | None = None
    """Compute each batch in so many parts, one after the other, in the memory of one of them."""
    remat: bool = False
    """Compute activations again on the way back rather than keep them: slower, in less memory."""


@dataclass(frozen=True, kw_only=True)
class Config(DataOptions, NetworkOptions, TrainingOptions, RunOptions, ScaleOptions):
    """One training run: all the options above. Raises: ValueError naming the wrong option."""

    @property
    def param_dtype(self) -> str:
        """The dtype of parameters and data."""
        return "float32" if self.dtype == "bfloat16" else self.dtype

    @property
    def reading(self) -> ReadOptions:
        """How the table's file is read."""
        classes = (self.target,) if self.target and self.task == "classification" else ()
        return ReadOptions(
            delimiter=self.delimiter,
            encoding=self.encoding,
            decimal=self.decimal,
            missing_words=self.missing_words,
            dates=self.dates,
            missing=self.missing,
            categorical=(*self.categorical, *classes),
        )

    def __post_init__(self):
        from jaxnet.spec import ACTIVATIONS, check_choice  # brings NumPy, which --help does without

        if self.data is not None and self.target is None:
            raise ValueError(
                "`data` and `target` must be given together, or neither for the digits"
            )
        if self.target in self.drop:
            raise ValueError(f"`drop` must not hold the target {self.target!r}")
        choices = {"task": TASKS, "optimizer": OPTIMIZERS, "schedule": SCHEDULES, "dtype": DTYPES}
        choices |= {"gram": SWITCHES, "on_disk": SWITCHES, "activation": ACTIVATIONS}
        choices |= {"numbers": NUMBERS, "loss": LOSSES}
        for name, known in choices.items():
            check_choice(name, getattr(self, name), known)
        if self.class_weight is not None:
            check_choice("class_weight", self.class_weight, CLASS_WEIGHTS)
        self.reading.check()
        if not all(isinstance(size, int) and size >= 1 for size in self.hidden):
            raise ValueError(f"`hidden` must be integers of at least 1, got {self.hidden}")
        if self.out == "":
            raise ValueError("`out` must name a folder, got ''")
        if not re.fullmatch(r"all|None|[1-9]\d*|.*=.*", str(self.devices)):
            raise ValueError(
                "`devices` must be a number of at least 1, all, or a mesh as data=4,model=2; got "
                f"{self.devices!r}"
            )
        self._check_numbers()
        self._check_combinations()

    def _check_numbers(self) -> None:
        counts = ("epochs", "batch_size", "patience", "evaluate_every", "keep", "accumulate")
        for name in (*counts, "ensemble"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}")
        for name in ("learning_rate", "clip_norm", "max_time"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"`{name}` must be a finite number above 0, got {value}")
        for name in ("weight_decay", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"`{name}` must be a finite number of at least 0, got {value}")
        for name in ("label_smoothing", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"`{name}` must be at least 0 and below 1, got {getattr(self, name)}"
                )
        if not 0 < self.validation < 1:
            raise ValueError(f"`validation` must be a share between 0 and 1, got {self.validation}")
        if self.seed < 0:
            raise ValueError(f"`seed` must be at least 0, got {self.seed}")

    def _check_combinations(self) -> None:
        if self.deterministic and self.accumulate is not None:
            raise ValueError(
                "`accumulate` must not be given with `deterministic`, for which each batch is "
                "computed in parts already"
            )
        weighted = next((n for n in ("sample_weight", "class_weight") if getattr(self, n)), None)
        parts = "deterministic" if self.deterministic else "accumulate"
        if weighted and (self.deterministic or self.accumulate):
            raise ValueError(
                f"`{weighted}` must not be given with `{parts}`: the mean by weights is over a "
                "whole batch, and not over its parts"
            )
        if self.sample_weight is not None and self.sample_weight in (self.target, *self.drop):
            raise ValueError(
                f"`sample_weight` must not be the target or dropped, got {self.sample_weight!r}"
            )
        if self.ensemble > 1 and self.deterministic:
            raise ValueError(f"`ensemble` must be 1 with `deterministic`, got {self.ensemble}")
        if self.ensemble > 1 and re.search(r"model=(?!1\b)", str(self.devices)):
            raise ValueError(
                f"`ensemble` must be 1 on a mesh with a model axis, got {self.ensemble} on "
                f"{self.devices}"
            )
        if self.dropout and not self.hidden:
            raise ValueError(f"`dropout` must be 0 without hidden layers, got {self.dropout}")


def default_epochs(rows: int) -> int:
    """Return the epochs for so many training rows: fewer for more of them, and yet more steps."""
    return max(1, round(4000 / math.sqrt(rows)))
