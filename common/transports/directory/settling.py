"""Waiting for files that are not whole: a share may still be copying them."""

from dataclasses import dataclass

from common.transports.directory.names import BatchFile

Stamp = tuple[int, int]
"""Size and modification time (ns): as long as both stay, nobody is writing."""


@dataclass(slots=True)
class _Look:
    stamp: Stamp
    since_us: int
    """Since when the stamp is this one."""
    torn: bool = False
    """The file was read at this stamp and is not whole."""


class Settling:
    """Remembers files that were torn, so that each is read again only when that may show something new.

    A file is settled when it has not changed for `settle_seconds`: then it won't become whole by itself.
    """

    def __init__(self, settle_seconds: float) -> None:
        self._settle_us = int(settle_seconds * 1_000_000)
        self._looks: dict[BatchFile, _Look] = {}

    def __contains__(self, file: BatchFile) -> bool:
        return file in self._looks

    def __len__(self) -> int:
        return len(self._looks)

    def worth_reading(self, file: BatchFile, stamp: Stamp, now_us: int) -> bool:
        """Tell whether to read the file now: new, or quiet again since it changed, or settled."""
        look = self._looks.get(file)
        if look is None:
            return True
        if look.stamp != stamp:
            # It is growing. To read it at each look would cost the square of its size.
            self._looks[file] = _Look(stamp, now_us)
            return False
        return not look.torn or self._is_settled(look, now_us)

    def torn(self, file: BatchFile, stamp: Stamp, now_us: int) -> bool:
        """Note that the file is not whole; True when it is settled, so that it must be delivered as it is.

        At the first look its modification time says how long it has been quiet."""
        look = self._looks.setdefault(file, _Look(stamp, min(stamp[1] // 1000, now_us)))
        look.torn = True
        return self._is_settled(look, now_us)

    def forget(self, file: BatchFile) -> None:
        self._looks.pop(file, None)

    def keep_only(self, files: set[BatchFile]) -> None:
        """Forget files that are gone."""
        self._looks = {file: look for file, look in self._looks.items() if file in files}

    def _is_settled(self, look: _Look, now_us: int) -> bool:
        return now_us - look.since_us >= self._settle_us
