"""The plan: what is to be rendered, what is up to date, what nobody makes any more, and why.

The records are looked at on the lane (`scan`), and not at all where the source and all that decides the output are
those of the last run. Keys and paths that two records lay claim to end the run here, before anything is rendered.
"""

from __future__ import annotations

import itertools
import marshal
import math
import os
import unicodedata
from collections import Counter
from dataclasses import astuple, dataclass, field, replace
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple

from chora_mp import comparison, watchdog
from chora_mp.bundle import digest_of
from chora_mp.claims import shares
from chora_mp.comparison import REASONS, TO_RENDER, Comparison, Layout
from chora_mp.errors import JobError, SourceError, TemplateError
from chora_mp.findings import CHOSEN, EXPECTED, UNKEYED, Findings
from chora_mp.ledger import ChunkRow, Known, file_digest
from chora_mp.outputs import Folder, orphans, output_at, suspects
from chora_mp.records import Input, ScanOrders
from chora_mp.selection import Selection
from chora_mp.sinks import is_sound
from chora_mp.sources import jsonl
from chora_mp.sources.chunks import MOST_RECORDS, PIECE_BYTES, FileSpans
from chora_mp.supply import Needs, load_grouping

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from chora_mp.bundle import Bundle
    from chora_mp.comparison import FreshRow
    from chora_mp.crew import Crew
    from chora_mp.dispatch import Spans
    from chora_mp.generators import LaneName
    from chora_mp.job import Job, Source
    from chora_mp.ledger import Ledger, Output
    from chora_mp.records import Span
    from chora_mp.supply import Grouping

    Closures = Mapping[str, tuple[int, dict[str, str]]]

_Told = tuple[str, str, int]

_PIECE = "scan-"  # begins the names of the files with findings
_SAMPLES = 10  # places of the source that a sample is taken from
_MOST_CLASHES = 20  # a screen; one is enough to go and mend the data
_CODES = {CHOSEN: comparison.NEW, UNKEYED: comparison.UNKEYED}
_SAID = bytes(_CODES.get(flag, comparison.LEFT_OUT) for flag in range(256))


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is asked of a run: for which items, and how.

    `force`: also those that are up to date. `prune`: orphans are to go. `explain`: reasons will be asked for.
    `faults`: records that cannot be rendered are to be told, and how many have which names.
    """

    selection: Selection = field(default_factory=Selection)
    force: bool = False
    prune: bool = False
    explain: bool = False
    faults: bool = False


class PlannedItem(NamedTuple):
    """An item that is to be rendered, and why; for an output whose record is gone `seq` is None."""

    key: str
    path: str
    seq: int | None
    reason: str


class PlannedGroup(NamedTuple):
    """What one generator has to do, on the lane that suits it: its spans by priority. `needs`: who waits for whom."""

    generator: str
    lane: LaneName
    concurrent: bool
    parts: list[tuple[float, Spans]]
    needs: Needs | None = None


@dataclass(slots=True)
class Plan:
    """What a run is to do: `groups` of spans; `total` items in all (None: nobody knows yet), `unchanged` of them.

    `reasons`: how many items are rendered for which reason. `orphans`: outputs whose record is gone. `known`: what is
    to be kept about the source; `changed`: whether the ledger does not have it yet. `items`: what is to be rendered and
    why, where that was asked for. `superseded`: places of rows whose files are other items' now. `texts`: the names of
    all that documents take from each other; None: they are no content configs'.
    """

    groups: list[PlannedGroup]
    total: int | None
    unchanged: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    orphans: list[Output] = field(default_factory=list)
    layout: Layout | None = None
    known: Known | None = None
    closures: Closures = field(default_factory=dict)
    changed: bool = True
    items: list[PlannedItem] = field(default_factory=list)
    superseded: list[int] = field(default_factory=list)
    texts: frozenset[str] | None = None

    def as_dict(self, job: str) -> dict[str, Any]:
        """The plan of `job` as `render --dry-run --summary` writes it."""
        items = [item._asdict() for item in self.items]
        orphaned = len(self.orphans)
        counts = {"total": self.total, "unchanged": self.unchanged, "orphaned": orphaned}
        return {"job": job, **counts, "reasons": dict(self.reasons), "items": items}


class Surveyed(NamedTuple):
    """What a survey has found.

    `problems` of templates; place and name of all that they have `wanted` of records; `clashes` of records; `faults` of
    records with their lines; and how many `records` have each of the `names`.
    """

    records: int
    problems: list[str]
    wanted: list[tuple[str, str]]
    clashes: list[str]
    faults: list[tuple[int | None, str]]
    names: Counter[str]


def patience(job: Job) -> float:
    """Seconds that a worker may take over what is no item: an item's time, but a minute at least."""
    timeout = job.limits.timeout
    return math.inf if timeout is None else max(watchdog.START_SECONDS, timeout)


