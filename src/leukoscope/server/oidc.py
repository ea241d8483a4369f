"""Signing in at the hospital's own OpenID Connect provider: authorisation code with PKCE, state and nonce.

The provider authenticates people; the laboratory's file maps its groups to roles in the room. Whoever the provider
knows but the file does not is not let in. Passwords of the room also work, even while the provider is unavailable.

Source: OpenID Connect Core 1.0, https://openid.net/specs/openid-connect-core-1_0.html; RFC 7636 (PKCE), RFC 9207.
"""

import json
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ..errors import LeukoscopeError, attempt, require
from ..files import read_text
from .accounts import laboratory_named, lock_account, revoke
from .audit_log import lock_log
from .database import ROLES, AccountRow, IdentityRow
from .settings import SingleSignOn, check_address

CALLBACK = "/api/v1/session/oidc/callback"
_SIGNED = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
_SECONDS = 10.0  # for one answer of the provider
_MOST_BYTES = 1 << 20  # of one answer
_FRESH_SECONDS = 60.0  # before which its keys are not fetched again, however many tokens do not fit
_KEPT_SECONDS = 3600.0  # for which the provider's description and keys are held
_LEEWAY = 60  # seconds by which clocks may differ
_ASKS_AT_ONCE = 8
BEGUN_SECONDS = 600
"""How long somebody may take at the provider."""


class SignInProblem(LeukoscopeError):  # noqa: N818  # somebody is not let in; nothing failed
    """Why somebody is not signed in; `code` is one of those that the sign-in page has a message for."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class PendingSignIn:
    """What a browser keeps while somebody is at the provider, to check that the answer is meant for it."""

    state: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    nonce: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48))
    then: str = "/"
    """Path of the room to continue to."""

    def text(self) -> str:
        """Return it as a cookie's value."""
        return "~".join((self.state, self.nonce, self.verifier, self.then.encode().hex()))

    @classmethod
    def of(cls, text: str) -> "PendingSignIn | None":
        """Return what `text` wrote; None for anything else."""
        parts = text.split("~")
        if len(parts) != 4 or not all(parts[:3]):
            return None
        state, nonce, verifier, coded = parts
        then = attempt(lambda: bytes.fromhex(coded).decode())
        return cls(state, nonce, verifier, then=path_within(then if isinstance(then, str) else "/"))


def path_within(then: str) -> str:
    """Return a path of the room, never another site's address.

    >>> path_within("/cases/3?x=1"), path_within("//evil.example"), path_within("https://evil.example")
    ('/cases/3?x=1', '/', '/')
    """
    plain = then.startswith("/") and not then.startswith(("//", "/\\")) and then.isprintable() and then.isascii()
    return then if plain and len(then) <= 300 else "/"


@dataclass(frozen=True)
class Person:
    """Somebody as the provider and the laboratory's file describe them."""

    identity: str
    """SHA-256 of issuer and subject, which identify one person."""
    name: str
    role: str
    laboratory: str


