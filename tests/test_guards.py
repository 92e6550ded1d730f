"""Guards: what no single module's test would notice. Layers, light imports, exports, pickles."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import pickle
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import chora_mp
from chora_mp import (
    benchmark,
    bundle,
    errors,
    events,
    figures,
    generators,
    job,
    machine,
    measuring,
    planning,
    profiles,
    records,
    sampling,
    scaling,
    selection,
    sizing,
    slots,
    supply,
    trials,
    tuning,
    upkeep,
)

PACKAGE = Path(chora_mp.__file__).parent

LAYERS = [
    {"version", "errors", "records", "events"},
    {"sizing", "units", "failures", "selection", "policy", "figures", "scaling", "profiles"},
    {"job", "yamlmerge", "yamlfile", "jobvalues", "jobsections", "jobfile"}
    | {"machine", "environment", "bundle", "imports", "closures", "slots", "sinks", "sources", "memory"}
    | {"compiler", "runtime", "filters"}
    | {"state", "ledger", "looks", "outputs", "claims", "findings", "generators", "gate"},
    {"worker", "rendering", "item", "rowsink", "renderer", "scan", "survey"}
    | {"seats", "lanes", "crew", "comparison", "planning"}
    | {"dispatch", "attempts", "watchdog", "generation", "contents", "inflight", "supply", "trials"},
    {"progress", "eventlog", "observers", "table", "charts"},
    {"batch", "abatch", "upkeep", "ahead", "subscription", "benchmark", "measuring", "sampling", "tuning", "sweep"},
    {"cli", "__main__"},
]
"""Modules by layer, from the bottom; `sources` is a package that counts as one."""


def module_names() -> list[str]:
    """Every module of the package, dotted, without the package's own name."""
    return [found.name.removeprefix("chora_mp.") for found in pkgutil.walk_packages(chora_mp.__path__, "chora_mp.")]


def imports(module: str) -> set[str]:
    """The modules of this package that a module imports, wherever in it; not those that only types need."""
    path = PACKAGE / (module.replace(".", "/") + ".py")
    tree = ast.parse((path if path.exists() else PACKAGE / module / "__init__.py").read_text())
    found: set[str] = set()
    for node in ast.walk(_without_type_checking(tree)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("chora_mp"):
            base = node.module.removeprefix("chora_mp").removeprefix(".")
            found |= {base} if base else {alias.name for alias in node.names}
    return found


def _without_type_checking(tree: ast.Module) -> ast.Module:
    tree.body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING")
    ]
    return tree


def layer(module: str) -> int:
    """The layer that a module belongs to."""
    top = module.partition(".")[0]
    return next(number for number, names in enumerate(LAYERS) if top in names)


@pytest.mark.parametrize("module", module_names())
def test_imports_run_downward(module: str) -> None:
    """No module imports one of a higher layer; `job` and `sizing` reach upward only when called."""
    allowed = {("job", "jobfile"), ("sizing", "machine")}
    upward = {one for one in imports(module) if layer(one) > layer(module) and (module, one) not in allowed}
    assert set() == upward


def test_every_module_has_its_layer() -> None:
    """A new module is given a place before it is given code."""
    assert {name.partition(".")[0] for name in module_names()} == set().union(*LAYERS)


def loaded_by(code: str) -> set[str]:
    """The top-level modules that are loaded after `code`."""
    shown = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import chora_mp", {"click", "rich", "pydantic", "jinja2", "orjson", "psutil", "yaml", "multiprocessing"}),
        ("from chora_mp import batch_generate, Job", {"click", "rich", "pydantic", "yaml", "jinja2"}),
        ("import chora_mp.worker, chora_mp.seats", {"click", "rich", "pydantic", "yaml", "psutil", "sqlite3", "csv"}),
        ("import chora_mp.cli", {"rich", "pydantic", "jinja2", "yaml", "psutil", "multiprocessing"}),
    ],
)
def test_imports_are_light(code: str, heavy: set[str]) -> None:
    """Nobody pays for a library that is not used: not a script, not a worker, not `--help`."""
    assert set() == loaded_by(code) & heavy


def test_the_public_names_are_those_of_the_table() -> None:
    """`__all__` lists what can be imported lazily, and each name leads to the thing of that name."""
    assert sorted({*chora_mp._HOMES, "__version__"}) == sorted(chora_mp.__all__)
    for name in chora_mp._HOMES:
        assert name == getattr(chora_mp, name).__name__


