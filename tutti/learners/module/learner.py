"""Any torch module as a learner: each shard's gradient of its part of the global batch, one optimizer step on the sum.

The loss of a step is sum_i w_i l_i / sum_i w_i over the global batch, whoever computes which row; random numbers,
batch-norm statistics and the shape of every product belong to (step, shard), so any number of workers gets the same
weights to the last bit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tutti._carried import Carried
from tutti._spec import Spec
from tutti.errors import InputError, ParameterError, PlanError
from tutti.learners.module import _rows, batches
from tutti.learners.module._rows import ShardRows
from tutti.learners.module._serving import ServesNet
from tutti.learners.module.batches import Deal, Picks
from tutti.learners.module.fields import Field
from tutti.learners.module.recipe import Recipe
from tutti.protocols import ShardData, Shares
from tutti.seeds import seed as seed_of
from tutti.types import Array, Arrays, Cost, Kind, Order, Progress, Proposal, Schema, Update

if TYPE_CHECKING:
    from tutti.learners.module._local import Turns
    from tutti.learners.module._net import Net
    from tutti.learners.module._ranges import Served

STEP, EPOCH, VALIDATED, STOP, WAITED = range(5)
"""Places in "clock": steps and epochs done, epochs validated; 1 when training is over; epochs since the best one."""
LOSS, WEIGHT, VALID_LOSS, ACCURACY, BEST, RATE = range(6)
"""Places in "meter": sums of the running epoch; the last validation; the best so far; the learning rate."""
_FREE = ("code", "epochs", "max_steps", "patience", "factored")


class State(dict[str, Array]):
    """The shared arrays of a rank together with the live net whose memory they are."""

    net: Net
    served: Served
    turns: Turns | None = None


@dataclass(frozen=True)
class ModuleLearner(ServesNet, Spec):
    """Minibatch training of a torch module.

    Parameters
    ----------
    code : the net, its loss and optimizer, written down.
    shard_rows : rows of every shard of the job.
    n_weights : trainable numbers, for the plan.
    layout : hash of the names and shapes of the parameters.
    fields : the tensors that a row of X is turned into.
    target : True if y is in the batch, too.
    batch_size : most rows of a global batch.
    epochs : passes over the rows.
    max_steps : end after so many global steps; None: no limit.
    accumulate : every shard's rows of a step go through the module in so many pieces.
    validation : share of each shard's rows that is kept for validation after every epoch.
    patience : epochs without a better validation result after which training ends; None: never.
    monitor : "loss" or "accuracy" of the validation rows.
    clip : ("norm" or "value", limit) of the gradient, or None.
    precision : "float32", "bf16" or "fp16".
    shuffle : False takes the rows in their order in every epoch.
    device : where this rank computes, such as "cuda:1"; see `on`.
    compiled : True compiles the forward pass.
    exact : True refuses operations of a device that give other bits each time.
    factored : True lets wide dense layers give rows instead of a gradient for each shard; see `whole`.
    """

    code: Carried | Recipe
    shard_rows: tuple[int, ...]
    n_weights: int
    layout: str = ""
    fields: tuple[Field, ...] = ()
    target: bool = True
    batch_size: int = 256
    epochs: int = 10
    max_steps: int | None = None
    accumulate: int = 1
    validation: float = 0.0
    patience: int | None = None
    monitor: str = "loss"
    clip: tuple[str, float] | None = None
    precision: str = "float32"
    shuffle: bool = True
    device: str = "cpu"
    compiled: bool = False
    exact: bool = True
    factored: bool = True

    def __post_init__(self) -> None:
        if self.deal.n_rows < 1:
            raise ParameterError("validation", self.validation, "leave at least one row to train on")

    @property
    def offers(self) -> frozenset[Kind]:
        own: tuple[Kind, ...] = () if self.precision == "fp16" else ("delta",)  # its loss scale is one for all shards
        return frozenset({"gradient", "summary", *own})

    @cached_property
    def deal(self) -> Deal:
        """Who gives which rows to which step."""
        return _rows.deal(self.shard_rows, self.validation, self.batch_size)

    @property
    def n_steps(self) -> int:
        """Global steps of the whole training, if nothing stops it early."""
        total = self.epochs * self.deal.n_steps
        return total if self.max_steps is None else min(total, self.max_steps)

    def on(self, device: str) -> ModuleLearner:
        """Return this learner for a rank whose place has the device."""
        return self if device == self.device else dataclasses.replace(self, device=device)

    def prepare(self, schema: Schema) -> None:
        """Load torch, so that the ranks do not all do it at once."""
        import torch  # noqa: F401

    def cost(self, schema: Schema) -> Cost:
        """Estimate from the number of weights: a dense net multiplies each row with each weight three times."""
        passes = self.n_steps / max(self.deal.n_steps, 1)
        flops = 6.0 * self.n_weights / max(schema.n_features, 1)
        return Cost(4 * self.n_weights, 8 * self.n_weights, passes, self.n_steps, flops, itemsize=4)

    def init(self, schema: Schema, *, seed: int, start: Arrays | None = None) -> State:
        """Return the shared state; ``start`` brings weights, buffers and the optimizer's state of an earlier run."""
        state = State(
            clock=np.zeros(5, np.int64),
            meter=np.array([0.0, 0.0, math.nan, math.nan, math.inf, math.nan]),
            objective=np.full(1, math.nan),
        )
        if start is not None:
            state.update({name: np.array(a) for name, a in start.items()})
        clock = state["clock"]
        impatient = self.patience is not None and clock[WAITED] >= self.patience
        clock[STOP] = clock[STEP] >= self.n_steps or impatient
        return self._revive(state)

    def adopt(self, schema: Schema, data: ShardData) -> ShardRows:
        """Return which rows of the shard are trained on; they are chosen by `Order.seed`, so not before a round."""
        return ShardRows()

    def propose(self, shared: Arrays, private: Any, data: ShardData, order: Order) -> Proposal:
        """Return the gradient of the shard's part of the global batch, or the sums of its validation rows."""
        net = self._net(shared)
        if order.kind == "summary":
            return Proposal(
                Update(
                    "summary",
                    _rows.judge(
                        net, self.fields, self.target, _rows.deck_of(private, data, order, self.validation), data
                    ),
                )
            )
        step = int(shared["clock"][STEP])
        if order.kind == "delta":
            return self._turns(shared).propose(self, step, private, data, order)
        out = order.out if order.out is not None else net.template()
        picks = self.picks(step, private, data, order)
        if picks is None:
            net.nothing(out, order.ready)
            return Proposal(net.update(out))
        place = step % self.deal.n_steps
        way, n_rows = net.together, self.deal.n_of(place)
        if way is not None and way.rows is not None:
            self._together(shared, {order.shard: private}, {order.shard: data}, {order.shard: order}, [out])
            return Proposal(net.update(out))
        ranges = self.deal.rows(place)
        start, stop = ranges[order.shard]
        net.gradient(
            _rows.batch(net, self.fields, self.target, [(data, picks)]),
            out,
            n_rows=n_rows,
            seed=seed_of(order.seed, order.shard, step, "forward"),
            share=(stop - start) / n_rows,
            first=all(hi == lo for lo, hi in ranges[: order.shard]),
            parts=self.accumulate,
            ready=order.ready,
        )
        self.check_loss(out, step, order.shard)
        return Proposal(net.update(out))

    def groups(self, shared: Arrays) -> bool:
        """Tell whether shards may go through the net together."""
        return self._net(shared).together is not None

    def propose_all(
        self, shared: Arrays, private: Mapping[int, Any], data: Mapping[int, ShardData], orders: Mapping[int, Order]
    ) -> dict[int, Proposal]:
        """Return what `propose` returns for each shard; in one pass where that is known to change no bit."""
        net, kind = self._net(shared), next(iter(orders.values())).kind
        way = net.together if kind == "gradient" else None
        busy = [s for s in orders if data[s].n_rows and self._places(shared)[s][1] > self._places(shared)[s][0]]
        sizes = tuple(stop - start for start, stop in (self._places(shared)[s] for s in busy))
        fits = False if way is None or not busy else way.fits(sizes)
        if fits:
            outs = {s: order.out if order.out is not None else net.template() for s, order in orders.items()}
            for s in orders.keys() - set(busy):
                net.nothing(outs[s], orders[s].ready)
            self._together(shared, private, data, {s: orders[s] for s in busy}, [outs[s] for s in busy])
            return {s: Proposal(net.update(out)) for s, out in outs.items()}
        found = {s: self.propose(shared, private[s], data[s], order) for s, order in orders.items()}
        if way is not None and fits is None:
            from tutti.learners.module._grouped import same_bits

            ranges = [self._places(shared)[s] for s in busy]
            alone = [way.given(found[s].update.arrays, *r) for s, r in zip(busy, ranges, strict=True)]
            trial = [net.template() for _ in busy]
            unsent = {s: dataclasses.replace(orders[s], ready=None) for s in busy}
            taken = self._together(shared, private, data, unsent, trial)
            grouped = [way.given(out, *r) for out, r in zip(trial, ranges, strict=True)]
            if not way.remember(sizes, taken and same_bits(grouped, alone)):
                way.restore(alone, ranges)
        return found

    def _places(self, shared: Arrays) -> list[tuple[int, int]]:
        """Return where in the global batch of this step the rows of each shard are."""
        return _rows.places(self.deal, int(shared["clock"][STEP]) % self.deal.n_steps)

    def _together(
        self,
        shared: Arrays,
        private: Mapping[int, Any],
        data: Mapping[int, ShardData],
        orders: Mapping[int, Order],
        outs: list[Any],
    ) -> bool:
        """Write the gradients of some shards, all with rows, in one pass."""
        step, net, places = int(shared["clock"][STEP]), self._net(shared), self._places(shared)
        picks = [(data[s], self.picks(step, private[s], data[s], order) or []) for s, order in orders.items()]
        n_rows = self.deal.n_of(step % self.deal.n_steps)
        ranges = [places[s] for s in orders]
        assert net.together is not None
        into = net.together.inputs(ranges, max((f.stop for f in self.fields), default=0))
        readies = [order.ready for order in orders.values()]
        fine = net.together.gradients(
            _rows.batch(net, self.fields, self.target, picks, into), ranges, outs, n_rows, readies
        )
        for s, out in zip(orders, outs, strict=True):
            self.check_loss(out, step, s)
        return fine

    def picks(self, step: int, private: Any, data: ShardData, order: Order) -> Picks | None:
        """Return the shard's rows in the global batch of a step, or None where it has none."""
        epoch, place = divmod(step, self.deal.n_steps)
        start, stop = self.deal.rows(place)[order.shard]
        if stop == start or not data.n_rows:
            return None
        if private.epoch != epoch:
            train = _rows.deck_of(private, data, order, self.validation).train
            private.epoch = epoch
            private.order = batches.epoch_order(order.seed, epoch, order.shard, train, self.shuffle)
        return batches.pick(private.order, start, stop)

    def check_loss(self, out: Mapping[str, Array], step: int, shard: int) -> None:
        if not math.isfinite(out["sums"][0]):
            raise InputError(
                f"the loss is {out['sums'][0]} at step {step} on shard {shard} (epoch {step // self.deal.n_steps}): "
                "lower lr, clip the gradient, or look for inputs that the module cannot take"
            )

    def apply(self, shared: Arrays, merged: Update, scale: float) -> State:
        """Take one optimizer step along the merged gradient, or take note of a validation."""
        state = self._revive(shared)
        if merged.kind == "summary":
            return self._validated(state, merged.arrays)
        if merged.kind == "delta":
            first = int(state["clock"][STEP])
            return self._counted(state, *self._turns(state).apply(merged.arrays, scale, first))
        return self._step(state, Merged(merged.arrays))

    def settle(self, shared: Arrays, allocate: Callable[[int], Array], part: int, parts: int) -> State:
        """Move what the ranks write for each other into memory that all see; each then steps its part of the weights.

        The norm of a gradient needs all of it, so where that is clipped every rank takes the whole step.
        """
        state = self._revive(shared)
        whole = self.clip is not None and self.clip[0] == "norm"
        kept, steps = state.net.stepper.state(), int(state["clock"][STEP])
        state.net.settle(allocate, *((0, 1) if whole else (part, parts)))
        if state["weights"] is not state.net.weights:
            state["weights"] = state.net.weights
            state.net.stepper.restore(kept)
            state.net.stepper.skip(steps)
        return state

    def apply_part(self, shared: Arrays, shares: Shares) -> State:
        """Take this rank's part of the step; the weights are whole when every rank has."""
        return self._step(self._revive(shared), shares)

    def outbox(self, shared: Arrays, shards: Sequence[int]) -> bytes:
        """Return the rows that the shards, one after the other, gave; b"" where no layer gives any."""
        way = self._net(shared).together
        if way is None or way.rows is None:
            return b""
        places = [self._places(shared)[s] for s in sorted(shards)]
        start, stop = places[0][0], places[-1][1]
        return np.array([start, stop]).tobytes() + way.rows.copy(start, stop).tobytes()

    def inbox(self, shared: Arrays, payloads: Sequence[bytes]) -> None:
        """Take the rows that all ranks gave."""
        way = self._net(shared).together
        rows = None if way is None else way.rows
        assert rows is not None
        for payload in payloads:
            start, stop = np.frombuffer(payload, np.int64, 2).tolist()
            rows.put(start, stop, np.frombuffer(payload, np.uint8, offset=16))

    def whole(self) -> ModuleLearner:
        """Return this learner with all of the gradient in its updates; fp16 scales them anew while it goes on."""
        if self.precision == "fp16":
            raise PlanError("precision='fp16' scales gradients till they overflow; compress with 'bf16' or 'float32'")
        return dataclasses.replace(self, factored=False)

    def traffic(self, shared: Arrays) -> tuple[int, int]:
        """Return the bytes of one shard's update, and of the rows that all of them give."""
        net = self._net(shared)
        rows = 0 if net.together is None or net.together.rows is None else net.together.rows.n_bytes
        return sum(array.nbytes for array in net.template().values()), rows

    def _step(self, state: State, shares: Shares) -> State:
        net, clock = state.net, state["clock"]
        sums = shares.sum("sums")
        place, weight = int(clock[STEP]) % self.deal.n_steps, float(sums[WEIGHT])
        if weight <= 0:
            raise InputError(f"all rows of step {int(clock[STEP])} weigh nothing")
        n_rows, had = self.deal.n_of(place), sums[3:]
        net.step(shares, n_rows, n_rows / weight, None if had.min() > 0 else (had > 0).tolist(), self.clip)
        if len(state["stats"]):
            state["stats"][:] = shares.sum("stats")
            net.place_stats()
        return self._counted(state, 1, float(sums[LOSS]), weight)

    def _counted(self, state: State, steps: int, loss: float, weight: float) -> State:
        clock, meter = state["clock"], state["meter"]
        if clock[STEP] % self.deal.n_steps == 0:
            meter[LOSS] = meter[WEIGHT] = 0.0
        meter[LOSS] += loss
        meter[WEIGHT] += weight
        self._advance(state, steps)
        return state

    def _advance(self, state: State, steps: int = 1) -> None:
        """Count steps whose losses are in the meter."""
        clock, meter = state["clock"], state["meter"]
        clock[STEP] += steps
        if clock[STEP] % self.deal.n_steps == 0 or clock[STEP] == self.n_steps:
            clock[EPOCH] += 1
            state["objective"][0] = meter[LOSS] / max(meter[WEIGHT], 1e-300)
            meter[RATE] = state.net.stepper.learning_rate()
        if clock[STEP] >= self.n_steps:
            clock[STOP] = 1

    def commit(self, private: Any, proposal: Proposal, scale: float) -> Any:
        if proposal.private is not None:
            private.kept, private.spare = proposal.private, private.kept
        return private

    def private_arrays(self, private: Any) -> Arrays:
        """Return what the shard's own optimizer keeps."""
        from tutti.learners.module._local import arrays_of

        return arrays_of(private.kept)

    def with_arrays(self, private: Any, arrays: Arrays) -> Any:
        """Give a shard's optimizer back what `private_arrays` returned."""
        from tutti.learners.module._local import kept_of

        private.kept = kept_of(arrays)
        return private

    def ahead(self, first: int, steps: int) -> int:
        """Return how many of the ``steps`` from ``first`` on come before the end of the epoch and of the training."""
        return min(steps, self.deal.n_steps - first % self.deal.n_steps, self.n_steps - first)

    def progress(self, shared: Arrays) -> Progress:
        """Return the mean training loss of the last epoch; there is no certificate."""
        clock = shared["clock"]
        passes = float(clock[STEP]) / max(self.deal.n_steps, 1)
        done = bool(clock[STOP]) and not self.due(shared)
        meter, metrics = shared["meter"], {"lr": float(shared["meter"][RATE])}
        if self.validation > 0:
            metrics |= {"valid_loss": float(meter[VALID_LOSS]), "valid_accuracy": float(meter[ACCURACY])}
        if "scaling" in shared:
            scale, _, skipped = shared["scaling"].tolist()
            metrics |= {"loss_scale": scale, "skipped_steps": skipped}
        return Progress(float(shared["objective"][0]), math.inf, passes, done, False, metrics=metrics)

    def due(self, shared: Arrays) -> bool:
        """Tell whether an epoch has ended whose validation is still to come."""
        clock = shared["clock"]
        return bool(self.validation > 0 and clock[VALIDATED] < clock[EPOCH])

    def tells(self, shared: Arrays) -> bool:
        """Tell whether this state is worth an event: once an epoch, after its validation."""
        clock = shared["clock"]
        ended = clock[STEP] % self.deal.n_steps == 0 or clock[STEP] >= self.n_steps
        return bool(ended and not self.due(shared))

    def milestone(self, shared: Arrays) -> tuple[int, bool]:
        """Return (steps done, True if the last validation was the best)."""
        clock = shared["clock"]
        fresh = self.validation > 0 and self.tells(shared) and clock[VALIDATED] > 0
        return int(clock[STEP]), bool(fresh and clock[WAITED] == 0)

    def snapshot(self, shared: Arrays) -> Arrays:
        """Return everything from which `init` goes on to the same bits."""
        net = self._net(shared)
        net.fetch()
        return {**shared, **net.stepper.state()}

    def identity(self) -> dict[str, Any]:
        """Return what must be the same for a checkpoint to fit; the length of the training may change."""
        return {name: value for name, value in self.get_params().items() if name not in _FREE}

    def _validated(self, state: State, sums: Arrays) -> State:
        clock, meter = state["clock"], state["meter"]
        loss, weight, hits, rows = sums["sums"].tolist()
        if weight <= 0:
            raise InputError("no validation row weighs anything; set validation=0 or give it more rows")
        meter[VALID_LOSS], meter[ACCURACY] = loss / weight, hits / max(rows, 1e-300)
        clock[VALIDATED] = clock[EPOCH]
        result = meter[VALID_LOSS] if self.monitor == "loss" else -meter[ACCURACY]
        if result < meter[BEST]:
            meter[BEST], clock[WAITED] = result, 0
            if self.patience is not None:
                state.net.fetch()
                best = {f"best_{name}": state[name].copy() for name in ("weights", "stats")}
                state.update(self.keep_best(state, best))
        else:
            clock[WAITED] += 1
        clock[STOP] = clock[STOP] or (self.patience is not None and clock[WAITED] >= self.patience)
        return state

    def result(self, shared: Arrays) -> Arrays:
        """Return the best weights where they were kept, else the last, with the optimizer's tensors."""
        found = dict(self.snapshot(shared))
        for name in ("weights", "stats"):
            found[name] = found.pop(f"best_{name}", found[name])
        return {name: np.array(array) for name, array in found.items()}

    def _turns(self, shared: Arrays) -> Turns:
        from tutti.learners.module._local import Turns

        state = self._revive(shared)
        if state.turns is None:
            state.turns = Turns(state.net, int(state["clock"][STEP]))
        return state.turns

    def _net(self, shared: Arrays) -> Net:
        return self._revive(shared).net

    def _revive(self, shared: Arrays, make: Callable[..., Net] | None = None) -> State:
        """Return the state with its live net; built from the arrays alone where a stranger brings them."""
        if isinstance(shared, State) and hasattr(shared, "net"):
            return shared
        from tutti.learners.module._device import make_net

        state = shared if isinstance(shared, State) else State(shared)
        from tutti.learners.module._grouped import Job

        n_rows = -(-self.deal.n_rows // self.deal.n_steps)  # of the largest batch
        job = Job(self.fields, n_rows, len(self.shard_rows), self.accumulate, self.factored)
        net = (make or make_net)(self.code.read(), self.precision, self.device, self.compiled, self.exact, job)
        for name, own in net.arrays().items():
            if name in state:
                if state[name].shape != own.shape:
                    raise InputError(f"the {name} to start from are {state[name].shape}, the module's are {own.shape}")
                own[:] = state[name]
            state[name] = own
        net.place()
        net.stepper.restore(state)
        for name in [n for n in state if n.startswith("optimizer/")]:
            del state[name]  # the live ones are in the net
        net.stepper.skip(int(state["clock"][STEP]))
        state.net = net
        return state


class Merged:
    """A merged update as `tutti.protocols.Shares`."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays

    def sum(self, name: str, start: int = 0, stop: int | None = None, out: Array | None = None) -> Array:
        found: Array = self._arrays[name][start:stop]
        if out is not None:
            out[:] = found
        return found
