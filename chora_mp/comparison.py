"""The comparison: what a source holds now against what the ledger says was rendered. What is to be done, and why.

Fresh records, which the scan has looked at, are compared by one join; records in chunks that are known have their rows
where they had them. Nothing here takes memory an item but one byte.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chora_mp.findings import NEVER_KNOWN
from chora_mp.sources.chunks import MOST_RECORDS, Chunks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from chora_mp.ledger import ChunkRow, Ledger
    from chora_mp.selection import Selection

UP_TO_DATE, NEW, CHANGED, CLOSURE, MISSING, EDITED, FAILED, FORCED, NEEDED, NEEDS, UNKEYED, LEFT_OUT = range(12)
"""What is said of each record; of those from `NEW` to `UNKEYED` the item is rendered."""

REASONS = {
    NEW: "new",
    CHANGED: "record changed",
    CLOSURE: "template or setting changed",
    MISSING: "output missing",
    EDITED: "output edited",
    FAILED: "failed last time",
    FORCED: "forced",
    NEEDED: "others need its text",
    NEEDS: "what it needs is rendered",
    UNKEYED: "no record, or no key",
}

TO_RENDER = bytes(NEW <= code <= UNKEYED for code in range(256))
"""Translates what is said of the records into `picks`."""

FreshRow = tuple[int, str, str, bytes, int | None]
"""A fresh record: its number, key, path, digest, and the number of the closure that it is rendered with."""

_HERE = f"at BETWEEN number * {MOST_RECORDS} AND number * {MOST_RECORDS} + {MOST_RECORDS - 1}"


@dataclass(slots=True)
class Layout:
    """A source's chunks as they stand now; `codes` says of every record what is to be done."""

    chunks: Chunks = field(default_factory=Chunks)
    rows: list[ChunkRow] = field(default_factory=list)
    known: set[int] = field(default_factory=set)
    codes: bytearray = field(default_factory=bytearray)
    _firsts: dict[int, int] = field(default_factory=dict)

    def add(self, row: ChunkRow, *, known: bool) -> None:
        """Append a chunk."""
        self._firsts.setdefault(row.number, self.chunks.records)
        self.chunks.add(row.number, row.offset, row.line, row.records)
        self.rows.append(row)
        if known:
            self.known.add(row.number)

    def seq(self, at: int) -> int | None:
        """The number of the record whose place in the ledger is `at`; None where it is in no chunk of the source."""
        first = self._firsts.get(at // MOST_RECORDS)
        return None if first is None else first + at % MOST_RECORDS

    @property
    def unkeyed(self) -> bool:
        """Whether there is a record without a key."""
        return any(row.keyed == NEVER_KNOWN for row in self.rows)

    def at(self, seq: int) -> int:
        """A record's place in the ledger."""
        return seq + self.chunks.at(self.chunks.index(seq))


class Comparison:
    """Fresh records beside the ledger's rows. Changes the ledger: to be used in a transaction."""

    def __init__(self, ledger: Ledger, layout: Layout, watched: Iterable[int] = ()) -> None:
        """`watched`: places whose rows will be asked for by where they were."""
        self._ledger = ledger
        self._db = ledger.db
        self._layout = layout
        self._watched = {at: at for at in watched}

    def match(self, fresh: Iterable[FreshRow]) -> None:
        """Note of every fresh record whether it is new, changed or as it was; its row, if any, moves to its place."""
        db, layout = self._db, self._layout
        for name in ("fresh", "matches", "released", "known"):
            db.execute(f"DROP TABLE IF EXISTS temp.{name}")
        db.execute(
            "CREATE TEMP TABLE fresh (seq INTEGER PRIMARY KEY, key TEXT, path TEXT, input BLOB, closure INTEGER)"
        )
        columns = "seq INTEGER PRIMARY KEY, old INTEGER, same INTEGER, closed INTEGER, closure INTEGER"
        db.execute(f"CREATE TEMP TABLE matches ({columns})")
        db.execute("CREATE TEMP TABLE known (number INTEGER PRIMARY KEY)")
        db.execute("CREATE TEMP TABLE released (number INTEGER PRIMARY KEY)")
        db.executemany("INSERT INTO temp.fresh VALUES (?, ?, ?, ?, ?)", fresh)
        db.execute("CREATE INDEX temp.fresh_key ON fresh (key, path)")
        db.executemany("INSERT INTO temp.known VALUES (?)", ((number,) for number in layout.known))
        db.executemany(
            "INSERT INTO temp.released VALUES (?)",
            ((one,) for one in self._ledger.numbers() if one not in layout.known),
        )
        # Of rows for one key and path, which only a killed run over an iterable leaves, the last is the truest.
        db.execute(
            "INSERT OR REPLACE INTO temp.matches SELECT fresh.seq, outputs.at, outputs.input IS fresh.input, "
            "outputs.closure IS fresh.closure, outputs.closure "
            f"FROM temp.released CROSS JOIN outputs ON {_HERE} CROSS JOIN temp.fresh "
            # What was never written has no path to speak of, only what it was meant to be, cut short if too long.
            "ON fresh.key = outputs.key AND (fresh.path = outputs.path OR outputs.digest IS NULL) "
            "ORDER BY outputs.at"
        )
        # Until the item is rendered, a row without the digest of a record is one whose record has changed, and a row
        # without a closure one that was made from another, be it that some other output is made from that one today.
        db.executemany(
            "UPDATE outputs SET at = ?, input = CASE WHEN ? THEN input END, closure = CASE WHEN ? THEN closure END, "
            "path = CASE WHEN digest IS NULL THEN (SELECT path FROM temp.fresh WHERE seq = ?) ELSE path END "
            "WHERE at = ?",
            self._moves(),
        )
        # A chunk that lost rows is whole no more, in whichever shard it is.
        lost = f"SELECT DISTINCT old / {MOST_RECORDS} FROM temp.matches"
        shards = f"SELECT shard FROM chunks WHERE number IN ({lost})"
        db.execute(f"UPDATE sources SET content = NULL WHERE shard IN ({shards})")
        db.execute(f"DELETE FROM chunks WHERE number IN ({lost})")

    def _moves(self) -> Iterator[tuple[int, int, int, int, int]]:
        """Where matched rows go, whether record and template are as before, where they were; notes what to do."""
        codes = self._layout.codes
        for seq, old, same, closed in self._db.execute("SELECT seq, old, same, closed FROM temp.matches"):
            if codes[seq] == NEW:
                codes[seq] = UP_TO_DATE if same else CHANGED
            now = self._layout.at(seq)
            if old in self._watched:
                self._watched[old] = now
            yield now, same, closed, seq, old

    def forget_gone(self) -> None:
        """Forget items that never came to be and whose record is gone; what failed and is gone fails no more."""
        gone = f"at IN (SELECT outputs.at FROM temp.released CROSS JOIN outputs ON {_HERE})"
        self._db.execute(f"DELETE FROM outputs WHERE digest IS NULL AND {gone}")
        self._db.execute(f"UPDATE outputs SET error = NULL WHERE error IS NOT NULL AND {gone}")

    def now_at(self, at: int) -> int:
        """Where the row is now that was at a place before."""
        return self._watched.get(at, at)

    def clashes(self) -> Iterator[tuple[int, int]]:
        """Numbers of records that lay claim to one key or path, one of them in a chunk that is known."""
        if not self._layout.known:
            return
        unmatched = "FROM temp.fresh WHERE seq NOT IN (SELECT seq FROM temp.matches)"
        if self._db.execute(f"SELECT 1 {unmatched} LIMIT 1").fetchone() is None:
            return  # every claim is one that was heard before
        self._db.execute(f"CREATE TEMP TABLE IF NOT EXISTS claims AS SELECT seq, key, path {unmatched}")
        self._db.execute("CREATE INDEX temp.claims_key ON claims (key)")
        self._db.execute("CREATE INDEX temp.claims_path ON claims (path)")
        known = f"outputs.at / {MOST_RECORDS} IN (SELECT number FROM temp.known)"
        for test in ("claims.key = outputs.key", "claims.path = outputs.path AND claims.path <> ''"):
            sql = f"SELECT claims.seq, outputs.at FROM outputs CROSS JOIN temp.claims ON {test} WHERE {known}"
            for seq, at in self._db.execute(sql).fetchall():
                yield self._seq(at), seq
        yield from self._folder_clashes(known)

    def _folder_clashes(self, known: str) -> Iterator[tuple[int, int]]:
        """Those where one wants a file to be what the other wants to be a folder."""
        above: dict[str, int] = {}
        paths: dict[str, int] = {}
        for seq, path in self._db.execute("SELECT seq, path FROM temp.claims WHERE path <> ''"):
            paths[path] = seq
            for folder in _folders(path):
                above.setdefault(folder, seq)
        seen: set[str] = set()
        for at, path in self._db.execute(f"SELECT at, path FROM outputs WHERE {known}"):
            if path in above:
                yield self._seq(at), above[path]
            folder = path.rpartition("/")[0]
            if folder and folder not in seen:
                seen.add(folder)
                yield from ((self._seq(at), paths[one]) for one in _folders(path) if one in paths)

    def choose(self, selection: Selection) -> None:
        """Leave out those records of known chunks that are not asked for."""
        layout, sharded, chosen = self._layout, selection.sharded(), selection.chosen()
        if (sharded or chosen) is None or not layout.known:
            return
        for index, row in enumerate(layout.rows):
            if row.number in layout.known:
                first = layout.chunks.seq[index]
                layout.codes[first : first + row.records] = bytes([LEFT_OUT]) * row.records
        for at, key in self._db.execute("SELECT at, key FROM outputs"):
            seq = layout.seq(at) if at // MOST_RECORDS in layout.known else None
            if seq is not None and (chosen is None or chosen(key)) and (sharded is None or sharded(key)):
                layout.codes[seq] = UP_TO_DATE

    def judge(self, current: Iterable[int]) -> None:
        """Find the items that failed last time, or were made from another record or closures that are not `current`."""
        codes = self._layout.codes
        code = f"CASE WHEN error IS NOT NULL THEN {FAILED} WHEN input IS NULL THEN {CHANGED} ELSE {CLOSURE} END"
        where = f"error IS NOT NULL OR input IS NULL OR closure IS NULL OR closure NOT IN ({_listed(current)})"
        for at, found in self._db.execute(f"SELECT at, {code} FROM outputs WHERE {where}"):
            seq = self._layout.seq(at)
            if seq is not None and codes[seq] in (UP_TO_DATE, CHANGED):
                codes[seq] = found

    def told_of(self, seq: int) -> tuple[str, str, int | None]:
        """Key, path and the closure that was used last of a record; empty and None where they are not known."""
        row = self._db.execute(
            "SELECT key, path, closure FROM outputs WHERE at = ?", (self._layout.at(seq),)
        ).fetchone()
        if (row is None or row[2] is None) and self._has_fresh():
            sql = "SELECT key, path, matches.closure FROM temp.fresh LEFT JOIN temp.matches USING (seq) WHERE seq = ?"
            row = self._db.execute(sql, (seq,)).fetchone() or row
        return row or ("", "", None)

    def _has_fresh(self) -> bool:
        return self._db.execute("SELECT 1 FROM sqlite_temp_schema WHERE name = 'fresh'").fetchone() is not None

    def _seq(self, at: int) -> int:
        seq = self._layout.seq(at)
        assert seq is not None  # noqa: S101  (only places in known chunks are asked for)
        return seq


def _listed(numbers: Iterable[int]) -> str:
    """Numbers as SQL lists them."""
    return ", ".join(map(str, numbers)) or "NULL"


def _folders(path: str) -> Iterator[str]:
    """The folders that a path leads through, innermost first."""
    folder = path.rpartition("/")[0]
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]
