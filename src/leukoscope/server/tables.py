"""What the database holds. Predictions and reviews are only ever added; the audit log cannot be changed at all.

laboratories ─< accounts ─< logins (sessions of a browser), tokens (of a program)
laboratories ─< cases ─< images ─< cells ─< predictions, reviews
images ─ jobs (the queue);  bundles (every model that has ever answered);  audit_log, chained by hash
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Key = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts up only columns that are INTEGER

NOT_A_CELL, REMOVED = "not_a_cell", "removed"
READER, REVIEWER, ADMIN = "reader", "reviewer", "admin"
ROLES = (READER, REVIEWER, ADMIN)
"""Each may do what those before it may."""
READ, UPLOAD, REVIEW = "read", "upload", "review"
SCOPES = (READ, UPLOAD, REVIEW)
"""What a token may do: look; make cases and send images; say what cells are, mend outlines, sign off, delete."""
OPEN, SIGNED = "open", "signed"
QUEUED, RUNNING, DONE, FAILED = "queued", "running", "done", "failed"
CROP, FIELD, SLIDE, DICOM = "crop", "field", "slide", "dicom"


def now() -> str:
    """Return the time in UTC as it is stored: 2026-01-31T12:00:00.123456+00:00, which sorts as text."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


class Table(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy reads it from the class
        str: Text(),
        dict[str, Any]: JSON(),
        list[Any]: JSON(),
        bytes: LargeBinary(),
    }


class Laboratory(Table):
    """A group of people who see each other's cases and nobody else's."""

    __tablename__ = "laboratories"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    created: Mapped[str] = mapped_column(default=now)


class Account(Table):
    """A person, or the one local account of a machine that nobody else can call."""

    __tablename__ = "accounts"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    laboratory_id: Mapped[int] = mapped_column(ForeignKey("laboratories.id"))
    name: Mapped[str] = mapped_column(String(200), unique=True)
    role: Mapped[str] = mapped_column(String(20))
    password: Mapped[str] = mapped_column(default="")
    """Argon2 hash; empty: nobody can log in with a password."""
    active: Mapped[bool] = mapped_column(default=True)
    created: Mapped[str] = mapped_column(default=now)


class Login(Table):
    """A browser's session; the cookie itself is not stored, only its SHA-256."""

    __tablename__ = "logins"
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"), index=True)
    csrf: Mapped[str] = mapped_column(String(64))
    created: Mapped[str] = mapped_column(default=now)
    expires: Mapped[str]


class Attempt(Table):
    """A failed login of a name or an address, of which only the SHA-256 is stored; forgotten after minutes."""

    __tablename__ = "attempts"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    key: Mapped[str] = mapped_column(String(64))
    time: Mapped[float]
    """Seconds since 1970."""
    __table_args__ = (Index("attempts_of", "key", "time"),)


class Token(Table):
    """An API token of an account; only its SHA-256 is stored."""

    __tablename__ = "tokens"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[Any]] = mapped_column(default=list)
    """What it may do, of SCOPES; what its account may not do, it may not do either."""
    created: Mapped[str] = mapped_column(default=now)
    expires: Mapped[str]
    last_used: Mapped[str | None]
    """Known to the minute."""


class Case(Table):
    """One patient's slide, or whatever a reader signs off as one."""

    __tablename__ = "cases"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    laboratory_id: Mapped[int] = mapped_column(ForeignKey("laboratories.id"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    subject: Mapped[str] = mapped_column(String(200), default="")
    state: Mapped[str] = mapped_column(String(20), default=OPEN)
    note: Mapped[str] = mapped_column(default="")
    """Of the sign-off."""
    signed_by: Mapped[int | None] = mapped_column(ForeignKey("accounts.id"))
    signed: Mapped[str | None]
    created_by: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    created: Mapped[str] = mapped_column(default=now)
    images_made: Mapped[int] = mapped_column(default=0)
    cells_made: Mapped[int] = mapped_column(default=0)
    """The next cell gets one more as its number."""
    version: Mapped[int] = mapped_column(default=1)
    """One more with each change of the case or of anything in it: whoever signs it off names the one they saw."""


class Picture(Table):
    """An image of a case: one cell, a field, a slide. Its bytes lie in the store under `digest`, without metadata."""

    __tablename__ = "images"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    case_id: Mapped[int] = mapped_column(ForeignKey("cases.id", ondelete="CASCADE"))
    number: Mapped[int]
    name: Mapped[str]
    """What the user's file was called: shown and exported, never a path."""
    kind: Mapped[str] = mapped_column(String(20))
    digest: Mapped[str] = mapped_column(String(64), index=True)
    identity: Mapped[str] = mapped_column(String(64), default="")
    """Digest of a DICOM source's header, which its results must carry; nothing else reads it."""
    width: Mapped[int]
    height: Mapped[int]
    um_per_px: Mapped[float | None]
    """Stated by the user or the file; after the analysis of a field, what was used."""
    state: Mapped[str] = mapped_column(String(20), default=QUEUED)
    error: Mapped[str] = mapped_column(default="")
    facts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """notes: what its reader did to the values of the file. Of a field: stain and scale, so that a cell added later is
    cut out like the others; when it was judged again."""
    created: Mapped[str] = mapped_column(default=now)
    __table_args__ = (UniqueConstraint("case_id", "number"), Index("images_by_state", "case_id", "state"))


class Cell(Table):
    """One cell of an image, with what is thought of it now."""

    __tablename__ = "cells"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    case_id: Mapped[int] = mapped_column(ForeignKey("cases.id", ondelete="CASCADE"))
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), index=True)
    number: Mapped[int]
    digest: Mapped[str] = mapped_column(String(64), index=True)
    """Its crop in the store: the image itself, or what was cut out of a field."""
    box: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))
    outline: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))
    facts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    origin: Mapped[str] = mapped_column(String(20), default="model")
    """model or reader: who has drawn it."""
    version: Mapped[int] = mapped_column(default=1)
    """One more each time that it is redrawn, removed or brought back: a review names the one that was seen."""
    removed: Mapped[bool] = mapped_column(default=False)
    prediction_id: Mapped[int | None] = mapped_column(Key)
    """The prediction that stands, and below what it said."""
    decision: Mapped[str] = mapped_column(String(200), default="")
    type: Mapped[str] = mapped_column(String(200), default="")
    """Type of the cell, 'unsure' or 'smudge'; empty where none was told."""
    chance: Mapped[float | None]
    """Probability of the disease, or of the likeliest class with more than two; to sort by."""
    review_id: Mapped[int | None] = mapped_column(Key)
    label: Mapped[str] = mapped_column(String(200), default="")
    """Of the standing review; empty: not yet read."""
    need: Mapped[float] = mapped_column(default=0.0)
    """Sort key of review_priority, the neediest first."""
    __table_args__ = (UniqueConstraint("case_id", "number"), Index("cells_by_need", "case_id", "need"))


