"""Words and floor of Rowferry: what both sides need. Imports neither `producer` nor `consumer`."""

__version__ = "0.1.0"
