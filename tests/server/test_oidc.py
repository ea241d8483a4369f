"""Signing in through a provider of OpenID Connect that really runs, and all that must not let anybody in."""

import json
import threading
import time
from collections.abc import Generator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from oidc_provider_mock import User, run_server_in_thread
from sqlalchemy import select

from leukoscope.cli import leukoscope
from leukoscope.errors import ConfigError
from leukoscope.server.accounts import has_admin
from leukoscope.server.app import create_app
from leukoscope.server.database import AccountRow, AuditEntryRow, LoginRow, TokenRow
from leukoscope.server.oidc import PendingSignIn, Provider, SignInProblem
from leukoscope.server.room import open_room
from leukoscope.server.settings import RoomSettings, SingleSignOn, read_single_sign_on
from tests.server.conftest import Place, Visitor

ROLES = {"reader": ("haem-readers",), "reviewer": ("haem-seniors",), "admin": ("haem-chiefs",)}
PEOPLE: dict[str, dict[str, Any]] = {
    "sub-grace": {"preferred_username": "grace", "groups": ["staff", "haem-readers"], "department": "17"},
    "sub-henry": {"preferred_username": "henry", "groups": ["haem-readers", "haem-chiefs"], "department": "17"},
    "sub-ivy": {"preferred_username": "ivy", "groups": "haem-readers", "department": "18"},
    "sub-guest": {"preferred_username": "guest", "groups": ["staff"], "department": "17"},
    "sub-double": {"preferred_username": "ada", "groups": ["haem-readers"], "department": "17"},
}


@pytest.fixture
def provider() -> Iterator[str]:
    """The address of a provider that runs."""
    people = [User(sub=sub, claims=claims) for sub, claims in PEOPLE.items()]
    with run_server_in_thread(user_claims=people) as server:
        yield f"http://localhost:{server.server_port}"


