"""What ids and numbers in lines have to be, for msgspec: `common.wire.records` has pydantic's for headers."""

from typing import Annotated

import msgspec

from common.wire.records import MAX_LSN

NodeId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
"""An incarnation is spelled alike."""
Lsn = Annotated[int, msgspec.Meta(ge=0, le=MAX_LSN)]
