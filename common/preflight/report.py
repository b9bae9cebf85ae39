"""All checks over a set of files, and what they came to."""

import hashlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import Reason
from common.preflight.changes import ChangesSeen, look_at_changes
from common.preflight.contents import Contents, TxSeen
from common.preflight.duplicates import compare_with_node, same_tx
from common.preflight.findings import Check, Finding
from common.preflight.format import format_finding, read_file
from common.preflight.gaps import find_gaps
from common.preflight.known import NodeKnowledge, OwnEnd
from common.preflight.parts import look_at_parts, same_part
from common.preflight.rulings import DdlRules, Ruling, same_name
from common.preflight.tables import TableCheck
from common.wire.decode import Broken, missing_features
from common.wire.proving import part_fault
from common.wire.records import BatchHeader, Part
from common.wire.signing import Trust

MOST_FINDINGS = 1_000


@dataclass(slots=True)
class Report:
    """What preflight found."""

    files: list[str] = field(default_factory=list)
    txs: int = 0
    changes: int = 0
    own_txs: int = 0
    """Of this node itself: left out."""
    own_ends: dict[str, OwnEnd] = field(default_factory=dict)
    """Where each incarnation of them ends."""
    rewound: list[OwnEnd] = field(default_factory=list)
    """Which of these show that the node was put back."""
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


@dataclass(slots=True)
class Changed:
    """What the DDL of the files, as far as it was read, changes."""

    database: str
    keys: dict[str, Collection[str]]
    """The key of each table that there is."""
    tables: set[str] = field(default_factory=set)
    by: set[tuple[str, str, str]] = field(default_factory=set)
    """The txs with DDL that were judged: source, tx_id, sha256. One that stands twice is skipped the second time."""

    def add(self, ruling: Ruling) -> None:
        """Take in one statement that is let through."""
        table = ruling.table
        if table is None:
            return
        self.tables.add(table)
        if ruling.drops:
            for name in [name for name in self.keys if same_name(self.database, name, table)]:
                del self.keys[name]
        elif ruling.pk:
            self.keys.setdefault(table, ruling.pk)


@dataclass(frozen=True, slots=True)
class Preflight:
    """Looks through files before an import; writes nothing."""

    node: NodeKnowledge
    ddl: DdlRules
    trust: Trust
    strict: bool = False
    advance: Callable[[int], None] | None = None
    """Told the number of changes looked at."""

    def look(self, paths: list[Path]) -> Report:
        """Run every check over the files. Raises PreflightError for a file that can't be read."""
        report = Report(files=[str(path) for path in paths])
        shapes = self.node.tables()
        keys: dict[str, Collection[str]] = {name: shape.pk for name, shape in shapes.items()}
        tables, changed = TableCheck(shapes), Changed(self.ddl.database, keys)
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
        self, part: Part, file: str, report: Report, contents: Contents, tables: TableCheck, changed: Changed
    ) -> None:
        header = part.header
        if self.advance is not None:
            self.advance(header.changes)
        if header.source_node == self.node.node_id:
            report.own_txs += header.part == 1
            self._see_own(part, file, report)
            return
        fault = part_fault(part, self.trust)
        if fault is not None:
            report.add(Finding(Check.SIGNATURE, True, str(fault), file, part.line, header.tx_id))
            return
        sha256 = self._content(part, file, report, contents, changed)
        if sha256 is None:
            return
        first = contents.add(header, sha256, file, part.line)
        if first is None:
            report.txs += 1
        elif (finding := same_tx(first, _seen(part, sha256, file))) is not None:
            report.add(finding)
        report.changes += header.changes
        if missing := missing_features(header):
            text = f"needs {', '.join(missing)}, which this release does not know: it becomes a dead letter"
            report.add(Finding(Check.REQUIRES, False, text, file, part.line, header.tx_id))
        for finding in tables.check(header, changed.tables, file, part.line):
            report.add(finding)

    def _see_own(self, part: Part, file: str, report: Report) -> None:
        header = part.header
        known = report.own_ends.get(header.incarnation)
        if (known is None or known.lsn < header.to_lsn) and part_fault(part, self.trust) is None:
            # Without a good signature, where this node signs, it may be made up, and says nothing.
            report.own_ends[header.incarnation] = OwnEnd(
                header.incarnation, header.to_lsn, header.tx_id, file, part.line
            )

    def _content(self, part: Part, file: str, report: Report, contents: Contents, changed: Changed) -> str | None:
        """Look at a part's lines; return the checksum of its tx's content, None when they can't be read.

        Those of a tx in parts are kept, and looked at once all are there."""
        if part.header.parts > 1:
            sha256 = hashlib.sha256(part.payload).hexdigest()
            finding = same_part(contents.add_part(part, sha256, file), part, sha256, file)
            if finding is not None:
                report.add(finding)
            return part.header.tx_sha256
        seen = look_at_changes(part.header, [part.payload])
        if seen.fault is not None:
            line = part.line if seen.fault.reason is Reason.CHECKSUM else part.line + seen.place[1]
            check = Check.CHECKSUM if seen.fault.reason is Reason.CHECKSUM else Check.FORMAT
            report.add(Finding(check, True, str(seen.fault), file, line, part.header.tx_id))
            return None
        for finding in self._ddl_findings(part, seen, file, report, changed):
            report.add(finding)
        return seen.sha256

    def _ddl_findings(
        self, part: Part, seen: ChangesSeen, file: str, report: Report, changed: Changed
    ) -> Iterator[Finding]:
        tx = (part.header.source_node, part.header.tx_id, seen.sha256)
        if seen.ddl and (tx in changed.by or self._is_applied(part.header, seen.sha256)):
            # It is skipped, whatever the rules of this import are: importing again is normal.
            return
        if seen.ddl:
            changed.by.add(tx)
        if seen.ddl and seen.rows:
            text = "a tx that mixes DDL with rows is never applied"
            yield Finding(Check.DDL, True, text, file, part.line, part.header.tx_id)
            return
        for sql in seen.ddl:
            ruling = self.ddl.judge(sql, changed.keys)
            if not ruling.allowed:
                yield Finding(Check.DDL, True, f"{sql[:200]!r}: {ruling.why}", file, part.line, part.header.tx_id)
                continue
            report.ddl[sql] = ruling
            changed.add(ruling)

    def _is_applied(self, header: BatchHeader, sha256: str) -> bool:
        known = self.node.known(header.source_node, [header.tx_id]).get(header.tx_id)
        return known is not None and known.applied and known.sha256 == sha256

    def _look_back(self, report: Report, contents: Contents) -> None:
        """The checks that need all files seen."""
        for end in report.own_ends.values():
            if (why := self.node.rewound(end)) is not None:
                report.rewound.append(end)
                text = f"{why}: this node was restored to an earlier state; run `rowferry rejoin` before it writes more"
                report.add(Finding(Check.REWOUND, False, text, end.file, end.line, end.tx_id))
        known = compare_with_node(contents.txs(), self.node)
        report.already_applied = known.already_applied
        for finding in known.findings:
            report.add(finding)
        for finding in look_at_parts(contents, self.node):
            report.add(finding)
        for finding in find_gaps(contents.txs(), self.node, strict=self.strict):
            report.add(finding)


def _seen(part: Part, sha256: str, file: str) -> TxSeen:
    header = part.header
    lsns = (header.prev_lsn, header.from_lsn, header.to_lsn)
    return TxSeen(header.source_node, header.tx_id, header.incarnation, *lsns, sha256, file, part.line)
