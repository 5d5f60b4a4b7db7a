"""The words of tutti as frozen dataclasses.  Nothing here computes; every layer may import it.

What crosses a wire is an `Update`; what stays with a shard is a `Proposal`'s ``private``; what was decided
before the run is a `Plan`; what came out is a `Result`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy.typing as npt

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
"""Arrays under names that all ranks agree on."""
Matrix = tuple[int, int, int]
"""Where a matrix lies in a flat array: (start, rows, columns)."""
Ready = Callable[[str, int, int], None]
"""Called with (name, start, stop) when elements start:stop of an array of an update are final."""

Kind = Literal["gradient", "dual", "delta", "summary", "part", "counts"]
"""gradient: sums over rows at the shared state; dual: a local change of the model with its dual gain;
delta: how far a shard's own steps went, start - end, times the weight of its rows ("delta", "weight", "steps": the
steps of the round times that weight); summary: sums that judge the shared state (loss, certificate) and change no
weight; part: what a task found, keyed by its number and never summed; counts: whole numbers, whose sums are exact in
any order (see `tutti.counting.Counting`)."""

Partition = Literal["contiguous", "round_robin", "random", "stratified", "balanced"]


@dataclass(frozen=True)
class Schema:
    """What one scan of the data found; the same on every rank.

    Parameters
    ----------
    n_rows, n_features : size of the data.
    classes : sorted labels of a classification (str, int or float, as given); None for a regression.
    class_weight_sums : (n_classes,) sum of the sample weights of each class; None for a regression.
    class_counts : (n_classes,) rows of each class; None for a regression.
    weight_sum : sum of the sample weights (n_rows where there are none).
    weighted : True if the data brings sample weights.
    sparse : True for CSR blocks, False for dense ones.
    dtype : "float32" or "float64", the type of the values in X.
    n_values : stored values: n_rows * n_features if dense, the number of non-zeros if sparse.
    n_bytes : estimated bytes of the decoded data.
    feature_names : column names if the source has them.
    """

    n_rows: int
    n_features: int
    classes: tuple[Any, ...] | None = None
    class_weight_sums: tuple[float, ...] | None = None
    class_counts: tuple[int, ...] | None = None
    weight_sum: float = 0.0
    weighted: bool = False
    sparse: bool = False
    dtype: str = "float64"
    n_values: int = 0
    n_bytes: int = 0
    feature_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Csr:
    """Rows of a sparse matrix: row i holds ``values[indptr[i]:indptr[i+1]]`` at ``indices[...]``.

    indptr int64 (n_rows + 1), indices int32 sorted within a row and without duplicates, values float32/64.
    """

    indptr: Array
    indices: Array
    values: Array
    n_features: int

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.indptr) - 1, self.n_features


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a shard, decoded.

    Parameters
    ----------
    x : (rows, n_features) C-ordered array, or `Csr`.
    y : (rows,) float64 targets of a regression, or int32 class codes (index into ``Schema.classes``).
    weight : (rows,) float64 sample weights; None means 1 everywhere.
    start : position of the first row inside its shard.
    """

    x: Array | Csr
    y: Array
    weight: Array | None
    start: int


@dataclass(frozen=True)
class Place:
    """Somewhere a rank can live: ``cores`` of ``host``."""

    host: str
    cores: int = 1
    device: str = "cpu"


@dataclass(frozen=True)
class Seat:
    """One rank of a run: where it lives and which shards it hosts.

    Parameters
    ----------
    life : how many processes had this seat before; above 0 for one that joins a running program late.
    role : "worker" or "server" where these ask and answer one another instead of moving in step, else "".
    """

    rank: int
    place: Place
    shards: tuple[int, ...]
    life: int = 0
    role: str = ""


@dataclass(frozen=True)
class Stage:
    """Tasks that need nothing from one another.

    Parameters
    ----------
    name : what they are.
    costs : estimated cost of each, in a unit of the stage's own.
    ranks : the rank that each is dealt to; None if that is decided at run time.
    how : how they are dealt, in words.
    """

    name: str
    costs: tuple[float, ...]
    ranks: tuple[int, ...] | None = None
    how: str = ""


@dataclass(frozen=True)
class Plan:
    """All that was decided before the run; complete and frozen before anything starts.

    Parameters
    ----------
    strategy, engine, learner : their names.
    reason : why this learner and strategy were chosen.
    seats : one per rank.
    n_shards : logical shards of the job; never derived from the number of workers.
    shard_rows : rows of each shard.
    sent_bytes_per_round : bytes each rank writes for the others in one round.
    rounds : estimated rounds.
    memory_bytes : estimated peak for data and state over all ranks on this host.
    seconds : estimated duration of the fit.
    notes : what a careful reader would want to know besides.
    tolerant : a rank that dies or falls silent does not end the run as long as another one is there.
    restarts : how many lost ranks of a tolerant run are started again, over the whole run.
    transport : how arrays travel between ranks, as far as the engine says.
    stages : the tasks of a learner whose work is tasks; of stages that repeat, the first.
    """

    strategy: str
    engine: str
    learner: str
    reason: str
    seats: tuple[Seat, ...]
    n_shards: int
    shard_rows: tuple[int, ...] = ()
    sent_bytes_per_round: int = 0
    rounds: int = 0
    memory_bytes: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    tolerant: bool = False
    restarts: int = 0
    transport: str = ""
    stages: tuple[Stage, ...] = ()

    @property
    def size(self) -> int:
        return len(self.seats)


