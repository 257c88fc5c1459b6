"""Settings of a training run and of evaluation."""

from dataclasses import field
from typing import Any, Literal

from mamdr_core.config.engine import InnerSettings, OuterSettings
from mamdr_core.config.learning import DRSettings, LearningSettings
from mamdr_core.config.lr_schedule import LrSchedule
from mamdr_core.config.mixed import MixedSettings
from mamdr_core.config.raw_id import RawId
from mamdr_core.config.settings import check_limits, settings

ReaderName = Literal["petastorm", "arrow"]


@settings
class CheckpointSettings:
    """How often a run writes a checkpoint; after a failure, the work since the newest one is repeated."""

    minutes: float = 5.0
    """Minutes between two checkpoints; 0: no checkpoints by time."""
    rounds: int = 0
    """Rounds, or passes of DR after theta_S has settled, between two checkpoints; 0: no checkpoints by rounds."""
    keep: int = 2
    """Number of newest checkpoints that are kept; each also contains the best parameters so far."""

    def __post_init__(self) -> None:
        check_limits(self, "checkpoint", "minutes", "rounds", least=0)
        check_limits(self, "checkpoint", "keep", least=1)

    @property
    def is_regular(self) -> bool:
        """Whether checkpoints are also written when the run is not being stopped."""
        return bool(self.minutes or self.rounds)


@settings
class TrainSettings:
    """A training run."""

    method: str = "mixed"
    """Learning method (docs/learning.md lists them, docs/recipe.md compares them), or a method of your own as
    my_package.my_module:method (docs/extending.md)."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options that your own method declares (docs/extending.md)."""
    seed: int = 0
    """Seed of the initialisation, round plan, dropout and support draws."""
    ranks: int = 1
    """Number of processes that train together; a single rank runs in the driver, without a launcher."""
    launcher: Literal["horovod", "torch"] = "horovod"
    """Launcher that starts and connects ranks: Horovod, or torch.distributed in a barrier stage of Spark
    (docs/clusters.md compares them)."""
    batch_size: int = 1024
    """Maximum number of rows of an inner step."""
    epochs: int | None = None
    """Maximum number of epochs; null: 20 or, with `days`, 1."""
    days: int = 0
    """Learn only from this number of newest days, starting from the parameters of `warm_start` or, if that is empty, of
    the champion; if there is no champion, from all days (docs/warm_start.md). 0: all days."""
    rounds_per_epoch: int = 64
    """R: outer updates per epoch; 1 (full passes) is the interpretation of the released reference code."""
    smallest_slice: int = 32
    """Minimum number of rows of a visit; smaller domains are visited in fewer rounds."""
    validate_every: int = 16
    """Rounds between two validations."""
    patience: int = 10
    """Stop after this number of validations in a row without a better mean AUC, once the best exceeds .51."""
    inner: InnerSettings = field(default_factory=InnerSettings)
    """Inner loop."""
    outer: OuterSettings = field(default_factory=OuterSettings)
    """Outer update."""
    lr_schedule: LrSchedule = field(default_factory=LrSchedule)
    """Schedule of the learning rates of theta_S over rounds (docs/learning.md#training-options)."""
    dr: DRSettings = field(default_factory=DRSettings)
    """Domain Regularization."""
    mixed: MixedSettings = field(default_factory=MixedSettings)
    """Mixed model of the method `mixed`."""
    negative_rate: float = 1.0
    """Share of the negatives that the log contains if they were down-sampled: score and export_model then correct
    probabilities to those of the full log, p / (p + (1 - p) / rate). Leave it at 1 if input.columns.weight corrects for
    the sampling."""
    calibration: Literal["none", "platt", "isotonic"] = "none"
    """platt: after training, fit a slope and a shift of the logits of each domain to the validation rows, shrunk
    towards those of all domains if the domain is small; isotonic: the same after an increasing curve that is fitted to
    the validation rows of all domains. Evaluation, the gate, score and export_model apply the calibration
    (docs/serving.md#calibration)."""
    refit_last_layer: bool = False
    """After training theta_S, refit the last layer of the network to validation rows, which it has not memorised, if
    this improves cross-validated metrics (docs/mixed.md)."""
    balance_ranks: bool = False
    """Ranks with more steps or rows in a round than the mean lend slices, or parts of them, to ranks with fewer, so
    that no rank waits: for many ranks, or domains larger than the share of a rank (docs/learning.md). No effect for
    methods that mix rows of all domains."""
    meta_lr: float = 0.01
    """Learning rate of the virtual step (plain gradient descent) that meta-learning differentiates through."""
    tables: Literal["replicated", "sharded"] = "replicated"
    """Trainable embedding tables: whole on every rank, or sharded by row over ranks. Choose sharded if tables with
    their moments (with Adam three times their size) do not fit into the memory of a rank. A rank then holds its shard
    and the rows that it reads in a round (more rounds per epoch, fewer rows), and Adam's moments of rows start at zero
    in each round."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA if torch can use it on all ranks, otherwise the CPU."""
    engine: Literal["auto", "eager", "fast"] = "auto"
    """fast: compiled steps of many domains at once, with the numbers of eager; auto: fast if it pays
    (docs/engine.md)."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Precision of matrix products of the fast engine; tf32: only on CUDA; bf16: parameters and moments stay in
    fp32."""
    group_memory: float = 0.0
    """GB for domains that are trained at once; 0: the size of a CPU's cache, or half of the free memory of a GPU."""
    on_nan: Literal["stop", "skip"] = "stop"
    """If the loss of a step is not finite: stop the run with an error, or skip the step and count it."""
    examples_version: int | None = None
    """Delta version of examples to train on, with its vocabularies; null: the newest."""
    warm_start: str = ""
    """Start from the parameters of the run with this id, or of the `champion` of the days before `examples.until` (cold
    if there is none yet). Empty: start cold (docs/warm_start.md)."""
    only_domains: tuple[RawId, ...] = ()
    """Train only theta_i of these domains; theta_S and all other theta_i remain those of `warm_start` or, if that is
    empty, of the champion or else the newest run (docs/warm_start.md)."""
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    """Checkpoints."""
    resume: str = ""
    """Resume from the newest checkpoint of the run with this id, or of the `newest` unfinished run of the same day
    (`examples.until`) with the same settings (the number of ranks may differ); if there is no such run, start a new
    one. Empty: always start a new run."""
    restarts: int = 3
    """Maximum number of restarts from the newest checkpoint after the loss of a rank."""
    start_timeout: int = 120
    """Seconds to wait for slots for all ranks, and again for the start of all ranks."""
    stall_limit: float = 600.0
    """Seconds after which a rank without progress is stopped, its stacks are reported and the ranks are restarted; 0:
    never. A step with its compilation must take less; rounds and passes may take longer."""
    reader: ReaderName = "petastorm"
    """Reader of the row groups of a rank: Petastorm, or arrow, which needs only pyarrow and reads the same rows
    (docs/reading.md)."""
    host_memory: float = 0.0
    """Maximum GB of rows and feature vectors that a rank keeps in memory; if it has more, they are memory-mapped. 0: no
    limit."""
    specific_memory: float = 0.0
    """Maximum GB of theta_i that a rank keeps in memory; if it has more, they are stored in a file. 0: its share of
    half of the memory that is free at the start."""
    table_memory: float = 0.0
    """Maximum GB of theta_S, its optimizers' state and its best copy that a rank keeps in memory; if they are larger,
    all but theta_S is memory-mapped (docs/memory.md; not with CUDA). 0: its share of half of the memory that is free at
    the start."""
    scratch: str = ""
    """Folder for these files on a local disk of each rank; empty: the system's temporary folder."""
    profile: bool = False
    """Record some rounds of each stage on rank 0, after a warm-up, with torch's profiler: traces for chrome://tracing
    or Perfetto, and a table of times, in the lake's folder reports/RUN_ID (docs/operations.md)."""
    dry_run: bool = False
    """Only check the run (train_mamdr --dry-run): one step on a few rows, without writing anything
    (docs/operations.md). Other jobs ignore it."""

    def __post_init__(self) -> None:
        memory = ("host_memory", "group_memory", "specific_memory", "table_memory")
        others = ("restarts", "stall_limit", "meta_lr", "examples_version", "days")
        check_limits(self, "train", *memory, *others, least=0)
        counts = ("ranks", "batch_size", "epochs", "rounds_per_epoch", "validate_every", "patience")
        check_limits(self, "train", *counts, "smallest_slice", "start_timeout", least=1)
        if not 0 < self.negative_rate <= 1:
            raise ValueError(f"train.negative_rate must be within (0, 1], got {self.negative_rate}")
        if len(set(self.only_domains)) < len(self.only_domains):
            raise ValueError(f"train.only_domains must differ, got {list(self.only_domains)}")

    @property
    def most_epochs(self) -> int:
        """Maximum number of epochs."""
        return self.epochs or (1 if self.days else 20)

    @property
    def learning(self) -> LearningSettings:
        """Settings of the learning method as configured; `Method.settle` completes them."""
        return LearningSettings(self.inner, self.outer, self.dr, self.meta_lr, self.options)


