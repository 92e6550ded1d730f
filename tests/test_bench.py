"""The benchmark suite: its records, its opponents, how it measures, compares and draws; with a few records each."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
BENCH = REPOSITORY / "bench"
sys.path.append(str(BENCH))  # its scripts find each other as in their own folder

import arena  # noqa: E402
import chart  # noqa: E402
import compare  # noqa: E402
import contest  # noqa: E402
import corpora  # noqa: E402
import inventions  # noqa: E402
import opponents  # noqa: E402
import report  # noqa: E402
from contest import Contest, Entry, Result  # noqa: E402
from measuring import Run, first_difference  # noqa: E402

DIGESTS = {"tables": "fc30ca873682171f", "heavy": "db5a9dfc6a86b77f", "skewed": "4d870d14c6f74ae4"}


def python(*arguments: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    """A run of this Python that finds the modules of the suite."""
    # What these tests themselves run under, such as xdist, is none of its business.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    variables["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), str(BENCH)])
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=variables, capture_output=True, text=True, check=False, timeout=300
    )


# The records


@pytest.mark.parametrize("name", DIGESTS)
def test_made_up_records_are_the_same_everywhere(name: str) -> None:
    """The first three records of each made-up corpus, whatever the Python, the machine and the hash seed."""
    records = b"\n".join(map(orjson.dumps, islice(corpora.CORPORA[name][1](), 3)))
    assert DIGESTS[name] == hashlib.sha256(records).hexdigest()[:16]


@pytest.mark.parametrize("name", corpora.CORPORA)
def test_every_corpus_has_its_job_and_is_made_twice_alike(name: str, tmp_path: Path) -> None:
    """So many records as asked for, in the file that the corpus's job reads, the same when made again."""
    if name == "aws":
        pytest.importorskip("botocore")
    corpora.build(name, tmp_path, limit=7)
    made = tmp_path / contest.job_of(name).source.name
    first = made.read_bytes()
    assert 7 == len(first.splitlines())
    assert "there already" in corpora.build(name, tmp_path, limit=7)
    corpora.build(name, tmp_path, limit=7, force=True)
    assert first == made.read_bytes()


def test_one_invoice_in_a_hundred_is_a_hundred_times_as_long() -> None:
    """A hundred of the ten thousand, wherever they are, and none in between."""
    lines = [len(invoice["lines"]) for invoice in inventions.skewed_records()]
    usual = statistics.median(lines)
    long = [count for count in lines if count > 2 * usual]
    assert (10_000, 100) == (len(lines), len(long))
    assert 95 < statistics.median(long) / usual < 120


def test_pages_of_tables_use_no_filters_and_no_tests() -> None:
    """What this corpus measures is looking up attributes."""
    source = (REPOSITORY / "configs/templates/tables/page.txt.j2").read_text(encoding="utf-8")
    assert ("|" in source, " is " in source) == (False, False)
    assert 1000 == len(next(inventions.tables_records())["rows"])


# The opponents


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> opponents.Job:
    """The job with the most of Jinja2 in its templates, of 20 records."""
    folder = tmp_path_factory.mktemp("heavy")
    corpora.build("heavy", folder, limit=30)
    whole = contest.job_of("heavy")
    whole.source = folder / "heavy.jsonl"
    return opponents.variant(whole, folder / "job.yaml", 20)


@pytest.fixture(scope="module")
def plain(job: opponents.Job) -> Path:
    """What the plain loop makes of it."""
    opponents.run_plain(job, str(job.folder / "plain"), 1)
    return job.folder / "plain"


@pytest.mark.parametrize("name", [*opponents.OPPONENTS])
def test_opponents_render_the_same_bytes(name: str, job: opponents.Job, plain: Path, tmp_path: Path) -> None:
    """Each of them makes what the plain loop makes."""
    lacking = opponents.missing(name)
    if lacking:
        pytest.skip(f"{name}: {lacking}")
    entry = contest.by_hand(name, job, 3)
    run = python(*entry.command(tmp_path / "out")[1:])
    assert (0, "") == (run.returncode, run.stderr)
    assert first_difference(plain, tmp_path / "out") is None


