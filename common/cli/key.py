"""`rowferry key`: make the key that this node signs with, and show what others need to know it by."""

from pathlib import Path

import click

from common.console import Console
from common.errors import UsageError
from common.ops.export_files import failed
from common.runtime.host import current_host
from common.transports.files import NewFile
from common.wire.signing import Signer, new_private_key

_PRIVATE = 0o600


@click.group("key", short_help="This node's signing key.")
def key() -> None:
    """This node's signing key, so that nobody else can speak for it: create, show."""


@key.command(short_help="Create a key, in a file that only this account can read.")
@click.option(
    "--out", metavar="FILE", help="Where to write the private key. [default: ID.key beside the configuration]"
)
def create(out: str | None) -> None:
    """Create a key, write it to a file that only this account can read, and show the public key.

    Never overwrites a file. Nothing is signed until node.signing_key_file names the file."""
    host = current_host()
    file = Path(out) if out else host.config_file.resolve().parent / f"{host.config.node.id}.key"
    text = new_private_key()
    try:
        with NewFile(file.parent, _PRIVATE) as new:
            new.write(f"{text}\n".encode())
            new.commit(file)
    except FileExistsError as error:
        raise UsageError(f"{file} already exists: name another one with --out") from error
    except OSError as error:
        raise failed(error, file) from error
    signer = Signer(text)
    document = {"node": host.config.node.id, "key": signer.key_id, "public_key": signer.public, "file": str(file)}
    host.emit(document, lambda console: _tell_made(console, file, host.config.node.id, signer))


@key.command()
def show() -> None:
    """Show the public half of this node's signing key."""
    host = current_host()
    signer, node_id = host.config.signer(), host.config.node.id
    if signer is None:
        raise UsageError("this node has no key (node.signing_key_file): rowferry key create makes one")
    document = {"node": node_id, "key": signer.key_id, "public_key": signer.public}
    host.emit(document, lambda console: _tell_public(console, node_id, signer))


def _tell_made(console: Console, file: Path, node_id: str, signer: Signer) -> None:
    console.say(f"Key {signer.key_id} is in {file}. Here, in [node]:")
    console.say(f'  signing_key_file = "{file.name}"')
    _tell_public(console, node_id, signer)


def _tell_public(console: Console, node_id: str, signer: Signer) -> None:
    console.say("On every node that hears this one, in [signers]:")
    console.say(f'  {node_id} = "{signer.public}"')
