"""The daemon's configuration: a TOML file, flags above it, checked before anything runs.

Every field may stand in the file; a flag replaces its field.  A mistake ends the start with one
sentence per field; unknown names are mistakes too.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from blockgate.model.addresses import Address, InetAddress, UnixAddress, parse_address
from blockgate.model.errors import BlockgateError, InvalidInput

NBD_PORT = 10809  # IANA's
ISCSI_PORT = 3260  # likewise (RFC 7143 section 15)
API_TLS_PORT = 10810
MAX_FILE_BYTES = 1 << 20

RoleName = Literal["view", "operate", "administer"]


def _address(default_port: int) -> Any:
    def check(text: str) -> str:
        try:
            parse_address(text, default_port)
        except BlockgateError as error:
            raise ValueError(str(error)) from error
        return text

    return AfterValidator(check)


def _mode(text: str) -> str:
    try:
        value = int(text, 8)
    except ValueError:
        value = -1
    if not 0 <= value <= 0o777:
        raise ValueError("write an octal file mode, for example 0660")
    return text


FileMode = Annotated[str, AfterValidator(_mode)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ApiSection(_Section):
    """``[api]``: who may reach the API, and how."""

    socket: Annotated[str, _address(API_TLS_PORT)] = "unix:/run/blockgate/api.sock"
    socket_mode: FileMode = "0660"
    socket_group: str | None = None
    tls_listen: Annotated[str, _address(API_TLS_PORT)] | None = None
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    tokens: Path | None = None
    users: dict[str, RoleName] = Field(default_factory=dict)
    groups: dict[str, RoleName] = Field(default_factory=dict)
    certificates: dict[str, RoleName] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits_together(self) -> ApiSection:
        if not self.socket.startswith("unix:"):
            raise ValueError("`socket` is a Unix socket (unix:/PATH); use `tls_listen` for TCP")
        if self.tls_listen is not None and self.tls_listen.startswith("unix:"):
            raise ValueError("`tls_listen` is a TCP address (HOST:PORT)")
        return self

    def check_tls(self) -> None:
        """What a TLS listener needs, configured or passed by the service manager."""
        if self.certificate is None or self.key is None:
            raise InvalidInput(
                "The API's TLS listener has no certificate.",
                "Give it --api-cert FILE and --api-key FILE.",
            )
        if self.client_ca is None and self.tokens is None:
            raise InvalidInput(
                "Nobody could use the API's TLS listener.",
                "Give it --api-client-ca FILE, --api-tokens FILE, or both.",
            )


class NbdSection(_Section):
    """``[nbd]``: where clients reach the exports."""

    listen: tuple[Annotated[str, _address(NBD_PORT)], ...] = ()
    socket_mode: FileMode = "0660"
    socket_group: str | None = None
    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    verify_client: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> NbdSection:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("`certificate` and `key` belong together")
        if self.verify_client and (self.ca is None or self.certificate is None):
            raise ValueError("`verify_client` takes `ca`, `certificate` and `key`")
        return self


class IscsiSection(_Section):
    """``[iscsi]``: the portals, where initiators reach the targets."""

    listen: tuple[Annotated[str, _address(ISCSI_PORT)], ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> IscsiSection:
        if any(address.startswith("unix:") for address in self.listen):
            raise ValueError("a portal is a TCP address (HOST:PORT)")
        return self


class EngineSection(_Section):
    """``[engine]``: the data plane."""

    io: Literal["auto", "io_uring", "epoll"] = "auto"
    shards: int = Field(default=0, ge=0, le=64)
    """0: one per core, at most 8."""
    limits: dict[str, Annotated[int, Field(ge=0, lt=1 << 64)]] = Field(default_factory=dict)
    lease_seconds: float | None = Field(default=None, ge=0.1, le=3600, exclude=True)
    """For tests, and so in no page: a lease that the gateway gives itself. One that serves alone
    has none."""


class LogSection(_Section):
    """``[log]``: what goes to stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class DaemonConfig(_Section):
    """The whole file."""

    state_dir: Path = Path("/var/lib/blockgate")
    secret_key: Path | None = None
    """The key that encrypts secrets in the state; without it one is kept in the state directory."""
    drain_seconds: float = Field(default=10.0, ge=0, le=300)
    """How long requests in flight may take when the daemon ends."""
    api: ApiSection = ApiSection()
    nbd: NbdSection = NbdSection()
    iscsi: IscsiSection = IscsiSection()
    engine: EngineSection = EngineSection()
    log: LogSection = LogSection()

    def api_socket(self) -> UnixAddress:
        """Where the API's Unix socket is."""
        address = parse_address(self.api.socket)
        assert isinstance(address, UnixAddress)
        return address

    def api_tls(self) -> InetAddress | None:
        """Where the API listens with TLS, if it does."""
        if self.api.tls_listen is None:
            return None
        address = parse_address(self.api.tls_listen, API_TLS_PORT)
        assert isinstance(address, InetAddress)
        return address

    def nbd_addresses(self) -> list[Address]:
        """Where NBD clients connect."""
        return [parse_address(text, NBD_PORT) for text in self.nbd.listen]

    def iscsi_addresses(self) -> list[Address]:
        """Where iSCSI initiators connect."""
        return [parse_address(text, ISCSI_PORT) for text in self.iscsi.listen]


def load_config(path: Path | None, flags: Mapping[str, Any]) -> DaemonConfig:
    """Read `path` (None: no file), put `flags` (``{"api": {"socket": ...}}``) above it and check.

    Raises `InvalidInput` with one line for each mistake.
    """
    document = _read(path) if path is not None else {}
    for name, value in flags.items():
        if isinstance(value, Mapping):
            section = document.setdefault(name, {})
            if isinstance(section, dict):
                section.update(value)
        else:
            document[name] = value
    try:
        return DaemonConfig.model_validate(document)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors(include_input=False)]
        where = f" ({path} and flags)" if path is not None else ""
        raise InvalidInput(
            f"The configuration is not valid{where}: " + "; ".join(lines) + ".",
            "blockgated(8) describes each field.",
        ) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"Cannot read the configuration {path}: {error.strerror}.") from error
    if len(raw) > MAX_FILE_BYTES:
        raise InvalidInput(f"The configuration {path} is longer than {MAX_FILE_BYTES} bytes.")
    try:
        return tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"The configuration {path} is not valid TOML: {error}.", "https://toml.io explains it."
        ) from error


def _explain(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"there is no field {where}"
    reason = str(problem["msg"]).removeprefix("Value error, ").rstrip(".")
    return f"{where}: {reason}" if where else reason
