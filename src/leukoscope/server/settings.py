"""What a reading room needs to know before it opens."""

import ipaddress
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator

from ..config import OperatingPoint, Settings
from ..errors import ConfigError, UsageError, nearest
from ..files import read_text
from ..images.read import MAX_PIXELS
from .database import ROLES

MIB = 1 << 20
T = TypeVar("T", bound=Settings)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Limits(Settings):
    """What one upload may be."""

    upload_bytes: int = Field(2048 * MIB, ge=1)
    """Of one request, whatever it holds."""
    file_bytes: int = Field(512 * MIB, ge=1)
    """Of one file, and of all that a zip unpacks to."""
    files: int = Field(5000, ge=1)
    """In one request, those inside zips counted one by one."""
    pixels: int = Field(MAX_PIXELS, ge=1)
    """Of one picture that is not a slide, as everywhere else."""
    slide_bytes: int = Field(16384 * MIB, ge=1)
    """Of one slide that is sent by itself."""
    area_pixels: int = Field(50_000_000, ge=1)
    """Of an area of a slide that is analysed at a time."""
    seconds: float = Field(900, gt=0)
    """Of one request, from the first file to the last."""
    json_bytes: int = Field(MIB, ge=1)
    """Of a request that is not an upload."""


class SingleSignOn(Settings):
    """The provider, and what its claims mean in the room."""

    issuer: str
    """Its address, as it calls itself, such as https://login.example.org/realms/hospital."""
    client_id: str = Field(min_length=1)
    """What it knows the room as."""
    client_secret_file: Path | None = None
    """File with the secret that it gave to the room; none where it has PKCE only."""
    address: str
    """Address of the room as browsers call it, such as https://room.example.org; ADDRESS/api/v1/session/oidc/callback
    is to be registered with the provider."""
    title: str = Field("the hospital's account", min_length=1, max_length=80)
    """Text of the button: Sign in with TITLE."""
    scopes: str = "openid profile"
    name_claim: str = "preferred_username"
    """Claim with the name that the room shows."""
    role_claim: str = "groups"
    """Claim with a text or list of texts that `roles` speaks of."""
    roles: dict[str, tuple[str, ...]]
    """reader, reviewer, admin -> values of `role_claim` that give this role; the highest one counts."""
    laboratory_claim: str = ""
    """Claim with the laboratory; empty: all belong to `laboratory`."""
    laboratories: dict[str, str] = Field(default_factory=dict)
    """Value of `laboratory_claim` -> laboratory of the room."""
    laboratory: str = ""
    """The one laboratory of all who sign in."""

    @field_validator("issuer", "address")
    @classmethod
    def _safe_address(cls, value: str) -> str:
        check_address(value)
        return value

    @model_validator(mode="after")
    def _whole(self) -> "SingleSignOn":
        if strange := sorted(set(self.roles) - set(ROLES)):
            raise ValueError(f"roles.{strange[0]} is none of {', '.join(ROLES)}")
        if not any(self.roles.values()):
            raise ValueError("roles names no group, so that nobody could sign in")
        if bool(self.laboratory_claim) == bool(self.laboratory):
            raise ValueError("give either laboratory, or laboratory_claim and [laboratories]")
        if self.laboratory_claim and not self.laboratories:
            raise ValueError("laboratory_claim needs [laboratories]: what each value means in the room")
        return self


def check_address(value: str) -> None:
    """Make sure that an address is https, or this machine's own.

    Raises:
        ValueError: it is not.
    """
    parts = urlsplit(value)
    local = parts.scheme == "http" and parts.hostname in _LOOPBACK
    if not parts.hostname or not (parts.scheme == "https" or local):
        raise ValueError(f"{value} is not an https address")
    if parts.query or parts.fragment or parts.username:
        raise ValueError(f"{value} has more than scheme, host and path")


def read_single_sign_on(path: Path) -> SingleSignOn:
    """Read the file of `serve --oidc`.

    Raises:
        ConfigError: it is not TOML, or an entry is missing, unknown or wrong.
    """
    read = _validated(SingleSignOn, _read_toml(path), where=str(path))
    return read.model_copy(update={"client_secret_file": _beside(path, read.client_secret_file)})


class Destination(Settings):
    """A system of the hospital that takes results of signed cases."""

    name: str = Field(min_length=1, max_length=80)
    kind: Literal["dicomweb", "fhir", "hl7"]
    address: str
    """Base URL, or host:port of a receiver of HL7 over MLLP."""
    user: str = ""
    password_file: Path | None = None
    token_file: Path | None = None
    """File with a bearer token, instead of user and password."""
    laboratory: str = ""
    """The one laboratory that sends there; empty: every one."""
    plain_http: bool = False
    """Allow http to another machine: patients' numbers then travel readable for whoever listens in between."""

    @model_validator(mode="after")
    def _reachable(self) -> "Destination":
        if self.kind == "hl7":
            host, _, port = self.address.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
                raise ValueError(f"address {self.address} is not HOST:PORT")
        elif not (self.plain_http and self.address.startswith("http://")):
            check_address(self.address)
        return self


