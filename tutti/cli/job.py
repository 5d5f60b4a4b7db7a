"""Job files: TOML with the tables [data] [model] [strategy] [engine] [output] and the names and values of Python.

Only the names in the tables below are ever resolved, and the code of nets that the file itself names.  Everything is
checked before any data is read, and each mistake is named with its table, option and line.
"""

from __future__ import annotations

import difflib
import glob
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from tutti.cli import _nets, _transforms
from tutti.cli._accepts import accepts, came, expected, options_of
from tutti.errors import InputError, JobError, ParameterError, PlanError
from tutti.types import Partition

TABLES = ("data", "model", "strategy", "engine", "output")
READERS = {"libsvm": "read_libsvm", "csv": "read_csv", "parquet": "read_parquet"}
_FORESTS = ("RandomForestClassifier", "RandomForestRegressor")
_BOOSTED = ("GradientBoostingClassifier", "GradientBoostingRegressor")
MODELS = (
    "LogisticRegression",
    "LinearSVC",
    "SVC",
    "SVR",
    "LinearRegression",
    "Ridge",
    *_FORESTS,
    *_BOOSTED,
    *_nets.NETS,
)
STRATEGIES = ("AllReduce", "CoCoA", "LocalSGD", "ParameterServer", "Replay", "TaskParallel")
ENGINES = ("Threads", "Processes", "Hosts")
REPORT_SUFFIXES = (".json", ".html", ".txt")

DATA_OPTIONS: dict[str, Any] = {
    "format": str,
    "path": str | list[str],
    "test_size": float | int,
    "stratify": bool,
    "random_state": int,
    "partition": Partition,
    "resample": Literal["oversample", "undersample"],
    "cached": Literal["auto", "memory", "disk", False],
    "limit": str | int,
}
"""Options of [data] besides those of the reader itself; ``cached = false`` is Python's ``cached(None)``: stream."""

FOLDERS = ("record", "folder")
"""Options of strategies that are relative to the job file."""

OUTPUT_OPTIONS: dict[str, Any] = {"model": str, "report": str | list[str]}


@dataclass(frozen=True)
class Choice:
    """The ``type`` of a table and its other options; ``make()`` builds the Python object.

    Parameters
    ----------
    arguments : what Python gets, where that is not what is written in the file; None: the options as they are.
    """

    type: str
    options: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] | None = None

    def make(self, **more: Any) -> Any:
        """Return the object; "auto" stands for itself."""
        own = self.options if self.arguments is None else self.arguments
        return "auto" if self.type == "auto" else public(self.type)(**{**own, **more})


@dataclass(frozen=True)
class Job:
    """A checked job file; paths are absolute or URLs.

    Parameters
    ----------
    file : the job file.
    reader : name of the public function that reads the data.
    data : its arguments; the first is the path or URL.
    shape : what happens to the dataset after reading: the options of [data] that are not the reader's.
    model, strategy, engine : the three choices.
    model_path : folder the model is saved to; None saves none.
    reports : files of the report, by suffix .json, .html or .txt.
    """

    file: Path
    reader: str
    data: Mapping[str, Any]
    model: Choice
    strategy: Choice = Choice("auto")
    engine: Choice = Choice("auto")
    shape: Mapping[str, Any] = field(default_factory=dict)
    model_path: Path | None = None
    reports: tuple[Path, ...] = ()

    def datasets(self) -> tuple[Any, Any | None]:
        """Return (training data, test data or None), lazily: no row is read."""
        shape, seed = self.shape, self.shape.get("random_state", 0)
        train, test = public(self.reader)(**self.data), None
        if "cached" in shape or "limit" in shape:
            train = train.cached(shape.get("cached", "auto") or None, shape.get("limit"))
        if "test_size" in shape:
            train, test = train.split(shape["test_size"], random_state=seed, stratify=shape.get("stratify", False))
        if "resample" in shape:
            train = train.resample(shape["resample"], random_state=seed)
        if "partition" in shape:
            train = train.partition(shape["partition"], random_state=seed)
        return train, test

    def estimator(self, verbose: int, **more: Any) -> Any:
        """Return the unfitted estimator; ``more`` replaces options of [model]."""
        if "verbose" not in self.model.options:
            more["verbose"] = verbose
        return self.model.make(strategy=self.strategy.make(), engine=self.engine.make(), **more)


