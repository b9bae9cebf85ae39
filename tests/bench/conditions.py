"""Under what circumstances a run was made: figures mean nothing without."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime

import psutil

from tests.bench.cluster import Cluster


def conditions(cluster: Cluster, broker: str) -> dict[str, str]:
    """What a reader must know to judge the figures. `busy`: what others did on this machine just before."""
    with cluster.connect() as connection:
        version = connection.info.parameter_status("server_version") or "?"
    busy = psutil.cpu_percent(interval=3.0)
    return {
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "PostgreSQL": f"{version}, fsync on, two clusters, one disk",
        "RabbitMQ": broker,
        "busy with other work before the start": f"{busy:.0f} % of all cores",
        "load average at the start": f"{os.getloadavg()[0]:.1f}",
    }