@settings
class TrackingSettings:
    """Trackers to which a run is reported after it has ended; their errors do not fail the run."""

    mlflow: str = ""
    """MLflow tracking URI: the URL of a server, or sqlite:///FILE; empty: MLflow is not used. Pass credentials in its
    environment variables (MLFLOW_TRACKING_USERNAME, _PASSWORD, _TOKEN)."""
    experiment: str = "mamdr"
    """MLflow experiment, created if it does not exist."""
    tensorboard: str = ""
    """Folder on the driver for TensorBoard's event files, with one subfolder per run; empty: TensorBoard is not
    used."""
    seconds: float = 60.0
    """Maximum seconds for each tracker, after which it is abandoned with a warning."""

    def __post_init__(self) -> None:
        place = self.mlflow
        if place and (place.startswith("file:") or not ("://" in place or place.startswith("databricks"))):
            raise ValueError(
                f"tracking.mlflow is {place!r}: expected http://HOST or sqlite:///FILE (MLflow 3 cannot use folders)"
            )
        if "://" in self.tensorboard:
            raise ValueError(f"tracking.tensorboard is {self.tensorboard!r}: expected a local folder")
        if self.seconds <= 0:
            raise ValueError(f"tracking.seconds must be > 0, got {self.seconds}")


@settings
class EvaluateSettings:
    """The package and the split that are evaluated."""

    run_id: str = ""
    """The run to evaluate: an id, or champion, the run in production; empty: the newest successful run."""
    package: str = ""
    """Folder of a package; overrides run_id."""
    split: Literal["train", "val", "test"] = "test"
    """Split of the examples version on which the package was trained."""
