"""Does a long run hold out? A million small records, some of which raise, kill their worker or hang.

`python bench/soak.py` makes the records on a RAM disk: of a hundred one raises, of ten thousand one ends its worker (a
segmentation fault, SIGKILL, an exit code, in turn) and one hangs (in Python or in C). It renders them with a time limit
of a second, and looks at the coordinator's memory (resident, MB) after each tenth of the documents. In the end every
document is compared with what it has to be, every failure with the record that it belongs to, and what is left behind
is counted: processes, temporary files, semaphores. Exits with 1 if anything is not as it should be.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

RAISES, KILLS, HANGS = 100, 10_000, 10_000
KINDS = ("segfault", "kill", "exit")
WAYS = ("loop", "regex")
ERRORS = {"raise": "ValueError", **dict.fromkeys(KINDS, "WorkerDied"), **dict.fromkeys(WAYS, "Timeout")}

PLUGIN = """
import ctypes, os, re, signal

def fault(value):
    match value:
        case "raise": raise ValueError("as asked")
        case "kill": os.kill(os.getpid(), signal.SIGKILL)
        case "segfault": ctypes.string_at(0)
        case "exit": os._exit(3)
        case "loop":
            while True: pass
        case "regex": re.match(r"(a+)+$", "a" * 64 + "b")
    return ""

FILTERS = {"fault": fault}
"""
TEMPLATE = "Number {{ n }}: {% for k in range(5) %}{{ n * k }} {% endfor %}{{ fault|fault }}"
JOB = """\
source: data.jsonl
template: page.txt.j2
key: "{{ n }}"
output: {dir: out, path: "{{ folder }}/{{ n }}.txt"}
plugins: [faults.py]
limits: {timeout: 1s}
"""


def fault(number: int) -> str:
    """What befalls a record: the residues are apart, so that no record has two faults."""
    if number % KILLS == 5_003:
        return KINDS[number // KILLS % len(KINDS)]
    if number % HANGS == 7_001:
        return WAYS[number // HANGS % len(WAYS)]
    return "raise" if number % RAISES == 42 else ""


def text(number: int) -> str:
    """The document of a record."""
    return f"Number {number}: " + "".join(f"{number * k} " for k in range(5))


def place(number: int) -> str:
    """The folder of a record's document."""
    return f"{number // 10_000:03}"


def make(folder: Path, count: int) -> None:
    """Write the job and its records."""
    (folder / "templates").mkdir()
    (folder / "templates" / "page.txt.j2").write_text(TEMPLATE)
    (folder / "faults.py").write_text(PLUGIN)
    (folder / "job.yaml").write_text(JOB)
    with (folder / "data.jsonl").open("w") as file:
        for n in range(count):
            file.write(json.dumps({"n": n, "folder": place(n), "fault": fault(n)}) + "\n")


def resident(pid: int) -> float:
    """Megabytes that a process has in memory; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as lines:
            return next((int(line.split()[1]) / 1000 for line in lines if line.startswith("VmRSS")), 0.0)
    except OSError:
        return 0.0


def run(folder: Path, workers: int, count: int) -> tuple[float, list[tuple[float, float]], int]:
    """Render; the seconds it took, pairs of the share that was done and the coordinator's memory, and the exit code."""
    command = [sys.executable, "-m", "chora_mp", "render", "job.yaml", "-j", str(workers), "-q", "--summary", "s.json"]
    seen: list[tuple[float, float]] = []
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None:
        time.sleep(1)
        folders = len(list((folder / "out").glob("[0-9]*")))
        if not seen or folders > seen[-1][0] * count / 10_000 + count / 100_000:
            seen.append((folders * 10_000 / count, resident(process.pid)))
        elif resident(process.pid):
            seen[-1] = (seen[-1][0], max(seen[-1][1], resident(process.pid)))
    return time.perf_counter() - began, seen, process.returncode


def problems(folder: Path, count: int) -> list[str]:
    """What is not as it should be."""
    found = []
    summary = json.loads((folder / "s.json").read_text())
    failures = {failure["seq"]: failure["error"]["type"] for failure in summary["failures"]}
    wanted = {n: ERRORS[fault(n)] for n in range(count) if fault(n)}
    if failures != wanted:
        found.append(f"{len(set(failures.items()) ^ set(wanted.items()))} failures are not as they should be")
    if len(summary["failures"]) != len(failures):
        found.append("failures were told twice")
    if (summary["total"], summary["successful"]) != (count, count - len(wanted)):
        found.append(f"{summary['successful']} of {summary['total']} items are said to be rendered")
    for n in range(count):
        path = folder / "out" / place(n) / f"{n}.txt"
        if n in wanted:
            if path.exists():
                found.append(f"{path} should not be there")
        elif not path.exists() or path.read_text() != text(n):
            found.append(f"{path} is not as it should be")
    documents = sum(len(files) for where, _, files in os.walk(folder / "out") if ".chora-mp" not in where)
    if documents != count - len(wanted):
        found.append(f"{documents} files where {count - len(wanted)} should be")
    return found


def main() -> None:
    """Make, render, look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output-dir", default="/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir())
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-", dir=options.output_dir))
    semaphores = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    try:
        make(folder, options.records)
        seconds, seen, code = run(folder, options.workers, options.records)
        counts = Counter(ERRORS[fault(n)] for n in range(options.records) if fault(n))
        print("$ " + shlex.join(["python", *sys.argv]))
        print(f"{options.records:,} records, {options.workers} workers: {seconds:.0f} s, exit code {code}")
        print(", ".join(f"{number:,} {kind}" for kind, number in counts.most_common()))
        for tenth in range(1, 11):
            part = [memory for share, memory in seen if (tenth - 1) / 10 < share <= tenth / 10]
            if part:
                print(f"  to {tenth * 10:3} % of the folders: coordinator {max(part):.0f} MB")
        left = {name for name in os.listdir("/dev/shm") if name.startswith("sem.")} - semaphores
        wrong = problems(folder, options.records) + [f"{name} is left behind" for name in left]
        if code != 1:
            wrong.append(f"exit code {code}")
        print(
            "\n".join(wrong[:20]) or "every document and every failure is as it should be, and nothing is left behind"
        )
        sys.exit(bool(wrong))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
