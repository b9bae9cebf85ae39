"""All checks over a set of files, and what they came to."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from common.errors import PoisonError
from common.preflight.contents import Contents, TxSeen
from common.preflight.ddl import DdlRules, Ruling
from common.preflight.duplicates import compare_with_node, same_tx
from common.preflight.findings import Check, Finding
from common.preflight.format import format_finding, read_file
from common.preflight.gaps import find_gaps, find_missing_parts
from common.preflight.known import NodeKnowledge
from common.preflight.tables import TableCheck
from common.wire.decode import Broken, TxReader
from common.wire.records import Part

MOST_FINDINGS = 1_000
_DDL = b'"DDL"'
_CHUNK = b'"chunk"'


class _DdlLine(msgspec.Struct):
    op: str = ""
    sql: str = ""


_lines = msgspec.json.Decoder(_DdlLine)


@dataclass(slots=True)
class Report:
    """What preflight found."""

    files: list[str] = field(default_factory=list)
    txs: int = 0
    changes: int = 0
    own_txs: int = 0
    """Of this node itself: left out."""
    already_applied: int = 0
    findings: list[Finding] = field(default_factory=list)
    more_findings: int = 0
    """Found beyond those that are kept."""
    ddl: dict[str, Ruling] = field(default_factory=dict)
    """Allowed statements, as they stand in the files, and what they would run as."""

    @property
    def refused(self) -> bool:
        """Whether the input is refused whole."""
        return any(finding.refuses for finding in self.findings)

    def add(self, finding: Finding) -> None:
        """Keep a finding, the refusing ones always first among those that are kept."""
        if len(self.findings) < MOST_FINDINGS or (finding.refuses and not self.refused):
            self.findings.append(finding)
        else:
            self.more_findings += 1

    def as_dict(self) -> dict[str, object]:
        """Return the report as `--json` prints it."""
        return {
            "files": self.files,
            "txs": self.txs,
            "changes": self.changes,
            "own_txs": self.own_txs,
            "already_applied": self.already_applied,
            "refused": self.refused,
            "findings": [finding.as_dict() for finding in self.findings],
            "more_findings": self.more_findings,
            "ddl": [ruling.rendered for ruling in self.ddl.values()],
        }


@dataclass(frozen=True, slots=True)
class Preflight:
    """Looks through files before an import; writes nothing."""

    node: NodeKnowledge
    ddl: DdlRules
    strict: bool = False
    advance: Callable[[int], None] | None = None
    """Told the number of changes looked at."""

    def look(self, paths: list[Path]) -> Report:
        """Run every check over the files. Raises PreflightError for a file that can't be read."""
        report = Report(files=[str(path) for path in paths])
        tables = TableCheck(self.node.tables())
        changed: set[str] = set()
        with Contents() as contents:
            for path in paths:
                for item in read_file(path):
                    if isinstance(item, Broken):
                        report.add(format_finding(path, item))
                    else:
                        self._look_at(item, str(path), report, contents, tables, changed)
            self._look_back(report, contents)
        return report

    def _look_at(
        self, part: Part, file: str, report: Report, contents: Contents, tables: TableCheck, changed: set[str]
    ) -> None:
        header = part.header
        if self.advance is not None:
            self.advance(header.changes)
        if header.source_node == self.node.node_id:
            report.own_txs += header.part == 1
            return
        try:
            seen = _seen(part, file)
        except PoisonError as error:
            report.add(Finding(Check.FORMAT, True, str(error), file, part.line, header.tx_id))
            return
        first = contents.add(part, seen.sha256, file)
        if first is None:
            report.txs += 1
        elif (finding := same_tx(first, seen)) is not None:
            report.add(finding)
        report.changes += header.changes
        for finding in self._ddl_findings(part, file, report, changed):
            report.add(finding)
        for finding in tables.check(header, changed, file, part.line):
            report.add(finding)

    def _ddl_findings(self, part: Part, file: str, report: Report, changed: set[str]) -> Iterator[Finding]:
        if _DDL not in part.payload:
            return
        lines = [line for line in _decoded(part.payload) if line.op == "DDL"]
        if lines and (len(lines) != part.header.changes or part.header.parts > 1):
            text = "a tx that mixes DDL with rows, or that comes in parts, is never applied"
            yield Finding(Check.DDL, True, text, file, part.line, part.header.tx_id)
            return
        for line in lines:
            ruling = self.ddl.judge(line.sql)
            if not ruling.allowed:
                yield Finding(Check.DDL, True, f"{line.sql[:200]!r}: {ruling.why}", file, part.line, part.header.tx_id)
                continue
            report.ddl[line.sql] = ruling
            if ruling.table is not None:
                changed.add(ruling.table)

    def _look_back(self, report: Report, contents: Contents) -> None:
        """The checks that need all files seen."""
        known = compare_with_node(contents.txs(), self.node)
        report.already_applied = known.already_applied
        for finding in known.findings:
            report.add(finding)
        for finding in find_missing_parts(contents, self.node):
            report.add(finding)
        for finding in find_gaps(contents.txs(), self.node, strict=self.strict):
            report.add(finding)


def _seen(part: Part, file: str) -> TxSeen:
    header = part.header
    return TxSeen(
        header.source_node,
        header.tx_id,
        header.incarnation,
        header.prev_lsn,
        header.from_lsn,
        header.to_lsn,
        header.parts,
        _content_sha256(part),
        file,
        part.line,
    )


def _content_sha256(part: Part) -> str:
    """Return the checksum over the tx's change lines. Raises PoisonError when they can't be read."""
    if part.header.parts > 1 and part.header.tx_sha256 is not None:
        return part.header.tx_sha256
    if _CHUNK not in part.payload:
        return hashlib.sha256(part.payload).hexdigest()
    reader = TxReader(part.header, [part.payload])
    for _ in reader:
        pass
    return reader.content_sha256 or ""


def _decoded(payload: bytes) -> list[_DdlLine]:
    try:
        return _lines.decode_lines(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        # The lines are judged where they are applied; what can't be read here holds no DDL that would run.
        return []
