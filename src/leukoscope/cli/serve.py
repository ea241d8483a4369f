"""leukoscope serve: the reading room, its accounts, its audit log. leukoscope fetch, send: a hospital's systems."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import point_option

if TYPE_CHECKING:
    from ..server.database import Database
    from ..server.settings import RoomSettings

_EXTRA = ("fastapi", "uvicorn", "sqlalchemy", "alembic", "argon2", "python_multipart", "prometheus_client")


def _place_options(command: Any) -> Any:
    """Add --data and --database."""
    where = "PostgreSQL database, as postgresql://user@host/name. [default: SQLite in --data]"
    command = click.option("--database", default="", envvar="LEUKOSCOPE_DATABASE", metavar="URL", help=where)(command)
    return click.option(
        "--data",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("reading-room"),
        show_default=True,
        envvar="LEUKOSCOPE_DATA",
        help="Folder of pictures, embedded database and audit key.",
    )(command)


_HELP = {
    "model": "Model bundle: a folder, or hf://owner/name. [default: the shipped one]",
    "trust": "Public key (leukoscope models key): serve only a bundle that it signed; repeatable.",
    "survival": "Folder that `leukoscope survival` wrote; repeatable.",
    "host": "Address to listen on; any that other machines can reach requires accounts.",
    "name": "Host name under which browsers reach the server; repeatable.",
    "plain": "Send cookies without the Secure attribute although other machines can connect: for a trial without TLS.",
    "hospital": "TOML file of the hospital's systems that take results of signed cases: DICOMweb, FHIR, HL7.",
    "oidc": "TOML file of the OpenID Connect provider through which people sign in, beside passwords.",
    "proxy": "Address of the proxy that terminates TLS; its X-Forwarded headers are trusted.",
    "order": "Rows of the differential in your laboratory's order, such as blast,neutrophil,lymphocyte; others follow.",
    "goal": "Number of white cells that your laboratory counts for a differential.",
    "platelet_factor": "Platelets in 10⁹ per litre for one platelet per field, measured for your microscope.",
    "key": "Keyboard shortcut of a label, such as neutrophil=n; repeatable.",
    "work": "Do not start a worker; other processes on the same database analyse the images.",
    "password": "Read the password from this file instead of asking.",
}
_FOLDER = click.Path(path_type=Path)
_FILES = click.Path(exists=True, dir_okay=False, path_type=Path)
_SECRETS = (
    "The password is read from LEUKOSCOPE_PASSWORD, a bearer token from LEUKOSCOPE_TOKEN; "
    "neither is taken on the command line."
)
_USER = click.option("--user", default="", help="Account on the server; the password is read from LEUKOSCOPE_PASSWORD.")
_ROLES = click.Choice(["reader", "reviewer", "admin"])
_PASSWORD = click.option(
    "--password-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help=_HELP["password"]
)


@click.command()
@_place_options
@click.option("--model", metavar="BUNDLE", envvar="LEUKOSCOPE_MODEL", help=_HELP["model"])
@click.option("--trust", multiple=True, type=click.Path(exists=True, path_type=Path), help=_HELP["trust"])
@click.option("--survival", multiple=True, type=_FOLDER, help=_HELP["survival"])
@point_option
@click.option("--host", default="127.0.0.1", show_default=True, help=_HELP["host"])
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="Port to listen on; 0: any free one."
)
@click.option("--name", "names", multiple=True, metavar="HOST", help=_HELP["name"])
@click.option("--plain-http", is_flag=True, help=_HELP["plain"])
@click.option("--oidc", type=click.Path(exists=True, dir_okay=False, path_type=Path), help=_HELP["oidc"])
@click.option("--hospital", type=click.Path(exists=True, dir_okay=False, path_type=Path), help=_HELP["hospital"])
@click.option("--behind-proxy", default="", metavar="ADDRESS", help=_HELP["proxy"])
@click.option("--order", default="", metavar="KIND,KIND,...", help=_HELP["order"])
@click.option("--goal", type=click.IntRange(1, 100_000), default=200, show_default=True, help=_HELP["goal"])
@click.option("--platelet-factor", type=click.FloatRange(min=0, min_open=True), help=_HELP["platelet_factor"])
@click.option("--key", "keys", multiple=True, metavar="LABEL=KEY", help=_HELP["key"])
@click.option("--no-work", is_flag=True, help=_HELP["work"])
@click.option("--no-browser", is_flag=True, help="Do not open the browser.")
def serve(
    point: str,
    behind_proxy: str,
    order: str,
    keys: tuple[str, ...],
    no_work: bool,
    no_browser: bool,
    oidc: Path | None,
    hospital: Path | None,
    **given: Any,
) -> None:
    """Open the reading room: cases, cells and human review in the browser.

    Prints one address with a one-time token and listens on this machine only; no data leave it. A laboratory sets
    --database and adds accounts (leukoscope accounts add). Research use, not a diagnosis.

    \b
    Examples:
      leukoscope serve
      leukoscope serve --model models/first --survival out/survival
      leukoscope serve --database postgresql://room@db/room --data /srv/room --host 0.0.0.0 --name room.example.org
    """
    _need_extra()
    from ..server.settings import RoomSettings, read_destinations, read_single_sign_on

    settings = RoomSettings(
        oidc=read_single_sign_on(oidc) if oidc else None,
        hospital=read_destinations(hospital) if hospital else (),
        point=point.replace("-", "_"),
        work=not no_work,
        apart=not no_work,
        order=_order(order),
        keys=_keys(keys),
        **given,
    )
    _run(settings, behind_proxy=behind_proxy, browser=not no_browser)


def _order(given: str) -> tuple[str, ...]:
    """Return the rows of the differential in the laboratory's order.

    Raises:
        UnknownNameError: a name is not a row of a differential.
        UsageError: a name is given twice.
    """
    from ..inference.cell_types import checked_order

    names = tuple(name.strip() for name in given.split(",") if name.strip())
    checked_order(names)
    return names


def _keys(given: tuple[str, ...]) -> dict[str, str]:
    """Return label -> key.

    Raises:
        UsageError: a key is not one character, belongs to something else in the room, or is given for two labels.
    """
    from ..errors import UsageError
    from ..server.settings import checked_keys

    pairs = []
    for each in given:
        label, _, key = (part.strip() for part in each.rpartition("="))
        if not label or not key:
            raise UsageError(f"--key {each}: write LABEL=KEY with one letter or digit, such as neutrophil=n.")
        pairs.append((label, key))
    return checked_keys(pairs)


def _run(settings: "RoomSettings", *, behind_proxy: str, browser: bool) -> None:
    import logging

    import uvicorn

    from ..server.app import create_app
    from ..server.security import TimeoutProtocol, max_connections

    place = _listen(settings.host, settings.port)
    app = create_app(settings)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("leukoscope.server").setLevel(logging.INFO)
    config = uvicorn.Config(
        app,
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=bool(behind_proxy),
        forwarded_allow_ips=behind_proxy or None,
        timeout_graceful_shutdown=10,
        http=TimeoutProtocol,
        ws="none",
        limit_concurrency=max_connections(),
        h11_max_incomplete_event_size=32 << 10,
    )
    token = app.state.room.token
    address = f"http://{settings.host}:{place.getsockname()[1]}/"
    click.echo(f"{address}login#token={token.text}" if token else address)
    click.echo("The reading room is open. Research use, not a diagnosis. Stop with Ctrl-C.", err=True)
    if browser and settings.local:
        click.launch(f"{address}login#token={token.text}" if token else address)
    uvicorn.Server(config).run(sockets=[place])


def _listen(host: str, port: int) -> Any:
    """Take the port, before anything else is opened."""
    import socket

    from ..errors import UsageError

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), port), family=family, backlog=512)
    except OSError as taken:
        raise UsageError(f"Cannot open on {host}, port {port} ({taken.strerror}). Choose another --port.") from None


def _need_extra() -> None:
    from ..errors import require

    for module in _EXTRA:
        require(module, feature="The reading room", extra="serve")


@click.group()
def accounts() -> None:
    """Accounts of the reading room: add, list, change.

    \b
    Examples:
      leukoscope accounts add ada --role admin --laboratory north
      leukoscope accounts list --database postgresql://room@db/room
      leukoscope accounts password ada
    """


@accounts.command("add")
@click.argument("name")
@click.option("--role", type=_ROLES, default="reader", show_default=True, help="Role of the account.")
@click.option(
    "--laboratory",
    default="",
    help="Laboratory of the account; it sees only the cases of this laboratory. [default: the only one]",
)
@_PASSWORD
@_place_options
def add(name: str, role: str, laboratory: str, password_file: Path | None, data: Path, database: str) -> None:
    """Make an account; asks for the password.

    \b
    Examples:
      leukoscope accounts add ada --role admin
    """
    _need_extra()
    from ..server.accounts import add_account, only_laboratory

    password = _password(password_file)
    with _changing(data, database) as (session, log):
        laboratory = laboratory or only_laboratory(session)
        made = add_account(session, name, role=role, laboratory=laboratory, password=password)
        log.add(session, _who(), "made account", kind="account", item=made.id, role=role)
    click.echo(f"Made {role} {name} of {laboratory}, who sees the cases of that laboratory.")


@accounts.command("list")
@_place_options
def list_accounts(data: Path, database: str) -> None:
    """List all accounts of all laboratories, with their API tokens.

    \b
    Examples:
      leukoscope accounts list
    """
    _need_extra()
    from sqlalchemy import select

    from ..server.accounts import tokens_of
    from ..server.database import AccountRow, LaboratoryRow

    with _open(data, database).reading() as session:
        query = select(AccountRow, LaboratoryRow.name).join(LaboratoryRow).order_by(LaboratoryRow.name, AccountRow.name)
        for account, laboratory in session.execute(query).all():
            state = "" if account.active else "  (not active)"
            click.echo(f"{account.name}\t{account.role}\t{laboratory}{state}")
            for token in tokens_of(session, account.id):
                used = f"last used {token.last_used[:10]}" if token.last_used else "never used"
                what = f"token {token.id} '{token.name}' ({', '.join(token.scopes)})"
                click.echo(f"  {what}: made {token.created[:10]}, {used}, ends {token.expires[:10]}")


@accounts.command("password")
@click.argument("name")
@_PASSWORD
@_place_options
def change_password(name: str, password_file: Path | None, data: Path, database: str) -> None:
    """Give an account a new password; all its sessions and API tokens end.

    \b
    Examples:
      leukoscope accounts password ada
    """
    _need_extra()
    from sqlalchemy import select

    from ..errors import UnknownNameError, UsageError
    from ..server.accounts import has_external_sign_in, hash_password, lock_account, revoke
    from ..server.database import AccountRow

    hashed = hash_password(_password(password_file), about=(name,))
    with _changing(data, database) as (session, log):
        number = session.scalar(select(AccountRow.id).where(AccountRow.name == name))
        account = lock_account(session, number) if number else None
        if account is None:
            raise UnknownNameError("account", name, session.scalars(select(AccountRow.name)))
        if has_external_sign_in(session, account.id):
            raise UsageError(f"{name} signs in through OpenID Connect; change the password there.")
        account.password, account.active = hashed, True
        revoke(session, account.id)
        log.add(session, _who(), "changed account", kind="account", item=account.id, fields=["password"])
    click.echo(f"{name} has a new password.")


@accounts.command("revoke")
@click.argument("token", type=int)
@_place_options
def revoke_token(token: int, data: Path, database: str) -> None:
    """End an API token, by the number that `leukoscope accounts list` shows.

    \b
    Examples:
      leukoscope accounts revoke 3
    """
    _need_extra()
    from ..errors import UsageError
    from ..server.database import TokenRow

    with _changing(data, database) as (session, log):
        found = session.get(TokenRow, token)
        if found is None:
            raise UsageError(f"There is no token {token}. See leukoscope accounts list.")
        session.delete(found)
        log.add(session, _who(), "ended token", kind="token", item=token)
    click.echo(f"Token {token} has ended.")


@click.group("audit-log")
def audit_log() -> None:
    """The audit log of the reading room.

    \b
    Examples:
      leukoscope audit-log verify
      leukoscope audit-log verify --data /srv/room --database postgresql://room@db/room
    """


@audit_log.command("verify")
@click.option("--head", default="", help="Hash that an earlier verify printed; checks that its line still exists.")
@_place_options
def verify(head: str, data: Path, database: str) -> None:
    """Verify that no line was changed, removed, moved or cut off; exit status 1 otherwise.

    Prints the hash of the last line: keep it elsewhere, and hand it in next time with --head.

    \b
    Examples:
      leukoscope audit-log verify
      leukoscope audit-log verify --head 5b1c…
    """
    log = _log(data)
    with _open(data, database).reading() as session:
        found = log.verify(session, head=head)
    click.echo(f"The audit log is intact: {found['entries']:,} lines, the last one {found['head']}")


def _open(data: Path, database: str) -> "Database":
    """Open the database of a room, making its tables the first time."""
    _need_extra()
    from ..server.database import Database
    from ..server.settings import RoomSettings
    from ..server.store import make_private

    make_private(data)
    opened = Database(RoomSettings(data=data, database=database).url)
    opened.prepare()
    return opened


@contextmanager
def _changing(data: Path, database: str) -> Iterator[Any]:
    """Yield a session and the audit log; when the change is stored, its line is noted beside the database."""
    opened, log = _open(data, database), _log(data)
    with opened.writing() as session:
        yield session, log
    with opened.reading() as session:
        log.note_head(session, at_once=True)


def _log(data: Path) -> Any:
    _need_extra()
    from ..server.audit_log import AuditLog

    return AuditLog(data)


def _who() -> Any:
    from ..server.audit_log import Actor

    return Actor("command line")


def _password(file: Path | None) -> str:
    if file:
        return file.read_text(encoding="utf-8").strip("\r\n")
    return str(click.prompt("Password", hide_input=True, confirmation_prompt=True))


@click.group(epilog=_SECRETS)
def fetch() -> None:
    """Fetch images from a hospital's systems.

    \b
    Examples:
      leukoscope fetch dicomweb http://localhost:8042/dicom-web --study 1.2.840.1 -o images
    """


@fetch.command("dicomweb")
@click.argument("url")
@click.option("--study", required=True, help="Study instance UID.")
@click.option("--series", default="", help="Series instance UID. [default: all series of the study]")
@click.option(
    "-o", "--output", "folder", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write."
)
@_USER
def fetch_dicomweb(url: str, study: str, series: str, folder: Path, user: str) -> None:
    """Fetch the images of a study through DICOMweb; repeat the command to resume an interrupted download.

    \b
    Examples:
      leukoscope fetch dicomweb http://localhost:8042/dicom-web --study 1.2.840.1 -o images
      leukoscope predict images -o results --to dicom
    """
    from ..interop.dicom import Archive, fetch

    fetch(Archive(url, user, *_secrets()), folder, study=study, series=series, report=click.echo)


@click.group(epilog=_SECRETS)
def send() -> None:
    """Send results to a hospital's systems.

    \b
    Examples:
      leukoscope send dicomweb http://localhost:8042/dicom-web results/dicom/*.dcm
      leukoscope send fhir http://localhost:8080/fhir results/fhir/*.json
      leukoscope send hl7 localhost:2575 results/hl7/*.hl7
    """


@send.command("dicomweb")
@click.argument("url")
@click.argument("files", nargs=-1, required=True, type=_FILES)
@_USER
def send_dicomweb(url: str, files: tuple[Path, ...], user: str) -> None:
    """Store DICOM files (STOW-RS); files that the archive already has are not sent again.

    \b
    Examples:
      leukoscope send dicomweb http://localhost:8042/dicom-web results/dicom/*.dcm
    """
    from ..interop.dicom import Archive, store

    store(Archive(url, user, *_secrets()), files, report=click.echo)


@send.command("fhir")
@click.argument("url")
@click.argument("files", nargs=-1, required=True, type=_FILES)
def send_fhir(url: str, files: tuple[Path, ...]) -> None:
    """Send FHIR transactions; results that the server already has are not created again.

    \b
    Examples:
      leukoscope send fhir http://localhost:8080/fhir results/fhir/*.json
    """
    from ..files import read_json
    from ..interop import hl7

    _, token = _secrets()
    headers = {"Authorization": f"Bearer {token}"} if token else None
    for path in files:
        click.echo(f"{path}: {hl7.send_fhir(url, read_json(path), headers=headers)} resources created.")


@send.command("hl7")
@click.argument("address", metavar="HOST:PORT")
@click.argument("files", nargs=-1, required=True, type=_FILES)
def send_hl7(address: str, files: tuple[Path, ...]) -> None:
    """Send HL7 messages over MLLP and wait for each acknowledgement.

    \b
    Examples:
      leukoscope send hl7 localhost:2575 results/hl7/*.hl7
    """
    from ..errors import UsageError
    from ..interop import hl7

    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise UsageError(f"{address} is not HOST:PORT, such as localhost:2575.")
    for path in files:
        with path.open(encoding="utf-8", newline="") as file:  # the carriage returns between segments stay
            message = file.read()
        click.echo(f"{path}: acknowledged ({hl7.send_hl7(host, int(port), message)}).")


def _secrets() -> tuple[str, str]:
    return os.environ.get("LEUKOSCOPE_PASSWORD", ""), os.environ.get("LEUKOSCOPE_TOKEN", "")
