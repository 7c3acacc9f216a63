"""The one place that talks to `huggingface_hub`: token rules, offline mode, xet, time limits, and typed errors.

* A token is sent only when given; the client's habit of picking up the token saved on this machine is switched off,
  so that it never reaches a mirror by accident. Writing beyond this machine needs one.
* HF_HUB_OFFLINE keeps its meaning for the network, but a Hub on loopback is not the network. `huggingface_hub` enforces
  offline mode in the hook of its HTTP client; the client installed here (its public extension point) exempts loopback.
* A local Hub has no xet storage, and `huggingface_hub` does not fall back by itself: xet is off during calls to
  loopback.
* `huggingface_hub` commits without a time limit; here every wait for the server ends.
"""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from traceback import walk_tb

import httpx2
from huggingface_hub import HfApi, constants, get_session, is_offline_mode, set_client_factory
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from moa.errors import (
    AccessDeniedError,
    HubError,
    HubOfflineError,
    HubStorageError,
    HubUnavailableError,
    HubUntrustedError,
    MissingTokenError,
    RepositoryConflictError,
    RepositoryMissingError,
    XetUnavailableError,
)
from moa.hub.loopback import is_loopback
from moa.hub.store import STORAGE_DAMAGED, STORAGE_DENIED

TIME_LIMIT = httpx2.Timeout(30.0, read=300.0)  # seconds to connect and send a piece; to wait for an answer
TRUST = "if it is of a private authority, set SSL_CERT_FILE to the file of that authority's certificate"
_BUSY = (408, 429, 500, 502, 503, 504)
_MISSING = {RepositoryNotFoundError: "repository", RevisionNotFoundError: "revision", EntryNotFoundError: "file"}
_XET_STATUS = re.compile(r"HTTP status (?:client|server) error \((\d{3})")  # how hf_xet tells of an answer
_XET_LOST = re.compile(r"timed? ?out|error sending request|connection (?:reset|closed|refused)", re.IGNORECASE)
_XET_TOKEN = re.compile(r"/xet-(?:read|write)-token")  # the Hub's address that leads to its xet storage
_QUERY = re.compile(r"(https?://[^\s?'\"<>]+)\?[^\s'\"<>)\]]*")
_lock = threading.RLock()


@contextmanager
def hub_client(endpoint: str, *, token: str | None, repo_id: str, writing: bool) -> Iterator[HfApi]:
    """A client for one endpoint, whose failures come out as `moa.errors`. Threads take turns: xet is one switch.

    Args:
        endpoint: address of the Hub, such as `https://huggingface.co` or a `LocalHub.endpoint`.
        token: access token or None; never read from anywhere else.
        repo_id: the repository in question, for messages.
        writing: whether this may change the repository; needs a token beyond this machine.
    """
    endpoint = endpoint.rstrip("/")
    local = is_loopback(endpoint)
    token = _sendable(token, endpoint)
    if not local and is_offline_mode():
        raise HubOfflineError(
            f"{endpoint}: HF_HUB_OFFLINE is set; unset it, or use a local Hub (python -m moa.hub.server)"
        )
    if not local and writing and not token:
        raise MissingTokenError(
            f"{endpoint}: publishing {repo_id} needs an access token with write permission; set HF_TOKEN"
        )
    with _lock:
        if local and not isinstance(get_session(), LoopbackClient):
            set_client_factory(LoopbackClient)
        get_session().timeout = TIME_LIMIT
        xet, constants.HF_HUB_DISABLE_XET = constants.HF_HUB_DISABLE_XET, constants.HF_HUB_DISABLE_XET or local
        try:
            yield HfApi(endpoint=endpoint, token=token or False, library_name="moa")
        except Exception as error:
            translated = _translated(error, endpoint, repo_id)
            if translated is None:
                raise
            raise translated from error
        finally:
            constants.HF_HUB_DISABLE_XET = xet


def _sendable(token: str | None, endpoint: str) -> str | None:
    """A token without the line break that files of secrets end with. The HTTP client would print one that it cannot
    send, so that is refused here."""
    token = token.strip() if token else None
    if token and not (token.isascii() and token.isprintable()):
        raise AccessDeniedError(f"{endpoint}: the access token holds characters that none has; check HF_TOKEN")
    return token


class LoopbackClient(httpx2.Client):
    """The HTTP client of `huggingface_hub` with loopback exempt from offline mode and from proxies."""

    def __init__(self) -> None:
        direct = {f"all://{name}": None for name in ("localhost", "127.0.0.1", "[::1]")}
        hooks = {"request": [_refuse_network_when_offline]}
        super().__init__(event_hooks=hooks, follow_redirects=True, timeout=TIME_LIMIT, mounts=direct)


def _refuse_network_when_offline(request: httpx2.Request) -> None:
    if is_offline_mode() and not is_loopback(str(request.url)):
        raise OfflineModeIsEnabled(f"Cannot reach {request.url}: HF_HUB_OFFLINE is set")


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help: no answer, or an answer that says busy or broken."""
    if is_untrusted(error):
        return False
    status = status_of(error)
    lost = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)
    if status is not None:
        return status in _BUSY
    return is_xet_lost(error) or any(isinstance(cause, lost) for cause in _causes(error))


def is_untrusted(error: BaseException) -> bool:
    """Whether the Hub's certificate is none that this machine trusts."""
    return _distrust(error) is not None


def _distrust(error: BaseException) -> ssl.SSLCertVerificationError | None:
    found = (cause.__context__ for cause in _causes(error))
    return next((reason for reason in found if isinstance(reason, ssl.SSLCertVerificationError)), None)


