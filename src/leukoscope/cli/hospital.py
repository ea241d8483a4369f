"""leukoscope fetch and send: images from a hospital's archive, results to its systems."""

import os
from pathlib import Path

import click

_FILES = click.Path(exists=True, dir_okay=False, path_type=Path)
_PASSWORD, _TOKEN = "LEUKOSCOPE_PASSWORD", "LEUKOSCOPE_TOKEN"
_SECRETS = f"The password is read from {_PASSWORD}, a bearer token from {_TOKEN}; neither is taken on the command line."
_USER = click.option("--user", default="", help=f"Account on the server; the password is read from {_PASSWORD}.")


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
@click.option("--series", default="", help="Series instance UID; all series of the study without it.")
@click.option("-o", "--output", "folder", required=True, type=click.Path(file_okay=False, path_type=Path))
@_USER
def fetch_dicomweb(url: str, study: str, series: str, folder: Path, user: str) -> None:
    """Fetch the images of a study through DICOMweb; a stopped call continues when it is repeated.

    \b
    Examples:
      leukoscope fetch dicomweb http://localhost:8042/dicom-web --study 1.2.840.1 -o images
      leukoscope predict images -o results --to dicom
    """
    from ..interop.dicomweb import Archive, fetch

    fetch(Archive(url, user, *_secrets()), folder, study=study, series=series, say=click.echo)


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
    """Store DICOM files (STOW-RS); what the archive has already is not sent again.

    \b
    Examples:
      leukoscope send dicomweb http://localhost:8042/dicom-web results/dicom/*.dcm
    """
    from ..interop.dicomweb import Archive, store

    store(Archive(url, user, *_secrets()), files, say=click.echo)


@send.command("fhir")
@click.argument("url")
@click.argument("files", nargs=-1, required=True, type=_FILES)
def send_fhir(url: str, files: tuple[Path, ...]) -> None:
    """Send FHIR transactions; a result that the server has already is not created again.

    \b
    Examples:
      leukoscope send fhir http://localhost:8080/fhir results/fhir/*.json
    """
    from ..files import read_json
    from ..interop.fhir import send

    _, token = _secrets()
    headers = {"Authorization": f"Bearer {token}"} if token else None
    for path in files:
        click.echo(f"{path}: {send(url, read_json(path), headers=headers)} resources created.")


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
    from ..interop.hl7 import send

    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise UsageError(f"{address} is not HOST:PORT, such as localhost:2575.")
    for path in files:
        with path.open(encoding="utf-8", newline="") as file:  # the carriage returns between segments stay
            message = file.read()
        click.echo(f"{path}: acknowledged ({send(host, int(port), message)}).")


def _secrets() -> tuple[str, str]:
    return os.environ.get(_PASSWORD, ""), os.environ.get(_TOKEN, "")