def public(name: str) -> Any:
    """Return a public name of tutti."""
    import tutti

    return getattr(tutti, name)


def read_job(path: str | Path, home: Path | None = None) -> Job:
    """Read and check a job file; what it names lies in ``home`` if that is not the folder it is in.

    Raises
    ------
    JobError : naming file, table, option and line, and what to write instead.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise JobError(f"{file}: no such job file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"{file}: cannot be read as a job file: {error}") from None
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise JobError(f"{file}: this is not TOML: {error}") from None
    return _Checker(file.absolute() if home is None else home / file.name, str(file), text).job(tables)


class _Checker:
    """Turns parsed tables into a `Job`; every complaint goes through `wrong`, which finds the line."""

    def __init__(self, file: Path, shown: str, text: str) -> None:
        self.file, self.shown, self.text = file, shown, text

    def wrong(self, table: str, option: str | None, message: str) -> NoReturn:
        line = _line_of(self.text, table, option)
        raise JobError(f"{self.shown}{f', line {line}' if line else ''}: {message}")

    def job(self, tables: Mapping[str, Any]) -> Job:
        for name, table in tables.items():
            if name not in TABLES:
                self.wrong(name, None, f"unknown table [{name}]{_near(name, TABLES)}; there are {_listed(TABLES)}")
            if not isinstance(table, dict):
                self.wrong("", name, f"{name!r} is {came(table)}; write a table that begins with the line [{name}]")
        for name in ("data", "model"):
            if name not in tables:
                self.wrong("", None, f"the table [{name}] is missing")
        known = self.data(tables["data"])
        output = tables.get("output", {})
        self.options("output", output, OUTPUT_OPTIONS)
        return Job(
            file=self.file,
            model=self.choice("model", tables["model"], MODELS, hidden=("strategy", "engine")),
            strategy=self.choice("strategy", tables.get("strategy", {}), STRATEGIES, auto=True),
            engine=self.choice("engine", tables.get("engine", {}), ENGINES, auto=True),
            model_path=self.file.parent / output["model"] if "model" in output else None,
            reports=tuple(self.report(r) for r in _as_list(output.get("report", []))),
            **known,
        )

    def data(self, table: Mapping[str, Any]) -> dict[str, Any]:
        for name in ("format", "path"):
            if name not in table:
                self.wrong("data", None, f"[data] needs the option {name!r}")
        form = table["format"]
        if form not in READERS:
            self.wrong("data", "format", f"[data] format = {form!r} is unknown{_near(form, READERS)}; "
                       f"there are {_listed(READERS)}")  # fmt: skip
        annotations = options_of(public(READERS[form]))
        names = [n for n in annotations if n != "path"]
        self.options("data", table, {**annotations, **DATA_OPTIONS}, f" for format {form!r}")
        if "stratify" in table and "test_size" not in table:
            self.wrong(
                "data", "stratify", "[data] stratify says how test_size draws its rows, but there is no test_size"
            )
        paths = [self.place(p) for p in _as_list(table["path"])]
        arguments = {n: v for n, v in table.items() if n in names}
        arguments["path"] = paths if isinstance(table["path"], list) else paths[0]
        shape = {n: v for n, v in table.items() if n not in names and n not in ("format", "path")}
        return {"reader": READERS[form], "data": arguments, "shape": shape}

    def place(self, path: str) -> str:
        """A path relative to the job file, checked where that costs nothing; URLs are left to their file system."""
        if "://" in path:
            return path
        full = self.file.parent / Path(path).expanduser()
        if not full.exists() and not glob.glob(str(full)):
            where = "" if Path(path).is_absolute() else f" in {self.file.parent} (paths are relative to the job file)"
            near = _near(full.name, (p.name for p in full.parent.iterdir())) if full.parent.is_dir() else ""
            self.wrong("data", "path", f"[data] path = {path!r}: no such file{where}{near}")
        return str(full)

    def report(self, path: str) -> Path:
        if Path(path).suffix not in REPORT_SUFFIXES:
            self.wrong("output", "report", f"[output] report = {path!r}: the suffix says what is written; "
                       f"use {' or '.join(REPORT_SUFFIXES)}")  # fmt: skip
        return self.file.parent / path

    def choice(
        self,
        name: str,
        table: Mapping[str, Any],
        known: Iterable[str],
        auto: bool = False,
        hidden: tuple[str, ...] = (),
    ) -> Choice:
        names = [*(["auto"] if auto else []), *known]
        if "type" not in table and not (auto and not table):
            self.wrong(name, None, f"[{name}] needs the option 'type'; there are {_listed(names)}")
        kind = table.get("type", "auto")
        if kind not in names:
            self.wrong(name, "type", f"[{name}] type = {kind!r} is unknown{_near(kind, names)}; "
                       f"there are {_listed(names)}")  # fmt: skip
        options = {n: v for n, v in table.items() if n != "type"}
        if kind == "auto":
            for option in options:
                self.wrong(name, option, f"[{name}] type = \"auto\" takes no options, but {option!r} is set; "
                           f"choose a type ({_listed(known)}) or leave {option!r} out")  # fmt: skip
            return Choice("auto")
        allowed = {n: a for n, a in options_of(public(kind)).items() if n not in hidden and not n.startswith("_")}
        if kind in _nets.NETS:
            return self.net(kind, options, allowed)
        arguments = None
        if "compress" in allowed and "compress" in options:
            try:
                arguments = {**options, "compress": _transforms.made(options["compress"], public)}
            except ValueError as error:
                self.wrong(name, "compress", f"[{name}] compress = {options['compress']!r}: {error}")
            allowed["compress"] = Any  # it is made; whether transforms go together is for the class to say
        self.options(name, options, allowed, f" for type {kind!r}")
        if not hidden:
            try:
                public(kind)(**(options if arguments is None else arguments))
            except (InputError, PlanError) as error:
                self.wrong(name, None, f"[{name}] {error}")
            except TypeError:
                self.wrong(name, None, f"[{name}] type = {kind!r} needs more options; there are {_listed(allowed)}")
        folders = {n: str(self.file.parent / Path(options[n]).expanduser()) for n in FOLDERS if n in options}
        return Choice(kind, options, {**(arguments or options), **folders} if folders else arguments)

    def net(self, kind: str, options: Mapping[str, Any], allowed: Mapping[str, Any]) -> Choice:
        known = _nets.settable(allowed, options, public(kind)._owners)
        self.options("model", options, known, f" for type {kind!r}")
        try:
            return Choice(kind, options, _nets.made(options, self.file.parent))
        except ParameterError as error:
            option = re.split(r"[.\[]", error.name)[0]
            self.wrong("model", option if option in options else None, f"[model] {error}")
        except InputError as error:
            self.wrong("model", "layers", f"[model] {error}")

    def options(self, name: str, table: Mapping[str, Any], allowed: Mapping[str, Any], where: str = "") -> None:
        for option, value in table.items():
            if option not in allowed:
                self.wrong(name, option, f"[{name}] has no option {option!r}{where}"
                           f"{_near(option, allowed) or f'; there are {_listed(allowed)}'}")  # fmt: skip
            if not accepts(value, allowed[option]):
                wanted = expected(allowed[option])
                advice = f"; expected {wanted}" if wanted else "; this option can only be set from Python"
                self.wrong(name, option, f"[{name}] {option} = {value!r} is {came(value)}{advice}")


def _line_of(text: str, table: str, option: str | None) -> int | None:
    """The line where an option is set (or, without one, where its table begins); None if it is not there."""
    here = ""
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\s*([\w-]+)", line)
        if header:
            here = header[1]
            if option is None and here == table:
                return number
        if option is not None and here == table and re.match(rf"\s*[\"']?{re.escape(option)}[\"']?\s*[=.]", line):
            return number
    return None


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _near(word: object, known: Iterable[str]) -> str:
    came, names = str(word), list(known)
    prefixes = [n for n in names if min(len(n), len(came)) > 2 and (came.startswith(n) or n.startswith(came))]
    found = prefixes or difflib.get_close_matches(came, names, n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
