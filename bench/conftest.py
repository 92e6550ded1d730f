"""The options of the benchmark suite, what is measured once for all tests, and the tables at the end."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from arena import CORPUS_NAMES, GENERATORS, OPPONENT_NAMES, Arena, Wishes, generator_names, names_of
from generators import profile_table
from measuring import file_system, machine_facts, ram_disk, usable_cpus
from report import LEGEND, table, targets

if TYPE_CHECKING:
    from collections.abc import Iterator

FACTS = pytest.StashKey[dict[str, Any]]()
WISHES = pytest.StashKey[Wishes]()
MEASURED = pytest.StashKey[Arena]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """What to measure, and how."""
    group = parser.getgroup("chora-mp's benchmark suite")
    group.addoption("--corpora", metavar="A,B", default=",".join(CORPUS_NAMES), help="default: %(default)s")
    group.addoption("--opponents", metavar="A,B", help="beside plain and chora-mp; default: all of bench/opponents.py")
    group.addoption("--rounds", type=int, default=5, help="of all opponents in turn; default: %(default)s")
    group.addoption("--limit", type=int, metavar="N", help="only the first N records of each corpus")
    group.addoption("--workers", type=int, default=usable_cpus(), help="default: the usable CPUs, here %(default)s")
    group.addoption("--output-dir", metavar="DIR", help="where documents go; default: a RAM disk, where there is one")


def pytest_configure(config: pytest.Config) -> None:
    """Check the options, and look at the machine before it is busy with this."""
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError("pytest-benchmark is not installed; pip install 'chora-mp[bench]'")
    if config.getoption("dist", "no") != "no":
        raise pytest.UsageError("-n: the suite measures one thing at a time; leave it out")
    try:
        config.stash[WISHES] = wishes(config)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[FACTS] = {**machine_facts(), "output": str(place(config)), "output_on": file_system(place(config))}


def wishes(config: pytest.Config) -> Wishes:
    """What the command line asks for; ValueError for what cannot be."""
    for name in ("rounds", "workers", "limit"):
        if config.getoption(name) is not None and config.getoption(name) < 1:
            raise ValueError(f"--{name}: must be 1 or more (found {config.getoption(name)})")
    opponents = config.getoption("opponents")
    return Wishes(
        names_of(config.getoption("corpora"), CORPUS_NAMES, "--corpora"),
        None if opponents is None else names_of(opponents, OPPONENT_NAMES, "--opponents"),
        config.getoption("rounds"),
        config.getoption("limit"),
        config.getoption("workers"),
    )


def place(config: pytest.Config) -> Path:
    """The folder below which documents are written."""
    return Path(config.getoption("output_dir") or ram_disk() or tempfile.gettempdir()).resolve()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each corpus and opponent, and one for each generator."""
    wished = metafunc.config.stash[WISHES]
    if "opponent" in metafunc.fixturenames:
        pairs = [(corpus, name) for corpus in wished.corpora if corpus != GENERATORS for name in wished.of(corpus)]
        metafunc.parametrize(("corpus", "opponent"), pairs, ids=["-".join(pair) for pair in pairs])
    if "generator" in metafunc.fixturenames:
        metafunc.parametrize("generator", generator_names() if GENERATORS in wished.corpora else [])


@pytest.fixture(scope="session")
def arena(pytestconfig: pytest.Config) -> Iterator[Arena]:
    """What measures, with a scratch folder of its own."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    reporter = pytestconfig.pluginmanager.getplugin("terminalreporter")

    def tell(message: str) -> None:
        with capture.global_and_fixture_disabled():
            reporter.ensure_newline()
            reporter.write_line(message)

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the scratch folder goes, too
    place(pytestconfig).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="chora-bench-", dir=place(pytestconfig)) as folder:
        pytestconfig.stash[MEASURED] = Arena(pytestconfig.stash[WISHES], Path(folder), tell)
        yield pytestconfig.stash[MEASURED]


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Save what the figures depend on, as it was before the first run."""
    facts: dict[str, Any] = config.stash[FACTS]
    machine_info.update(facts)


@pytest.hookimpl(trylast=True)  # after pytest-benchmark's own tables
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print a table for each corpus, that of the generators, and the targets."""
    measured = config.stash.get(MEASURED, None)
    if measured is None:
        return
    for corpus, results in measured.contests.items():
        terminalreporter.section(f"{corpus}: {measured.records[corpus]:,} records")
        print_lines(terminalreporter, [*table(results)])
    if measured.contests:
        print_lines(terminalreporter, ["", *LEGEND.splitlines()])
    if measured.profiles:
        terminalreporter.section("generators: small items; times as fast: as many workers as fit, beside one")
        print_lines(terminalreporter, [*profile_table(measured.profiles)])
    if measured.contests:
        limited = "" if measured.wishes.limit is None else ", which this is not"
        terminalreporter.section(f"targets: two workers on two CPUs, a RAM disk, whole corpora{limited}")
        print_lines(terminalreporter, [*targets(measured.contests), ""])
    print_lines(terminalreporter, [summary_of(config)])


def print_lines(reporter: pytest.TerminalReporter, lines: list[str]) -> None:
    """Write lines to the terminal."""
    for line in lines:
        reporter.write_line(line)


def summary_of(config: pytest.Config) -> str:
    """How this run was made."""
    wished, facts = config.stash[WISHES], config.stash[FACTS]
    limit = "whole corpora" if wished.limit is None else f"the first {wished.limit:,} records only"
    quota = "" if facts["cpu_quota"] is None else f", {facts['cpu_quota']:g} by quota"
    machine = f"CPUs: {facts['usable_cpus']} ({facts['cpu_model']}{quota})"
    software = f"Python {facts['python']}, Jinja2 {facts['packages']['jinja2']}"
    return (
        f"rounds: {wished.rounds}, workers: {wished.workers}, {limit}; output on {facts['output']} "
        f"({facts['output_on']}); {machine}, {software}, load before {facts['load_before']}"
    )