def read_destinations(path: Path) -> tuple[Destination, ...]:
    """Read the file of `serve --hospital`: a table for each destination.

    Raises:
        ConfigError: it is not TOML, or an entry is missing, unknown or wrong.
    """
    found = []
    for name, entries in _read_toml(path).items():
        if not isinstance(entries, dict):
            raise ConfigError(f"{path}: {name} is not in a table. Begin with a name in brackets, such as [archive].")
        made = _validated(Destination, {"name": name} | entries, where=f"{path}, [{name}]")
        files = {key: _beside(path, getattr(made, key)) for key in ("password_file", "token_file")}
        found.append(made.model_copy(update=files))
    return tuple(found)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path))
    except (tomllib.TOMLDecodeError, RecursionError) as broken:
        raise ConfigError(f"{path} is not valid TOML: {broken}.") from None


def _validated(kind: type[T], table: dict[str, Any], *, where: str) -> T:
    try:
        return kind.model_validate(table)
    except ValidationError as invalid:
        # A misspelt name is unknown, and its right spelling missing: the first is more useful.
        first = min(invalid.errors(), key=lambda each: each["type"] != "extra_forbidden")
        place = ".".join(str(step) for step in first["loc"])
        hint = nearest(place, kind.model_fields) if first["type"] == "extra_forbidden" else ""
        what = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{where}: {place + ': ' if place else ''}{what}.{hint}") from None


def _beside(path: Path, secret: Path | None) -> Path | None:
    if secret is None:
        return None
    if not (path.parent / secret).is_file():
        raise ConfigError(f"{path}: {path.parent / secret} does not exist.")
    return (path.parent / secret).resolve()


class RoomSettings(Settings):
    """One reading room."""

    data: Path
    """Folder of the pictures, the embedded database and the key of the audit log."""
    database: str = ""
    """Address of a PostgreSQL database; empty: SQLite in `data`."""
    model: str | Path | None = None
    """Bundle that answers; None: the shipped one."""
    trust: tuple[Path, ...] = ()
    """Public keys: with any, only a bundle that one of them has signed is served."""
    survival: tuple[Path, ...] = ()
    """Folders that `leukoscope survival fit` wrote."""
    point: OperatingPoint = "balanced"
    host: str = "127.0.0.1"
    port: int = Field(8765, ge=0, le=65535)
    names: tuple[str, ...] = ()
    """Host names that browsers may call it by; empty: those of loopback, or any where it is open to others."""
    plain_http: bool = False
    """Send cookies without Secure although the server is open to others: for a trial without TLS."""
    oidc: SingleSignOn | None = None
    """The provider through which people sign in, beside passwords; None: passwords only."""
    hospital: tuple[Destination, ...] = ()
    """Systems of the hospital that take results of signed cases."""
    session_hours: float = Field(12, gt=0)
    attempts: int = Field(10, ge=1)
    """Failed logins of one name or one address within five minutes, after which it has to wait."""
    order: tuple[str, ...] = ()
    """Rows of the differential in the laboratory's own order; others follow."""
    goal: int = Field(200, ge=1)
    """White cells that the laboratory counts for a differential."""
    platelet_factor: float | None = Field(None, gt=0)
    """Platelets in 10⁹ per litre for one platelet in a field, as found for the laboratory's microscope."""
    keys: dict[str, str] = Field(default_factory=dict)
    """Label -> the key for it; others keep theirs."""
    lease_seconds: float = Field(30, gt=0)
    """How long a worker may be silent before its work is given to another."""
    work: bool = True
    """Analyse in this process; False: leave the queue to other processes."""
    apart: bool = False
    """Analyse in a process of its own, as `leukoscope serve` does, so that people are answered meanwhile."""
    analysis_bytes: int = Field(6144 * MIB, ge=256 * MIB)
    """Memory that analysis in a process of its own may take, beyond the model: a field of 100 million pixels takes
    3,500 MiB."""
    limits: Limits = Limits()

    @property
    def url(self) -> str:
        """Address of the database for SQLAlchemy."""
        if not self.database:
            return f"sqlite:///{self.data.resolve() / 'room.sqlite'}"
        return self.database.replace("postgresql://", "postgresql+psycopg://", 1)

    @property
    def local(self) -> bool:
        """Whether only this machine can call."""
        return is_loopback(self.host)


TAKEN_KEYS = {
    "0": "unsure",
    "x": "not a cell",
    "z": "undo",
    "h": "heat maps",
    "v": "as the model sees it",
    "f": "the field",
    "a": "add",
    "r": "redraw",
    "l": "likeness",
}
"""Keys that mean something in the room whatever a laboratory sets."""


def checked_keys(given: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return label -> key, in small letters.

    Raises:
        UsageError: a key is not one character, belongs to something else in the room, or is given for two labels.
    """
    keys: dict[str, str] = {}
    for label, wanted in given:
        key = wanted.lower()
        if len(key) != 1 or not (key.isascii() and key.isalnum()):
            raise UsageError(f"The key for {label} is '{wanted}'. Give one letter or digit.")
        if key in TAKEN_KEYS:
            raise UsageError(f"{wanted} means {TAKEN_KEYS[key]} in the room. Choose another key for {label}.")
        if key in keys.values():
            other = next(name for name, taken in keys.items() if taken == key)
            raise UsageError(f"{wanted} is the key for {other} already. Choose another key for {label}.")
        keys[label] = key
    return keys


def is_loopback(host: str) -> bool:
    """Tell whether a host to bind to is this machine alone.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