def test_chora_mp_renders_the_same_bytes(job: opponents.Job, plain: Path, tmp_path: Path) -> None:
    """As it takes part in the contests."""
    run = python(*contest.ours(job, 2).command(tmp_path / "out")[1:])
    assert (0, "") == (run.returncode, run.stderr)
    assert first_difference(plain, tmp_path / "out") is None


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch, job: opponents.Job, tmp_path: Path) -> None:
    """It is left out with a word, and is no error."""
    monkeypatch.setitem(
        opponents.OPPONENTS, "joblib", opponents.Opponent(opponents.run_plain, ("no_such",), ("nor_this",))
    )
    assert "no_such and nor_this are not installed" == opponents.missing("joblib")
    taking_part = contest.entries(["plain", "joblib"], job, 2, tmp_path)
    assert "no_such and nor_this are not installed" == taking_part["joblib"]
    assert opponents.missing("plain") is None


def test_shares_of_a_file(job: opponents.Job) -> None:
    """Cut at the ends of lines, all of the file, also where there are more shares than lines."""
    for shares in (1, 3, 50):
        offsets = opponents.cuts(job.source, shares)
        text = job.source.read_bytes()
        assert (0, len(text), shares + 1) == (offsets[0], offsets[-1], len(offsets))
        assert offsets == sorted(offsets)
        assert all(offset == 0 or text[offset - 1 : offset] == b"\n" for offset in offsets)


# Measuring

MEASURE = """
import sys
from chora_mp.measuring import adopt_orphans
from measuring import measure
adopt_orphans()
child = "x = b'x' * 80_000_000; import time; time.sleep(0.7)"
parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); sum(range(10**7))"
run = measure([sys.executable, "-c", parent])
print(run.seconds > 0.7, run.cpu_s > 0.05, run.peak_mb < 60, 80 < run.all_mb < 200)
try:
    measure([sys.executable, "-c", "raise SystemExit('it broke')"])
except RuntimeError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is what Linux tells")
def test_measures_all_processes(tmp_path: Path) -> None:
    """Seconds, processor seconds, memory of the main process and of all together; what a failed command has said."""
    run = python("-c", MEASURE, cwd=tmp_path)
    assert "True True True True\nexit code 1: it broke\n" == run.stdout, run.stderr


def writing(text: str, files: int = 1) -> Entry:
    """An entry that writes a text; the fake below takes its command for that."""
    return Entry(lambda output: [str(output), text, str(files)])


def fake_measure(command: list[str], code: Path) -> Run:
    """Write documents instead of running a command; seconds are as many as its text has letters."""
    folder, text, files = command
    if text == "broken":
        raise RuntimeError("exit code 1: it broke")
    for number in range(int(files)):
        (Path(folder) / f"{number}.txt").write_text(text)
    return Run(float(len(text)), 1.0)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No commands are run; what is told is kept."""
    monkeypatch.setattr(contest, "measure", fake_measure)
    return []


def test_a_contest_finds_who_differs_and_who_fails(measured: list[str], tmp_path: Path) -> None:
    """Whoever differs still runs, whoever fails is not run again, and nothing is left behind."""
    entries = {
        "plain": writing("same"), "good": writing("same"), "other": writing("diff"), "more": writing("same", 2),
        "bad": writing("broken"), "none": "none is not installed",
    }  # fmt: skip
    results = Contest(entries, tmp_path, 1, measured.append).run(3)
    assert [3, 3, 3, 3, 0, 0] == [len(result.runs) for result in results.values()]
    assert [None, None, "0.txt", "1.txt", None, None] == [result.difference for result in results.values()]
    assert ("exit code 1: it broke", "none is not installed") == (results["bad"].error, results["none"].missing)
    assert [] == list(tmp_path.iterdir())
    assert 1 == measured.count("bad: exit code 1: it broke")


def test_a_slice_is_extrapolated(measured: list[str], tmp_path: Path) -> None:
    """One that renders the first items only is compared in these, and its seconds are those of all."""
    entries = {"plain": writing("same", 8), "parallel": writing("same", 2)._replace(items=2)}
    results = Contest(entries, tmp_path, 8, measured.append).run(1)
    assert (4.0, [16.0], None) == (
        results["parallel"].factor,
        results["parallel"].seconds,
        results["parallel"].difference,
    )
    entries = {"plain": writing("same", 8), "parallel": writing("same", 1)._replace(items=2)}
    assert "1 documents" == Contest(entries, tmp_path, 8, measured.append).run(1)["parallel"].difference