class Provider:
    """One provider; safe to share between threads. Its description and keys are fetched when first needed."""

    def __init__(self, settings: SingleSignOn) -> None:
        """Prepare to ask; nothing is fetched yet.

        Raises:
            MissingExtraError: Authlib or requests is not installed.
        """
        for module in ("authlib", "requests", "joserfc"):
            require(module, feature="Signing in by OpenID Connect", extra="serve")
        self.settings = settings
        self._kept: dict[str, tuple[float, Any]] = {}
        self._turns = threading.BoundedSemaphore(_ASKS_AT_ONCE)

    def address_for(self, begun: PendingSignIn) -> str:
        """Return where to send somebody who wants to sign in.

        Raises:
            SignInProblem: the provider does not answer, or not as one.
        """
        with self._asking():
            described = self._description()
            with self._client() as client:
                address, _ = client.create_authorization_url(
                    described["authorization_endpoint"],
                    state=begun.state,
                    nonce=begun.nonce,
                    code_verifier=begun.verifier,
                )
            return str(address)

    def person(self, begun: PendingSignIn, answer: Mapping[str, str]) -> Person:
        """Return who comes back from the provider with this answer: the query of the callback.

        Raises:
            SignInProblem: the provider refused or does not answer, the answer is not for this browser or cannot be
                trusted, or gives no role.
        """
        if not secrets.compare_digest(answer.get("state", "").encode(), begun.state.encode()):
            raise SignInProblem("stale", "the state is not that of this browser")
        if answer.get("iss", self.settings.issuer) != self.settings.issuer:
            raise SignInProblem("untrusted", "the answer comes from another issuer")
        if answer.get("error") or not answer.get("code"):
            raise SignInProblem("refused", "the provider did not sign the person in")
        with self._asking():
            token = self._token(answer["code"], begun)
            claims = self._claims(token, begun)
        return person_of(claims, self.settings)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Let some ask at a time; whoever comes then comes back later, so that no thread waits for a slow provider."""
        if not self._turns.acquire(blocking=False):
            raise SignInProblem("busy", "too many are signing in")
        try:
            yield
        finally:
            self._turns.release()

    def _client(self) -> Any:
        from authlib.integrations.requests_client import OAuth2Session

        secret = None
        if self.settings.client_secret_file:
            secret = read_text(self.settings.client_secret_file).strip()
        return OAuth2Session(
            self.settings.client_id,
            secret,
            scope=self.settings.scopes,
            redirect_uri=self.settings.address.rstrip("/") + CALLBACK,
            code_challenge_method="S256",
            token_endpoint_auth_method="client_secret_basic" if secret else "none",
        )

    def _description(self) -> dict[str, Any]:
        """Return the provider's own description, and check that it is that of the issuer."""
        place = f"{self.settings.issuer.rstrip('/')}/.well-known/openid-configuration"
        described: dict[str, Any] = self._fetched(place)
        wanted = ("authorization_endpoint", "token_endpoint", "jwks_uri")
        if not isinstance(described, dict) or described.get("issuer") != self.settings.issuer:
            raise SignInProblem("untrusted", "the description is that of another issuer")
        for name in wanted:
            found = attempt(lambda name=name: check_endpoint(str(described[name])))  # type: ignore[misc]
            if isinstance(found, Exception):
                raise SignInProblem("untrusted", f"{name} is missing or not an https address")
        return described

    def _token(self, code: str, begun: PendingSignIn) -> dict[str, Any]:
        import requests
        from authlib.common.errors import AuthlibBaseError

        described = self._description()
        try:
            with self._client() as client:
                token: dict[str, Any] = client.fetch_token(
                    described["token_endpoint"],
                    grant_type="authorization_code",
                    code=code,
                    code_verifier=begun.verifier,
                    timeout=_SECONDS,
                    allow_redirects=False,
                )
        except requests.RequestException:
            raise _away() from None
        except AuthlibBaseError as refused:
            code = "stale" if refused.error == "invalid_grant" else "not_known"
            raise SignInProblem(code, "the provider takes the code, or the room, no longer") from None
        except ValueError:
            raise SignInProblem("untrusted", "the answer to the code is not a token") from None
        return token

    def _claims(self, token: Mapping[str, Any], begun: PendingSignIn) -> dict[str, Any]:
        """Return the claims of a person, once the signature of the ID token and all it is for have been checked."""
        from authlib.oidc.core import CodeIDToken
        from joserfc import jwt
        from joserfc.errors import JoseError

        text = token.get("id_token")
        if not isinstance(text, str):
            raise SignInProblem("untrusted", "there is no ID token")
        try:
            read = self._decoded(text, jwt)
            options = {
                "iss": {"essential": True, "value": self.settings.issuer},
                "aud": {"essential": True, "value": self.settings.client_id},
                "sub": {"essential": True},
            }
            params = {
                "nonce": begun.nonce,
                "client_id": self.settings.client_id,
                "access_token": token.get("access_token"),
            }
            checked = CodeIDToken(read.claims, read.header, options, params)
            checked.validate(leeway=_LEEWAY)
        except (JoseError, ValueError, TypeError, KeyError) as wrong:
            raise SignInProblem("untrusted", f"the ID token is not to be trusted ({type(wrong).__name__})") from None
        return self._with_more(dict(checked), str(token.get("access_token", "")))

    def _decoded(self, text: str, jwt: Any) -> Any:
        from joserfc.errors import JoseError

        try:
            return jwt.decode(text, self._keys(), algorithms=_SIGNED)
        except (JoseError, ValueError):  # the provider may have changed its keys
            return jwt.decode(text, self._keys(fresh=True), algorithms=_SIGNED)

    def _keys(self, *, fresh: bool = False) -> Any:
        from joserfc.jwk import KeySet

        return KeySet.import_key_set(self._fetched(self._description()["jwks_uri"], fresh=fresh))

    def _with_more(self, claims: dict[str, Any], access: str) -> dict[str, Any]:
        """Add claims that only the provider's userinfo has; those of the signed token take precedence."""
        wanted = {self.settings.name_claim, self.settings.role_claim, self.settings.laboratory_claim} - {""}
        place = self._description().get("userinfo_endpoint")
        if wanted <= claims.keys() or not place or not access:
            return claims
        if isinstance(attempt(lambda: check_endpoint(str(place))), Exception):
            raise SignInProblem("untrusted", "userinfo_endpoint is not an https address")
        more = _get(str(place), {"Authorization": f"Bearer {access}"})
        if not isinstance(more, dict) or more.get("sub") != claims["sub"]:
            raise SignInProblem("untrusted", "the claims are those of somebody else")
        return more | claims

    def _fetched(self, place: str, *, fresh: bool = False) -> Any:
        when, held = self._kept.get(place, (-_KEPT_SECONDS, None))
        age = time.monotonic() - when
        if age < (_FRESH_SECONDS if fresh else _KEPT_SECONDS):
            return held
        value = _get(place, {})
        self._kept[place] = (time.monotonic(), value)
        return value


