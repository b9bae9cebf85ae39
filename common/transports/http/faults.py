"""What keeps a node from its peer, said so that whoever reads it knows what to mend."""

import ssl
from collections.abc import Iterator

import httpx

from common.http.certificates import NO_TLS, NOT_TRUSTED

_WITHOUT_A_WORD = "Server disconnected"
"""How httpx says that nothing at all came."""
_TOO_LARGE = 413


def words_for(url: str, error: httpx.HTTPError) -> str:
    """Return what is wrong with the way to `url`."""
    for cause in _causes(error):
        match cause:
            case ssl.SSLCertVerificationError():
                return f"its {NOT_TRUSTED} ({cause.verify_message})"
            case ssl.SSLError() if cause.reason == NO_TLS:
                return "it does not speak TLS at this port: its url begins with http://, or has another port"
    said = str(error) or type(error).__name__
    # Of what came in part it says something else.
    if said.startswith(_WITHOUT_A_WORD) and url.startswith("http:"):
        return "it hangs up without an answer: where it does TLS, its url begins with https://"
    return said


def no_problem(response: httpx.Response) -> str:
    """Return what is said of a refusal that no node wrote: a proxy in between has."""
    if response.status_code == _TOO_LARGE:
        return (
            "and not as a node does: a proxy in between takes no body of this size. Let it take what "
            "server.max_body_bytes says there, or lower limits.max_batch_bytes here"
        )
    return "and not as a node does"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what led to it; the libraries wrap each other's."""
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or one.__context__