def test_rounds_are_in_turn() -> None:
    """Plain is first in the first round, everyone runs in each, and no two rounds are alike."""
    names = ["plain", "a", "b", "c"]
    rounds = [contest.in_turn(names, number) for number in range(4)]
    assert names == rounds[0]
    assert all(sorted(names) == sorted(one) for one in rounds)
    assert 4 == len(set(map(tuple, rounds)))


def results_of(**seconds: list[float]) -> dict[str, Result]:
    """Results with nothing but seconds."""
    return {
        name.replace("_", "-"): Result([Run(one, 1.0, 20.0, 50.0) for one in values])
        for name, values in seconds.items()
    }


def test_tables_for_people() -> None:
    """Ratios are medians of the rounds' ratios, the best rival is marked, and targets are met or not."""
    results = results_of(
        plain=[10, 20, 30], imap=[6, 12, 30], joblib=[7, 13, 31], bare=[5, 11, 16], chora_mp=[4, 10, 12]
    )
    results["dask"] = Result(missing="dask is not installed")
    lines = list(report.table(results))
    assert ["plain", "20.00", "(10.00–30.00)", "1.00", "1.88", "2.50"] == lines[1].split()[:6]
    assert "imap*" == lines[2].split()[0]
    assert "dask        dask is not installed" == lines[6]
    targets = list(report.targets({"aws": results}))
    assert [
        ["aws", "times", "as", "fast", "as", "plain", "≥", "2.10", "2.50", "met"],
        ["aws", "times", "as", "fast", "as", "imap", "≥", "1.25", "1.50", "met"],
        ["aws", "of", "the", "limit's", "time", "≤", "0.95", "0.80", "met"],
    ] == [line.split() for line in targets[1:]]
    assert "not met" in list(report.targets({"tables": results}))[1]


def test_a_failing_or_differing_opponent_fails_its_test() -> None:
    """What is missing is skipped, what is wrong fails."""
    pytest.importorskip("pytest_benchmark")  # which knows the tests' mark
    import suite

    results = {
        "a": Result(error="exit code 1"),
        "b": Result(difference="x.md"),
        "c": Result(missing="c is not installed"),
    }
    stand_in = SimpleNamespace(results=lambda _: results)
    with pytest.raises(AssertionError, match="a: exit code 1"):
        suite.test_opponent(None, stand_in, "aws", "a")
    with pytest.raises(AssertionError, match=r"b differs from plain at x\.md"):
        suite.test_opponent(None, stand_in, "aws", "b")
    with pytest.raises(pytest.skip.Exception, match="c is not installed"):
        suite.test_opponent(None, stand_in, "aws", "c")


# The suite as a whole


def test_the_suite_runs_and_saves(tmp_path: Path) -> None:
    """Two rounds of a few records: tables at the end, all in the file, and what was saved is compared and drawn."""
    pytest.importorskip("pytest_benchmark")
    options = ["--corpora", "tables", "--opponents", "imap,bare,minijinja", "--rounds", "2", "--limit", "3"]
    saving = [
        "--benchmark-autosave",
        f"--benchmark-storage={tmp_path / 'saved'}",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
    ]
    run = python("-m", "pytest", "bench/suite.py", *options, *saving, "--output-dir", str(tmp_path / "out"))
    assert 0 == run.returncode, run.stdout + run.stderr
    assert "tables: 3 records" in run.stdout
    assert "times as fast as plain with minijinja" in run.stdout
    [file] = (tmp_path / "saved").glob("*/*.json")
    saved = json.loads(file.read_text())
    assert {"usable_cpus", "cpu_quota", "cpu_model", "packages", "output_on", "load_before"} <= saved[
        "machine_info"
    ].keys()
    found = {one["name"]: one for one in saved["benchmarks"]}
    ours = found["test_opponent[tables-chora-mp]"]
    assert (2, 3) == (ours["stats"]["rounds"], ours["extra_info"]["records"])
    seconds = [run["seconds"] for run in ours["extra_info"]["runs"]]
    assert pytest.approx(min(seconds)) == ours["stats"]["min"]
    assert {"plain", "imap", "bare"} <= ours["extra_info"]["times_of"].keys()
    assert [] == list((tmp_path / "out").iterdir())
    assert 0 == compare.main([str(file), str(file)])
    assert 0 == chart.main([str(file), "--output", str(tmp_path / "chart.svg")])


