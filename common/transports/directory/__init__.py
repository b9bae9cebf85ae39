"""Batches as files in a folder that nodes share: a mounted share, a synced folder, a USB stick."""

from common.transports.directory.cleaning import CleanReport
from common.transports.directory.names import FEATURES
from common.transports.directory.reader import DirectorySource
from common.transports.directory.writer import DirectorySink

__all__ = ["FEATURES", "CleanReport", "DirectorySink", "DirectorySource"]
