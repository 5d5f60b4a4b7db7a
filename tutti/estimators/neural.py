"""Neural nets with scikit-learn's grammar: any torch module, on many workers, with the same bits for any number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from tutti.errors import DataError, ParameterError
from tutti.estimators._classifier import accuracy, class_factors
from tutti.estimators._intake import is_dataset
from tutti.estimators._linear import labels_array
from tutti.estimators._log import EpochLog
from tutti.estimators._net_job import Job, fingerprint_of, job_of
from tutti.estimators._net_rows import Rows, flat, intake
from tutti.estimators._net_store import Stored
from tutti.estimators._progress import EpochProgress
from tutti.estimators._recorded import parted, seal
from tutti.estimators.linear import r2
from tutti.learners.module.learner import EPOCH, STEP
from tutti.planner import Explanation
from tutti.runtime.checkpoint import Checkpoint, newest
from tutti.runtime.driver import train
from tutti.runtime.report import make_report
from tutti.seeds import run_seed
from tutti.types import Array, Event, Result, Schema

_PROGRESS = ("clock", "meter", "objective")
"""What a warm start leaves behind: it begins to count anew."""


class NeuralNet(Stored):
    """What the classifier and the regressor share; see `NeuralNetClassifier` for the parameters."""

    _task: ClassVar[str]
    _losses: ClassVar[str]
    _owners: ClassVar[tuple[str, ...]] = ("module", "optimizer", "loss", "lr_schedule")

    def __init__(
        self,
        module: Any,
        *,
        optimizer: Any = "adamw",
        lr: float = 1e-3,
        weight_decay: float | None = None,
        param_groups: Mapping[str, Mapping[str, Any]] | None = None,
        lr_schedule: Any = None,
        warmup_steps: int = 0,
        loss: Any = "auto",
        batch_size: int = 256,
        epochs: int = 10,
        validation: float = 0.0,
        patience: int | None = None,
        monitor: str = "loss",
        class_weight: Any = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        accumulate: int = 1,
        precision: str = "float32",
        device: str = "auto",
        compile: bool = False,
        augment: Any = None,
        shuffle: bool = True,
        warm_start: bool = False,
        exact: bool = True,
        checkpoint: Checkpoint | None = None,
        resume: bool = False,
        log: Any = None,
        strategy: Any = "auto",
        engine: Any = "auto",
        n_shards: int = 8,
        random_state: Any = None,
        verbose: int = 0,
        **nested: Any,
    ) -> None:
        self.module = module
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.param_groups = param_groups
        self.lr_schedule = lr_schedule
        self.warmup_steps = warmup_steps
        self.loss = loss
        self.batch_size = batch_size
        self.epochs = epochs
        self.validation = validation
        self.patience = patience
        self.monitor = monitor
        self.class_weight = class_weight
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.accumulate = accumulate
        self.precision = precision
        self.device = device
        self.compile = compile
        self.augment = augment
        self.shuffle = shuffle
        self.warm_start = warm_start
        self.exact = exact
        self.checkpoint = checkpoint
        self.resume = resume
        self.log = log
        self.strategy = strategy
        self.engine = engine
        self.n_shards = n_shards
        self.random_state = random_state
        self.verbose = verbose
        self._set_nested(nested)

    # fit

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Train the net; the same bits for any number of workers.

        Parameters
        ----------
        X : (n_rows, ...) array, tensor, frame or Arrow table: what the module takes, rows first; or a torch Dataset of
            pairs; or a tutti Dataset; or the path of a .csv, .parquet or .svm file.  Whole numbers in arrays reach the
            module as int64, the rest in its weights' dtype.
        y : (n_rows,) labels or targets; the name of the label column if X has columns with names.
        sample_weight : (n_rows,) weights >= 0.

        Raises
        ------
        InputError : data, a parameter or the module is wrong; before any worker starts where it can be seen there.
        RankError, RankLost : a worker failed; the others were stopped and nothing is left behind.
        """
        fitted = self.warm_start and self.__sklearn_is_fitted__()
        start = {k: a for k, a in self._state.items() if k not in _PROGRESS} if fitted else None
        return self._fit(job_of(self, X, y, sample_weight, int(self.epochs)), start)

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Train one more epoch from where the net is: k times the same rows are as one ``fit`` of k epochs."""
        if not self.__sklearn_is_fitted__():
            return self._fit(job_of(self, X, y, sample_weight, 1), None)
        done = int(self._state["clock"][EPOCH])
        job = job_of(self, X, y, sample_weight, done + 1, done)
        clock = self._state["clock"].copy()
        clock[STEP] = done * job.learner.deal.n_steps  # the new rows may be more or fewer
        return self._fit(job, {**self._state, "clock": clock})

    def explain(self, X: Any, y: Any = None, sample_weight: Any = None) -> Explanation:
        """Return the plan of ``fit`` with the same arguments; nothing is started."""
        return job_of(self, X, y, sample_weight, int(self.epochs)).explanation

    def _fit(self, job: Job, start: Mapping[str, Array] | None) -> Self:
        from tutti.learners.module import _build

        seed, learner = run_seed(self.random_state), job.learner
        name = fingerprint_of(self, job, seed)
        if self.resume and self.checkpoint is not None:
            found = newest(self.checkpoint.path, name)
            start = start if found is None else found[1]
        n_rows = learner.deal.n_rows
        shown = EpochProgress(type(self).__name__, bool(self.verbose), learner.epochs, n_rows)
        with _build.torch_as_it_was(), shown, EpochLog(self.log, self.get_params(deep=False)) as log:

            def watch(event: Event) -> None:
                shown(event)
                log(event)

            result = train(
                learner,
                job.dataset,
                schema=job.schema,
                strategy=job.choice.strategy,
                engine=job.choice.engine,
                plan=job.explanation.plan,
                n_shards=job.explanation.plan.n_shards,
                seed=seed,
                start=start,
                watch=watch,
                checkpoint=self.checkpoint,
                job=name,
            )
        self._adopt(job, result)
        return self

    # what a net with a loss of its own does in another way

    def _intake(self, X: Any, y: Any, sample_weight: Any) -> Rows:
        return intake(X, y, sample_weight, type(self).__name__)

    def _build_loss(self, schema: Schema) -> Any:
        from tutti.learners.module import _build

        return _build.build_loss(self._criterion(), self._options("loss"), self._class_factors(schema))

    def _criterion(self) -> Any:
        return self._losses if isinstance(self.loss, str) and self.loss == "auto" else self.loss

    def _n_outputs(self, schema: Schema) -> int | None:
        """Return the columns that the module's output must have, where that is known."""
        return None

    def _class_factors(self, schema: Schema) -> tuple[float, ...] | None:
        """Return one factor per class, in the order of ``schema.classes``."""
        for name, default in (("class_weight", None), ("monitor", "loss")):
            if getattr(self, name) != default:
                raise ParameterError(name, getattr(self, name), "a regression has no classes; leave it out")
        return None

    def _adopt(self, job: Job, result: Result) -> None:
        from tutti.learners.module import _build

        schema = job.schema
        self.module_ = _build.put_weights(job.blueprint, result.arrays)
        self._state, self.gradients_ = parted(result.arrays)
        self._fields, self._moving = job.fields, job.blueprint.moving
        self.n_features_in_ = schema.n_features
        self._set_names(schema.feature_names)
        if schema.classes is not None:
            self.classes_ = labels_array(schema.classes, job.label_dtype)
        self.n_iter_ = max((r.step for r in result.history), default=0)
        self.history_ = [
            {"step": r.step, "seconds": r.seconds, "loss": r.objective, "epoch": r.passes, **r.metrics}
            for r in result.history
        ]
        self.plan_ = job.explanation.plan
        self.report_ = make_report(result, _build.arrays_of(self.module_))
        seal(job.choice.strategy, int(self._state["clock"][STEP]), self.report_.sha256)

    # prediction

    def _outputs(self, X: Any, layer: str | None = None) -> Array:
        from tutti.learners.module import _build

        self._check_fitted()
        if is_dataset(X):
            blocks = X.predict_blocks(self.n_features_in_)
            return np.concatenate([_build.outputs(self.module_, b.x, self._fields[0], layer=layer) for b in blocks])
        from tutti.data.convert import features

        x, fields = flat(X)
        x, names = features(x)
        self._check_names(names)
        shape = fields[0].shape if fields else (x.shape[1],)
        if shape != self._fields[0].shape:
            own = type(self).__name__
            raise DataError(f"X has rows of shape {shape}, but {own} was fitted with {self._fields[0].shape}")
        found: Array = _build.outputs(self.module_, x, self._fields[0], layer=layer)
        return found

    def transform(self, X: Any, layer: str | None = None) -> Array:
        """Return the module's output for each row, or that of the layer with this name (features it has learned)."""
        return self._outputs(X, layer)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "module_")


