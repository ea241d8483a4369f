"""Bundles in a model hub: `hf://owner/name`, or `hf://owner/name@revision`, by huggingface_hub."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import BundleError, UsageError, require

PREFIX = "hf://"
_MANIFEST = "bundle.json"


def is_hub_address(name: str) -> bool:
    """Tell whether a name is an address in a model hub.

    >>> is_hub_address("hf://laboratory/lymphoblasts"), is_hub_address("models/first")
    (True, False)
    """
    return name.startswith(PREFIX)


def fetch_bundle(address: str) -> Path:
    """Return the folder of a bundle's files in the local cache, fetching those that are not there yet.

    All files are of one commit: the newest, or that of the revision (a branch, a tag or a commit). HF_ENDPOINT,
    HF_HOME, HF_TOKEN and HF_HUB_OFFLINE are honoured.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        UsageError: this is no address of that form.
        BundleError: the hub has no such bundle, or does not answer.
    """
    hub: Any = require("huggingface_hub", feature="A bundle of a model hub", extra="hub")
    repository, _, revision = address.removeprefix(PREFIX).partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise UsageError(f"{address} is not an address. Write hf://owner/name, or hf://owner/name@revision.")
    first = _fetch(hub, repository, _MANIFEST, revision=revision or None, address=address)
    for name in _files_in(first, address):
        _fetch(hub, repository, name, revision=first.parent.name, address=address)
    return first.parent


def _fetch(hub: Any, repository: str, name: str, *, revision: str | None, address: str) -> Path:
    """Return a file in the cache; its folder is named by the commit."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(hub.hf_hub_download(repository, name, revision=revision))
    except LocalEntryNotFoundError:
        raise BundleError(
            f"{address} cannot be reached, and {name} is not in the cache. Check the network, or give a folder."
        ) from None
    except GatedRepoError:
        raise BundleError(f"{address} asks for consent. Give it on the hub's page, and set HF_TOKEN.") from None
    except RepositoryNotFoundError:
        raise BundleError(f"{address} does not exist, or is private. Check the name, or set HF_TOKEN.") from None
    except RevisionNotFoundError:
        raise BundleError(f"{address} has no such revision. Leave out what follows the @.") from None
    except EntryNotFoundError:
        raise BundleError(f"{address} is not a model bundle: it has no {name}.") from None
    except HFValidationError as wrong:
        raise UsageError(f"{address} is not an address ({_first_line(wrong)}). Write hf://owner/name.") from None
    except (HfHubHTTPError, OSError) as failed:
        raise BundleError(f"{address} cannot be fetched ({_first_line(failed)}). Try again later.") from None


def _files_in(manifest: Path, address: str) -> list[str]:
    """Return the names of the other files; opening the bundle says what is wrong with bundle.json."""
    try:
        names = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        named = [str(name) for name in names]
    except (ValueError, KeyError, TypeError):
        raise BundleError(f"{address} has a {_MANIFEST} that lists no files. Ask whoever made it.") from None
    for name in named:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise BundleError(f"{address} lists the file '{name}', which is outside the bundle. It is not loaded.")
    return named


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
