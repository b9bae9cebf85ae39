"""What `server.proxies` may name: whoever it names is believed about where a request comes from."""

import ipaddress

_LIKE = 'name the proxy\'s own address, like "10.0.0.1", or its network, like "10.0.0.0/24"'


def check_proxy(named: str) -> None:
    """Refuse what is no address or network, and what would be everybody. Raises ValueError.

    The server takes a name, or a network with an address in it, for a word that no client's address equals."""
    try:
        network = ipaddress.ip_network(named, strict=False)
    except ValueError as error:
        everybody = ": then anyone could claim to come from anywhere" if named == "*" else ""
        raise ValueError(f"{named!r} is not an address{everybody}; {_LIKE}") from error
    if network.prefixlen == 0:
        raise ValueError(f"{named!r} is everybody: then anyone could claim to come from anywhere; {_LIKE}")
    if "/" in named and ipaddress.ip_address(named.partition("/")[0]) != network.network_address:
        raise ValueError(f"{named!r} is an address in a network: write {str(network)!r} for the network")
