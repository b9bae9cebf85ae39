"""What msgspec raises where bytes are not the JSON that was asked for."""

import msgspec

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
