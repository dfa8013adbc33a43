"""The CLI's side of the API: where it is, one request at a time, errors as the model's errors.

httpx is imported with the first request: help and completion scripts do without it.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from blockgate.model.errors import (
    BlockgateError,
    Conflict,
    Failed,
    InvalidInput,
    NotFound,
    Refused,
    Unavailable,
)
from blockgate.model.showing import shown

if TYPE_CHECKING:
    import httpx

DEFAULT_SOCKET = "/run/blockgate/api.sock"
CONNECT_S = 10.0
READ_S = 120.0
RETRIES = 2
RETRY_AFTER_S = 0.3
_AGAIN = "Try again; `systemctl status blockgated` tells whether it runs."

_BY_STATUS: dict[int, type[BlockgateError]] = {
    400: InvalidInput,
    401: Refused,
    403: Refused,
    404: NotFound,
    408: Unavailable,
    409: Conflict,
    413: InvalidInput,
    422: InvalidInput,
    503: Unavailable,
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the API is, and who we are there."""

    socket: str | None = DEFAULT_SOCKET
    url: str | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    token_file: Path | None = None

    @property
    def local(self) -> bool:
        """Whether the gateway is this machine: relative paths can be made absolute."""
        return self.url is None

    @property
    def text(self) -> str:
        """For messages."""
        return self.url or f"unix:{self.socket}"


def endpoint_of(text: str) -> Endpoint:
    """``unix:/PATH``, ``/PATH`` or ``https://HOST:PORT``, as in BLOCKGATE_API."""
    if text.startswith("http://"):
        raise InvalidInput(
            f"{shown(text)} would send all that is said, secrets too, in the clear.",
            "Write https://HOST:PORT for a TLS listener, or use the Unix socket: --socket PATH.",
        )
    if text.startswith("https://"):
        if not _names_host(text):
            raise _no_place(text)
        return Endpoint(socket=None, url=text.rstrip("/"))
    path = text.removeprefix("unix:")
    if not path.startswith("/"):
        raise _no_place(text)
    return Endpoint(socket=path)


