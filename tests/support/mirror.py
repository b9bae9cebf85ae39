"""A broker's dead queue in a folder, so that it outlives a process that is killed."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Collection
from pathlib import Path

from common.ports.dead_letters import DeadLetter


class FileMirror:
    """One file a copy."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def publish(self, dead_letter: DeadLetter) -> None:
        number = len(list(self._folder.iterdir()))
        fields = {
            "tx_id": dead_letter.tx_id,
            "reason": dead_letter.reason,
            "body": b64encode(dead_letter.body).decode(),
        }
        (self._folder / f"{number:06d}").write_text(json.dumps(fields), encoding="utf-8")

    def remove(self, tx_ids: Collection[str]) -> int:
        gone = [file for file in sorted(self._folder.iterdir()) if self._read(file).tx_id in tx_ids]
        for file in gone:
            file.unlink()
        return len(gone)

    def read_all(self) -> list[DeadLetter]:
        return [self._read(file) for file in sorted(self._folder.iterdir())]

    def close(self) -> None:
        """Nothing is open."""

    def _read(self, file: Path) -> DeadLetter:
        fields = json.loads(file.read_text(encoding="utf-8"))
        return DeadLetter(fields["tx_id"], b64decode(fields["body"]), fields["reason"])