@dataclass(frozen=True)
class Cost:
    """What a learner expects to need, for the plan; estimates from the shape of the data alone.

    Parameters
    ----------
    update_bytes : bytes of the largest update of one shard.
    private_bytes : bytes of private state of one shard, data apart.
    passes : passes over the data, fractions included.
    rounds : merges.
    flops_per_value : arithmetic per stored value and pass (2 for a dot product, 4 with the way back).
    itemsize : bytes of one number of an update.
    """

    update_bytes: int
    private_bytes: int = 0
    passes: float = 1.0
    rounds: int = 1
    flops_per_value: float = 4.0
    itemsize: int = 8


@dataclass(frozen=True)
class Order:
    """One piece of work a strategy asks of a learner.

    Parameters
    ----------
    step : number of the round, from 0.
    kind : which update is wanted.
    seed : base of every random number of the run; combine with shard and step through `tutti.seeds`.
    shard : id of the shard the work is for.
    part : (i, k): work on the i-th of k parts of this epoch's rows.
    epoch : passes over the data begun before this one.
    hints : numbers the strategy sets, for example CoCoA's ``sigma``.
    out : buffers under the names of the update; a learner that writes into them saves a copy.
    ready : a learner that writes into ``out`` may call it as soon as elements are final for this shard, for each
        element once at most; all others are when ``propose`` returns.
    """

    step: int
    kind: Kind
    seed: int
    shard: int
    part: tuple[int, int] = (0, 1)
    epoch: int = 0
    hints: Mapping[str, float] = field(default_factory=dict)
    out: Mapping[str, Array] | None = None
    ready: Ready | None = None


@dataclass(frozen=True)
class Update:
    """The only thing that crosses a wire: arrays that are summed over shards, in the fixed tree.

    Parameters
    ----------
    lossy : the arrays that may travel in a shorter form (see `tutti.forms.Transform`), and the matrices in each.
    """

    kind: Kind
    arrays: Arrays
    lossy: Mapping[str, Sequence[Matrix]] = field(default_factory=dict)


@dataclass(frozen=True)
class Push:
    """What moves the keys of a model that is served, from the rows of some shards in one global step.

    Parameters
    ----------
    step : the global step the rows belong to; schedules follow it.
    share : the part of the step's rows these are.
    keys : (n_keys,) what each key moves along, such as the mean gradient of the rows; cut by key range.
    sums : small arrays that travel whole: sums of losses, changes of running statistics.
    empty : True where no row weighs anything; nothing moves then.
    touched : what of the model moves, in numbers that the learner knows, where the rest stays as it is; ``keys`` holds
        these alone then, and only the learner can cut them.  None: all keys.
    """

    step: int
    share: float
    keys: Array
    sums: Arrays = field(default_factory=dict)
    empty: bool = False
    touched: Array | None = None


@dataclass(frozen=True)
class Proposal:
    """What a shard would do: ``update`` travels, ``private`` never leaves the shard."""

    update: Update
    private: Any = None


@dataclass(frozen=True)
class Progress:
    """How far a learner is, read from the shared state alone (the same on every rank).

    Parameters
    ----------
    objective : the function that is minimised, at the current weights; nan before it is known.
    gap : certified upper bound of objective - optimum; inf before it is known.
    estimate : cheap guess of the gap that certifies nothing; inf if there is none.
    passes : passes over the data, fractions included.
    metrics : what else the learner measures, such as a validation loss.
    done : True when the learner asks for no more work.
    converged : True when the stop was reached because ``gap <= tol * |objective|``.
    """

    objective: float
    gap: float
    passes: float
    done: bool
    converged: bool
    estimate: float = float("inf")
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Round:
    """Event: one round was committed.  Times in seconds since the start of the run."""

    step: int
    seconds: float
    objective: float
    gap: float
    passes: float
    kind: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Started:
    """Event: every rank has opened its transport and its shards."""

    n_workers: int
    seconds: float


@dataclass(frozen=True)
class Fault:
    """Event: something failed without ending the run, such as a checkpoint on a full disk.

    Parameters
    ----------
    message : what happened, in one sentence.
    rank, host, pid, reason : of a rank that was lost in a tolerant run; rank is None for any other fault.
    """

    message: str
    rank: int | None = None
    host: str = ""
    pid: int = 0
    reason: str = ""


@dataclass(frozen=True)
class TaskDone:
    """Event: a task was performed; about ``done`` of the ``total`` tasks of its stage are.  Told now and then."""

    stage: int
    task: int
    done: int
    total: int
    seconds: float


@dataclass(frozen=True)
class Note:
    """Event: something was decided while the run began, such as what ``compress="auto"`` chose."""

    message: str


Event = Round | Started | Fault | Note | TaskDone


@dataclass(frozen=True)
class RankReport:
    """What one rank measured: seconds by phase, bytes written for other ranks, and what else its strategy counted."""

    rank: int
    host: str
    pid: int
    seconds: Mapping[str, float]
    sent_bytes: int
    rounds: int
    counts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What a run returned: the shared state, the events and the report of every rank that came back."""

    arrays: Arrays
    history: tuple[Round, ...]
    reports: tuple[RankReport, ...]
    progress: Progress
    seconds: float
    faults: int = 0
    notes: tuple[str, ...] = ()
