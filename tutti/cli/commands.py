"""What each command does: the same few public calls that a Python program would make."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tutti.cli._files import prediction_writer
from tutti.cli._nets import code
from tutti.cli._progress import progress
from tutti.cli.job import READERS, Job, public, read_job
from tutti.cli.metrics import ClassificationScores, RegressionScores
from tutti.cli.record import as_text, make_record, to_json, write_record
from tutti.errors import InputError, JobError, ParameterError
from tutti.types import Block

SUFFIXES = {
    ".svm": "libsvm",
    ".libsvm": "libsvm",
    ".svmlight": "libsvm",
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
COMPRESSED = (".gz", ".zst")
NOT_CONVERGED = 3


def train(args: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Fit what the job file describes; write the model and the reports; 3 if the certificate did not reach tol."""
    from tutti.cli.replay import keep_job

    job = read_job(args.job)
    _check_outputs(job)
    data, held_out = job.datasets()
    model = estimator(job, data, args.quiet)
    try:
        explanation = model.explain(data)
        _say(args, str(explanation), "")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* stopped after .* rounds")  # said below, with the exit code
            keep_job(job)
            model.fit(data)
    except ParameterError as error:
        raise _placed(job, error) from error
    scores = {} if held_out is None else {"test": score(model, held_out, "scoring", args.quiet)}
    if job.model_path is not None:
        model.save(job.model_path)
    record = make_record(
        command=shlex.join(["tutti", *arguments]),
        job=str(args.job),
        model={"type": job.model.type, "options": job.model.options},
        plan=explanation,
        report=model.report_,
        history=model.history_,
        scores=scores,
        saved=None if job.model_path is None else str(job.model_path),
    )
    for path in job.reports:
        write_record(record, path)
    if args.json:
        print(to_json(record))
    _say(args, as_text({**record, "plan_text": ""}).strip(), *(f"report   {path}" for path in job.reports))
    if model.report_.converged or not hasattr(model, "tol"):  # a net has no certificate to reach
        return 0
    print(
        f"tutti: not converged: the certified gap is {model.report_.relative_gap:.2e} (relative), more than "
        f"tol = {model.tol:g}; raise max_iter, loosen tol or scale the features",
        file=sys.stderr,
    )
    return NOT_CONVERGED


