"""A recorded asynchronous run, repeated in one process to the same bits."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from pathlib import Path

from tutti._spec import Spec
from tutti.errors import InputError, ParameterError, PlanError
from tutti.protocols import Learner, Worker
from tutti.serving import Detaching, Servable
from tutti.strategies import _record
from tutti.strategies._replayed import Replayed
from tutti.types import Arrays, Kind, Plan, Schema


@dataclass(frozen=True)
class Replay(Spec):
    """Repeats what `ParameterServer(record=folder)` did, with one worker: same parameters, same data, same bits.

    Parameters
    ----------
    folder : of the record.
    to : stop when all updates of this global step (from 0) have been applied, with whatever of later steps had come in
        between; None: repeat the whole run.

    Example
    -------
    >>> Replay("runs/a", to=120).get_params()
    {'folder': 'runs/a', 'to': 120}
    """

    folder: str
    to: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.folder, str) or not self.folder:
            raise ParameterError("folder", self.folder, "write the folder that ParameterServer(record=...) has written")
        whole = isinstance(self.to, int) and not isinstance(self.to, bool)
        if self.to is not None and not (whole and self.to >= 0):
            raise ParameterError("to", self.to, "write None or the number of a global step, from 0")

    @property
    def serves(self) -> bool:
        """True: the learner's weights are moved as updates came."""
        return True

    @property
    def reason(self) -> str:
        """Why the gradients are taken as they are."""
        return "every update is computed on the weights that it had read in the recorded run, and applied in its order"

    @property
    def wants(self) -> frozenset[Kind]:
        return frozenset({"gradient"})

    def plan(self, schema: Schema, learner: Learner, draft: Plan) -> Plan:
        """Return the draft with what is repeated.

        Raises
        ------
        PlanError : there is more than one worker, or the learner has no form that can be repeated.
        InputError : the folder holds no record of such a run.
        """
        count = self.check()
        self._checked(learner)
        if draft.size != 1:
            raise PlanError(
                f"Replay repeats the work of all workers in one, and there are {draft.size}; write "
                "engine=tutti.Threads(1)"
            )
        note = f"a run of {count} workers is repeated from the order of its updates in {self.folder}"
        return dataclasses.replace(draft, strategy=type(self).__name__, notes=(*draft.notes, note))

    def run(self, worker: Worker, learner: Learner) -> Arrays:
        """Repeat the run."""
        record = _record.read(Path(self.folder))
        first, last = int(record.facts["first"]), record.last_step()
        if self.to is not None and not first <= self.to <= last:
            raise InputError(f"to={self.to}: {self.folder} knows of the steps from {first} to {last}")
        return Replayed(worker, self._checked(learner), record, self.to).run()

    def seal(self, steps: int, sha256: str) -> None:
        """Warn if the model that came out is not the one of the record."""
        found = "" if self.to is not None else self.recorded_sha256
        if found and found != sha256:
            warnings.warn(
                f"{self.folder}: the repeated run gave the model {sha256}, the recorded one {found}; other versions of "
                "the libraries or another processor compute other bits",
                RuntimeWarning,
                stacklevel=2,
            )

    @property
    def recorded_sha256(self) -> str:
        """The SHA-256 of the model that the recorded run gave; "" if it gave none."""
        _, ended = _record.read_facts(Path(self.folder))
        return "" if ended is None else str(ended.get("model_sha256", ""))

    def check(self) -> int:
        """Return how many workers the recorded run had.

        Raises
        ------
        InputError : there is no record, or only of a part of a run, of which all is asked for.
        """
        facts, ended = _record.read_facts(Path(self.folder))
        if ended is None and self.to is None:
            raise InputError(f"{self.folder}: the run was cut short; write Replay(..., to=STEP) to see a step of it")
        return len(facts["parts"])

    def _checked(self, learner: Learner) -> Detaching:
        facts, _ = _record.read_facts(Path(self.folder))
        whole = facts["server_optimizer"] is not None
        form = learner.served(whole) if isinstance(learner, Servable) else learner
        if not isinstance(form, Detaching):
            raise PlanError(
                f"Replay repeats the training of nets, and of linear models with solver='sgd', not of a "
                f"{type(learner).__name__}"
            )
        why = form.unservable()
        if why is not None:
            raise PlanError(f"Replay cannot repeat this {type(learner).__name__}: {why}")
        return form