def test_the_suite_measures_generators(tmp_path: Path) -> None:
    """Each built-in one, with one worker and with as many as fit."""
    pytest.importorskip("pytest_benchmark")
    file = tmp_path / "run.json"
    options = ["--corpora", "generators", "--rounds", "1", "--limit", "2", f"--benchmark-json={file}"]
    run = python("-m", "pytest", "bench/suite.py", *options, "-p", "no:cacheprovider", "-p", "no:xdist")
    assert 0 == run.returncode, run.stdout + run.stderr
    found = {one["extra_info"]["generator"]: one["extra_info"] for one in json.loads(file.read_text())["benchmarks"]}
    assert {"jinja2", "template_fill", "demonstration", "bdd_scenario", "code_generation"} <= found.keys()
    assert all(len(one["times"]) == 1 and one["items"] == 2 for one in found.values())
    assert found["code_generation"]["usual_s"][0] >= 0.3
    assert "| code_generation | " in run.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--corpora", "nope"], "--corpora: nope is not one of aws, unicode, tables, heavy, skewed, generators"),
        (["--opponents", "imap,nope"], "--opponents: nope is not one of plain, executor"),
        (["--rounds", "0"], "--rounds: must be 1 or more (found 0)"),
    ],
)
def test_wrong_options(options: list[str], said: str) -> None:
    """A message, no traceback."""
    pytest.importorskip("pytest_benchmark")
    run = python("-m", "pytest", "bench/suite.py", "-p", "no:cacheprovider", *options)
    assert 4 == run.returncode
    assert said in run.stderr
    assert "Traceback" not in run.stderr


def test_an_opponent_that_is_named_twice_runs_once() -> None:
    """And plain is the first, chora-mp the last."""
    names = arena.names_of("imap, imap,chora-mp", arena.OPPONENT_NAMES, "--opponents")
    assert ["plain", "imap", "chora-mp"] == arena.Wishes(["aws"], names, 1, None, 2).of("aws")
    everyone = arena.Wishes(["tables"], None, 1, None, 2)
    assert ("minijinja" in everyone.of("tables"), "minijinja" in everyone.of("aws")) == (True, False)
    assert ["plain", "chora-mp"] == arena.Wishes(["aws"], ["minijinja"], 1, None, 2).of("aws")


# Comparing and drawing


def saved_run(
    file: Path, plain: list[float], *, bare: list[float] | None = None, records: int = 9, cpus: int = 2
) -> Path:
    """A made-up run: chora-mp's times of the plain loop's and of others'."""
    times_of = {"plain": plain, "bare": bare or [0.9] * len(plain), "imap": [0.8] * len(plain)}
    entries = {
        "chora-mp": times_of,
        "imap": {"plain": [0.7] * len(plain), "chora-mp": [1.25] * len(plain)},
        "bare": {"plain": [0.6] * len(plain)},
    }
    benchmarks = [
        {"extra_info": {"corpus": "aws", "opponent": name, "records": records, "workers": 2, "times_of": times,
                        "runs": [{"seconds": one * 10} for one in plain]}}
        for name, times in entries.items()
    ]  # fmt: skip
    benchmarks.append({"extra_info": {"generator": "jinja2"}})
    file.write_text(json.dumps({"machine_info": {"usable_cpus": cpus}, "benchmarks": benchmarks}))
    return file


QUIET = [0.50, 0.50, 0.51, 0.49, 0.50]


