"""The doors: what a Learner, Strategy, Engine, Communicator and Source owe each other.

The contract of each lives in its docstring and is checked by ``tutti.testing.check_*``.  To extend tutti, write a class
that fits one of these protocols and passes its check; nothing has to be registered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from tutti._board import Board
from tutti.calling import Calls
from tutti.forms import Compress
from tutti.pieces import Part as Part  # these three are doors, too, in a file of their own
from tutti.pieces import Piece as Piece
from tutti.pieces import Source as Source
from tutti.types import (
    Array,
    Arrays,
    Block,
    Cost,
    Event,
    Kind,
    Order,
    Place,
    Plan,
    Progress,
    Proposal,
    Ready,
    Schema,
    Seat,
    Update,
)


class ShardData(Protocol):
    """The rows of one shard in blocks that can be read again and again, by number.

    ``block(i)`` returns the same bits every time, whoever asks and wherever the rows are kept (memory, disk or the
    source).  ``bounds[i]`` is the (start, stop) of block i inside the shard, known without reading.  A shard that is
    kept in memory is one block; an empty shard has none.  ``place(row)`` tells where a row of the shard came from:
    (file or None, 1-based line or 0-based row), for error messages.
    """

    @property
    def id(self) -> int: ...
    @property
    def n_rows(self) -> int: ...
    @property
    def bounds(self) -> Sequence[tuple[int, int]]: ...
    def block(self, i: int) -> Block: ...
    def place(self, row: int) -> tuple[str | None, int]: ...


@runtime_checkable
class Learner(Protocol):
    """Pure numerics: what is a good update from this data?  Knows no ranks, files, processes or time.

    An inert, cloneable parameter object; everything live is in the arguments.

    Contract
    --------
    - ``init`` is a pure function of its arguments: every rank gets the same bits.
    - ``propose`` changes neither ``shared`` nor ``private``; called twice it returns the same bits.  Its update is a
      sum over the rows of the shard, so that updates of shards can be added in any grouping of the fixed tree.
      An empty shard proposes zeros of the right shapes.
    - ``apply`` needs no data.  It may reuse the buffers of ``shared`` it owns, and is the same on every rank.
    - ``commit`` is the only place where private state moves.
    - ``progress`` reads the shared state alone, so all ranks stop together.
    - ``cost`` estimates from the schema alone; the planner prints it.
    - ``prepare`` loads or compiles whatever the learner needs, so that many workers do not all do it at once.
    """

    @property
    def offers(self) -> frozenset[Kind]: ...
    def prepare(self, schema: Schema) -> None: ...
    def cost(self, schema: Schema) -> Cost: ...
    def init(self, schema: Schema, *, seed: int, start: Arrays | None = None) -> Arrays: ...
    def adopt(self, schema: Schema, data: ShardData) -> Any: ...
    def propose(self, shared: Arrays, private: Any, data: ShardData, order: Order) -> Proposal: ...
    def apply(self, shared: Arrays, merged: Update, scale: float) -> Arrays: ...
    def commit(self, private: Any, proposal: Proposal, scale: float) -> Any: ...
    def progress(self, shared: Arrays) -> Progress: ...


class Claims(Protocol):
    """Which shards a rank works on in a step, decided while it runs.

    ``step(together)`` yields shards, some at a time, until nothing is left to take; all its own at once where
    ``together`` and nobody needs help.  ``publish`` is called between two barriers of each step.
    """

    def step(self, together: bool) -> Iterator[list[int]]: ...
    def publish(self) -> None: ...


@runtime_checkable
class Communicator(Protocol):
    """How arrays travel between the ranks of one run; does not know what they mean.

    Contract
    --------
    - ``all_reduce(parts, n_shards)`` sums one array per shard in the canonical tree over the shard ids 0..n_shards-1:
      same bits on every rank and for every assignment of shards to ranks.  Each shard id is given by exactly one
      rank.  The returned array is shared by the ranks, therefore read-only, and valid until this rank's next
      ``all_reduce`` or ``share``.
    - ``slots(n_shards, length, dtype)`` hands out the rows that ``all_reduce`` sums from: a shard that writes into its
      row and passes that very row saves a copy.
    - ``share(parts, n_shards)`` takes what ``all_reduce`` takes and returns the arrays of all shards, by shard id:
      read-only, valid until this rank's next ``share`` or ``all_reduce``.  Where ``shares_memory`` is true nothing
      large is copied, and a rank that changes what it gave (or a row of ``slots``) has a ``barrier`` before.
    - ``all_gather(payload)`` returns every rank's bytes, by rank.
    - ``abort()`` wakes every rank that waits, which then raises `Aborted`; calling it twice is harmless.
    - No call returns wrong data after an abort or a lost rank: it raises.
    """

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def sent_bytes(self) -> int: ...
    @property
    def wait_seconds(self) -> float: ...
    @property
    def shares_memory(self) -> bool: ...
    def slots(self, n_shards: int, length: int, dtype: Any) -> Array: ...
    def all_reduce(self, parts: Mapping[int, Array], n_shards: int) -> Array: ...
    def share(self, parts: Mapping[int, Array], n_shards: int) -> Sequence[Array]: ...
    def all_gather(self, payload: bytes) -> list[bytes]: ...
    def barrier(self) -> None: ...
    def abort(self) -> None: ...
    def close(self) -> None: ...


@runtime_checkable
class SharingMemory(Communicator, Protocol):
    """A communicator between ranks of one host.

    ``memory(n_bytes)`` returns the same memory to every rank, contents undefined; all ranks ask for the same sizes in
    the same order.  ``claims(own, n_shards)`` returns what decides which rank works on which shard, None for one rank.
    ``commons()`` is for ranks that do not move in step; all ask for it at the same time.
    """

    def memory(self, n_bytes: int) -> Array: ...
    def claims(self, own: Sequence[int], n_shards: int) -> Claims | None: ...
    def commons(self) -> Commons: ...


@runtime_checkable
class Regrouping(Communicator, Protocol):
    """A communicator whose ranks can go on without those that a tolerant run has lost.

    After ``withstand()``, which all ranks call at the same time, a collective call that waits for a lost rank raises
    `tutti.errors.RankGone`, in all that are left, and nobody's result of it counts.  Each then calls ``regroup()``: it
    returns the communicator of those that are left, numbered anew, and for each rank of the run the first generation
    without it (0: it is left), the same to all.
    """

    def withstand(self) -> None: ...
    def regroup(self) -> tuple[Communicator, tuple[int, ...]]: ...


class Commons(Protocol):
    """What ranks that see the same memory have in common where each goes at its own pace.

    Contract
    --------
    - ``memory(n_bytes)`` (contents undefined) and ``locks(n)`` return the same ones to every rank if all ask in the
      same order.  Nobody keeps a lock who has died.
    - ``wait(until)`` returns when ``until()`` is true.  It asks again whenever a rank has called ``ring``, and now and
      then; it raises `Aborted` if the run was stopped.  ``waited`` is what all waits took, in seconds.
    - ``gone(rank)`` tells that a rank has returned or is lost, and writes nothing any more.
    - ``run`` is a number that no earlier run on the same memory had.
    - ``once(name, make)`` returns what ``make()`` returned to the first rank of this process that asked for ``name``;
      each asks once.  ``alone`` says that no other process sees the memory.
    """

    waited: float
    run: int
    alone: bool

    def memory(self, n_bytes: int) -> Array: ...
    def locks(self, n: int) -> Sequence[AbstractContextManager[object]]: ...
    def ring(self) -> None: ...
    def wait(self, until: Callable[[], bool]) -> None: ...
    def gone(self, rank: int) -> bool: ...
    def once(self, name: str, make: Callable[[], Any]) -> Any: ...


class Sum(Protocol):
    """An ``all_reduce`` whose columns travel one after the other; see `Streaming`."""

    def ready(self, start: int, stop: int) -> None: ...
    def finish(self) -> Array: ...


@runtime_checkable
class Streaming(Communicator, Protocol):
    """A communicator that sends columns while others are still computed.

    Contract
    --------
    - ``begin(parts, n_shards)`` begins an ``all_reduce``.  Every rank then calls ``ready(start, stop)`` on what it
      returns for the same ranges in the same order, each column once, as soon as these columns of its parts are
      final, and makes no other collective call before ``finish()``, which returns what ``all_reduce`` returns.
    """

    def begin(self, parts: Mapping[int, Array], n_shards: int) -> Sum: ...


@runtime_checkable
class Compressible(Learner, Protocol):
    """A learner whose updates name arrays that may travel in another form (`Update.lossy`).

    Contract
    --------
    - ``whole`` returns the learner whose updates hold all that shards tell each other: nothing is in an ``outbox``.
      PlanError if its settings do not go together with less exact updates.
    - ``traffic`` returns what a round sends as it is: (bytes of one shard's update, of all that is in outboxes).
    """

    def whole(self) -> Compressible: ...
    def traffic(self, shared: Arrays) -> tuple[int, int]: ...


class Worker(Protocol):
    """What a strategy sees of the rank it runs on.

    ``private`` holds named arrays of the shards hosted here, whatever their owners put there: what it holds when all
    ranks call ``keep_all`` is in the checkpoint, and is there again after a resume, whichever rank hosts the shard.
    After ``compress`` what updates call lossy is merged in that form; it returns the learner to go on with, or None
    where nothing changes ("auto" on a fast link).  What shards have not sent yet is in ``private``.
    """

    @property
    def seat(self) -> Seat: ...
    @property
    def schema(self) -> Schema: ...
    @property
    def seed(self) -> int: ...
    @property
    def job(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def lost(self) -> frozenset[int]: ...
    @property
    def n_shards(self) -> int: ...
    @property
    def shards(self) -> Mapping[int, ShardData]: ...
    @property
    def start(self) -> Arrays | None: ...
    def phase(self, name: str) -> AbstractContextManager[None]: ...
    def buffers(self, template: Arrays) -> dict[int, dict[str, Array]]: ...
    def early(self, template: Arrays) -> Ready | None: ...
    def merge(self, updates: Mapping[int, Update]) -> Update: ...
    def compress(self, by: Compress, learner: Learner) -> Learner | None: ...
    @property
    def shares_memory(self) -> bool: ...
    def memory(self, n_bytes: int) -> Array: ...
    def claim(self) -> Claims | None: ...
    def open(self, shard: int) -> ShardData: ...
    def share(self, updates: Mapping[int, Update]) -> Shares: ...
    def commons(self) -> Commons | None: ...
    def calls(self) -> Calls | None: ...
    @property
    def opens(self) -> bool: ...
    @property
    def keeps(self) -> int | None: ...
    def count(self, name: str, value: float) -> None: ...
    def all_gather(self, payload: bytes) -> list[bytes]: ...
    def room(self, length: int) -> Array: ...
    def total(self, whole: Array) -> Array: ...
    def meet(self) -> None: ...
    def withstand(self) -> None: ...
    def emit(self, event: Event) -> None: ...
    def at_step(self, step: int) -> None: ...
    def keep(self, step: int, state: Callable[[], Arrays], best: bool) -> None: ...
    @property
    def private(self) -> Mapping[int, dict[str, Array]]: ...
    def overdue(self) -> bool: ...
    def due(self, step: int, steps: int = 1) -> bool: ...
    def keep_all(
        self, step: int, state: Callable[[], Arrays], best: bool, private: Mapping[int, Arrays] | None = None
    ) -> None: ...


@runtime_checkable
class Grouping(Learner, Protocol):
    """A learner that can work on several shards at once; ``propose_all`` returns what ``propose`` does for each.

    ``groups`` tells whether that is cheaper than one shard after the other.
    """

    def groups(self, shared: Arrays) -> bool: ...
    def propose_all(
        self, shared: Arrays, private: Mapping[int, Any], data: Mapping[int, ShardData], orders: Mapping[int, Order]
    ) -> dict[int, Proposal]: ...


class Shares(Protocol):
    """What all shards gave in a round, to be read until the next one.

    ``sum(name, start, stop, out)`` is the canonical sum over all shards of columns start:stop of an array, in ``out``
    if given.
    """

    def sum(self, name: str, start: int = 0, stop: int | None = None, out: Array | None = None) -> Array: ...


@runtime_checkable
class Divisible(Learner, Protocol):
    """A learner whose step can be cut into parts, one for each rank, on state in memory that all ranks see.

    Contract
    --------
    - ``settle`` moves what ranks write for each other into memory from ``allocate(n_bytes)``, which returns the same
      memory to every rank, and makes the caller the owner of part ``part`` of ``parts``.
    - ``apply_part`` reads what all shards gave and moves that part alone.  When every rank has returned from it the
      state has the bits that ``apply`` gives on the sum.
    - Where ranks see no common memory, ``outbox`` returns what the shards of this rank wrote for others besides their
      updates (b"" on every rank if that is nothing), and ``inbox`` takes what all ranks wrote, before ``apply``.
    """

    def settle(self, shared: Arrays, allocate: Callable[[int], Array], part: int, parts: int) -> Arrays: ...
    def apply_part(self, shared: Arrays, shares: Shares) -> Arrays: ...
    def outbox(self, shared: Arrays, shards: Sequence[int]) -> bytes: ...
    def inbox(self, shared: Arrays, payloads: Sequence[bytes]) -> None: ...


@runtime_checkable
class Trainable(Learner, Protocol):
    """A learner whose training can be watched, validated and resumed; a strategy asks it after every round.

    Contract
    --------
    - ``due`` tells whether a "summary" round (a validation) is to come now, ``tells`` whether to emit an event.
    - ``milestone`` is (steps done, True if this state is the best so far).
    - ``snapshot`` returns all arrays from which ``init(start=...)`` goes on to the same bits, private state apart:
      that must follow from the seed and the step, so any rank can take any shard.
    - ``result`` returns the arrays that the training leaves, in memory of their own.
    """

    def due(self, shared: Arrays) -> bool: ...
    def tells(self, shared: Arrays) -> bool: ...
    def milestone(self, shared: Arrays) -> tuple[int, bool]: ...
    def snapshot(self, shared: Arrays) -> Arrays: ...
    def result(self, shared: Arrays) -> Arrays: ...


@runtime_checkable
class Remembering(Learner, Protocol):
    """A learner whose private state does not follow from the seed and the step, so checkpoints hold it.

    Contract
    --------
    - ``private_arrays`` returns the arrays of a shard by name, views if it likes; none while there are none.
    - ``with_arrays`` returns fresh private state (of ``adopt``) that goes on from such arrays to the same bits.
    """

    def private_arrays(self, private: Any) -> Arrays: ...
    def with_arrays(self, private: Any, arrays: Arrays) -> Any: ...


@runtime_checkable
class Movable(Learner, Protocol):
    """A learner that can compute elsewhere than on the CPU.

    Contract
    --------
    - ``on`` returns the learner for a rank whose `Place` has this device ("cpu", "cuda:1"); nothing starts by it.
    """

    def on(self, device: str) -> Learner: ...


@runtime_checkable
class Strategy(Protocol):
    """Who waits for whom, how do updates merge, who owns the model?  An inert, cloneable parameter object.

    Contract
    --------
    - ``plan`` is pure; it raises `PlanError` where strategy and learner make no sense together, and never falls back.
    - ``run`` is the program of every rank.  It returns the shared state, the same bits on every rank.
    """

    @property
    def wants(self) -> frozenset[Kind]: ...
    def plan(self, schema: Schema, learner: Learner, draft: Plan) -> Plan: ...
    def run(self, worker: Worker, learner: Learner) -> Arrays: ...


@dataclass(frozen=True)
class Program:
    """What an engine runs on every rank: ``function(context, **arguments)``.

    ``function`` is written "module:name" so that it can be started in another process; ``arguments`` hold plain
    values, arrays and parameter dataclasses (see `tutti._spec.encode`).  ``context`` is a `RankContext`.
    """

    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


class Link(Protocol):
    """What an engine on one host gives to a communicator: memory that all ranks see, and the words of the run.

    ``allocate(n_bytes)`` returns the same memory (uint8, 64-byte aligned, contents undefined) to every rank: all ranks
    ask for the same sizes in the same order.  ``transport`` says which communicator fits ("threads" or "shm");
    `tutti.comm.connect` builds it.  ``abort()`` marks the run as aborted and wakes every rank that waits.  ``lock()``
    returns the one lock of the run, which nobody keeps who has died; ``locks(n)`` returns n others, the same ones to
    every rank if all ask in the same order.
    """

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def transport(self) -> str: ...
    @property
    def board(self) -> Board: ...
    def allocate(self, n_bytes: int) -> Array: ...
    def lock(self) -> AbstractContextManager[object]: ...
    def locks(self, n: int) -> Sequence[AbstractContextManager[object]]: ...
    def abort(self) -> None: ...


class ThreadLink(Link, Protocol):
    """The link between threads of one process, which can share any object besides memory.

    ``share(name, make)`` returns the same object to every rank: what the first one to ask made.  ``on_change(wake)``
    has ``wake`` called whenever the run is aborted or a rank has returned, after the board says so.
    """

    def share(self, name: str, make: Callable[[], Any]) -> Any: ...
    def on_change(self, wake: Callable[[], None]) -> None: ...


class RankContext(Protocol):
    """What an engine gives to the program of a rank.

    ``emit`` hands an event to the caller's ``watch``.  ``at_step`` tells how far the rank is (for error messages) and
    raises `Aborted` when the run was stopped; a program calls it once per round.
    """

    @property
    def seat(self) -> Seat: ...
    @property
    def link(self) -> Link: ...
    def emit(self, event: Event) -> None: ...
    def at_step(self, step: int) -> None: ...


class Run(Protocol):
    """A program that is running on every rank.

    ``results()`` waits for all ranks and returns their return values by rank (None for a rank that a tolerant run has
    lost), or raises the one exception that names
    the rank that failed; ``watch`` gets the events while waiting, in the caller's thread.  ``stop()`` ends the run
    early.  After either, nothing of the run is left: no thread, process, segment or changed thread-pool setting.
    """

    def results(self, watch: Callable[[Event], None] | None = None) -> list[Any]: ...
    def stop(self) -> None: ...


@runtime_checkable
class Engine(Protocol):
    """Where do workers live, are they alive?  Knows no arrays, rounds or data.

    Contract
    --------
    - ``launch`` runs the program once per seat of the plan and returns at once.
    - One rank that raises, exits, is killed or falls silent ends the run with one exception that names rank, host, pid
      and step (`RankError` with the original traceback, or `RankLost`): within 2 s, silent ranks within
      ``timeout_seconds`` + 1 s.  A `tutti.errors.InputError` raised by a rank is raised as it is.
    - Ctrl-C in the caller stops every rank and raises KeyboardInterrupt.
    - Where the plan is ``tolerant``, a rank that dies or falls silent does not end the run while another one is there.
      Its process has ended before anybody is told; then ``watch`` gets a `Fault` with its rank, and either another
      process takes its seat (``plan.restarts`` times in all: `Seat.life` and the board's LIFE count up) or the board
      says that it is LOST: for good, unless restarts were asked for and a host that joins later takes the seat.  A rank
      that raises ends a tolerant run, too.
    """

    @property
    def n(self) -> int | None: ...
    def places(self) -> Sequence[Place]: ...
    def launch(self, program: Program, plan: Plan) -> Run: ...
