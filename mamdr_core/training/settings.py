"""Settings of a training run and of evaluation."""

from dataclasses import field
from typing import Any, Literal

from mamdr_core.engine.settings import InnerSettings, OuterSettings
from mamdr_core.learning.schedule import LrSchedule
from mamdr_core.learning.settings import DRSettings, LearningSettings
from mamdr_core.mixed.settings import MixedSettings
from mamdr_core.raw_id import RawId
from mamdr_core.settings import settings
from mamdr_core.shards.settings import ReaderName


@settings
class CheckpointSettings:
    """How often a run writes a checkpoint; the work since the newest one is repeated after a loss."""

    minutes: float = 5.0
    """Minutes between two checkpoints; 0: not by time."""
    rounds: int = 0
    """Rounds, or passes of DR once theta_S has settled, between two checkpoints; 0: not by rounds."""
    keep: int = 2
    """How many of the newest are kept; each also holds the best parameters so far."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, least in {"minutes": 0, "rounds": 0, "keep": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"checkpoint.{name} must be >= {least}, got {getattr(self, name)}")

    @property
    def is_regular(self) -> bool:
        """Whether checkpoints are written apart from that of a run which is stopped."""
        return bool(self.minutes or self.rounds)


@settings
class TrainSettings:
    """A training run."""

    method: str = "mixed"
    """Learning method: docs/learning.md lists them, docs/recipe.md compares them; or your own,
    my_package.my_module:method (docs/extending.md)."""
    options: dict[str, Any] = field(default_factory=dict)
    """Settings of your own method, as it declares them (docs/extending.md)."""
    seed: int = 0
    """Decides initialisation, round plan, dropout and support draws."""
    ranks: int = 1
    """Processes that train together; 1 runs in the driver, without a launcher."""
    launcher: Literal["horovod", "torch"] = "horovod"
    """What starts ranks and connects them: Horovod, or torch.distributed in a barrier stage of Spark (docs/clusters.md
    compares them)."""
    batch_size: int = 1024
    """Largest number of rows of an inner step."""
    epochs: int | None = None
    """Largest number of times that every row is visited; null: 20 or, with `days`, 1."""
    days: int = 0
    """Number of days to learn from, the newest alone, starting from the parameters of `warm_start` or, where that is
    empty, of the champion; where there is none, all days are learned (docs/warm_start.md). 0: all days."""
    rounds_per_epoch: int = 64
    """R: outer updates an epoch; 1 is the released reference code's reading (full passes)."""
    smallest_slice: int = 32
    """A domain is visited in fewer rounds rather than with fewer rows than this."""
    validate_every: int = 16
    """Rounds between two validations."""
    patience: int = 10
    """Stop after this number of validations in a row without a better mean AUC, once the best exceeds .51."""
    inner: InnerSettings = field(default_factory=InnerSettings)
    """Inner loop."""
    outer: OuterSettings = field(default_factory=OuterSettings)
    """Outer update."""
    lr_schedule: LrSchedule = field(default_factory=LrSchedule)
    """How theta_S's learning rates change from round to round (docs/learning.md#training-options)."""
    dr: DRSettings = field(default_factory=DRSettings)
    """Domain Regularization."""
    mixed: MixedSettings = field(default_factory=MixedSettings)
    """The mixed model of the method mixed."""
    negative_rate: float = 1.0
    """Share of the negatives that the log keeps, where it was thinned: score and export_model then give the probability
    of the whole log, p / (p + (1 - p) / rate). Leave it at 1 where input.columns.weight makes up for them instead."""
    calibration: Literal["none", "platt", "isotonic"] = "none"
    """platt: once training has ended, fit a slope and a shift of the logits by domain to the validation rows, those of
    small domains shrunk towards all domains'; isotonic: the same after an increasing curve of the logits that is fitted
    to the validation rows of all domains. Evaluation, the gate, score and export_model apply it
    (docs/serving.md#calibration)."""
    refit_last_layer: bool = False
    """Once theta_S is trained, fit the network's last layer again to validation rows, which it has not memorised, if
    that is better on validation rows left out (docs/mixed.md)."""
    balance_ranks: bool = False
    """Ranks with more steps or rows of a round than the mean lend slices, or parts of them, to ranks with fewer, so
    that none waits (not for methods that mix rows of all domains): for many ranks, or domains larger than a rank's
    share (docs/learning.md)."""
    meta_lr: float = 0.01
    """Learning rate of the virtual step (plain gradient descent) that meta-learning differentiates through."""
    tables: Literal["replicated", "sharded"] = "replicated"
    """Trainable embedding tables: whole on every rank, or sharded by row over ranks. Choose sharded where tables with
    their moments (with Adam three times their size) do not fit a rank's memory. A rank then holds its part and the rows
    that it reads in a round (more rounds an epoch, fewer rows), and Adam's moments of rows are fresh in each round."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA if torch can use it on every rank."""
    engine: Literal["auto", "eager", "fast"] = "auto"
    """fast: compiled steps of many domains at once, with eager's numbers; auto: where it pays (docs/engine.md)."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Of the fast engine's matrix products: tf32 (CUDA alone), or bf16 with parameters and moments in fp32."""
    group_memory: float = 0.0
    """GB that domains which run at once may take; 0: what a CPU's cache holds, or half of a GPU's free memory."""
    on_nan: Literal["stop", "skip"] = "stop"
    """If the loss of a step is not finite: stop the run and name the step, or skip its rows and count it."""
    examples_version: int | None = None
    """Delta version of examples to train on, with the vocabularies that it was encoded by; null: the newest."""
    warm_start: str = ""
    """Start from the parameters of the run of this id, or of the `champion` of the days before `examples.until` (where
    there is none yet: cold). Empty: start cold (docs/warm_start.md)."""
    only_domains: tuple[RawId, ...] = ()
    """Learn theta_i of these domains alone; theta_S and every other theta_i stay those of `warm_start` or, where that
    is empty, of the champion, else of the newest run (docs/warm_start.md)."""
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    """Checkpoints."""
    resume: str = ""
    """Resume from the newest checkpoint of the run of this id, or of the `newest` unfinished run of the same day
    (`examples.until`) that computes the same (other numbers of ranks allowed); where there is none of the latter, start
    anew. Empty: always start anew."""
    restarts: int = 3
    """Times that a run is restarted from its newest checkpoint after it lost a rank."""
    start_timeout: int = 120
    """Seconds that Spark has to have slots for all ranks, and then that they have to start."""
    stall_limit: float = 600.0
    """Seconds after which a rank that makes no progress is ended, with what it was doing in the cause, and the ranks
    are restarted; 0: never. A step, with its compilation, must take less; rounds and passes may take longer."""
    reader: ReaderName = "petastorm"
    """What reads the row groups of a rank's share: Petastorm, or arrow: pyarrow alone, which needs no Petastorm and
    reads the same rows (docs/reading.md)."""
    host_memory: float = 0.0
    """GB of rows and feature vectors that a rank keeps in memory; a larger share is memory-mapped. 0: no bound."""
    specific_memory: float = 0.0
    """GB of theta_i that a rank keeps in memory; more goes to a file. 0: a share of half of what is free at first."""
    table_memory: float = 0.0
    """GB of theta_S, its optimizers' state and its best copy that a rank keeps in memory; where they take more, all but
    theta_S is memory-mapped (docs/memory.md; not with CUDA). 0: a share of half of what is free at first."""
    scratch: str = ""
    """Folder of such files, on a local disk of each rank; empty: the system's temporary folder."""
    profile: bool = False
    """Rank 0 records some rounds of each stage, after warm-up, with torch's profiler: traces for chrome://tracing or
    Perfetto and a table of where time goes, in the lake's folder reports/RUN_ID (docs/operations.md)."""
    dry_run: bool = False
    """Check the run and stop (train_mamdr --dry-run): one step on a few rows, nothing is written (docs/operations.md).
    Other jobs ignore it."""

    def __post_init__(self) -> None:
        """Check the counts."""
        memory = ("host_memory", "group_memory", "specific_memory", "table_memory")
        for name in (*memory, "restarts", "stall_limit", "meta_lr"):
            if getattr(self, name) < 0:
                raise ValueError(f"train.{name} must be >= 0, got {getattr(self, name)}")
        if not 0 < self.negative_rate <= 1:
            raise ValueError(f"train.negative_rate must be within (0, 1], got {self.negative_rate}")
        if self.examples_version is not None and self.examples_version < 0:
            raise ValueError(f"train.examples_version must be >= 0, got {self.examples_version}")
        if len(set(self.only_domains)) < len(self.only_domains):
            raise ValueError(f"train.only_domains must differ, got {list(self.only_domains)}")
        if self.days < 0:
            raise ValueError(f"train.days must be >= 0, got {self.days}")
        counts = ("ranks", "batch_size", "epochs", "rounds_per_epoch", "validate_every", "patience")
        for name in (*counts, "smallest_slice", "start_timeout"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"train.{name} must be >= 1, got {getattr(self, name)}")

    @property
    def most_epochs(self) -> int:
        """Largest number of times that every row is visited."""
        return self.epochs or (1 if self.days else 20)

    @property
    def learning(self) -> LearningSettings:
        """What the learning method uses of it, as configured: `Method.settle` completes it."""
        return LearningSettings(self.inner, self.outer, self.dr, self.meta_lr, self.options)


