"""What a reading room needs to know before it opens."""

import ipaddress
from pathlib import Path

from pydantic import Field

from ..config import OperatingPoint, Settings

MIB = 1 << 20


class Limits(Settings):
    """What one upload may be."""

    upload_bytes: int = Field(2048 * MIB, ge=1)
    """Of one request, whatever it holds."""
    file_bytes: int = Field(512 * MIB, ge=1)
    """Of one file, and of all that a zip unpacks to."""
    files: int = Field(5000, ge=1)
    """In one request, those inside zips counted one by one."""
    pixels: int = Field(100_000_000, ge=1)
    """Of one picture that is not a slide."""
    seconds: float = Field(900, gt=0)
    """Of one request, from the first file to the last."""
    json_bytes: int = Field(MIB, ge=1)
    """Of a request that is not an upload."""


class Serving(Settings):
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
    session_hours: float = Field(12, gt=0)
    attempts: int = Field(10, ge=1)
    """Failed logins of one name or one address within five minutes, after which it has to wait."""
    order: tuple[str, ...] = ()
    """Rows of the differential in the laboratory's own order; others follow."""
    goal: int = Field(200, ge=1)
    """White cells that the laboratory counts for a differential."""
    keys: dict[str, str] = Field(default_factory=dict)
    """Label that a reader can say -> the key for it; others keep theirs."""
    lease_seconds: float = Field(30, gt=0)
    """How long a worker may be silent before its work is given to another."""
    work: bool = True
    """Analyse in this process; False: leave the queue to other processes."""
    apart: bool = False
    """Analyse in a process of its own, as `leukoscope serve` does, so that people are answered meanwhile."""
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


def is_loopback(host: str) -> bool:
    """Tell whether a host to bind to is this machine alone.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