def _names_host(url: str) -> bool:
    """Whether a host stands in the URL, and no port or one that can be."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")
        return bool(host) and parts.port != 0
    except ValueError:  # half an IPv6 address, a label that is too long, a port that is no number
        return False


def _no_place(text: str) -> InvalidInput:
    return InvalidInput(
        f"{shown(text)} is not where an API can be.",
        "Write unix:/PATH or https://HOST:PORT, for example unix:/run/blockgate/api.sock.",
    )


class Api:
    """A connection to the daemon. Errors of the daemon are raised as the model's errors."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._client: httpx.Client | None = None

    def get(self, *path: str | int, timeout_s: float = READ_S, **query: Any) -> Any:
        """GET ``/v1/path...``; the parts of `path` are quoted."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._send("GET", _path(path), query=given, timeout_s=timeout_s)

    def change(
        self,
        method: str,
        *path: str | int,
        body: Any = None,
        operation_id: str | None = None,
        **query: Any,
    ) -> Any:
        """A request that changes something, under an operation id of its own.

        When the connection breaks it is sent again with the same id, so it happens once.
        """
        given = {name: value for name, value in query.items() if value is not None}
        headers = {"Operation-Id": operation_id or new_operation_id()}
        for attempt in range(RETRIES + 1):
            try:
                return self._send(
                    method, _path(path), body=body, query=given, headers=headers, timeout_s=None
                )
            except _ConnectionBroke as error:
                if attempt == RETRIES:
                    raise Unavailable(
                        f"The connection to {self.endpoint.text} broke.",
                        f"`blockgate operation {headers['Operation-Id']}` tells what became of it.",
                    ) from error
                time.sleep(RETRY_AFTER_S)
        raise AssertionError("unreachable")

    def _send(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: dict[str, Any],
        headers: dict[str, str] | None = None,
        timeout_s: float | None,
    ) -> Any:
        import httpx

        if self._client is None:
            self._client = _client(self.endpoint)
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_S)
        try:
            json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(
                f"{shown(error.object[error.start : error.end])} is not valid UTF-8.",
                "Names and paths are UTF-8 text: rename the file first.",
            ) from error
        try:
            response = self._client.request(
                method, path, json=body, params=query, headers=headers, timeout=timeout
            )
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise _no_daemon(self.endpoint, error) from error
        except httpx.TimeoutException as error:
            raise Unavailable(f"{self.endpoint.text} does not answer.", _AGAIN) from error
        except httpx.TransportError as error:
            if headers is None:
                message = f"The connection to {self.endpoint.text} broke."
                raise Unavailable(message, _AGAIN) from error
            raise _ConnectionBroke from error
        if response.is_success:
            return response.json() if response.content else None
        raise _error(response)


class _ConnectionBroke(Exception):
    """A change was sent, and nobody knows what became of it."""


def new_operation_id() -> str:
    """A fresh id for one change."""
    return str(uuid.uuid4())


def _path(parts: tuple[str | int, ...]) -> str:
    """Each part is quoted whole, and none may lead elsewhere: clients resolve ``..`` in a URL.

    Only the name of an export holds slashes, and the model's rules for names are narrower still.
    """
    for part in map(str, parts):
        if any(step in ("", ".", "..") for step in part.split("/")):
            raise InvalidInput(
                f"{shown(part)} is not a name.", "A name starts with a letter or a digit."
            )
    return "/v1/" + "/".join(quote(str(part), safe="") for part in parts)


def _client(endpoint: Endpoint) -> httpx.Client:
    import httpx

    if endpoint.url is None:
        # verify=False: no TLS here, and loading the CAs takes 20 ms.
        transport = httpx.HTTPTransport(uds=endpoint.socket, verify=False)
        return httpx.Client(transport=transport, base_url="http://blockgate", trust_env=False)
    headers = {}
    if endpoint.token_file is not None:
        headers["Authorization"] = f"Bearer {_read_token(endpoint.token_file)}"
    context = _tls(endpoint)
    try:
        return httpx.Client(base_url=endpoint.url, headers=headers, verify=context, trust_env=False)
    except httpx.InvalidURL:  # it is stricter, as about characters
        raise _no_place(endpoint.url) from None


def _read_token(path: Path) -> str:
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InvalidInput(
            f"Cannot read the token in {path}: {reason}.",
            "Name the file that holds it: --token-file FILE, or BLOCKGATE_TOKEN_FILE.",
        ) from error
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise InvalidInput(f"{path} holds no token.", "Put the token alone into that file.")
    return text


def _tls(endpoint: Endpoint) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=endpoint.ca)
        if endpoint.cert is not None:
            context.load_cert_chain(endpoint.cert, endpoint.key)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or error
        raise InvalidInput(
            f"The TLS files given cannot be used: {reason}.",
            "Name files in PEM form that are there: --ca, and --cert with --key.",
        ) from error
    return context


def _no_daemon(endpoint: Endpoint, error: Exception) -> BlockgateError:
    hint = "Is blockgated running? `systemctl status blockgated`; or name it: --socket, --url."
    if endpoint.socket is not None:
        if not Path(endpoint.socket).exists():
            return Unavailable(f"There is no socket {endpoint.socket}.", hint)
        if not os.access(endpoint.socket, os.W_OK):
            return Refused(
                f"You may not use the socket {endpoint.socket}.",
                "Run this as root, or as a member of the group that owns the socket.",
            )
    distrust = _distrust(error)
    if distrust is not None:
        return Unavailable(
            f"The certificate of {endpoint.text} is not trusted: {distrust.verify_message}.",
            "Name the CA that signed it: --ca FILE, or BLOCKGATE_CA.",
        )
    reason = re.sub(r"^\[Errno -?\d+\] ", "", str(error))
    return Unavailable(f"Nobody answers at {endpoint.text}: {reason}.", hint)


def _distrust(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """What was found against the gateway's certificate, if that is why there is no connection."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error


def _error(response: httpx.Response) -> BlockgateError:
    kind = _BY_STATUS.get(response.status_code, Failed)
    try:
        detail = response.json()["error"]
        return kind(detail["message"], detail.get("hint") or "", code=detail["code"])
    except (ValueError, KeyError, TypeError):
        return Failed(f"The gateway answered {response.status_code}, and not in its own words.")