@pytest.fixture(autouse=True)
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The secret that the provider gave to the room."""
    file = tmp_path / "oidc-secret"
    file.write_text("s3cret\n")
    monkeypatch.setitem(ENTRIES, "client_secret_file", file)
    return file


ENTRIES: dict[str, Any] = {}


def single(issuer: str, **more: Any) -> SingleSignOn:
    entries = ENTRIES | {
        "issuer": issuer,
        "client_id": "room",
        "address": "http://127.0.0.1",
        "title": "Example Hospital",
        "roles": ROLES,
        "laboratory_claim": "department",
        "laboratories": {"17": "north", "18": "south"},
    }
    return SingleSignOn.model_validate(entries | more)


def open_with(settings: RoomSettings, issuer: str, **more: Any) -> Generator[Place, None, None]:
    room = open_room(settings.model_copy(update={"oidc": single(issuer, **more)}))
    place = Place(room, create_app(room.settings, room=room))
    place.account("ada", role="admin")
    room.token = None
    with TestClient(place.app, base_url="http://127.0.0.1"):
        yield place


@pytest.fixture
def hospital(settings: RoomSettings, provider: str) -> Iterator[Place]:
    """A room whose people sign in at the hospital; ada has a password too."""
    yield from open_with(settings, provider)


def page(visitor: Visitor, address: str) -> Any:
    """Follow a link to the room, and no redirect."""
    parts = urlsplit(address)
    return visitor.client.get(f"{parts.path}?{parts.query}", follow_redirects=False)


def at_provider(begun: Any, subject: str, **form: str) -> str:
    """Sign in at the provider, where a link of the room has led; return the address that it sends the browser to."""
    answer = httpx2.post(begun.headers["location"], data={"sub": subject} | form, timeout=20)
    assert answer.status_code == 302, answer.text
    return str(answer.headers["location"])


def signed_in(place: Place, subject: str, *, then: str = "/cases/1") -> tuple[Visitor, Any]:
    visitor = place.nobody()
    begun = page(visitor, f"/api/v1/session/oidc?then={then}")
    assert begun.status_code == 303
    back = page(visitor, at_provider(begun, subject))
    if visitor.get("/session").status_code == 200:
        visitor.csrf = visitor.get("/session").json()["csrf"]
    return visitor, back


def problem_of(answer: Any) -> str:
    assert answer.status_code == 303
    parts = urlsplit(answer.headers["location"])
    assert (parts.netloc, parts.path) == ("", "/login")
    return str(parse_qs(parts.query)["problem"][0])


@pytest.mark.parametrize(
    ("subject", "role", "laboratory"),
    [("sub-grace", "reader", "north"), ("sub-henry", "admin", "north"), ("sub-ivy", "reader", "south")],
)
def test_groups_of_the_hospital_give_role_and_laboratory(
    hospital: Place, subject: str, role: str, laboratory: str
) -> None:
    visitor, back = signed_in(hospital, subject)
    assert (back.status_code, back.headers["location"]) == (303, "/cases/1")
    account = visitor.get("/session").json()["account"]
    assert (account["role"], account["laboratory"], account["password"]) == (role, laboratory, False)
    again, _ = signed_in(hospital, subject)
    assert again.get("/session").json()["account"]["id"] == account["id"], "it is the same account the next time"


def test_the_session_is_as_strict_as_one_with_a_password(hospital: Place) -> None:
    grace, back = signed_in(hospital, "sub-grace")
    cookies = [each.lower() for each in back.headers.get_list("set-cookie")]
    (session,) = [each for each in cookies if each.startswith("leukoscope_session=")]
    assert "httponly" in session
    assert "samesite=strict" in session
    assert any(each.startswith("leukoscope_oidc=") and "max-age=0" in each for each in cookies), "it is used once"
    without = grace.client.post("/api/v1/cases", json={"name": "x"})
    assert (without.status_code, without.json()["error"]["code"]) == (403, "csrf")
    assert grace.post("/cases", json={"name": "x"}).status_code == 201
    assert grace.get("/accounts").status_code == 403
    assert back.headers["cache-control"] == "no-store"
    begun = page(hospital.nobody(), "/api/v1/session/oidc")
    asked = parse_qs(urlsplit(begun.headers["location"]).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["response_type"] == ["code"]
    assert asked["nonce"] != asked["state"]


@pytest.mark.parametrize("change", ["another browser", "state", "nonce", "used code", "denied", "issuer"])
def test_an_answer_that_is_not_for_this_browser_lets_nobody_in(hospital: Place, change: str) -> None:
    visitor = hospital.nobody()
    begun = page(visitor, "/api/v1/session/oidc")
    link = at_provider(begun, "sub-grace", **({"action": "deny"} if change == "denied" else {}))
    kept = PendingSignIn.of(visitor.client.cookies["leukoscope_oidc"])
    assert kept is not None
    expected = {"denied": "refused", "nonce": "untrusted", "issuer": "untrusted"}.get(change, "stale")
    if change == "another browser":
        visitor = hospital.nobody()
    elif change == "state":
        link = link.replace(kept.state, "x" * len(kept.state))
    elif change == "nonce":
        other = PendingSignIn(state=kept.state, nonce="another", verifier=kept.verifier)
        visitor.client.cookies.clear()
        visitor.client.cookies.set("leukoscope_oidc", other.text())
    elif change == "used code":
        assert page(visitor, link).headers["location"] == "/"
        visitor = hospital.nobody()
        visitor.client.cookies.set("leukoscope_oidc", kept.text())
    elif change == "denied":
        assert "error=access_denied" in link
        link += f"&state={kept.state}"  # RFC 6749, 4.1.2.1, asks for it; this provider leaves it out
    elif change == "issuer":
        link += "&iss=https%3A%2F%2Fevil.example"
    back = page(visitor, link)
    assert problem_of(back) == expected
    assert visitor.get("/session").status_code == 401
    assert "leukoscope_session" not in visitor.client.cookies


def test_whoever_has_no_role_is_not_let_in_and_whoever_loses_it_is_out_at_once(hospital: Place, provider: str) -> None:
    _, back = signed_in(hospital, "sub-guest")
    assert problem_of(back) == "no_role"
    grace, _ = signed_in(hospital, "sub-grace")
    token = grace.post("/tokens", json={"name": "t"}).json()["token"]
    httpx2.put(f"{provider}/users/sub-grace", json=PEOPLE["sub-grace"] | {"groups": []}, timeout=20)
    _, back = signed_in(hospital, "sub-grace")
    assert problem_of(back) == "no_role"
    assert grace.get("/session").status_code == 401
    assert hospital.nobody().get("/cases", headers={"Authorization": f"Bearer {token}"}).status_code == 401


def test_another_role_ends_what_was_made_with_the_old_one(hospital: Place, provider: str) -> None:
    henry, _ = signed_in(hospital, "sub-henry")
    assert henry.post("/tokens", json={"name": "t"}).status_code == 201
    changed = PEOPLE["sub-henry"] | {"groups": ["haem-readers"]}
    httpx2.put(f"{provider}/users/sub-henry", json=changed, timeout=20)
    later, _ = signed_in(hospital, "sub-henry")
    assert later.get("/session").json()["account"]["role"] == "reader"
    assert henry.get("/session").status_code == 401
    with hospital.room.database.reading() as session:
        assert session.scalars(select(TokenRow)).all() == []
        assert len(session.scalars(select(LoginRow)).all()) == 1


def test_a_name_alone_is_nobodys_account(hospital: Place) -> None:
    """Somebody at the provider is called ada, as the admin with a password is."""
    other, _ = signed_in(hospital, "sub-double")
    account = other.get("/session").json()["account"]
    assert account["name"].startswith("ada (")
    assert account["role"] == "reader"
    assert hospital.visitor("ada").get("/session").json()["account"]["role"] == "admin"


def test_an_account_that_is_closed_in_the_room_stays_closed(hospital: Place) -> None:
    grace, _ = signed_in(hospital, "sub-grace")
    ada, number = hospital.visitor("ada"), grace.get("/session").json()["account"]["id"]
    for change in ({"role": "admin"}, {"password": "seven purple herons"}):
        refused = ada.patch(f"/accounts/{number}", json=change)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "signs_in_elsewhere")
    assert ada.patch(f"/accounts/{number}", json={"active": False}).status_code == 200
    assert grace.get("/session").status_code == 401
    _, back = signed_in(hospital, "sub-grace")
    assert problem_of(back) == "closed"


def test_a_provider_that_is_gone_is_said_and_passwords_still_work(settings: RoomSettings) -> None:
    for place in open_with(settings, "http://127.0.0.1:9"):
        started = time.monotonic()
        assert problem_of(page(place.nobody(), "/api/v1/session/oidc")) == "away"
        assert time.monotonic() - started < 15
        assert place.visitor("ada").get("/cases").status_code == 200
        nobody = place.nobody().get("/session").json()["error"]["detail"]
        assert nobody == {"accounts": True, "oidc": "Example Hospital"}


def test_a_provider_that_does_not_know_the_room_is_said(settings: RoomSettings, secret: Path) -> None:
    with run_server_in_thread(require_client_registration=True) as server:
        issuer = f"http://localhost:{server.server_port}"
        known = {"redirect_uris": ["http://127.0.0.1/api/v1/session/oidc/callback"]}
        client = httpx2.post(f"{issuer}/oauth2/clients", json=known, timeout=20).json()
        for place in open_with(settings, issuer, client_id=client["client_id"]):
            visitor = place.nobody()
            link = at_provider(page(visitor, "/api/v1/session/oidc"), "sub-grace")
            assert problem_of(page(visitor, link)) == "not_known", "the secret is wrong"
            secret.write_text(client["client_secret"])
            visitor = place.nobody()
            link = at_provider(page(visitor, "/api/v1/session/oidc"), "sub-grace")
            assert problem_of(page(visitor, link)) == "no_role", "the secret is right, and grace has no groups here"


def test_a_provider_that_goes_in_the_middle_is_said(settings: RoomSettings) -> None:
    people = [User(sub=sub, claims=claims) for sub, claims in PEOPLE.items()]
    with run_server_in_thread(user_claims=people) as server:
        issuer = f"http://localhost:{server.server_port}"
        rooms = open_with(settings, issuer)
        place = next(rooms)
        visitor = place.nobody()
        link = at_provider(page(visitor, "/api/v1/session/oidc"), "sub-grace")
    assert problem_of(page(visitor, link)) == "away"
    assert visitor.get("/session").status_code == 401
    rooms.close()


def test_whoever_guesses_has_to_wait(hospital: Place) -> None:
    visitor = hospital.nobody()
    problems = [problem_of(page(visitor, "/api/v1/session/oidc/callback?state=x&code=y")) for _ in range(13)]
    assert problems[:10] == ["stale"] * 10
    assert problems[-1] == "wait"
    assert hospital.visitor("ada").get("/session").status_code == 200, "names with passwords do not wait for it"


def test_two_first_sign_ins_at_once_make_one_account(hospital: Place) -> None:
    visitors = [hospital.nobody() for _ in range(3)]
    links = [at_provider(page(each, "/api/v1/session/oidc"), "sub-grace") for each in visitors]
    threads = [threading.Thread(target=page, args=pair) for pair in zip(visitors, links, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {each.get("/session").json()["account"]["name"] for each in visitors} == {"grace"}
    with hospital.room.database.reading() as session:
        assert len(session.scalars(select(AccountRow).where(AccountRow.name.like("grace%"))).all()) == 1


@pytest.mark.parametrize("then", ["//evil.example", "https://evil.example/", "/\\evil.example", "/a\nSet-Cookie: b"])
def test_the_way_back_never_leads_elsewhere(hospital: Place, then: str) -> None:
    visitor = hospital.nobody()
    begun = visitor.client.get("/api/v1/session/oidc", params={"then": then}, follow_redirects=False)
    assert page(visitor, at_provider(begun, "sub-grace")).headers["location"] == "/"


def test_the_log_tells_of_sign_ins_and_holds_no_claims(hospital: Place) -> None:
    signed_in(hospital, "sub-grace")
    signed_in(hospital, "sub-guest")
    with hospital.room.database.reading() as session:
        entries = session.scalars(select(AuditEntryRow).where(AuditEntryRow.kind == "session")).all()
        hospital.room.log.verify(session)
    said = [(entry.action, entry.account, entry.detail) for entry in entries]
    assert ("signed in", "grace", {"by": "OpenID Connect", "role": "reader"}) in said
    assert ("sign-in failed", "nobody", {"why": "no_role", "account": None}) in said


def test_a_room_without_accounts_opens_to_others_where_a_provider_knows_the_people(
    settings: RoomSettings, provider: str
) -> None:
    open_to_all = {"host": "0.0.0.0", "names": ("room.example.org",), "oidc": single(provider)}
    room = open_room(settings.model_copy(update=open_to_all))
    with room.database.reading() as session:
        assert not has_admin(session)
    assert room.token is None
    room.close()


def test_over_tls_the_cookie_of_a_begun_sign_in_belongs_to_this_host_alone(
    settings: RoomSettings, provider: str
) -> None:
    for place in open_with(settings, provider):
        client = TestClient(place.app, base_url="https://127.0.0.1")
        begun = client.get("/api/v1/session/oidc", follow_redirects=False)
        cookie = begun.headers["set-cookie"].lower()
        assert cookie.startswith("__host-leukoscope_oidc=")
        assert all(word in cookie for word in ("secure", "httponly", "samesite=lax", "path=/"))


class Signing:
    """A provider with a key of ours, so that it can sign what no honest one would."""

    def __init__(self) -> None:
        self.key = RSAKey.generate_key(2048, {"kid": "1"})
        signing = self

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(signing.answer(self.path)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"
        self.described = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/a",
            "token_endpoint": f"{self.issuer}/t",
            "jwks_uri": f"{self.issuer}/keys",
            "userinfo_endpoint": f"{self.issuer}/me",
        }
        self.me: Any = {}
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, path: str) -> Any:
        if path == "/keys":
            return {"keys": [self.key.as_dict(private=False)]}
        return self.me if path == "/me" else self.described

    def claims(self, **more: Any) -> dict[str, Any]:
        now = int(time.time())
        given = {
            "iss": self.issuer,
            "aud": "room",
            "sub": "sub-grace",
            "nonce": "n",
            "iat": now,
            "exp": now + 600,
            **PEOPLE["sub-grace"],
            **more,
        }
        return {name: value for name, value in given.items() if value is not None}


@pytest.fixture
def signing() -> Iterator[Signing]:
    made = Signing()
    yield made
    made.server.shutdown()
    made.server.server_close()


BEGUN = PendingSignIn(state="s", nonce="n", verifier="v")


def test_an_honest_token_is_believed(signing: Signing) -> None:
    token = jwt.encode({"alg": "RS256", "kid": "1"}, signing.claims(), signing.key)
    found = Provider(single(signing.issuer))._claims({"id_token": token}, BEGUN)
    assert found["preferred_username"] == "grace"


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.example"},
        {"aud": "another"},
        {"aud": ["room", "another"]},
        {"nonce": "old"},
        {"nonce": None},
        {"exp": 1},
        {"exp": None},
        {"iat": None},
        {"sub": None},
        {"azp": "another"},
        {"nbf": 2**40},
        {"exp": "soon"},
        {"at_hash": "x"},
    ],
    ids=str,
)
def test_a_token_for_another_or_another_time_is_not_believed(signing: Signing, changes: dict[str, Any]) -> None:
    token = jwt.encode({"alg": "RS256", "kid": "1"}, signing.claims(**changes), signing.key)
    with pytest.raises(SignInProblem) as raised:
        Provider(single(signing.issuer))._claims({"id_token": token, "access_token": "a"}, BEGUN)
    assert raised.value.code == "untrusted"


@pytest.mark.parametrize("how", ["none", "another key", "public key as secret", "cut", "changed", "none at all"])
def test_a_forged_signature_is_not_believed(signing: Signing, how: str) -> None:
    honest, claims = {"alg": "RS256", "kid": "1"}, signing.claims()
    token: Any = jwt.encode(honest, claims, signing.key)
    if how == "none":
        token = jwt.encode({"alg": "none"}, claims, OctKey.import_key("x" * 32), algorithms=["none"])
    elif how == "another key":
        token = jwt.encode(honest, claims, RSAKey.generate_key(2048, {"kid": "1"}))
    elif how == "public key as secret":
        public = signing.key.as_pem(private=False).decode()
        token = jwt.encode({"alg": "HS256", "kid": "1"}, claims, OctKey.import_key(public.encode().hex()))
    elif how == "cut":
        token = token.rpartition(".")[0] + "."
    elif how == "changed":
        head, body, mark = token.split(".")
        token = ".".join((head, body[:-4] + "AAAA", mark))
    with pytest.raises(SignInProblem) as raised:
        Provider(single(signing.issuer))._claims({"id_token": None if how == "none at all" else token}, BEGUN)
    assert raised.value.code == "untrusted"


def test_keys_that_the_provider_has_changed_are_fetched_again(
    signing: Signing, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = Provider(single(signing.issuer))
    provider._keys()
    signing.key = RSAKey.generate_key(2048, {"kid": "2"})
    token = jwt.encode({"alg": "RS256", "kid": "2"}, signing.claims(), signing.key)
    with pytest.raises(SignInProblem):
        provider._claims({"id_token": token}, BEGUN)  # not more than once a minute
    monkeypatch.setattr("leukoscope.server.oidc._FRESH_SECONDS", 0)
    assert provider._claims({"id_token": token}, BEGUN)["sub"] == "sub-grace"


def test_claims_of_somebody_else_are_not_added(signing: Signing) -> None:
    token = jwt.encode({"alg": "RS256", "kid": "1"}, signing.claims(groups=None), signing.key)
    signing.me = {"sub": "sub-grace", "groups": ["haem-chiefs"], "preferred_username": "mallory"}
    sent = {"id_token": token, "access_token": "a"}
    found = Provider(single(signing.issuer))._claims(sent, BEGUN)
    assert (found["groups"], found["preferred_username"]) == (["haem-chiefs"], "grace")
    signing.me["sub"] = "sub-henry"
    with pytest.raises(SignInProblem, match="somebody else"):
        Provider(single(signing.issuer))._claims(sent, BEGUN)


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "https://evil.example"},
        {"token_endpoint": "http://evil.example/t"},
        {"jwks_uri": None},
        {"authorization_endpoint": "javascript:alert(1)"},
    ],
    ids=str,
)
def test_a_description_that_leads_elsewhere_is_not_believed(signing: Signing, changes: dict[str, Any]) -> None:
    signing.described |= changes
    with pytest.raises(SignInProblem) as raised:
        Provider(single(signing.issuer)).address_for(BEGUN)
    assert raised.value.code == "untrusted"


FILE = """
issuer = "https://login.example.org/realms/hospital"
client_id = "room"
client_secret_file = "secret"
address = "https://room.example.org"
laboratory = "north"

[roles]
reader = ["readers"]
"""


def test_the_file_is_read_and_each_mistake_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "oidc.toml"
    file.write_text(FILE)
    with pytest.raises(ConfigError, match="secret does not exist"):
        read_single_sign_on(file)
    (tmp_path / "secret").write_text("s3cret\n")
    assert read_single_sign_on(file).client_secret_file == tmp_path / "secret"
    for old, new, said in (
        ("https://login", "http://login", "is not an https address"),
        ("[roles]\nreader", "[roles]\nboss", "roles.boss is none of"),
        ('laboratory = "north"', "", "give either laboratory"),
        ('["readers"]', "[]", "nobody could sign in"),
        ("client_id", "client_it", "client_it"),
        ("[roles]", "[roles", "not valid TOML"),
    ):
        file.write_text(FILE.replace(old, new))
        with pytest.raises(ConfigError, match=said):
            read_single_sign_on(file)
    file.write_text(FILE.replace("https://room", "http://room"))
    shown = CliRunner().invoke(leukoscope, ["serve", "--oidc", str(file), "--no-browser"])
    assert isinstance(shown.exception, ConfigError)
    assert "is not an https address" in str(shown.exception)
