"""Who vouches for a bundle: an Ed25519 signature over its seal, in a file beside bundle.json.

The seal of a bundle finds damage, and whoever changes a file can make a new one. A signature cannot be made without the
private key. It is only worth as much as the way in which the public key was received: hand it over
separately from the bundle.
"""

import base64
import contextlib
import json
import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..errors import BundleError, DataError, UsageError, require
from ..files import read_json, write_json
from .manifest import Bundle

SIGNATURE = "signature.json"
FORMAT = 1
_PURPOSE = "leukoscope bundle signature 1"  # so that a signature cannot be used for anything else


@dataclass(frozen=True)
class Signature:
    """A signature that fits a bundle."""

    name: str
    """What the signer calls themselves; only the key shows who that is."""
    key: str
    """Fingerprint of the public key: the first 32 hex digits of its SHA-256."""


def make_key(path: Path) -> str:
    """Write a new private key to PATH (for its owner alone) and the public one to PATH.pub; return its fingerprint.

    Raises:
        UsageError: something is there already.
    """
    serialization = _serialization()
    ed25519 = require(_ED25519, feature="Signing", extra="sign")
    key, public_path = ed25519.Ed25519PrivateKey.generate(), path.with_name(f"{path.name}.pub")
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(private)
    except FileExistsError:
        raise UsageError(f"{path} exists already. Choose another name; a key is never written over.") from None
    public_path.write_bytes(public)
    return _fingerprint(key.public_key())


def sign(bundle: Bundle, key: Path, *, name: str) -> Signature:
    """Sign a bundle with a private key; a signature that it has is replaced.

    Raises:
        UsageError: the file holds no private Ed25519 key.
    """
    private = _private(key)
    signed = private.sign(_message(bundle.manifest.seal, name))
    public = _raw(private.public_key())
    table = {
        "format": FORMAT,
        "name": name,
        "seal": bundle.manifest.seal,
        "public_key": base64.b64encode(public).decode(),
        "signature": base64.b64encode(signed).decode(),
    }
    write_json(bundle.path / SIGNATURE, table)
    return Signature(name, _fingerprint(private.public_key()))


def signature_of(bundle: Bundle) -> Signature | None:
    """Return who has signed a bundle, or None where nobody has.

    Raises:
        BundleError: there is a signature that does not fit the bundle.
    """
    path = bundle.path / SIGNATURE
    if not path.exists():
        return None
    ed25519 = require(_ED25519, feature="Checking a signature", extra="sign")
    invalid: type[Exception] = require("cryptography.exceptions", feature="Checking", extra="sign").InvalidSignature
    try:
        table: dict[str, Any] = read_json(path)
        public = ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(table["public_key"], validate=True))
        name = str(table["name"])
        if table["format"] != FORMAT or table["seal"] != bundle.manifest.seal:
            raise ValueError("it is of another bundle")
        public.verify(base64.b64decode(table["signature"], validate=True), _message(bundle.manifest.seal, name))
    except (DataError, KeyError, TypeError, ValueError, invalid) as wrong:
        why = str(wrong) or "it was not made with this key"
        raise BundleError(f"{path} does not fit the bundle ({why}). Do not trust it; ask who made it.") from None
    return Signature(name, _fingerprint(public))


def check_signature(bundle: Bundle, trusted: tuple[Path, ...]) -> Signature:
    """Make sure that one of some public keys has signed a bundle.

    Raises:
        BundleError: nobody has signed it, or somebody else.
        UsageError: a file holds no public Ed25519 key.
    """
    known = {_fingerprint(_public(path)): path for path in trusted}
    signature = signature_of(bundle)
    if signature is None:
        raise BundleError(f"{bundle.path} is not signed, and only signed bundles are taken here (--trust).")
    if signature.key not in known:
        raise BundleError(
            f"{bundle.path} is signed by {signature.name} with the key {signature.key}, which is none of those "
            "that are trusted here (--trust)."
        )
    return signature


_ED25519 = "cryptography.hazmat.primitives.asymmetric.ed25519"


def _serialization() -> Any:
    return require("cryptography.hazmat.primitives.serialization", feature="Signing", extra="sign")


def _private(path: Path) -> Any:
    ed25519 = require(_ED25519, feature="Signing", extra="sign")
    with contextlib.suppress(ValueError, TypeError, OSError):
        key = _serialization().load_pem_private_key(path.read_bytes(), password=None)
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return key
    raise UsageError(f"{path} holds no private Ed25519 key. Make one with leukoscope models key.")


def _public(path: Path) -> Any:
    ed25519 = require(_ED25519, feature="Checking a signature", extra="sign")
    with contextlib.suppress(ValueError, TypeError, OSError):
        key = _serialization().load_pem_public_key(path.read_bytes())
        if isinstance(key, ed25519.Ed25519PublicKey):
            return key
    raise UsageError(f"{path} holds no public Ed25519 key: the file that leukoscope models key wrote as NAME.pub.")


def _raw(public: Any) -> bytes:
    serialization = _serialization()
    raw: bytes = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return raw


def _fingerprint(public: Any) -> str:
    return sha256(_raw(public)).hexdigest()[:32]


def _message(seal: str, name: str) -> bytes:
    return json.dumps([_PURPOSE, seal, name], ensure_ascii=False).encode()