def is_xet_lost(error: BaseException) -> bool:
    """Whether the Hub's xet storage gave no answer."""
    return status_of(error) is None and any(_XET_LOST.search(_xet_text(cause)) for cause in _causes(error))


def status_of(error: BaseException) -> int | None:
    """HTTP status of the Hub's answer behind an error, or of its xet storage's; None if there was no answer."""
    for cause in _causes(error):
        if (answer := _answer(cause)) is not None:
            return answer.status_code
        if answered := _XET_STATUS.search(_xet_text(cause)):
            return int(answered[1])
    return None


def reason_of(error: BaseException) -> str:
    """A failure in short: status and message of the Hub's answer; if there was none, the kind of error and who was
    asked, as far as the error knows."""
    status = status_of(error)
    if status is None:
        return type(error.__cause__ or error).__name__ + _asked(error)
    message = next((said for cause in _causes(error) if (said := _header(cause, "X-Error-Message"))), None)
    return f"{status}: {message}" if message else str(status)


def _asked(error: BaseException) -> str:
    for cause in _causes(error):
        if isinstance(cause, httpx2.RequestError):
            with suppress(RuntimeError):  # of one that knows of no request
                return f", {cause.request.url.scheme}://{cause.request.url.netloc.decode()}"
    return ""


def _header(error: BaseException, name: str) -> str | None:
    answer = _answer(error)
    return None if answer is None else answer.headers.get(name)


def _answer(error: BaseException) -> httpx2.Response | None:
    """The Hub's answer behind one error; the client raises errors of the same kind where it had none."""
    return getattr(error, "response", None) if isinstance(error, HfHubHTTPError) else None


def _xet_text(error: BaseException) -> str:
    """What hf_xet says of a failure, which it raises as one of Python's own exceptions; nothing for another error."""
    return str(error) if type(error) in (ConnectionError, TimeoutError, RuntimeError) else ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and the errors it was raised from: the client wraps failed uploads and downloads."""
    while error is not None:
        yield error
        error = error.__cause__


def _translated(error: Exception, endpoint: str, repo_id: str) -> HubError | None:
    """The typed error for a failure of the Hub or its client; None for what is already typed or is neither."""
    if isinstance(error, HubError):
        return None
    where, status, reason = f"{repo_id} at {endpoint}", status_of(error), reason_of(error)
    if isinstance(error, OfflineModeIsEnabled):
        return HubOfflineError(
            f"{where}: it sends on to another machine, and HF_HUB_OFFLINE is set; unset it ({error})"
        )
    if distrust := _distrust(error):
        return HubUntrustedError(f"{where}: its certificate is not trusted ({distrust.verify_message}): {TRUST}")
    if status == 507:
        return HubStorageError(f"{where}: the Hub has no room left ({reason}); free space there, then run this again")
    codes = {_header(cause, "X-Error-Code") for cause in _causes(error)}
    if STORAGE_DAMAGED in codes:
        return HubStorageError(
            f"{where}: files of the Hub are lost or damaged ({reason}); restore them there from a copy, then run this "
            "again"
        )
    if STORAGE_DENIED in codes:
        return HubStorageError(
            f"{where}: the Hub may not use its own files ({reason}); give the user who runs it the right to, then run "
            "this again"
        )
    if status in (401, 403):
        return AccessDeniedError(f"{where}: the Hub refused access ({reason}); check HF_TOKEN and its write permission")
    if not is_transient(error) and _is_without_xet(error, repo_id):
        return XetUnavailableError(
            f"{where}: no transfer through xet storage ({without_queries(str(error))}). If this server has none, as "
            "mirrors have none, set HF_HUB_DISABLE_XET=1 in the environment of the process and run this again"
        )
    for kind, name in _MISSING.items():
        if isinstance(error, kind) and not isinstance(error, LocalEntryNotFoundError):
            return RepositoryMissingError(f"{where}: no such {name}, or the token may not see it")
    if status in (409, 412):
        return RepositoryConflictError(
            f"{where}: somebody else changed it meanwhile ({status}); nothing was overwritten"
        )
    if isinstance(error, LocalEntryNotFoundError) or is_transient(error):
        return HubUnavailableError(f"{where}: no usable answer ({reason}); try again later")
    if status is not None:
        return HubError(f"{where}: the Hub refused the request ({status}): {without_queries(str(error))}")
    if _is_of_no_hub(error):
        what = without_queries(f"{type(error).__name__}: {error}")
        return HubError(f"{where}: no answer of a Hub ({what}): see whether the address and the name are right")
    return None


def _is_of_no_hub(error: Exception) -> bool:
    """Whether the client stumbled over an answer that is none of the protocol's, a web page for instance: it then ends
    with whatever its code and its parsers raise."""
    stumbled = (httpx2.HTTPError, httpx2.InvalidURL, ValueError, LookupError, TypeError, AttributeError)
    modules = (frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__))
    return isinstance(error, stumbled) and any(name.startswith("huggingface_hub.") for name in modules)


def _is_without_xet(error: Exception, repo_id: str) -> bool:
    """Whether the server refuses, or answers senselessly, when it is asked for its xet storage."""
    asked = _XET_TOKEN.search(str(error).replace(repo_id, "")) is not None
    return asked or (type(error) is ConnectionError and status_of(error) is None)


def without_queries(text: str) -> str:
    """A text with the addresses in it cut at their `?`: whoever has a signed one may use it for some time."""
    return _QUERY.sub(r"\1", text)