FAILURE = records.Failure("ValueError", "bad", "page.j2", 3, ("page.j2:3",))
PLACE = records.Place("data.jsonl", 7)
ITEM = records.ItemResult("k", "p", 1, "failed", error=FAILURE, source=PLACE)
SIZING = sizing.Sizing(2, "cpus", (sizing.Term("cpus", 2.0, "2 cpus"),))
JOB = job.Job("j", PACKAGE, "page.j2", (PACKAGE,))
FAILURES = records.Failures(JOB, [ITEM])
RESULT = records.BatchResult(
    "j", "r", 1, 0, 1, 0, 0, 0, 0.1, 10.0, 0, 1, SIZING.as_dict(), FAILURES, 2, ("a", "b"), asked_to_prune=True
)
INPUT = records.Input("/data.jsonl", spooled=False, name="data.jsonl", stamp=(1, 2, 3))
RUN = figures.Run(1, 0.5, 0.6, 10**7, 10**8, 0.1, 2, 3, 0, 0, 300)
FACTS = figures.Facts("0.1", "3.11", "3.1", "Linux", 2.0, 10**9, "a RAM disk", 3, 3, 1, 2)
BENCHMARK = figures.Benchmark("j", FACTS, (figures.Approach(0, (RUN,)),))
SELECTION = selection.Selection("a*", frozenset({"a"}), (1, 2), failed=True)
SPAN = records.Span(INPUT, 5, 3, 100, 6, 2, picks=b"\1\0\1")
CURVE = (profiles.Point(1, 100.0, 99.0, 101.0, 3), profiles.Point(2, 190.0, 180.0, 195.0, 3))
LAW = scaling.Scaling(100.0, 0.05, 0.0, 0.01)
NOON = "2026-11-26T12:00:00Z"
PROFILE = profiles.Profile(
    "jinja2", "processes", 2, 0.99, 0.075, 10**8, CURVE, LAW, 0.01, 0.0, 0.0, NOON, "processes", 8
)

TRAVELLERS: list[Any] = [
    FAILURE,
    PLACE,
    ITEM,
    SIZING,
    FAILURES,
    RESULT,
    INPUT,
    SELECTION,
    records.BadRecord("RecordError", "no mapping"),
    SPAN,
    records.ScanOrders(INPUT, SELECTION, "known", rows=True),
    events.ReadingStarted("j", "data.jsonl"),
    events.RenderingStarted("j", 3, SIZING),
    events.SpanCompleted(1, 0, 3, 2),
    events.RenderingEnded(RESULT),
    events.Noticed("the ledger was damaged"),
    events.BatchStarted("r", 3),
    events.ItemCompleted("r", "k", "p", "failed", 0, "", 0.1, 1, "jinja2", FAILURE, (("input_tokens", 3),)),
    events.BatchCompleted("r", 2, 1, 0, 0, 0.5, "fail-fast"),
    events.ItemsCounted(2, 3, ("a", "b")),
    sizing.Limits(),
    SIZING.terms[0],
    machine.Machine(2, 8_000_000_000),
    JOB,
    job.Source("data.jsonl", "jsonl", PACKAGE),
    job.Output(PACKAGE, "{{ name }}"),
    job.JinjaOptions(),
    bundle.Plugin("p"),
    bundle.take_bundle(job.Job("j", PACKAGE, "page.j2", ())),
    records.Orders("b", "o", "s", ".t"),
    records.Outcome(2, 1, 0, 10, 0.1, (ITEM,), "texts", "rows", 1),
    slots.Note(1, 2, 3, 4.0, b"/out"),
    planning.PlannedItem("k", "p", 1, "new"),
    upkeep.Verification("j", 3, ("a",), ("b",), ("c",)),
    upkeep.Status("j", "out", 1, 1, ({"id": 1},), (ITEM,)),
    upkeep.Check("j", 3, ("data.jsonl:1: broken",)),
    upkeep.Engine("minijinja", 200, 199, 3.5),
    job.Request("intro", {"a": 1}, "x.md", 50.0, "k"),
    job.GeneratorOptions("asyncio", {"rate": 1.0}),
    supply.Group("jinja2", 50.0, 3, False, "processes", True),
    RUN,
    FACTS,
    figures.Approach(2, (RUN,), "died"),
    BENCHMARK,
    figures.Spread(2.0, 1.0, 3.0),
    figures.Pace(0.3, 0.001),
    figures.Change(2, *((figures.Spread(2.0, 1.0, 3.0),) * 2,) * 3, worse=("speed-up",)),
    figures.Changes((), ("cpus was 2 and is 4",)),
    benchmark.Wanted((1, 2), like=BENCHMARK),
    benchmark.Step("round 1 of 3", 1, 12),
    measuring.Task("render", JOB, "/task", (1, 40)),
    measuring.Measured({"total": 3}, 0.5, 0.6, 10**7, 10**8, 0.0),
    sampling.Kept("/kept", 1000, 0.25, 0.1),
    generators.Generated("text", {"input_tokens": 3}),
    events.TuningAdvanced("j", "2 at work, round 1", 0.3, 123.4),
    records.Gauge(records.Outcome(1, 1, 0, 10, 0.1, ()), 0.1, 0.05, 0.0, 10**7, 2 * 10**7),
    scaling.Scaling(100.0, 0.1, 0.01, 0.02),
    PROFILE.curve[0],
    PROFILE,
    tuning.Tuning("j", "one cpu", PROFILE, SIZING, 100, 1, "k: ValueError: bad", 3, 12.5, 0.02, 0.0, settled=True),
    trials.Piece(SPAN, 3, 0.02),
    trials.Region(SPAN, (trials.Piece(SPAN, 3, 0.02),)),
    trials.Trial(123.4, 0.1, 1.2, 10**7),
]