@pytest.mark.parametrize(
    ("new", "threshold", "code"),
    [
        (QUIET, "5%", 0),
        ([0.51, 0.52, 0.51, 0.51, 0.50], "5%", 0),  # worse by 2 %
        ([0.56, 0.56, 0.55, 0.56, 0.57], "5%", 1),  # worse by 12 %
        ([0.56, 0.56, 0.55, 0.56, 0.57], "0.2", 0),
        ([0.56, 0.45, 0.70, 0.40, 0.66], "5%", 0),  # worse by 12 %, and rounds are 18 % apart
        ([0.40, 0.41, 0.40, 0.39, 0.40], "5%", 0),  # better
    ],
)
def test_verdicts(
    new: list[float], threshold: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Worse is what has grown by more than the threshold and the noise."""
    files = [str(saved_run(tmp_path / "old.json", QUIET)), str(saved_run(tmp_path / "new.json", new))]
    assert code == compare.main([*files, "--threshold", threshold])
    said = capsys.readouterr().out
    assert ("worse in aws (chora-mp of plain)" in said) == bool(code)


def test_another_packages_progress_is_not_our_fault(tmp_path: Path) -> None:
    """Only what is the same Jinja2 in both runs is judged: plain and bare."""
    worse = [compare.Change("aws", "chora-mp", other, [0.5] * 5, [0.9] * 5) for other in ("plain", "bare", "imap")]
    assert ["worse", "worse", ""] == [one.verdict(0.05) for one in worse]
    old = saved_run(tmp_path / "old.json", QUIET)
    assert 1 == compare.main([str(old), str(saved_run(tmp_path / "new.json", QUIET, bare=[1.1] * 5))])


def test_the_latest_run_is_the_new_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a second file; where the first is the latest itself, there is nothing to compare."""
    folder = tmp_path / "saved" / "machine"
    folder.mkdir(parents=True)
    old, new = saved_run(folder / "0001.json", QUIET), saved_run(folder / "0002.json", [0.7] * 5, cpus=8)
    os.utime(old, (1, 1))
    assert 1 == compare.main([str(old), "--storage", str(tmp_path / "saved")])
    assert "the machines differ: usable_cpus was 2, is 8" in capsys.readouterr().out
    assert 2 == compare.main([str(new), "--storage", str(tmp_path / "saved")])
    assert "the latest run itself" in capsys.readouterr().err


def test_runs_of_other_sizes_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of fewer records, more of the time is that of starting."""
    files = [str(saved_run(tmp_path / "old.json", QUIET)), str(saved_run(tmp_path / "new.json", QUIET, records=3))]
    assert 2 == compare.main(files)
    assert "nothing that both measured" in capsys.readouterr().err


INFO = {"corpus": "aws", "opponent": "imap", "records": 1, "workers": 1, "times_of": {"plain": [0]}, "runs": []}
NO_TIME = json.dumps({"machine_info": {}, "benchmarks": [{"extra_info": INFO}]})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("{", "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
        ("[]", "not a saved run"),
        ('{"machine_info": {}, "benchmarks": [1]}', "not a saved run"),
        ('{"machine_info": {}, "benchmarks": []}', "no runs of any corpus"),
        (NO_TIME, "must be more than 0"),
    ],
)
def test_bad_files(content: str | bytes | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A message that names the file, from both commands."""
    file = tmp_path / "bad.json"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    good, picture = saved_run(tmp_path / "good.json", QUIET), tmp_path / "x.svg"
    assert 2 == compare.main([str(good), str(file)])
    assert 2 == chart.main([str(file), "--output", str(picture)])
    assert [True, True] == [str(file) in line and said in line for line in capsys.readouterr().err.splitlines()]
    assert not picture.exists()


def test_a_bad_threshold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, as for any wrong option."""
    file = str(saved_run(tmp_path / "old.json", QUIET))
    with pytest.raises(SystemExit, match="2"):
        compare.main([file, file, "--threshold", "much"])
    assert "such as 5% (found much)" in capsys.readouterr().err


def test_the_chart(tmp_path: Path) -> None:
    """XML with each corpus and who is drawn, chora-mp last, and colours for dark pages, too."""
    picture = tmp_path / "chart.svg"
    assert 0 == chart.main([str(saved_run(tmp_path / "run.json", QUIET)), "--output", str(picture)])
    space = "{http://www.w3.org/2000/svg}"
    texts = [one.text for one in ET.parse(picture).getroot().iter(f"{space}text")]
    assert ["aws", "9 documents", "imap", "0.70", "bare processes (limit)", "0.60", "chora-mp", "0.50"] == texts[1:]
    assert "prefers-color-scheme: dark" in picture.read_text()
