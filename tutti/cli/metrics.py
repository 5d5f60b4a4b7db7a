"""Scores of a model over data that is read in batches: no more is kept than the score needs.

Accuracy, log loss, mean squared error and R^2 are running sums; only the area under the ROC curve keeps two numbers a
row, because it depends on the order of all scores.
"""

from __future__ import annotations

import numpy as np

from tutti.types import Array


def roc_auc(truth: Array, score: Array, weight: Array | None = None) -> float:
    """Return the area under the ROC curve: the chance that a random positive row scores above a random negative one.

    Ties count one half.  nan if only one class is present.

    Parameters
    ----------
    truth : (rows,) bool, True for the positive class.
    score : (rows,) larger means more positive.
    weight : (rows,) sample weights; None means 1 everywhere.

    Source: Hanley, McNeil (1982), "The meaning and use of the area under a ROC curve".

    Example
    -------
    >>> roc_auc(np.array([False, False, True, True]), np.array([0.1, 0.4, 0.35, 0.8]))
    0.75
    """
    order = np.argsort(score, kind="stable")
    weights = np.ones(len(score)) if weight is None else np.asarray(weight, float)[order]
    positive = np.where(truth[order], weights, 0.0)
    negative = weights - positive
    ties = np.r_[0, np.flatnonzero(np.diff(score[order])) + 1] if len(score) else np.zeros(0, int)
    if not len(ties):
        return float("nan")
    up, down = np.add.reduceat(positive, ties), np.add.reduceat(negative, ties)
    below = np.cumsum(down) - down
    total = up.sum() * down.sum()
    return float((up * (below + 0.5 * down)).sum() / total) if total > 0 else float("nan")


class ClassificationScores:
    """Accuracy, log loss (with probabilities) and AUC (two classes) of batches given to `add`."""

    def __init__(self, n_classes: int) -> None:
        self.n_classes = n_classes
        self.rows, self.weight, self.right, self.loss = 0, 0.0, 0.0, 0.0
        self.has_loss = False
        self._kept: list[tuple[Array, Array, Array | None]] = []

    def add(
        self,
        truth: Array,
        predicted: Array,
        weight: Array | None = None,
        *,
        probability: Array | None = None,
        score: Array | None = None,
    ) -> None:
        """Take one batch.

        Parameters
        ----------
        truth, predicted : (rows,) class codes 0..n_classes-1.
        weight : (rows,) sample weights or None.
        probability : (rows, n_classes), for the log loss.
        score : (rows,) score of class 1, for the AUC of two classes.
        """
        weights = np.ones(len(truth)) if weight is None else np.asarray(weight, float)
        self.rows += len(truth)
        self.weight += float(weights.sum())
        self.right += float(weights[truth == predicted].sum())
        if probability is not None:
            self.has_loss = True
            likely = np.clip(probability[np.arange(len(truth)), truth], np.finfo(probability.dtype).eps, 1.0)
            self.loss -= float((weights * np.log(likely, dtype=float)).sum())
        if self.n_classes == 2 and score is not None:
            self._kept.append((truth == 1, score, weight))

    def result(self) -> dict[str, float]:
        """Return the scores by name."""
        found: dict[str, float] = {"accuracy": self.right / self.weight if self.weight else float("nan")}
        if self.has_loss:
            found["log_loss"] = self.loss / self.weight if self.weight else float("nan")
        if self._kept:
            truths, scores, weights = zip(*self._kept, strict=True)
            weighted = any(w is not None for w in weights)
            weight = np.concatenate(
                [np.ones(len(t)) if w is None else w for t, w in zip(truths, weights, strict=True)]
            ) if weighted else None  # fmt: skip
            found["roc_auc"] = roc_auc(np.concatenate(truths), np.concatenate(scores), weight)
        return found


class RegressionScores:
    """Mean squared error and R^2 of batches given to `add`, with the mean and spread of y updated batch by batch.

    Source: Chan, Golub, LeVeque (1983), "Algorithms for computing the sample variance".
    """

    def __init__(self) -> None:
        self.rows, self.weight, self.mean, self.spread, self.error = 0, 0.0, 0.0, 0.0, 0.0

    def add(self, truth: Array, predicted: Array, weight: Array | None = None) -> None:
        """Take one batch of targets (rows,), predictions (rows,) and sample weights (rows,) or None."""
        weights = np.ones(len(truth)) if weight is None else np.asarray(weight, float)
        total = float(weights.sum())
        self.rows += len(truth)
        if total <= 0:
            return
        mean = float((weights * truth).sum()) / total
        both = self.weight + total
        self.spread += float((weights * (truth - mean) ** 2).sum())
        self.spread += (mean - self.mean) ** 2 * self.weight * total / both
        self.mean += (mean - self.mean) * total / both
        self.weight = both
        self.error += float((weights * (truth - predicted) ** 2).sum())

    def result(self) -> dict[str, float]:
        """Return the scores by name."""
        if not self.weight:
            return {"r2": float("nan"), "mean_squared_error": float("nan")}
        constant = 1.0 if self.error == 0.0 else 0.0  # all targets equal, met or missed: as scikit-learn has it
        r2 = 1.0 - self.error / self.spread if self.spread > 0 else constant
        return {"r2": r2, "mean_squared_error": self.error / self.weight}