@pytest.mark.parametrize("traveller", TRAVELLERS, ids=lambda one: type(one).__name__)
def test_what_crosses_a_boundary_is_frozen_and_pickles(traveller: Any) -> None:
    """Every dataclass and every named tuple comes out of a pickle equal, and cannot be changed."""
    assert traveller == pickle.loads(pickle.dumps(traveller))
    if dataclasses.is_dataclass(traveller):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(traveller, dataclasses.fields(traveller)[0].name, None)


def test_no_traveller_is_forgotten() -> None:
    """Each dataclass of the modules that cross boundaries is in the table above."""
    known = {type(one).__name__ for one in TRAVELLERS}
    for module in (
        records,
        events,
        sizing,
        job,
        bundle,
        slots,
        machine,
        selection,
        upkeep,
        figures,
        benchmark,
        measuring,
        sampling,
        scaling,
        profiles,
        trials,
        tuning,
    ):
        for name, value in vars(module).items():
            if dataclasses.is_dataclass(value) and value.__module__ == module.__name__:
                assert name in known


def test_failures_know_their_job() -> None:
    """The failures of a result can be rendered again wherever they are unpickled, alone or in the result."""
    for copy in (pickle.loads(pickle.dumps(FAILURES)), pickle.loads(pickle.dumps(RESULT)).failures):
        assert (JOB, records.Failures) == (copy.job, type(copy))


ERRORS: list[BaseException] = [
    errors.ChoraError("broken"),
    errors.JobError(["job.yaml:1: a", "job.yaml:2: b"]),
    errors.TemplateError(["t.j2:1: a"]),
    errors.SourceError("data.json: b"),
    errors.OutputError("out: c"),
    errors.LedgerError("out/.chora-mp/ledger.db: d"),
    errors.WorkerError("died"),
    errors.BatchFailed(RESULT),
    errors.Interrupted("stopped", RESULT),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda one: type(one).__name__)
def test_errors_pickle(error: BaseException) -> None:
    """An error comes out of a pickle with its type, message and parts: one that does not breaks a pool."""
    copy = pickle.loads(pickle.dumps(error))
    assert (type(error), str(error), vars(error)) == (type(copy), str(copy), vars(copy))


def test_no_error_is_forgotten() -> None:
    """Each error class is in the table above and in the tree of the module's docstring."""
    names = {
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert names == {type(error).__name__ for error in ERRORS}
    assert set() == {name for name in names if name not in (errors.__doc__ or "")}


def test_every_module_says_what_it_is_for() -> None:
    """Each module has a docstring of at least a sentence."""
    for name in module_names():
        if not name.endswith("__main__"):
            assert (importlib.import_module(f"chora_mp.{name}").__doc__ or "").strip()