class Prediction(Table):
    """What one bundle said of one version of one cell. Never changed, never written again by another bundle."""

    __tablename__ = "predictions"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    cell_id: Mapped[int] = mapped_column(ForeignKey("cells.id", ondelete="CASCADE"))
    version: Mapped[int]
    bundle: Mapped[str] = mapped_column(String(64), ForeignKey("bundles.seal"))
    point: Mapped[str] = mapped_column(String(20))
    decision: Mapped[str] = mapped_column(String(200))
    called: Mapped[str] = mapped_column(String(200))
    reason: Mapped[str]
    quality: Mapped[float | None]
    probabilities: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    type: Mapped[str] = mapped_column(String(200), default="")
    types: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """Probability of each type; None where no type was told."""
    evidence: Mapped[bytes | None]
    """Half-precision (height, width): for the disease, or for the called class with more than two."""
    evidence_height: Mapped[int] = mapped_column(default=0)
    created: Mapped[str] = mapped_column(default=now)
    __table_args__ = (UniqueConstraint("cell_id", "version", "bundle"),)


class Review(Table):
    """What one reader said of one cell; taken back by `undone`, never deleted."""

    __tablename__ = "reviews"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    cell_id: Mapped[int] = mapped_column(ForeignKey("cells.id", ondelete="CASCADE"), index=True)
    case_id: Mapped[int] = mapped_column(ForeignKey("cases.id", ondelete="CASCADE"))
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    label: Mapped[str] = mapped_column(String(200))
    note: Mapped[str] = mapped_column(default="")
    created: Mapped[str] = mapped_column(default=now)
    undone: Mapped[bool] = mapped_column(default=False)
    __table_args__ = (Index("reviews_to_undo", "case_id", "account_id", "id"),)


class Job(Table):
    """One image to analyse: a row that a worker leases, and that another takes over when the lease runs out."""

    __tablename__ = "jobs"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), unique=True)
    case_id: Mapped[int] = mapped_column(ForeignKey("cases.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(String(20))
    state: Mapped[str] = mapped_column(String(20), default=QUEUED)
    attempts: Mapped[int] = mapped_column(default=0)
    owner: Mapped[str] = mapped_column(String(200), default="")
    leased_until: Mapped[float] = mapped_column(default=0.0)
    """Seconds since 1970, by the worker's clock."""
    __table_args__ = (Index("jobs_to_do", "state", "kind", "id"),)


class Model(Table):
    """A bundle that has answered here, as it described itself."""

    __tablename__ = "bundles"
    seal: Mapped[str] = mapped_column(String(64), primary_key=True)
    manifest: Mapped[dict[str, Any]]
    first_served: Mapped[str] = mapped_column(default=now)


class Entry(Table):
    """One line of the audit log: who did what to what. Names of patients and files are never in it."""

    __tablename__ = "audit_log"
    number: Mapped[int] = mapped_column(Key, primary_key=True, autoincrement=False)
    time: Mapped[str]
    account: Mapped[str] = mapped_column(String(200))
    laboratory_id: Mapped[int | None] = mapped_column(Key)
    action: Mapped[str] = mapped_column(String(50))
    kind: Mapped[str] = mapped_column(String(50))
    item: Mapped[int | None] = mapped_column(Key)
    detail: Mapped[dict[str, Any]]
    hash: Mapped[str] = mapped_column(String(64))