class NeuralNetClassifier(NeuralNet):
    """A torch module as a classifier.

        min over w   sum_i c_i l(f_w(x_i), y_i) / sum_i c_i,     c_i = class weight times sample weight

    Parameters
    ----------
    module : a torch.nn.Module (its weights are where training starts; it is not changed), its class, or a function that
        returns one; ``module__*`` are passed on.  It maps (rows, ...) to (rows, n_classes).
    optimizer : a name ("sgd", "adamw", ...), a torch class, or a function of parameter groups; ``optimizer__*``.
    lr, weight_decay : of the optimizer; None leaves its default.
    param_groups : options by pattern of parameter names, for example {"*bias": {"weight_decay": 0.0}}.
    lr_schedule : None, "cosine", "linear", a torch scheduler class or a function; stepped once a global step.
    warmup_steps : steps over which the rate rises to ``lr``.
    loss : "auto" (cross entropy), a name, a torch loss or a function (output, y) -> loss of each row.
    batch_size : most rows of a global batch: it does not depend on the number of workers.
    epochs : passes over the data.
    validation : share of the rows that is kept for validation after each epoch.
    patience : epochs without a better ``monitor`` ("loss" or "accuracy") after which training ends with the best
        weights; None: never.
    class_weight : None, "balanced" or {class: weight}.
    clip_norm, clip_value : limits of the gradient.
    accumulate : pieces in which a shard's part of a batch passes through the module (less memory).
    precision : "float32" (the module's own), "bf16" or, on a GPU, "fp16" (autocast; fp16 with a scaled loss).
    device : "auto" (the GPUs that torch sees, else the CPU), "cpu", "cuda" (rank r on GPU r modulo their number) or
        one GPU, "cuda:0".  GPUs need engine=tutti.Processes(n); ``augment`` gets x and a generator that lie there.
    compile : True lets torch compile the module's forward pass.  It takes seconds for each size of a shard's batch, and
        was measured to be slower than without on CPUs.
    augment : function (x, generator) -> x of training batches.
    shuffle : False keeps the order of the rows.
    warm_start : True goes on from the fitted weights.
    exact : False gives each worker one shard: larger pieces, but the bits depend on the number of workers.
    checkpoint : a `tutti.Checkpoint`: when to write the state, and where; None: never.
    resume : True goes on from the newest whole checkpoint, to the same bits as without the interruption.
    log : what is told once an epoch: a .jsonl or .csv file, "tensorboard:FOLDER", "mlflow" or "mlflow:EXPERIMENT", or a
        list of these; None: none.
    strategy, engine, n_shards, random_state, verbose : as in every estimator.

    Attributes
    ----------
    module_ : the trained module.   classes_, n_features_in_, n_iter_ (global steps).
    history_ : a dict per epoch.   plan_, report_ : what was planned and what was measured.
    gradients_ : after a `tutti.Replay`, by parameter what the last update moved along; else empty.

    Example
    -------
    >>> import torch
    >>> x = torch.arange(20.0).reshape(-1, 1) / 10 - 1
    >>> y = (x[:, 0] > 0).long()
    >>> net = NeuralNetClassifier(torch.nn.Linear, module__in_features=1, module__out_features=2, lr=0.1, epochs=30)
    >>> float(net.fit(x, y).score(x, y)) > 0.8
    True
    """

    _estimator_type: ClassVar[str] = "classifier"
    _task: ClassVar[str] = "classification"
    _losses: ClassVar[str] = "cross_entropy"

    def _n_outputs(self, schema: Schema) -> int | None:
        return len(schema.classes or ()) if self._criterion() in ("cross_entropy", "nll") else None

    def decision_function(self, X: Any) -> Array:
        """Return the module's output, (n_rows, n_classes)."""
        return self._outputs(X)

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, (n_rows, n_classes): the softmax of the output."""
        z = self._outputs(X).astype(np.float64)
        if self.loss == "nll":
            return np.exp(z)
        z -= z.max(axis=1, keepdims=True)
        np.exp(z, out=z)
        found: Array = z / z.sum(axis=1, keepdims=True)
        return found

    def predict(self, X: Any) -> Array:
        """Return the class of each row."""
        found: Array = self.classes_[self._outputs(X).argmax(axis=1)]
        return found

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy."""
        return accuracy(self.predict(X), y, sample_weight)

    def _class_factors(self, schema: Schema) -> tuple[float, ...] | None:
        return class_factors(self.class_weight, schema)


class NeuralNetRegressor(NeuralNet):
    """A torch module as a regressor: least squares unless ``loss`` says otherwise.

    The module maps (rows, ...) to (rows,) or (rows, 1).  Parameters as in `NeuralNetClassifier`, without class_weight.
    """

    _estimator_type: ClassVar[str] = "regressor"
    _task: ClassVar[str] = "regression"
    _losses: ClassVar[str] = "mse"

    def predict(self, X: Any) -> Array:
        """Return the prediction of each row, (n_rows,)."""
        out = self._outputs(X)
        return out[:, 0] if out.ndim == 2 and out.shape[1] == 1 else out

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R^2 = 1 - sum s (y - prediction)^2 / sum s (y - mean)^2."""
        from tutti.data.convert import labels, weights

        predicted = self.predict(X).astype(np.float64)
        target = labels(y, len(predicted)).astype(np.float64)
        return r2(target, predicted, None if sample_weight is None else weights(sample_weight, len(target)))
