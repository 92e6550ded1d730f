"""Records on disk to documents on disk: chora-mp beside what people write by hand, and beside another revision.

`python bench/end_to_end.py aws --rounds 5` runs `plain`, `bare` and `imap` of `bench/opponents.py` and

chora-mp   `chora-mp render JOB -j N`
REVISION   with `--revision REVISION`, the same of another revision of this repository, such as the one before a change

in turn, round after round, each in a fresh process; `--opponents` names others. Printed are the median seconds with the
range, the median of the ratios within each round, processor seconds of all processes, and their greatest memory. After
the first round all documents are compared byte for byte with those of `plain`. `tox -e bench` has all opponents.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contest import JOBS, LIMIT, OURS, PLAIN, Contest, count_records, entries, job_of, ours
from measuring import REPOSITORY, machine_facts, ram_disk, say
from opponents import OPPONENTS, variant
from report import LEGEND, table

from chora_mp.measuring import adopt_orphans

if TYPE_CHECKING:
    from contest import Result
    from opponents import Job


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compare chora-mp with hand-written renderers.")
    parser.add_argument("corpus", nargs="?", choices=[*JOBS], default="aws")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N records")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--opponents", default="bare,imap", help="beside plain; default: %(default)s")
    parser.add_argument("--revision", help="compare with this revision of chora-mp, too")
    parser.add_argument("--output-dir", type=Path, help="default: a fresh folder in memory where there is one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all runs to this file, too")
    options = parser.parse_args(arguments)
    options.opponents = [name for name in options.opponents.split(",") if name and name != PLAIN]
    unknown = [name for name in options.opponents if name not in OPPONENTS]
    if unknown:
        parser.error(f"--opponents: {unknown[0]} is not one of {', '.join(OPPONENTS)}")
    return options


def check_out(revision: str, folder: Path) -> None:
    """Put the package as it was at a revision of this repository into a folder."""
    folder.mkdir()
    git = ["git", "-C", str(REPOSITORY), "archive", revision, "chora_mp"]
    archive = subprocess.run(git, check=True, stdout=subprocess.PIPE).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)


def facts(job: Job, scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What the numbers depend on."""
    about = {"corpus": options.corpus, "records": count_records(job), "rounds": options.rounds}
    size = round(job.source.stat().st_size / 1e6, 1)
    return {**about, "megabytes": size, "workers": options.workers, "output": str(scratch), **machine_facts()}


def compete(job: Job, options: argparse.Namespace, scratch: Path) -> tuple[dict[str, Any], dict[str, Result]]:
    """Run the comparison."""
    if options.limit:
        job = variant(job, scratch / "short" / "job.yaml", options.limit)
    taking_part = entries([PLAIN, *options.opponents], job, options.workers, scratch)
    if options.revision:
        check_out(options.revision, scratch / "code")
        taking_part[options.revision] = ours(job, options.workers, scratch / "code")
    taking_part[OURS] = ours(job, options.workers)
    about = facts(job, scratch, options)
    return about, Contest(taking_part, scratch, about["records"]).run(options.rounds)


def show(about: dict[str, Any], results: dict[str, Result], options: argparse.Namespace) -> None:
    """Print the comparison, and write it down where asked for."""
    print(*table(results, (PLAIN, options.revision or LIMIT)), sep="\n")
    print(f"\n{LEGEND}\n\n" + ", ".join(f"{name} {value}" for name, value in about.items()))
    if options.json:
        answer = {"facts": about, "results": {name: asdict(result) for name, result in results.items()}}
        options.json.write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    """Run the comparison: 0 where all opponents ran and agree, else 1; 2 without the records or the revision."""
    options = parse()
    job = job_of(options.corpus)
    if not job.source.exists():
        say(f"{job.source}: not there; make it with: python bench/corpora.py {options.corpus}")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the scratch folder goes, too
    adopt_orphans()
    if options.output_dir:
        options.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="end-to-end-", dir=options.output_dir or ram_disk()) as folder:
        try:
            about, results = compete(job, options, Path(folder).resolve())
        except subprocess.CalledProcessError as error:
            say(f"--revision {options.revision}: {error.cmd[0]} failed with exit code {error.returncode}")
            return 2
    show(about, results, options)
    return int(any(result.error or result.difference for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