def check_endpoint(value: str) -> None:
    """Make sure that an endpoint is https, or on this machine; it may have a query.

    Raises:
        ValueError: it is not.
    """
    check_address(value.partition("?")[0])


def _get(place: str, headers: dict[str, str]) -> Any:
    """Return the JSON at an address, of bounded length; redirects are not followed.

    Raises:
        SignInProblem: there is no such answer.
    """
    import requests

    until, content = time.monotonic() + _SECONDS, b""
    try:
        with requests.get(place, headers=headers, timeout=_SECONDS, allow_redirects=False, stream=True) as answer:
            for part in answer.iter_content(1 << 14):
                content += part
                if len(content) > _MOST_BYTES or time.monotonic() > until:
                    raise SignInProblem("untrusted", "an answer of the provider is too long or too slow")
        if answer.status_code != 200:
            raise _away()
        return json.loads(content)
    except requests.RequestException:
        raise _away() from None
    except (ValueError, RecursionError):
        raise SignInProblem("untrusted", "an answer of the provider is not JSON") from None


def _away() -> SignInProblem:
    return SignInProblem("away", "the provider does not answer")


def person_of(claims: Mapping[str, Any], settings: SingleSignOn) -> Person:
    """Return what the claims of a person mean in the room.

    Raises:
        SignInProblem: they give no role or no laboratory.
    """
    given = _texts(claims.get(settings.role_claim))
    roles = [role for role in ROLES if given & set(settings.roles.get(role, ()))]
    if not roles:
        raise NoRole(identity_of(claims, settings))
    laboratory = settings.laboratory
    if settings.laboratory_claim:
        known = _texts(claims.get(settings.laboratory_claim)) & settings.laboratories.keys()
        if len({settings.laboratories[each] for each in known}) != 1:
            raise NoRole(identity_of(claims, settings))
        laboratory = settings.laboratories[min(known)]
    name = str(claims.get(settings.name_claim) or claims["sub"])
    shown = "".join(letter for letter in name if letter.isprintable()).strip()[:200]
    return Person(identity_of(claims, settings), shown or "unnamed", roles[-1], laboratory)


class NoRole(SignInProblem):
    """Somebody whom the provider knows, but who may not enter (any more)."""

    def __init__(self, identity: str) -> None:
        super().__init__("no_role", "the claims give no role or no laboratory")
        self.identity = identity


def identity_of(claims: Mapping[str, Any], settings: SingleSignOn) -> str:
    """Return the identity of a person of this provider."""
    return sha256(f"{settings.issuer}\0{claims['sub']}".encode()).hexdigest()


def _texts(value: Any) -> set[str]:
    """Return a claim as texts: one, or those of a list.

    >>> sorted(_texts(["a", 3, "b"])), _texts("a"), _texts(None)
    (['a', 'b'], {'a'}, set())
    """
    return {value} if isinstance(value, str) else {each for each in value or () if isinstance(each, str)}


def account_of(session: Session, person: Person) -> AccountRow:
    """Return the account of a person, made the first time, with the role and laboratory of now; its row is locked.

    It is never that of somebody with a password: a name alone proves nothing.

    Raises:
        SignInProblem: an admin of the room has closed it, or its name is taken by two others.
    """
    wanted = select(IdentityRow.account_id).where(IdentityRow.digest == person.identity)
    number = session.scalar(wanted)
    if number is None:
        lock_log(session)  # two first sign-ins of one person at once make one account
        number = session.scalar(wanted)
    laboratory = laboratory_named(session, person.laboratory)
    if number is None:
        account = AccountRow(
            name=_free_name(session, person), role=person.role, laboratory_id=laboratory.id, password="", active=True
        )
        session.add(account)
        session.flush()
        session.add(IdentityRow(digest=person.identity, account_id=account.id))
        session.flush()
        return account
    known = lock_account(session, number)
    if known is None or not known.active:
        raise SignInProblem("closed", "the account is not active")
    if (known.role, known.laboratory_id) != (person.role, laboratory.id):
        revoke(session, known.id)  # what was made with other rights ends
        known.role, known.laboratory_id = person.role, laboratory.id
        session.flush()
    return known


def _free_name(session: Session, person: Person) -> str:
    for name in (person.name, f"{person.name[:180]} ({person.identity[:8]})"):
        if session.scalar(select(AccountRow.id).where(AccountRow.name == name)) is None:
            return name
    raise SignInProblem("name_taken", "both names are taken")


def end_rights(session: Session, identity: str) -> int | None:
    """End the tokens and sessions of a person whom the provider no longer gives a role; return the account."""
    number = session.scalar(select(IdentityRow.account_id).where(IdentityRow.digest == identity))
    if number is not None and lock_account(session, number) is not None:
        revoke(session, number)
    return number
