"""The number of workers: the published formula, its terms and the one that binds."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chora_mp.machine import Machine
from chora_mp.sizing import ASSUMED_MEMORY, MB, Limits, Sizing, Term, optimal_workers

GB = 1000 * MB
EIGHT = Machine(cpus=8, memory=8 * GB, cpus_from="affinity", memory_from="psutil available")
PUBLISHED = Limits(memory_per_item=200 * MB, rate=60 / 60, latency=5, max_workers=10)

machines = st.builds(Machine, cpus=st.floats(0.01, 1024), memory=st.integers(0, 10**13))
limits = st.builds(
    Limits,
    memory_per_item=st.none() | st.integers(1, 10**12),
    rate=st.none() | st.floats(0, 1e4),
    latency=st.none() | st.floats(0, 1e4),
    max_workers=st.none() | st.integers(1, 1000),
)
factors = st.floats(0.1, 8)


def values(sizing: Sizing) -> dict[str, float | None]:
    """The value of every term by its name."""
    return {term.name: term.value for term in sizing.terms}


def details(sizing: Sizing) -> dict[str, str]:
    """The origin of every term by its name."""
    return {term.name: term.detail for term in sizing.terms}


def test_published_example() -> None:
    """Twice eight cores, 8 GB / 200 MB, 60/min at 5 s and a limit of 10 make 5 workers, bound by the rate."""
    sizing = optimal_workers(EIGHT, PUBLISHED, cpu_factor=2)

    assert (sizing.workers, sizing.binds) == (5, "rate")
    assert values(sizing) == {"cpus": 16, "memory": 40, "rate": 5, "max_workers": 10}


def test_dictionary_has_the_shape_of_the_contract() -> None:
    """`as_dict` holds workers, binds and every term with its value and origin, in order, ready for JSON."""
    expected = {
        "workers": 5,
        "binds": "rate",
        "terms": [
            {"name": "cpus", "value": 16.0, "detail": "8 cpus (affinity) × 2"},
            {"name": "memory", "value": 40.0, "detail": "8.0 GB (psutil available) / 200 MB per worker"},
            {"name": "rate", "value": 5.0, "detail": "60/min × 5 s"},
            {"name": "max_workers", "value": 10.0, "detail": "limits.max_workers"},
        ],
    }

    assert json.loads(json.dumps(optimal_workers(EIGHT, PUBLISHED, cpu_factor=2).as_dict())) == expected


def test_dictionary_lists_terms_without_limit() -> None:
    """A term that bounds nothing is listed with null, so that a table can show it."""
    terms = optimal_workers(EIGHT).as_dict()["terms"]

    assert terms[3] == {"name": "max_workers", "value": None, "detail": "no limit set"}


@pytest.mark.parametrize(
    ("machine", "asked", "factor", "workers", "binds"),
    [
        pytest.param(Machine(8, 8 * GB), None, 1, 8, "cpus", id="one worker a CPU without limits"),
        pytest.param(Machine(1.5, 8 * GB), None, 1, 1, "cpus", id="fraction of a CPU is rounded down"),
        pytest.param(Machine(1.5, 8 * GB), None, 2, 3, "cpus", id="rounded after the factor, not before"),
        pytest.param(Machine(0.25, 8 * GB), None, 1, 1, "cpus", id="at least one for little CPU"),
        pytest.param(Machine(8, 0), None, 1, 1, "memory", id="at least one for no memory"),
        pytest.param(Machine(64, 1 * GB), None, 1, 5, "memory", id="200 MB a worker is assumed"),
        pytest.param(Machine(64, 1 * GB), Limits(memory_per_item=100 * MB), 1, 10, "memory", id="memory set"),
        pytest.param(Machine(64, 999_999_999), None, 1, 4, "memory", id="one byte short of five workers"),
        pytest.param(Machine(8, 8 * GB), Limits(max_workers=3), 1, 3, "max_workers", id="most workers"),
        pytest.param(Machine(8, 8 * GB), Limits(rate=0.1, latency=30), 1, 3, "rate", id="3.0000000000000004"),
        pytest.param(Machine(99, 99 * GB), Limits(rate=84 / 60, latency=45), 1, 63, "rate", id="62.99999999"),
        pytest.param(Machine(8, 8 * GB), Limits(rate=0.01, latency=1), 1, 1, "rate", id="at least one at a low rate"),
        pytest.param(Machine(8, 8 * GB), Limits(rate=0.01), 1, 8, "cpus", id="a rate alone bounds nothing"),
        pytest.param(Machine(8, 8 * GB), Limits(latency=0.01), 1, 8, "cpus", id="a latency alone bounds nothing"),
        pytest.param(Machine(5, 1 * GB), Limits(max_workers=5), 1, 5, "cpus", id="first of three equals"),
        pytest.param(Machine(9, 1 * GB), Limits(max_workers=5), 1, 5, "memory", id="first of two equals"),
        pytest.param(Machine(63, 99 * GB), Limits(rate=84 / 60, latency=45), 1, 63, "cpus", id="noise decides no tie"),
        pytest.param(Machine(8, 8 * GB), None, math.inf, 40, "memory", id="coroutines have no CPU term"),
    ],
)
def test_formula(machine: Machine, asked: Limits | None, factor: float, workers: int, binds: str) -> None:
    """The smallest term, rounded down, at least 1; of equals the first binds."""
    sizing = optimal_workers(machine, asked, cpu_factor=factor)

    assert (sizing.workers, sizing.binds) == (workers, binds)


@pytest.mark.parametrize(
    ("asked", "name", "detail"),
    [
        (Limits(), "rate", "no limit set"),
        (Limits(latency=5), "rate", "no limit set"),
        (Limits(rate=1), "rate", "60/min, but no latency is set"),
        (Limits(), "max_workers", "no limit set"),
    ],
)
def test_terms_without_limit_are_listed(asked: Limits, name: str, detail: str) -> None:
    """A term that bounds nothing stays in the list, with no value and the reason."""
    sizing = optimal_workers(EIGHT, asked)

    assert [term.name for term in sizing.terms] == ["cpus", "memory", "rate", "max_workers"]
    assert (values(sizing)[name], details(sizing)[name]) == (None, detail)


@pytest.mark.parametrize(
    ("machine", "asked", "factor", "name", "detail"),
    [
        (EIGHT, Limits(), 1, "memory", "8.0 GB (psutil available) / 200 MB per worker (assumed)"),
        (Machine(1, 640 * MB), Limits(), 1, "cpus", "1 cpu (given) × 1"),
        (Machine(1.5, 640 * MB), Limits(), 0.5, "cpus", "1.5 cpus (given) × 0.5"),
        (
            Machine(1, 640 * MB),
            Limits(memory_per_item=2 * GB),
            1,
            "memory",
            "640 MB (given) / 2.0 GB per worker",
        ),
        (EIGHT, Limits(rate=25, latency=0.5), 1, "rate", "25/s × 0.5 s"),
        (EIGHT, Limits(rate=10 / 60, latency=120), 1, "rate", "10/min × 120 s"),
        (EIGHT, Limits(), math.inf, "cpus", "8 cpus (affinity), which don't bound work that only waits"),
    ],
)
def test_details_say_where_a_value_comes_from(
    machine: Machine, asked: Limits, factor: float, name: str, detail: str
) -> None:
    """Every term tells its factors with their units and who supplied them."""
    assert details(optimal_workers(machine, asked, cpu_factor=factor))[name] == detail


@given(machines, limits, factors)
@example(Machine(8, 8 * GB), Limits(rate=84 / 60, latency=45), 8.0)
def test_binding_term_is_the_smallest(machine: Machine, asked: Limits, factor: float) -> None:
    """There is at least one worker, never more than any term allows, and the first smallest term binds."""
    sizing = optimal_workers(machine, asked, cpu_factor=factor)
    bounds = {name: value for name, value in values(sizing).items() if value is not None}

    assert sizing.workers >= 1
    assert all(sizing.workers <= max(1, math.floor(value)) for value in bounds.values())
    assert sizing.workers == max(1, math.floor(bounds[sizing.binds]))
    assert sizing.binds == min(bounds, key=bounds.__getitem__)


@given(machines, limits, factors, st.floats(1, 10))
def test_more_of_anything_never_means_fewer_workers(
    machine: Machine, asked: Limits, factor: float, more: float
) -> None:
    """Workers grow with CPUs, memory, rate, latency and their limit, and shrink with what each needs."""
    before = optimal_workers(machine, asked, cpu_factor=factor).workers
    richer = [dataclasses.replace(machine, cpus=machine.cpus * more)]
    richer.append(dataclasses.replace(machine, memory=math.ceil(machine.memory * more)))
    looser = [
        dataclasses.replace(asked, **{name: math.ceil(value * more)})
        for name in ("rate", "latency", "max_workers")
        if (value := getattr(asked, name)) is not None
    ]
    hungrier = dataclasses.replace(asked, memory_per_item=math.ceil((asked.memory_per_item or ASSUMED_MEMORY) * more))

    assert all(optimal_workers(other, asked, cpu_factor=factor).workers >= before for other in richer)
    assert all(optimal_workers(machine, other, cpu_factor=factor).workers >= before for other in looser)
    assert optimal_workers(machine, asked, cpu_factor=factor * more).workers >= before
    assert optimal_workers(machine, hungrier, cpu_factor=factor).workers <= before


@given(machines, limits)
def test_pure_where_given_a_machine(machine: Machine, asked: Limits) -> None:
    """The same machine and limits give the same sizing."""
    assert optimal_workers(machine, asked) == optimal_workers(machine, asked)


def test_own_machine_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a machine the present one is looked at."""
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls: Machine(3, 8 * GB)))

    assert optimal_workers().workers == 3


def test_import_is_light() -> None:
    """The rules load neither psutil nor the module that looks at the machine."""
    code = "import sys, chora_mp.sizing; print({'psutil', 'chora_mp.machine'} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    "value",
    [Limits(rate=1.0, latency=5.0), Term("cpus", 2.0, "2 cpus"), optimal_workers(EIGHT, PUBLISHED), EIGHT],
    ids=lambda value: type(value).__name__,
)
def test_values_survive_pickling(value: object) -> None:
    """What crosses a process boundary comes back equal, and cannot be changed."""
    assert pickle.loads(pickle.dumps(value)) == value
    assert not hasattr(value, "__dict__")
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, None)  # type: ignore[arg-type]
