"""Which hosts are this machine and nothing else."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Tell whether a host means this machine alone. A name that only begins like its address may be anybody's."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
