"""HTTP peers: a typed client, the sink that pushes to one, the source that pulls from one."""