def explain(args: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Print the plan of a job file."""
    job = read_job(args.job)
    data, _ = job.datasets()
    try:
        explanation = estimator(job, data, args.quiet).explain(data)
    except ParameterError as error:
        raise _placed(job, error) from error
    print(to_json(explanation.to_dict()) if args.json else explanation)
    return 0


def predict(args: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Write one prediction for each row, in the order of the data."""
    model = _load(args)
    out = Path(args.out)
    data = _open(args, model, labelled=False)
    if args.proba and not hasattr(model, "predict_proba"):
        raise InputError(f"--proba: this {type(model).__name__} gives no probabilities; leave --proba out")
    classes = [str(c) for c in model.classes_.tolist()] if hasattr(model, "classes_") else None
    rows = 0
    with (
        _names_are_checked(),
        prediction_writer(out, classes, args.proba) as write,
        progress("predicting", None, args.quiet or args.json) as advance,
    ):
        for block in _blocks(data, model):
            write(model.predict(block.x), model.predict_proba(block.x) if args.proba else None)
            rows += block.x.shape[0]
            advance(block.x.shape[0])
    if args.json:
        print(to_json({"rows": rows, "out": str(out), "model": str(args.model)}))
    _say(args, f"{rows:,} predictions in {out}")
    return 0


def evaluate(args: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Print the scores of the model on labelled rows."""
    model = _load(args)
    data = _open(args, model, labelled=True)
    scores = score(model, data, "evaluating", args.quiet or args.json)
    if args.json:
        print(to_json({"model": str(args.model), "data": args.data, **scores}))
    else:
        for name, value in scores.items():
            print(f"{name:<20}{value:,}" if isinstance(value, int) else f"{name:<20}{value:.6g}")
    return 0


def score(model: Any, data: Any, label: str, quiet: bool) -> dict[str, Any]:
    """Return the scores of a fitted model on a dataset, which is read once and never held as a whole."""
    classes = tuple(model.classes_.tolist()) if hasattr(model, "classes_") else None
    judge: Any = RegressionScores() if classes is None else ClassificationScores(len(classes))
    with _names_are_checked(), progress(label, None, quiet) as advance:
        for block in _blocks(data, model, classes):
            if not len(block.y):
                raise InputError("these rows have no labels to compare with; name the column with --label")
            if classes is None:
                judge.add(block.y, model.predict(block.x), block.weight)
            else:
                _judge(judge, model, block)
            advance(len(block.y))
    return {"rows": judge.rows, **judge.result()}


def _judge(judge: ClassificationScores, model: Any, block: Block) -> None:
    import numpy as np

    predicted = np.searchsorted(model.classes_, model.predict(block.x))
    probability = model.predict_proba(block.x) if hasattr(model, "predict_proba") else None
    two = model.decision_function(block.x) if judge.n_classes == 2 else None
    if two is not None and two.ndim == 2:
        two = two[:, 1] - two[:, 0]
    judge.add(block.y, predicted, block.weight, probability=probability, score=two)


def _blocks(data: Any, model: Any, classes: tuple[Any, ...] | None = None) -> Iterator[Block]:
    """Blocks of a dataset whose columns are known to be the model's, so the model need not ask for their names."""
    names, fitted = data.feature_names, getattr(model, "feature_names_in_", None)
    if names is not None and fitted is not None and list(names) != list(fitted):
        raise InputError(f"the model was fitted on the columns {_few(fitted)}, but the data has {_few(names)}")
    return iter(data.predict_blocks(model.n_features_in_, classes))


@contextmanager
def _names_are_checked() -> Iterator[None]:
    """Blocks are bare arrays; the names of their columns were compared by `_blocks`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="X (does not have valid|has) feature names")
        yield


def _few(names: Sequence[Any]) -> str:
    shown = ", ".join(map(repr, list(names)[:5]))
    return f"{shown}, ... ({len(names)})" if len(names) > 5 else shown


def _load(args: argparse.Namespace) -> Any:
    module = None if args.module is None else code("--module", args.module, Path())
    return public("load")(args.model, module=module)


def _open(args: argparse.Namespace, model: Any, labelled: bool) -> Any:
    """Open DATA; columns of csv and parquet are picked by the names the model was fitted on."""
    form = args.format or _format_of(args.data)
    path = args.data if "://" in args.data else str(Path(args.data).expanduser())
    reader = public(READERS[form])
    if form == "libsvm":
        return reader(path, zero_based=args.zero_based)
    fitted = getattr(model, "feature_names_in_", None)
    columns = None if fitted is None else [str(name) for name in fitted]
    label = args.label if labelled or columns is None else None
    if labelled and label is None:
        raise InputError(f"--label is missing: name the column of {args.data} that holds the true labels")
    options: dict[str, Any] = {"label": label, "weight": args.weight if labelled else None, "columns": columns}
    if form == "csv":
        options |= {"delimiter": args.delimiter, "header": not args.no_header}
    return reader(path, **options)


def _format_of(path: str) -> str:
    stem = path.lower()
    for suffix in COMPRESSED:
        stem = stem.removesuffix(suffix)
    form = SUFFIXES.get(Path(stem).suffix)
    if form is None:
        raise InputError(
            f"{path}: the format cannot be told by the suffix ({', '.join(SUFFIXES)}); "
            f"write --format {' or '.join(READERS)}"
        )
    return form


def estimator(job: Job, data: Any, quiet: bool) -> Any:
    """The unfitted model; the keys of a class_weight table, which TOML writes as text, become labels of the data."""
    weights = job.model.options.get("class_weight")
    more = {"class_weight": _by_label(weights, data.classes)} if isinstance(weights, Mapping) else {}
    return job.estimator(verbose=0 if quiet else 1, **more)


def _by_label(weights: Mapping[str, float], classes: Sequence[Any]) -> dict[Any, float]:
    labels = {str(c): c for c in classes}
    unknown = weights.keys() - labels.keys()
    if unknown:
        raise JobError(
            f"[model] class_weight names {', '.join(map(repr, sorted(unknown)))}, "
            f"but the classes of the data are {_few(list(labels))}"
        )
    return {labels[name]: weight for name, weight in weights.items()}


def _check_outputs(job: Job) -> None:
    """Find out before the fit, not after it, that its results could not be written."""
    model = job.model_path
    if model is not None and not _is_free(model):
        raise JobError(
            f"{job.file}: [output] model = {str(model)!r} exists and is not a tutti model; choose another folder or "
            "remove it first"
        )
    for path in (*([model] if model is not None else []), *job.reports):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            raise JobError(f"{job.file}: [output] {str(path)!r} cannot be written: {path.parent} is not writable")


def _is_free(path: Path) -> bool:
    """True if a model may be written there: nothing, an empty folder, or a model to replace."""
    if not path.exists() or (path / "model.json").is_file():
        return True
    return path.is_dir() and not any(path.iterdir())


def _placed(job: Job, error: ParameterError) -> InputError:
    """Say in which table of the job file a parameter that Python refused was set."""
    for table, choice in (("model", job.model), ("strategy", job.strategy), ("engine", job.engine)):
        if error.name in choice.options:
            return JobError(f"{job.file}: [{table}] {error}")
    return error


def _say(args: argparse.Namespace, *lines: str) -> None:
    if not (args.quiet or args.json):
        print(*lines, sep="\n")
