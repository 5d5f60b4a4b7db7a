"""The rounds of boosting on one rank: gradients, trees, values of leaves, losses.

Every number that another rank sees is a sum of whole numbers or a maximum, so all ranks hold the same model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tutti.counting import Sums
from tutti.errors import DataError, Regrouped
from tutti.learners._bins import Bins, weight_scale, whole_weights
from tutti.learners._boosting_adopted import adopt
from tutti.learners._boosting_model import Forest, Model
from tutti.learners._boosting_rows import Rows, first_rows, make_bins, make_rows
from tutti.learners._boosting_tree import Grower, Grown, Shape
from tutti.learners._kernels import boost, boost_loss
from tutti.protocols import ShardData
from tutti.seeds import seed as derive
from tutti.types import Array, Arrays, Schema

if TYPE_CHECKING:
    from tutti.learners.boosting import Boosting

_FIXED_BITS = 62
_MOST_ROWS = 1 << 28  # with three bits a gradient, sums of 31 bits hold no more
_CODES = {"squared_error": boost_loss.SQUARED, "absolute_error": boost_loss.ABSOLUTE, "quantile": boost_loss.QUANTILE,
          "poisson": boost_loss.POISSON, "gamma": boost_loss.GAMMA}  # fmt: skip
_STEPS = {"poisson": boost_loss.POISSON_STEP, "gamma": boost_loss.GAMMA_STEP}


def power(exponent: int) -> float:
    return math.ldexp(1.0, exponent)


def _largest(values: Array) -> float:
    """Return max |values| of float32, or NaN where there is one."""
    return float(np.int32(boost.largest(values.view(np.int32))).view(np.float32))


class Fit:
    """The state of one rank between rounds."""

    def __init__(
        self, learner: Boosting, schema: Schema, shards: Mapping[int, ShardData], sums: Sums, seed: int,
        start: Arrays | None,
    ) -> None:  # fmt: skip
        self.learner, self.schema, self.sums, self.seed = learner, schema, sums, seed
        self.shards, self.firsts = shards, first_rows(shards, sums.n_shards, sums)
        categorical = np.zeros(schema.n_features, bool)
        categorical[list(learner.categorical)] = True
        self.bins = Bins.from_arrays(start) if start is not None else make_bins(
            schema, shards, self.firsts, sums, seed, categorical, learner.max_bins
        )  # fmt: skip
        self.rows = self.encoded(shards)
        self.n_classes = len(schema.classes or ())
        self.n_outputs = self.n_classes if self.n_classes > 2 else 1
        n = self.rows.n
        self.g, self.h = np.empty((self.n_outputs, n), np.float32), np.empty((self.n_outputs, n), np.float32)
        self._count(learner)
        self.make_room()
        self.model = Model(self.bins, self.n_outputs)
        self.train_scores: list[float] = []
        self.valid_scores: list[float] = []
        if start is None:
            self.model.base = self._base()
            self.f = np.repeat(self.model.base[:, None], n, axis=1)
        else:
            self._resume(start)

    def encoded(self, shards: Mapping[int, ShardData]) -> Rows:
        """Return the rows of some shards as codes."""
        learner = self.learner
        held = learner.validation_fraction if learner.early_stopping else 0.0
        return make_rows(self.schema, shards, self.firsts, self.bins, learner.class_weight, held, self.seed)

    def make_room(self) -> None:
        """Make what depends on how many rows there are."""
        n = self.rows.n
        self.gh, self.grower = np.empty(n, np.int64), self._grower(self.learner)
        # what is needed at different times lies in the same place: losses are added up before gradients are rounded,
        # and rows get the numbers of their leaves when no row changes its place any more
        self.loss = self.gh.view(np.float32)[:n]
        self.leaf = self.grower.spare.view(np.uint16 if self.grower.max_leaves < 1 << 16 else np.uint32)[:n]

    def _count(self, learner: Boosting) -> None:
        rows = self.rows
        scale = power(weight_scale(self.schema))
        mine = [len(rows.train), len(rows.valid)]
        for own in (rows.train, rows.valid):
            whole = (rows.weight[own] * scale).astype(np.int64).sum() if len(rows.weight) else len(own) * scale
            mine.append(int(whole))
        n, n_valid, weight, held_weight = self.sums.total(np.array(mine, np.int64)).tolist()
        self.n_train, self.n_valid = int(n), int(n_valid)
        self.train_weight, self.valid_weight = weight / scale, held_weight / scale
        if n > _MOST_ROWS:
            raise DataError(f"{n:,} rows, but a cell of a histogram has room for {_MOST_ROWS:,}: sample them")
        if not n or (learner.early_stopping and not n_valid):
            raise DataError(
                f"early stopping with validation_fraction={learner.validation_fraction:g} leaves {n} rows to train on "
                f"and {n_valid} to validate: too few rows; change validation_fraction or write early_stopping=False"
            )

    def _grower(self, learner: Boosting) -> Grower:
        rows, steady = self.rows, learner.loss in ("squared_error", "absolute_error", "quantile")
        told = steady and not len(rows.weight)  # the hessian of every row is 1, so it counts the rows
        least = max(learner.min_child_weight, float(learner.min_samples_leaf) if told else 0.0)
        least *= 1 - 2.0**-10  # sums are rounded by chance: one that is just the least counts
        shape = Shape(
            learner.max_depth, learner.max_leaf_nodes, learner.grow == "leafwise", learner.l2, least,
            learner.min_samples_leaf, learner.min_gain, learner.columns_per_node(self.schema.n_features),
            learner.min_samples_leaf > 1 and not told,
            _STEPS.get(learner.loss, math.inf), together=learner.interaction, max_features=learner.max_features,
        )  # fmt: skip
        signs = np.array(learner.monotonic or (0,) * self.schema.n_features, np.int64)
        return Grower(rows, self.bins.n_bins, self.bins.categorical, signs, shape, self.sums, self.n_train)

    # where a model begins

    def _base(self) -> Array:
        """Return the constant that fits best, (n_outputs,)."""
        rows, loss = self.rows, self.learner.loss
        y = rows.y if len(rows.train) == rows.n else rows.y[rows.train]
        weight: Any = rows.weight[rows.train] if len(rows.weight) else 1.0
        if loss == "log_loss":
            if len(rows.weight):
                whole = (weight * power(weight_scale(self.schema))).astype(np.int64)
                counts = np.array([whole[y == k].sum() for k in range(self.n_classes)], np.int64)
            else:
                counts = np.array([np.count_nonzero(y == k) for k in range(self.n_classes)], np.int64)
            share = np.maximum(self.sums.total(counts).astype(np.float64), 1e-9)
            share /= share.sum()
            if self.n_outputs == 1:
                return np.array([math.log(share[1] / share[0])])
            return np.log(share)
        if loss in ("absolute_error", "quantile"):
            return self._quantiles(np.zeros(1, np.int64), rows.train, np.zeros(1, np.int64),
                                   np.array([len(rows.train)]), rows.y)  # fmt: skip
        scaled = y * weight
        total = self._exact(scaled, float(np.abs(scaled).max(initial=0.0)))
        mean = total / self.train_weight
        if loss == "poisson":
            if mean <= 0 or self.sums.largest(np.array([-y.min(initial=0.0)]))[0] > 0:
                raise DataError("loss='poisson' needs targets >= 0 that are not all zero")
            return np.array([math.log(mean)])
        if loss == "gamma":
            if self.sums.largest(np.array([-y.min(initial=np.inf)]))[0] >= 0:
                raise DataError("loss='gamma' needs targets > 0: leave zeros out, or write loss='poisson'")
            return np.array([math.log(mean)])
        return np.array([mean])

    def _exact(self, values: Array, most: float) -> float:
        """Return the sum of values over all ranks, exact to 2^-62 of what it may be at most."""
        top = float(self.sums.largest(np.array([most]))[0])
        if top == 0:
            return 0.0
        scale = self._scale(top, _FIXED_BITS)
        whole = np.array([boost.fixed_sum(values, np.zeros(0, np.int32), scale)], np.int64)
        return float(self.sums.total(whole)[0]) / scale

    def _scale(self, top: float, bits: int) -> float:
        """Return the power of two with which the sum of all rows, each at most ``top``, stays below 2^bits."""
        return power(bits - math.frexp(top)[1] - (self.n_train + self.n_valid).bit_length())

    # a round

    def slopes(self, rows: Rows, f: Array, g: Array, h: Array, loss: Array) -> None:
        """Write gradients, hessians and losses of some rows."""
        learner = self.learner
        if self.n_outputs > 1:
            boost_loss.softmax(f, rows.y, rows.weight, g, h, loss)
        elif learner.loss == "log_loss":
            boost_loss.binary(f[0], rows.y, rows.weight, g[0], h[0], loss)
        else:
            code = _CODES[learner.loss]
            boost_loss.regression(code, learner.quantile, f[0], rows.y, rows.weight, g[0], h[0], loss)

    def gradients(self) -> tuple[Array, Array]:
        """Write gradients, hessians and losses; return max |g| and max h of each output over all ranks."""
        self.slopes(self.rows, self.f, self.g, self.h, self.loss)
        mine = [_largest(self.loss), *map(_largest, self.g), *map(_largest, self.h)]
        top = self.sums.largest(np.array(mine, np.float64))
        if not np.isfinite(top).all():
            raise DataError("the loss overflowed: the targets are too large; scale y, or lower learning_rate")
        self._score(float(top[0]))
        return top[1 : 1 + self.n_outputs], top[1 + self.n_outputs :]

    def _score(self, top: float) -> None:
        """Note the mean losses of training and validation rows, from exact sums."""
        rows = self.rows
        scale = self._scale(top, _FIXED_BITS) if top > 0 else 1.0
        whole = np.zeros(2, np.int64)
        everything = len(rows.train) == rows.n
        if rows.n:
            whole[0] = boost.fixed_sum(self.loss, rows.train[:0] if everything else rows.train, scale)
        if len(rows.valid):
            whole[1] = boost.fixed_sum(self.loss, rows.valid, scale)
        if not everything and not len(rows.train):
            whole[0] = 0
        train, valid = (self.sums.total(whole).astype(np.float64) / scale).tolist()
        self.train_scores.append(train / self.train_weight)
        if self.n_valid:
            self.valid_scores.append(valid / self.valid_weight)

    def boost(self, tops: Array, hessians: Array) -> None:
        """Grow the trees of one round that are not there, on gradients and hessians of at most so much."""
        rows, learner, train = self.rows, self.learner, self.rows.train
        there = self.model.n_trees % self.n_outputs
        number = self.model.n_trees - there
        rest = rows.valid
        if learner.subsample < 1.0:
            train, out = rows.drawn(train, derive(self.seed, step=number // self.n_outputs, purpose="subsample"),
                                    learner.subsample)  # fmt: skip
            rest = np.concatenate([rest, out])
        # no gradient has more than 2^bits units: |g| < 2^bits before rounding, and float32 adds chances of at most
        # 1 - 2^-16 without reaching 2^bits + 1 for bits <= 20; so the sums of n rows stay below n 2^bits < 2^31
        bits = ((1 << 31) - 1) // max(self.n_train, 1)
        bits = min(bits.bit_length() - 1, 20)
        for k in range(there, self.n_outputs):
            up, beside = (power(bits - math.frexp(float(t))[1]) if t > 0 else 1.0 for t in (tops[k], hessians[k]))
            key = derive(self.seed, step=number + k, purpose="tree")
            for lo, hi, first in rows.pieces:
                boost.quantise(self.g[k, lo:hi], self.h[k, lo:hi], first, np.uint64(key), up, beside, self.gh[lo:hi])
            grown = self.grower.grow(train, self.gh, (1 / up, 1 / beside), key)
            if len(train) < rows.n:
                self.leaf[:] = 0
            boost.mark_leaves(grown.leaves, grown.idx, grown.ints, self.leaf)
            values = self._values(k, grown, float(tops[k]), float(hessians[k]))
            boost.add_leaves(self.leaf, np.concatenate([[0.0], values]), self.f[k])
            if len(rest):
                each = np.zeros(len(grown.ints))
                each[grown.leaves] = values
                boost.route(rest, rows.columns, grown.ints, grown.go, each, self.f[k])

    def _values(self, k: int, grown: Grown, top: float, hessian: float) -> Array:
        """Return the step of each leaf, learning rate included, and put the tree into the model."""
        leaves, learner = grown.leaves, self.learner
        sums = np.empty((len(leaves) + 1, 3), np.int64)
        g_scale, h_scale = (self._scale(t, _FIXED_BITS) if t > 0 else 1.0 for t in (top, hessian))
        boost.leaf_sums(self.leaf, self.g[k], self.h[k], g_scale, h_scale, sums)
        sums = self.sums.total(sums.reshape(-1)).reshape(-1, 3)[1:].copy()  # what `total` returns does not last
        g, h = sums[:, 0] / g_scale, sums[:, 1] / h_scale
        if learner.loss in ("absolute_error", "quantile"):
            residual = self.rows.y - self.f[k]
            values = self._quantiles(leaves, grown.idx, grown.ints[leaves, boost.START], grown.ints[leaves, boost.STOP],
                                     residual)  # fmt: skip
        else:
            below = h + learner.l2
            values = np.where(below > 0, -g / np.where(below > 0, below, 1.0), 0.0)
        values = np.clip(values, grown.reals[leaves, boost.LOW], grown.reals[leaves, boost.HIGH])
        values *= learner.learning_rate
        self.model.add(grown, values, sums[:, 2], h)
        return values

    def _quantiles(self, leaves: Array, idx: Array, starts: Array, stops: Array, residual: Array) -> Array:
        """Return the weighted quantile of ``residual`` in each leaf, found digit by digit from exact counts.

        It is the smallest value below or at which lies at least the wanted part of the weight.
        """
        rows, n = self.rows, len(leaves)
        keys = np.empty(rows.n, np.uint64)
        boost_loss.keys_of(residual, keys)
        whole = whole_weights(rows.weight, rows.n, weight_scale(self.schema)) if len(rows.weight) else _NO_WEIGHTS
        prefix, below = np.zeros(n, np.uint64), np.zeros(n)
        counts, wanted = np.zeros((n, 256), np.int64), np.zeros(n)
        part = self.learner.quantile if self.learner.loss == "quantile" else 0.5
        for shift in range(56, -8, -8):
            boost_loss.count_digits(n, idx, starts, stops, keys, whole, shift, prefix, counts)
            total = self.sums.total(counts.reshape(-1)).reshape(n, 256).cumsum(axis=1)
            if shift == 56:
                wanted = part * total[:, -1]
            reached = below[:, None] + total >= wanted[:, None]
            reached[:, -1] = True
            digit = reached.argmax(axis=1)
            below += np.where(digit > 0, total[np.arange(n), digit - 1], 0)
            prefix = (prefix << np.uint64(8)) | digit.astype(np.uint64)
        found: Array = boost_loss.values_of(prefix)
        return found

    # from outside

    def rounds(self) -> Iterator[Arrays]:
        """Grow until all trees are there or validation does not get better; yield how far it is after each round."""
        wanted = self.learner.n_estimators * self.n_outputs
        tops, hessians = self._whole(self.gradients)
        while self.model.n_trees < wanted and not self._stalls():
            self._whole(partial(self.boost, tops, hessians))
            tops, hessians = self._whole(self.gradients)  # they bring the loss, too
            yield self.status()

    def _whole(self, step: Callable[[], Any]) -> Any:
        """Return what a step returns; one in which a rank was lost is done again, with the rows that it has left."""
        while True:
            try:
                return step()
            except Regrouped as news:
                adopt(self, news.shards)

    def _stalls(self) -> bool:
        learner, scores = self.learner, self.valid_scores
        if not learner.early_stopping or len(scores) <= learner.n_iter_no_change:
            return False
        recent, before = scores[-learner.n_iter_no_change :], scores[: -learner.n_iter_no_change]
        return min(recent) > min(before) - learner.tol

    def status(self, done: bool = False) -> dict[str, Array]:
        """Return how far the fit is."""
        valid = self.valid_scores[-1] if self.valid_scores else math.nan
        return {"status": np.array([self.model.n_trees / self.n_outputs, self.train_scores[-1], valid, done])}

    def result(self) -> dict[str, Array]:
        """Return the model and what was measured while it grew."""
        return {
            **self.bins.arrays(),
            **self.model.arrays(),
            **self.status(done=True),
            "train_score": np.array(self.train_scores),
            "validation_score": np.array(self.valid_scores),
        }

    def _resume(self, start: Arrays) -> None:
        """Go on from a model: its trees are applied to the rows in the order in which they were grown."""
        self.model = Model.from_arrays(start)
        forest = Forest.of(start)
        self.f = np.repeat(self.model.base[:, None], self.rows.n, axis=1)
        forest.add_codes(self.rows.columns, self.f)
        self.train_scores = start["train_score"].tolist()[:-1]
        self.valid_scores = start["validation_score"].tolist()[:-1]


_NO_WEIGHTS = np.zeros(0, np.int64)