@settings
class TrackingSettings:
    """Trackers that a run is reported to once it has ended; none of them has to be up for a run to succeed."""

    mlflow: str = ""
    """Where MLflow keeps runs: a server's URL, or sqlite:///FILE; empty: not used. Credentials belong in its
    environment variables (MLFLOW_TRACKING_USERNAME, _PASSWORD, _TOKEN)."""
    experiment: str = "mamdr"
    """MLflow's experiment, made where it is missing."""
    tensorboard: str = ""
    """Folder of TensorBoard's event files, a subfolder a run, on the driver's machine. Empty: none."""
    seconds: float = 60.0
    """A tracker that takes longer is abandoned with a warning."""

    def __post_init__(self) -> None:
        """Check where they are."""
        place = self.mlflow
        if place and (place.startswith("file:") or not ("://" in place or place.startswith("databricks"))):
            raise ValueError(
                f"tracking.mlflow is {place!r}: expected http://HOST or sqlite:///FILE (MLflow 3 has none in folders)"
            )
        if "://" in self.tensorboard:
            raise ValueError(f"tracking.tensorboard is {self.tensorboard!r}: expected a local folder")
        if self.seconds <= 0:
            raise ValueError(f"tracking.seconds must be > 0, got {self.seconds}")


@settings
class EvaluateSettings:
    """Which package is measured on what."""

    run_id: str = ""
    """The run whose package is measured: an id, or champion, the run that serves; empty: the newest that ended well."""
    package: str = ""
    """Folder of a package; overrides run_id."""
    split: Literal["train", "val", "test"] = "test"
    """Split of examples, in the version that the package was trained on."""
