"""PKCE with a provider that verifies it: npm's oidc-provider, which takes no code without its verifier."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest

from leukoscope.server.oidc import CALLBACK, PendingSignIn
from leukoscope.server.settings import RoomSettings
from tests.server.conftest import Place, Visitor, _free_port
from tests.server.test_oidc import open_with, page, problem_of

PACKAGE = "oidc-provider@9.13.3"
SCRIPT = Path(__file__).parent / "oidc_provider.mjs"


@pytest.fixture(scope="session")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the provider, started in a folder of its own."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not (node and npm):
        pytest.skip("node and npm are not installed (apt-get install nodejs npm)")
    folder = tmp_path_factory.mktemp("provider")
    install = [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts", PACKAGE]
    if subprocess.run(install, capture_output=True, timeout=180, check=False).returncode:
        pytest.skip(f"npm cannot install {PACKAGE} here")
    port = _free_port()
    command = [node, str(SCRIPT), str(port), f"http://127.0.0.1{CALLBACK}"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as started:
        assert started.stdout
        lines = iter(started.stdout.readline, "")
        if not any("ready" in line for line in lines):
            pytest.skip(f"{PACKAGE} does not start with this version of node")
        yield f"http://localhost:{port}"
        started.terminate()


@pytest.fixture
def hospital(settings: RoomSettings, issuer: str) -> Iterator[Place]:
    """A room that the provider knows by PKCE alone, without a secret."""
    yield from open_with(settings, issuer, client_secret_file=None)


def at_provider(address: str, subject: str) -> str:
    """Sign in on the pages of the provider, and agree; return the address that it sends the browser to."""
    with httpx2.Client(follow_redirects=False, timeout=30) as browser:
        answer = browser.get(address)
        for _ in range(10):
            if answer.status_code in (302, 303):
                target = str(httpx2.URL(str(answer.url)).join(answer.headers["location"]))
                if urlsplit(target).path == CALLBACK:
                    return target
                answer = browser.get(target)
                continue
            prompt = re.search(r'name="prompt" value="(\w+)"', answer.text)
            action = re.search(r'action="([^"]+)"', answer.text)
            assert prompt, answer.text[:2000]
            assert action, answer.text[:2000]
            target = str(httpx2.URL(str(answer.url)).join(action[1]))
            answer = browser.post(target, data={"prompt": prompt[1], "login": subject, "password": "any"})
    raise AssertionError("the provider never sent the browser back")


def begun_at(place: Place) -> tuple[Visitor, str]:
    visitor = place.nobody()
    begun = page(visitor, "/api/v1/session/oidc?then=/cases/1")
    assert begun.status_code == 303
    return visitor, str(begun.headers["location"])


def test_a_provider_that_verifies_pkce_lets_the_room_sign_people_in(hospital: Place) -> None:
    visitor, address = begun_at(hospital)
    asked = parse_qs(urlsplit(address).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert len(asked["code_challenge"][0]) == 43, "SHA-256 in base64"
    back = page(visitor, at_provider(address, "sub-grace"))
    assert (back.status_code, back.headers["location"]) == (303, "/cases/1")
    account = visitor.get("/session").json()["account"]
    assert (account["name"], account["role"], account["laboratory"]) == ("grace", "reader", "north")


def test_a_code_with_another_verifier_is_not_taken(hospital: Place) -> None:
    visitor, address = begun_at(hospital)
    target = at_provider(address, "sub-grace")
    (cookie,) = [each for each in visitor.client.cookies.jar if PendingSignIn.of(str(each.value))]
    kept = PendingSignIn.of(str(cookie.value))
    assert kept
    stolen = PendingSignIn(kept.state, kept.nonce, "another-verifier-" + "x" * 40, kept.then)
    visitor.client.cookies.set(cookie.name, stolen.text(), domain=cookie.domain, path=cookie.path)
    assert problem_of(page(visitor, target)) == "stale"
    assert visitor.get("/session").status_code == 401


@pytest.mark.parametrize("change", [{"code_challenge": None}, {"code_challenge_method": "plain"}])
def test_the_provider_itself_refuses_who_proves_nothing(hospital: Place, change: dict[str, Any]) -> None:
    """So that the tests above would fail if the room sent no challenge, or a plain one."""
    _, address = begun_at(hospital)
    asked = {name: value[0] for name, value in parse_qs(urlsplit(address).query).items()} | change
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    answer = httpx2.get(f"{address.partition('?')[0]}?{query}", timeout=30)
    assert parse_qs(urlsplit(answer.headers["location"]).query)["error"] == ["invalid_request"]


def test_whoever_has_no_role_is_not_let_in(hospital: Place) -> None:
    visitor, address = begun_at(hospital)
    assert problem_of(page(visitor, at_provider(address, "sub-guest"))) == "no_role"
