"""What does each generator take, what do lanes bring, and do slow generators hold up fast ones? Two tables.

    python bench/generators.py [--rounds N] [--json FILE]

The first table is the one that batch users know: the usual time of an item with one worker, and how much faster a
batch is with as many as fit. code_generation asks a server of our own on the loopback, which speaks the Messages API
and takes 0.3 s for an answer. The second is a mixed batch of 1,000 template_fill, 200 jinja2 and 5 code_generation
items of 3 s each: when the 1,200 are back, beside the time that they take alone. Rounds interleaved, medians; output
kept in memory by the stream, nothing is written but the run's own files, which are in $TMPDIR.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))

from messages_api import MessagesAPI, Reply  # noqa: E402

from chora_mp import Job, batch_generate_stream  # noqa: E402

TEMPLATE = "{% for one in rows %}## {{ one.name }}\n{{ one.text | upper }}: {{ product }}\n{% endfor %}"
STEPS = ["Given a", "When b", "Then {{version}}"]
PATTERNS: dict[str, dict[str, Any]] = {
    "demonstration": {"template": "# {{title}}\n\n{{body}}\n" * 10, "variables": [
        {"name": "title", "source": "elements.title.example_output"},
        {"name": "body", "source": "elements.1.example_output"}]},
    "template_fill": {"template": "# {{product}} {{version}}\n\n{{release.date}}: {{features}}\n" * 10},
    "jinja2": {"template": TEMPLATE},
    "minijinja": {"template": TEMPLATE},
    "bdd_scenario": {"generation_config": {
        "feature": {"title": "{{product}}"}, "background": ["Given {{product}} is there"],
        "scenarios": [{"title": f"Scenario {n}", "steps": STEPS} for n in range(5)]}},
    "code_generation": {"generation_config": {"prompt": "Write a function for {{version}}", "language": "python"}},
}  # fmt: skip
COUNTS = dict.fromkeys(PATTERNS, 5000) | {"bdd_scenario": 1000, "code_generation": 20}  # items of a round
PACKAGES = {"minijinja": "minijinja", "bdd_scenario": "gherkin", "code_generation": "anthropic"}  # what they need
CONTEXT = {
    "product": "Lighthouse",
    "release": {"date": "2026-03-14"},
    "features": "many",
    "rows": [{"name": f"row {number}", "text": "some text"} for number in range(20)],
}


def write(folder: Path) -> None:
    """A content config for each generator."""
    (folder / "content").mkdir()
    for name, pattern in PATTERNS.items():
        config = {
            "type": "content",
            "id": name.replace("_", "-"),
            "metadata": {"output_format": "text"},
            "elements": [
                {"name": "title", "example_output": "Title"},
                {"name": "body", "example_output": "Body " * 20},
            ],
            "generation": {"patterns": [{"id": "one", "type": name, **pattern}]},
        }
        config["generation"]["patterns"][0].setdefault("generation_config", {})["context"] = CONTEXT
        (folder / "content" / f"{config['id']}.json").write_text(json.dumps(config))


def job(folder: Path, counts: dict[str, int], workers: int | str = "auto") -> Job:
    """A job of so many items of each generator."""
    requests = [
        {"config": name.replace("_", "-"), "context": {"version": f"1.{number}"}, "output": f"{name}/{number}.txt"}
        for name, count in counts.items()
        for number in range(count)
    ]
    return Job.from_mapping({"configs": "content", "requests": requests, "workers": workers}, folder)


class Arrival(NamedTuple):
    """An item that has come back: when, in seconds from the call, what it took by itself, and what made it."""

    moment: float
    seconds: float
    generator: str


def arrivals(one: Job) -> list[Arrival]:
    """All items of a batch as they come back."""
    came = []
    began = time.monotonic()
    for item in batch_generate_stream(one, keep_text=True):
        assert item.text, item.error
        came.append(Arrival(time.monotonic() - began, item.duration_s, item.generator))
    return came


def rendering(came: list[Arrival]) -> float:
    """Seconds from the first item's start to the last one's arrival: reading and starting workers is left out.

    What the first item takes beyond the others is that of a start, too: importing the SDK takes 1.4 s.
    """
    usual = min(came[0].seconds, 2 * statistics.median(one.seconds for one in came))
    return came[-1].moment - (came[0].moment - usual)


@dataclass(slots=True)
class Profile:
    """What was measured of a generator, a value a round: `usual` seconds of an item, and of `count` items in all."""

    count: int
    usual: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    together: list[float] = field(default_factory=list)

    @property
    def times(self) -> list[float]:
        """How many times as fast as many workers as fit are as one, round by round."""
        return [one / many for one, many in zip(self.alone, self.together, strict=True)]


def profiles(
    folder: Path, rounds: int, names: Iterable[str] = PATTERNS, limit: int | None = None
) -> dict[str, Profile]:
    """Run each of the generators with one worker and with as many as fit, in turn."""
    sizes = {name: min(limit or COUNTS[name], COUNTS[name]) for name in names}
    found = {name: Profile(count) for name, count in sizes.items()}
    for _ in range(rounds):
        for name, profile in found.items():
            came = arrivals(job(folder, {name: profile.count}, 1))
            profile.usual.append(statistics.median(one.seconds for one in came))
            profile.alone.append(rendering(came))
            profile.together.append(rendering(arrivals(job(folder, {name: profile.count}))))
    return found


def profile_table(found: dict[str, Profile]) -> Iterator[str]:
    """The lines of the table of generators."""
    yield "| generator | usual time of an item | items a second, 1 worker | as many as fit | times as fast |"
    yield "|---|---|---|---|---|"
    for name, profile in found.items():
        usual, alone, many = map(statistics.median, (profile.usual, profile.alone, profile.together))
        speeds = f"{profile.count / alone:,.0f} | {profile.count / many:,.0f}"
        yield f"| {name} | {usual * 1000:.3g} ms | {speeds} | {statistics.median(profile.times):.2f} |"


def mixed(folder: Path, rounds: int) -> None:
    """A mixed batch beside its fast part alone."""
    fast = {"template_fill": 1000, "jinja2": 200}
    alone, together, whole = [], [], []
    for _ in range(rounds):
        alone.append(arrivals(job(folder, fast))[-1].moment)
        came = arrivals(job(folder, {**fast, "code_generation": 5}))
        together.append(max(one.moment for one in came if one.generator != "code_generation"))
        whole.append(came[-1].moment)
    ratios = [one / other for one, other in zip(together, alone, strict=True)]
    print("\n| 1,200 alone | 1,200 beside 5 slow ones | ratio (least to most) | the whole batch |\n|---|---|---|---|")
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
    middle = [f"{statistics.median(some):.2f} s" for some in (alone, together, whole)]
    print(f"| {middle[0]} | {middle[1]} | {ratio} | {middle[2]} |")


def main() -> None:
    """Print both tables, or write the first one's values to a file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many items of each generator")
    parser.add_argument("--only", choices=[*PATTERNS], nargs="+", default=[*PATTERNS], help="of the first table")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the first table's values; there is no second then")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, MessagesAPI() as api:
        os.environ.update(ANTHROPIC_BASE_URL=api.url, ANTHROPIC_API_KEY="for-the-loopback")
        folder = Path(name)
        write(folder)
        api.script = lambda _: Reply(latency=0.3)
        found = profiles(folder, options.rounds, options.only, options.limit)
        if options.json:
            options.json.write_text(json.dumps({name: asdict(profile) for name, profile in found.items()}))
            return
        print(*profile_table(found), sep="\n")
        api.script = lambda _: Reply(latency=3.0)
        mixed(folder, options.rounds)


if __name__ == "__main__":
    main()
