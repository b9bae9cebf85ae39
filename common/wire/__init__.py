"""`rowferry/1`: JSON lines that carry batches. Pure: no I/O, no database, no clock."""
