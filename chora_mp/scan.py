"""The scan, as a worker sees it: a piece of a source is cut into chunks, and what is new in it is looked at closely.

Of a chunk that the ledger knows nothing is read but its bytes. Of any other every record is parsed and gets its key,
path, template and digest.
"""

from __future__ import annotations

import unicodedata
from hashlib import blake2b
from itertools import repeat
from typing import TYPE_CHECKING

from chora_mp.claims import NOTHING
from chora_mp.findings import CHOSEN, LEFT_OUT, NEVER_KNOWN, UNKEYED, Findings
from chora_mp.records import BadRecord
from chora_mp.sinks import PathError, are_sound, components, is_sound
from chora_mp.sources import jsonl, spool
from chora_mp.sources.chunks import digest, storable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from chora_mp.records import ScanOrders
    from chora_mp.renderer import Renderer

    Filled = Callable[[dict[str, Any]], str]
    Known = Mapping[bytes, tuple[int, int]]
    """By a chunk's digest its number and how many records it has."""


class Scan:
    """One piece's way through a worker."""

    def __init__(self, orders: ScanOrders, renderer: Renderer, known: Known, *, inline: bool) -> None:
        self._orders = orders
        self._renderer = renderer
        self._known = known
        self._inline = inline
        self._shard = orders.selection.sharded()
        self._chosen = orders.selection.chosen()
        self._salt = orders.selection.shard_name.encode()
        reader: Any = spool if orders.input.spooled else jsonl
        self._parse, self._parse_all = reader.parse, reader.parse_all
        self._using = orders.selection.using
        self._users: dict[str, bool] = {}
        plain = (self._shard or self._chosen or self._using) is None and not orders.faults and not orders.folds
        self._quick: tuple[Filled | None, Filled | None] = (None, None)
        self._names = frozenset(name for one in (renderer.key, renderer.path) if one for name in one.names)
        if plain and renderer.template.constant is not None and renderer.path is not None:
            self._quick = (renderer.key.fill if renderer.key else None, renderer.path.fill)
        self._found = Findings()
        self._folder = ""
        self._folders: dict[str, int] = {}
        self._belongs = True
        self._lines: Sequence[int | None] = ()
        self._line: int | None = None

    def run(self, start: int, end: int) -> Findings:
        """What is in bytes `start` to `end` of the input. Raises `OSError`."""
        found, salt = self._found, self._salt
        for offset, lines, payloads, data in self._chunks(start, end):
            mark = blake2b(data, digest_size=16, key=salt).digest()
            number, records = self._known.get(mark, (None, 0))
            selected = records
            if number is None:
                first, unkeyed = found.records, found.unkeyed
                selected = self._examine_together(payloads, data) or self._examine(payloads)
                records = found.records - first
                if found.unkeyed > unkeyed:
                    selected = NEVER_KNOWN
            else:
                found.records += records
            if records:
                found.chunks.append((mark, offset, found.lines, records, selected, number))
            found.lines += lines
        for folder, seq in self._folders.items():
            found.folders.setdefault(self._hash(folder), seq)
        return found

    def _chunks(self, start: int, end: int) -> Iterator[tuple[int, int, list[bytes], bytes]]:
        """Offset, number of lines, records and bytes of each chunk."""
        path = self._orders.input.path
        faults = self._orders.faults
        if self._orders.input.spooled:
            for offset, frames in spool.read_chunks(path, start, end):
                payloads = [payload for _, payload in frames]
                self._lines = [line for line, _ in frames] if faults else ()
                yield offset, 0, payloads, b"".join(payloads)
        else:
            for offset, lines in jsonl.read_chunks(path, start, end):
                numbered = enumerate(lines, self._found.lines + 1) if faults else ()
                self._lines = [number for number, line in numbered if not line.isspace()]
                yield offset, len(lines), lines, b"".join(lines)

    def _examine_together(self, payloads: list[bytes], data: bytes) -> int:
        """The same as `_examine` for plain records of a plain job, in a third of the time; 0: it takes that."""
        key_of, path_of = self._quick
        records = self._parse_all(payloads, data, self._names) if path_of else None
        if not records or path_of is None:
            return 0
        try:
            paths = list(map(path_of, records))
            keys = list(map(key_of, records)) if key_of else paths
        except (KeyError, TypeError):
            return 0
        if "" in keys or not are_sound(paths):
            return 0
        found, first, count = self._found, self._found.records, len(records)
        found.flags += bytes([CHOSEN]) * count
        found.keys.extend(map(hash, keys))
        found.paths.extend(map(hash, paths))
        seqs = range(first, first + count)
        for seq, path in zip(seqs, paths, strict=True):
            folder = path.rpartition("/")[0]
            if folder != self._folder:
                self._enter(folder, seq)
        if self._orders.rows:
            digests = map(digest, payloads)
            found.rows.extend(zip(seqs, map(storable, keys), map(storable, paths), digests, repeat(""), strict=False))
        found.records += count
        return count

    def _examine(self, payloads: list[bytes]) -> int:
        """Look at every record of a chunk; how many have a key, within the shard."""
        found, parse, faults = self._found, self._parse, self._orders.faults
        selected = 0
        if not self._orders.input.spooled:
            payloads = [line for line in payloads if not line.isspace()]
        for place, raw in enumerate(payloads):
            record = parse(raw)
            if faults:
                self._line = self._lines[place]
                if record.__class__ is BadRecord:
                    self._blame(f"{record.type}: {record.message}")
                else:
                    found.names.update(record.keys())
            if record.__class__ is BadRecord or not self._keyed(record, raw):
                found.unkeyed += 1
                # What has no key belongs to the first shard, so that it is reported once.
                first = self._orders.selection.shard is None or self._orders.selection.shard[0] == 1
                self._leave(UNKEYED if first else LEFT_OUT)
            else:
                selected += self._belongs
            found.records += 1
        return selected

    def _keyed(self, record: dict[str, Any], raw: bytes) -> bool:
        """Note a record's key and all that goes with it; whether it has a key."""
        renderer, others = self._renderer, self._renderer.globals
        key = path = ""
        if self._orders.faults and renderer.bundle.generator is None and (problem := record.get("problem")):
            self._blame(f"{record['key']}: {problem['type']}: {problem['message']}")
        try:
            if renderer.key is None:
                key = path = renderer.path.of_record(record, others) if renderer.path else ""
            else:
                key = renderer.key.of_record(record, others)
        except BaseException as error:  # noqa: BLE001  (the person's own code may raise anything)
            self._pass_on(error, "output.path" if renderer.key is None else "key")
            return False
        self._belongs = self._shard is None or self._shard(key)
        if not self._belongs:
            self._leave(LEFT_OUT)
            return True
        if renderer.key is None:
            if renderer.path is not None and not self._is_sound(path):
                return False
        elif renderer.path is not None:
            try:
                path = renderer.path.of_record(record, others)
                path = path if self._is_sound(path) else ""
            except BaseException as error:  # noqa: BLE001  (its item fails when it is rendered, with the reason)
                self._pass_on(error, "output.path")
        template = self._choose(record) if renderer.template.constant is None else ""
        self._claim(key, path, uses=self._using is None or self._uses(renderer.template.constant or template))
        if self._orders.rows:
            self._found.rows.append((self._found.records, storable(key), storable(path), digest(raw), template))
        return True

    def _leave(self, flag: int) -> None:
        """Note a record that claims nothing."""
        self._found.flags.append(flag)
        self._found.keys.append(NOTHING)
        self._found.paths.append(NOTHING)

    def _uses(self, template: str) -> bool:
        """Whether documents of a template are made from the one that is asked for."""
        if template not in self._users:
            self._users[template] = f"template {self._using}" in self._renderer.closure(template).parts
        return self._users[template]

    def _claim(self, key: str, path: str, *, uses: bool) -> None:
        """Note which key and path a record lays claim to, if any, and the folders on the way."""
        found, keyed = self._found, path or self._renderer.key is not None
        found.flags.append(CHOSEN if uses and (self._chosen is None or self._chosen(key)) else LEFT_OUT)
        found.keys.append(hash(key) if keyed else NOTHING)
        found.paths.append(self._hash(path) if path else NOTHING)
        folder = path.rpartition("/")[0]
        if folder != self._folder:
            self._enter(folder, found.records)

    def _enter(self, folder: str, seq: int) -> None:
        """Note that a record's path leads through a folder, and those above it."""
        self._folder = folder
        while folder and folder not in self._folders:
            self._folders[folder] = seq
            folder = folder.rpartition("/")[0]

    def _choose(self, record: dict[str, Any]) -> str:
        """Note the template that a record is rendered with; it is empty where none can be chosen."""
        try:
            template = self._renderer.template.of_record(record, self._renderer.globals)
            self._found.templates.add(template)
            return template
        except BaseException as error:  # noqa: BLE001  (as above)
            self._pass_on(error, "template")
            return ""

    def _hash(self, path: str) -> int:
        """Equal for paths that the file system takes for one; all workers of a run hash alike."""
        return hash(unicodedata.normalize("NFC", path).casefold() if self._orders.folds else path)

    def _is_sound(self, path: str) -> bool:
        """Whether a path leads to a place in the output folder; of any other the item fails, and it claims nothing."""
        if is_sound(path):
            return True
        if self._orders.faults:
            try:
                components(path)
            except PathError as error:
                self._blame(f"PathError: {error}")
        return False

    def _pass_on(self, error: BaseException, doing: str) -> None:
        """What a person's own code raises is its item's business, but for Ctrl-C in the coordinator's own process."""
        if self._inline and isinstance(error, KeyboardInterrupt):
            raise error
        if self._orders.faults:
            from chora_mp.failures import failure_of  # noqa: PLC0415  (only `check` asks)

            failure = failure_of(error, f"{self._renderer.bundle.labels[doing]}: ")
            self._blame(f"{failure.type}: {failure.message}")

    def _blame(self, message: str) -> None:
        self._found.faults.append((self._found.records, self._line, message))