def ask_to_compile(crew: Crew, job: Job, name: str, *arguments: Any) -> Any:
    """What a worker says that loads plug-ins and compiles templates.

    That has a time limit: Jinja2 works out constants while it compiles. Raises `TemplateError`, and as `Crew.ask`.
    """
    try:
        return crew.ask(name, *arguments, seconds=patience(job))
    except TimeoutError:
        what = f"loading the plug-ins and compiling the templates takes longer than {patience(job):g} s"
        raise TemplateError([f"{job.where('template')}: {what}; set limits.timeout if it has to"]) from None


class Planner:
    """Makes the plan of one run, with the workers' help; the coordinator never reads records."""

    def __init__(
        self,
        job: Job,
        bundle: Bundle,
        crew: Crew,
        scratch: str,
        ledger: Ledger | None,
        wishes: Wishes,
        texts: str = "",
    ) -> None:
        """`texts`: the folder with the texts that documents take from each other."""
        assert job.source is not None  # noqa: S101  (the composition has asked for it)
        self._job = job
        self._source: Source = job.source
        self._bundle = bundle
        self._crew = crew
        self._scratch = scratch
        self._ledger = ledger
        self._wishes = wishes
        self._shard = wishes.selection.shard_name
        self._last = ledger.source(self._shard) if ledger else None
        self._pure: bool | None = None  # None: no worker has compiled the expressions yet
        self._scanned_input: Input | None = None
        self._pieces: list[str] = []
        self._repeated: list[tuple[int, int]] = []  # first records of chunks that are there twice
        self._templates: set[str] = set()
        self._gone: list[Output] = []
        self._superseded: list[int] = []
        self._grouping: Grouping | None = None
        self._surveyed: Layout | None = None
        self._texts = texts

    def _refuse_unknown_template(self) -> None:
        using = self._wishes.selection.using
        if using is not None and using not in self._bundle.templates:
            from chora_mp.failures import did_you_mean  # noqa: PLC0415  (brings Jinja2 along)

            near = did_you_mean(using, self._bundle.templates)
            raise JobError([f"--using {using}: no such template in the template folders{near}"])

    def plan(self) -> Plan:
        """The plan. Raises `SourceError`, `TemplateError`, `OutputError`, `LedgerError`, and `JobError` for clashes."""
        self._refuse_unknown_template()
        content = _Content(self._source)
        if self._is_that_of_last_run(content):
            layout, source = self._layout_of_last_run(), None
        else:
            source, cuts = self._input(content)
            layout = self._scanned(source, cuts)
        current = self._current_closures(layout)
        items = self._compare(layout, current, scanned=source is not None)
        picks = layout.codes.translate(TO_RENDER)
        changed = source is not None
        if source is None and picks.count(1):
            source, layout = self._input_of_known(content, layout)
        digest = content.digest() if changed else None
        content.refuse_change()
        return self._finished(layout, source, picks, current, items, digest)

    # -- the source

    def _is_that_of_last_run(self, content: _Content) -> bool:
        """Whether the records need no look: the source and what decides keys and paths are those of the last run."""
        last = self._usable()
        return last is not None and last.content is not None and last.content == content.digest()

    def _usable(self) -> Known | None:
        """What the last run left, if it can be relied upon."""
        last, ledger = self._last, self._ledger
        if last is None or ledger is None or not ledger.trusted or self._wishes.faults:
            return None
        if self._wishes.selection.using is not None:  # which records those are is seen by looking at each
            return None
        return last if last.setting == self._bundle.setting else None

    def _layout_of_last_run(self) -> Layout:
        layout = Layout()
        assert self._ledger is not None  # noqa: S101
        for row in self._ledger.chunks(self._shard):
            layout.add(row, known=True)
        layout.codes = bytearray(layout.chunks.records)
        return layout

    def _input(self, content: _Content) -> tuple[Input, list[int]]:
        """The file to scan, and where it may be cut for that."""
        self.prepare()
        if content.input is not None:
            assert content.input.stamp is not None  # noqa: S101
            size = content.input.stamp[0]
            return content.input, [*range(0, size, PIECE_BYTES), size]
        path = os.path.join(self._scratch, "spool")
        cuts: list[int] = self._crew.ask("spool", self._source, path)
        if self._source.format == "content":
            self._grouping = load_grouping(path)
            return Input(path, spooled=True, name=self._source.name), cuts  # whose worker goes on with it
        # What a callable imported and what a parser has built is nothing that should stay in a worker.
        self._crew.renew()
        return Input(path, spooled=True, name=self._source.name), cuts

    def _input_of_known(self, content: _Content, layout: Layout) -> tuple[Input, Layout]:
        """The file that the chunks of the last run are in: for what was spooled it has to be spooled again."""
        source, cuts = self._input(content)
        if source.spooled:
            codes = layout.codes
            layout = self._scanned(source, cuts)
            if layout.chunks.records != len(codes) or len(layout.known) != len(layout.rows):
                raise SourceError(f"{self._source.name}: is not read alike twice; run again with --force")
            layout.codes = codes
        return source, layout

    def survey(self) -> Surveyed:
        """What is wrong with templates and records, as far as that shows without rendering. Raises as `plan`."""
        self._pure = False
        problems, wanted = ask_to_compile(self._crew, self._job, "survey", [])
        content = _Content(self._source)
        source, cuts = self._input(content)
        clashes: list[str] = []
        try:
            layout = self._surveyed = self._scanned(source, cuts)
            records = layout.chunks.records
        except JobError as error:
            clashes, records = list(error.problems), sum(Findings.load(path).records for path in self._pieces)
        if self._templates:
            problems, wanted = ask_to_compile(self._crew, self._job, "survey", sorted(self._templates))
        names: Counter[str] = Counter()
        faults, line = [], 0
        for path in self._pieces:
            found = Findings.load(path)
            names.update(found.names)
            shift = 0 if source.spooled else line
            faults += [(at and at + shift, message) for _, at, message in found.faults]
            line += found.lines
        return Surveyed(records, problems, wanted, clashes, faults, names)

    def sample(self, count: int) -> Iterator[Span]:
        """Spans of about `count` records from all over the source, after a survey."""
        layout, source = self._surveyed, self._scanned_input
        if layout is None or source is None:
            return
        records, each = layout.chunks.records, max(1, count // _SAMPLES)
        starts = sorted({min(records * share // _SAMPLES, max(0, records - each)) for share in range(_SAMPLES)})
        for start, following in zip(starts, [*starts[1:], records], strict=True):
            spans = FileSpans(source, layout.chunks, within=(start, min(start + each, following)))
            if span := spans.take(each):
                yield span

    def prepare(self) -> None:
        """Have a worker compile what the job reaches, once; what is broken ends the run here."""
        if self._pure is None:
            self._pure = bool(ask_to_compile(self._crew, self._job, "prepare"))

    # -- the scan

    def _scanned(self, source: Input, cuts: list[int]) -> Layout:
        """The source's chunks, looked at by as many workers as there is work for."""
        self._scanned_input = source
        known = self._known_chunks()
        has_rows = self._ledger is not None and not self._ledger.is_empty()
        orders = ScanOrders(
            source,
            self._wishes.selection,
            self._save("known", known) if known else None,
            rows=has_rows or self._wishes.explain or not self._pure,
            faults=self._wishes.faults,
            folds=self._folds(),
        )
        self._pieces = [os.path.join(self._scratch, f"{_PIECE}{number}") for number in range(len(cuts) - 1)]
        spots = zip(cuts, cuts[1:], self._pieces, strict=False)
        self._scan([("scan", orders, start, end, into) for start, end, into in spots])
        layout = self._laid_out({row.number: row for row in known.values()} if known else {})
        if not self._pure:
            self._leave_expectations()
        self._refuse_clashes(itertools.chain(self._repeated, self._clashing_claims(layout.chunks.records)), layout)
        return layout

    def _scan(self, tasks: list[tuple[Any, ...]]) -> None:
        """Have the workers look at the source. Raises `JobError` where a record's key or path takes for ever."""
        try:
            for _ in self._crew.ask_all(tasks, patience(self._job)):
                pass
        except TimeoutError:
            place = self._job.where("key" if self._job.key else "output.path")
            what = f"telling the keys and paths of a piece of the source takes longer than {patience(self._job):g} s"
            raise JobError([f"{place}: {what}; set limits.timeout if it has to"]) from None

    def _leave_expectations(self) -> None:
        """Tell the workers where to find what the scan has found: keys and paths must be the same when rendering."""
        base, pieces = 0, []
        for path in self._pieces:
            pieces.append((base, path))
            base += Findings.load(path).records
        with open(os.path.join(self._scratch, EXPECTED), "wb") as file:
            file.write(marshal.dumps(pieces))

    def _known_chunks(self) -> dict[bytes, ChunkRow]:
        """Chunks of which every record has its row, by their digests; each stands for one run of records only."""
        if self._ledger is None or self._usable() is None or not self._pure:
            return {}
        return {row.digest: row for row in self._ledger.chunks(self._shard)}

    def _save(self, name: str, known: dict[bytes, ChunkRow]) -> str:
        path = os.path.join(self._scratch, name)
        with open(path, "wb") as file:
            file.write(marshal.dumps({mark: (row.number, row.records) for mark, row in known.items()}))
        return path

    def _laid_out(self, known: dict[int, ChunkRow]) -> Layout:
        """Put together what the workers have found in the pieces."""
        layout = Layout()
        number = self._ledger.next_number() if self._ledger else 1
        codes, line = layout.codes, 0
        for path in self._pieces:
            found, at = Findings.load(path), 0
            for mark, offset, first_line, records, keyed, old in found.chunks:
                row = ChunkRow(number if old is None else old, mark, offset, line + first_line, records, keyed)
                if old is None:
                    number += 1
                    codes += found.flags[at : at + records].translate(_SAID)
                    at += records
                else:
                    row = row._replace(keyed=known[old].keyed)
                    codes += bytes(records)
                    if old in layout.known:
                        first = layout.seq(old * MOST_RECORDS)
                        self._repeated.append((first or 0, layout.chunks.records))
                layout.add(row, known=old is not None)
            line += found.lines
            self._templates |= found.templates
        return layout

    def _folds(self) -> bool:
        """Whether the output folder's file system takes `A` for `a`: then they are one path."""
        if self._job.output is None:
            return False
        probe = os.path.join(self._scratch, "Probe")
        try:
            with open(probe, "wb"):
                pass
            return os.path.exists(os.path.join(self._scratch, "pROBE"))
        except OSError:
            return False

    # -- clashes

    def _clashing_claims(self, records: int) -> Iterator[tuple[int, int]]:
        """Numbers of fresh records that may lay claim to one key or path, or to a path and a folder."""
        pieces = (os.path.join(self._scratch, _PIECE), len(self._pieces))
        found = self._crew.ask_all([("clashes", *pieces, *share) for share in shares(records)])
        return itertools.chain.from_iterable(found)

    def _refuse_clashes(self, clashes: Iterator[tuple[int, int]], layout: Layout) -> None:
        """End the run if two records lay claim to one key or path; both are named by where they stand."""
        problems: list[str] = []
        seen: set[tuple[int, int]] = set()
        assert self._scanned_input is not None  # noqa: S101  (clashes are found by a scan)
        spans = FileSpans(self._scanned_input, layout.chunks)
        for one, other in clashes:
            pair = (min(one, other), max(one, other))
            if pair not in seen and len(problems) < _MOST_CLASHES:
                seen.add(pair)
                problems += self._clash(*(self._told(spans, seq) for seq in pair))
        if problems:
            more = ["there may be more of them"] if len(problems) >= _MOST_CLASHES else []
            raise JobError([*problems, *more])

    def _told(self, spans: FileSpans, seq: int) -> _Told:
        """Key and path of a record, and its line, or its number where it has none."""
        key, path, line = self._crew.ask("identify", spans.one(seq))
        return key, path, line or seq + 1

    def _clash(self, one: _Told, other: _Told) -> Iterator[str]:
        """What two records (key, path, line) both lay claim to; nothing where only their hashes were the same."""
        (key, path, line), (other_key, other_path, other_line) = one, other
        where, first = f"{self._source.name}:{other_line}", f"{self._source.name}:{line}"
        if key == other_key and self._bundle.key is not None:
            yield f"{where}: key {key!r} is that of the record at {first}, too; keys must be unique"
        if not (is_sound(path) and is_sound(other_path)):
            return
        mine, theirs = (_folded(path), _folded(other_path)) if self._folds() else (path, other_path)
        if mine == theirs:
            alike = "" if path == other_path else f" ({path!r} there, which this file system takes for the same)"
            what = f"output path {other_path!r} is that of the record at {first}, too{alike}"
            yield f"{where}: {what}; paths must be unique"
        elif _is_above(mine, theirs) or _is_above(theirs, mine):
            what = f"output path {other_path!r} and {path!r} of the record at {first}"
            yield f"{where}: {what}: one is a folder of the other"

    # -- closures

    def _current_closures(self, layout: Layout) -> Closures:
        """By template, the closures of all that records are rendered with."""
        last, ledger = self._last, self._ledger
        usable = last is not None and ledger is not None and ledger.trusted
        same = usable and last is not None and last.bundle == self._bundle.digest
        if same and last is not None and ledger is not None and self._templates <= last.closures.keys():
            kept = ledger.closures()
            if all(number in kept for number in last.closures.values()):
                return {name: (number, kept[number][1]) for name, number in last.closures.items()}
        self.prepare()
        found = self._read_closures()
        if not found:  # templates are chosen per record
            names = set(self._templates)
            if layout.known and ledger is not None:
                names |= {template for template, _ in ledger.closures().values()}
            self._crew.ask("close_over", sorted(names))
            found = self._read_closures()
        return found

    def _read_closures(self) -> Closures:
        with open(os.path.join(self._scratch, "bundle.closures"), "rb") as file:
            found: Closures = marshal.loads(file.read())
            return found

    # -- the comparison

    def _compare(self, layout: Layout, current: Closures, *, scanned: bool) -> list[PlannedItem]:
        """Say of every record what is to be done, from what the ledger has of it; the items and why, if that is asked.

        In one transaction: rows are taken to where their records are now, or, for a plan that is not carried out,
        everything stays as it was.
        """
        ledger = self._ledger
        if ledger is None:
            self._select(layout)
            self._heed_needs(layout)
            return []
        numbers = {number for number, _ in current.values()}
        assert self._job.output is not None  # noqa: S101  (there is a ledger)
        # Outside of the transaction, for the looks are shared with a process that would not see what it does. A source
        # that is spooled may take its time, and run a person's own code: what was looked at before is out of date.
        spooled = self._scanned_input is not None and self._scanned_input.spooled
        doubtful = suspects(ledger, str(self._job.output.dir), numbers, ahead=not spooled)
        with ledger.told(), ledger.transaction(keep=not self._wishes.explain):
            compared = Comparison(ledger, layout, doubtful)
            if scanned and (self._wishes.explain or not ledger.is_empty()):
                compared.match(self._fresh_rows(current))
                self._refuse_clashes(compared.clashes(), layout)
                if self._wishes.selection.shard is None:  # the rows of other shards seem to be gone, too
                    compared.forget_gone()
            if scanned:
                ledger.forget_source(self._shard)
            compared.choose(self._wishes.selection)
            compared.judge(numbers)
            self._look_closer(ledger, layout, [compared.now_at(at) for at in doubtful])
            self._select(layout)
            self._heed_needs(layout)
            self._gone = self.orphans(layout)
            return list(self._explained(compared, layout, current)) if self._wishes.explain else []

    def _fresh_rows(self, current: Closures) -> Iterator[FreshRow]:
        """What the workers have found of fresh records, by their numbers in the source."""
        numbers = {name: number for name, (number, _) in current.items()}
        alone = next(iter(numbers.values())) if len(numbers) == 1 and not self._templates else None
        base = 0
        for path in self._pieces:
            found = Findings.load(path)
            for seq, key, output, digest, template in found.rows:
                yield base + seq, key, output, digest, numbers.get(template, alone)
            base += found.records

    def _look_closer(self, ledger: Ledger, layout: Layout, places: list[int]) -> None:
        """Find the outputs that are gone or edited among those in doubt."""
        assert self._job.output is not None  # noqa: S101  (there is a ledger)
        folder = Folder(str(self._job.output.dir))
        try:
            for at in places:
                seq, output = layout.seq(at), output_at(ledger, at)
                if seq is None or output is None or layout.codes[seq] != comparison.UP_TO_DATE:
                    continue
                doubt = folder.doubt(output)
                if doubt.status is None or doubt.edited:
                    layout.codes[seq] = comparison.MISSING if doubt.missing else comparison.EDITED
                else:
                    ledger.touch(at, doubt.status)
        finally:
            folder.close()

    def _heed_needs(self, layout: Layout) -> None:
        """Render what others need and is not there, and what needs something that is rendered."""
        if self._grouping is None:
            return
        codes, needs = layout.codes, self._grouping.needs
        for seq in reversed(needs):  # who needs comes after what it needs
            for needed in needs[seq] if codes[seq] in REASONS else ():
                if codes[needed] not in REASONS and not self._has_text(needed):
                    codes[needed] = comparison.NEEDED
        for seq, others in needs.items():
            if codes[seq] == comparison.UP_TO_DATE and any(codes[needed] in REASONS for needed in others):
                codes[seq] = comparison.NEEDS

    def _has_text(self, seq: int) -> bool:
        """Whether the text of a record is there, for others to take."""
        return self._grouping is not None and os.path.exists(os.path.join(self._texts, self._grouping.texts[seq]))

    def _select(self, layout: Layout) -> None:
        """Leave out what is not asked for, and take what is asked for though it is up to date."""
        if self._wishes.selection.failed:
            layout.codes = layout.codes.translate(_ONLY_FAILED)
        elif self._wishes.force:
            layout.codes = layout.codes.translate(_FORCED)

    def _finished(
        self,
        layout: Layout,
        source: Input | None,
        picks: bytearray,
        current: Closures,
        items: list[PlannedItem],
        content: str | None,
    ) -> Plan:
        codes = layout.codes
        picked = picks.count(1)
        total = len(codes) - codes.count(comparison.LEFT_OUT)
        self._refuse_pruning(layout)
        groups = self._grouped(source, layout, picks) if source else []
        reasons = {REASONS[code]: number for code in REASONS if (number := codes.count(code))}
        changed = content is not None or self._last is None or self._last.bundle != self._bundle.digest
        known = Known(
            self._bundle.setting,
            self._bundle.digest,
            {name: number for name, (number, _) in current.items()},
            # What varies each time is looked at each time.
            None if self._pure is False else content or digest_of([row.digest for row in layout.rows]),
        )
        texts = None if self._grouping is None else frozenset(self._grouping.texts.values())
        return Plan(
            groups,
            total,
            total - picked,
            reasons,
            self._gone,
            layout,
            known,
            current,
            changed,
            items,
            self._superseded,
            texts,
        )

    def _grouped(self, source: Input, layout: Layout, picks: bytearray) -> list[PlannedGroup]:
        """The spans to render, by generator."""
        grouping = self._grouping
        if grouping is None:
            spans: Spans = FileSpans(source, layout.chunks, None if picks.count(1) == len(picks) else picks)
            return [alone(self._crew, self._job, spans)]
        owners: dict[int, FileSpans] = {}
        groups: dict[str, PlannedGroup] = {}
        start = 0
        for group in grouping.groups:
            end = start + group.records
            spans = FileSpans(source, layout.chunks, picks, (start, start if group.needy else end))
            if group.needy:
                owners.update(dict.fromkeys(range(start, end), spans))
            one = PlannedGroup(group.generator, group.lane, group.concurrent, [])
            groups.setdefault(group.generator, one).parts.append((group.priority, spans))
            start = end
        waiting = open_needs(grouping.needs, picks)
        if waiting:
            needs = Needs(waiting, lambda seq: owners[seq].release(seq))
            return [group._replace(needs=needs) for group in groups.values()]
        return list(groups.values())

    def orphans(self, layout: Layout) -> list[Output]:
        """The outputs whose record is gone, within the shard and what is asked for."""
        selection = self._wishes.selection
        if self._ledger is None or selection.using is not None:
            return []
        found, self._superseded = orphans(self._ledger, layout.chunks.number, selection.sharded())
        chosen = selection.chosen()
        return [output for output in found if chosen is None or chosen(output.key)]

    def _refuse_pruning(self, layout: Layout) -> None:
        """Nothing is removed on the word of a source that does not look sound: a broken export must not wipe a site."""
        if not self._wishes.prune:
            return
        if not layout.chunks.records:
            raise SourceError(f"{self._source.name}: holds no record; with --prune that would remove every output")
        if layout.unkeyed:
            raise SourceError(
                f"{self._source.name}: holds records that cannot be read or have no key, which may be those of outputs "
                "that --prune would remove; correct them first, 'chora-mp check' names them"
            )

    # -- reasons

    def _explained(self, compared: Comparison, layout: Layout, current: Closures) -> Iterator[PlannedItem]:
        """Every item that is to be rendered, in the order of the source, then the outputs whose record is gone."""
        ledger = self._ledger
        assert ledger is not None  # noqa: S101
        kept = ledger.closures()
        for seq, code in enumerate(layout.codes):
            if code not in REASONS:
                continue
            key, path, closure = compared.told_of(seq)
            reason = REASONS[code]
            if code == comparison.CLOSURE and closure in kept:
                reason = _difference(*kept[closure], current)
            yield PlannedItem(key or f"record {seq + 1}", path, seq, reason)
        for output in self._gone:
            yield PlannedItem(output.key, output.path, None, "record gone")


def alone(crew: Crew, job: Job, spans: Spans) -> PlannedGroup:
    """All records as one group, of the job's own generator."""
    name = job.generator or "jinja2"
    if name == "jinja2":
        return PlannedGroup(name, "processes", True, [(0.0, spans)])
    lane, concurrent = crew.ask("lane_of", name)
    return PlannedGroup(name, lane, concurrent, [(0.0, spans)])


def open_needs(needs: Mapping[int, tuple[int, ...]], picks: bytes | bytearray) -> dict[int, list[int]]:
    """Of the records to render, those that need others, and which of these are to be rendered, too."""
    return {seq: [one for one in others if picks[one]] for seq, others in needs.items() if picks[seq]}


def _folded(path: str) -> str:
    """A path as a file system that takes `A` for `a` keeps it apart from others."""
    return unicodedata.normalize("NFC", path).casefold()


def _is_above(folder: str, path: str) -> bool:
    return bool(folder) and path.startswith(f"{folder}/")


def _difference(template: str, parts: Mapping[str, str], current: Closures) -> str:
    """What has changed of all that a document was made from: `template base.md.j2 changed, context.year changed`."""
    if template not in current:
        return f"template {template} is not used any more"
    now = current[template][1]
    changed = [f"{name} changed" for name in now if name in parts and parts[name] != now[name]]
    changed += [f"{name} added" for name in now if name not in parts]
    changed += [f"{name} removed" for name in parts if name not in now]
    return ", ".join(changed) or REASONS[comparison.CLOSURE]


def _translation(change: Mapping[int, int]) -> bytes:
    return bytes(change.get(code, code) for code in range(256))


_FORCED = _translation({comparison.UP_TO_DATE: comparison.FORCED})
_ONLY_FAILED = bytes(
    code if code in (comparison.FAILED, comparison.UNKEYED) else comparison.LEFT_OUT for code in range(256)
)


class _Content:
    """The file of a source, its stamp and its digest, which is worked out by the way while others work.

    `input`: what spans point into, where no spool is needed.
    """

    def __init__(self, source: Source) -> None:
        self.input: Input | None = None
        self._source = source
        self._digest: str | None = None
        self._thread: Thread | None = None
        self._stamp: tuple[int, int, int] | None = None
        if source.path is None or source.format in ("sqlite", "content"):
            return  # what a callable or a query gives is known when it is spooled
        path = str(source.path)
        try:
            stamp = self._stamp = jsonl.stamp(path)
            if not os.path.isfile(path):
                raise SourceError(f"{source.name}: is not a file")
        except OSError as error:
            raise SourceError(f"{source.name}: cannot be read: {error.strerror}") from None
        if source.format == "jsonl" and not source.gzip:
            self.input = Input(path, spooled=False, name=source.name, stamp=stamp)
        thread = Thread(target=self._work, args=(path,), daemon=True)
        try:
            thread.start()
            self._thread = thread
        except RuntimeError:  # no room for one more thread
            self._work(path)

    def digest(self) -> str | None:
        """The digest of the file and of how it is read; None where there is no file, or it cannot be read."""
        if self._thread is not None:
            self._thread.join()
        return None if self._digest is None else digest_of(self._digest, astuple(replace(self._source, path=None)))

    def refuse_change(self) -> None:
        """Raise `SourceError` where somebody has written to the file meanwhile: digest and records may not fit."""
        if self._stamp is None:
            return
        try:
            same = jsonl.stamp(str(self._source.path)) == self._stamp
        except OSError:
            same = False
        if not same:
            raise SourceError(f"{self._source.name}: the file changed while it was read; run again")

    def _work(self, path: str) -> None:
        try:
            self._digest = file_digest(path)
        except OSError:  # the scan will say why
            return
