"""The `rowferry` command line: a thin host round the functions of `common.ops` and the two parts."""
