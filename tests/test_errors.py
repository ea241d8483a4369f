"""Whatever goes wrong with one file becomes one sentence about it, in one place."""

import errno
from pathlib import Path

import pytest

from leukoscope.errors import BundleError, DataError, ImageError, MissingExtraError, usable

SOURCE = Path(__file__).resolve().parents[1] / "src"


def test_one_function_alone_catches_every_exception() -> None:
    found = [path.name for path in SOURCE.rglob("*.py") for line in path.read_text().splitlines() if "BLE001" in line]
    assert found == ["errors.py"]


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (ImageError("is damaged.", path="a.png"), "a.png is damaged."),
        (DataError("a.png is odd."), "a.png is odd."),
        (MissingExtraError("Reading TIFF", "fields"), "leukoscope[fields]"),
        (MemoryError(), "needs more memory"),
        (PermissionError(errno.EACCES, "denied", "a.png"), "Change the permissions"),
        (OSError(errno.ENOSPC, "full"), "the disk is full"),
        (OSError(errno.ENAMETOOLONG, "long"), "too long a name"),
        (ZeroDivisionError("x"), "Please report this"),
        (RecursionError(), "Please report this"),
    ],
)
def test_everything_is_an_image_error_that_names_the_file(
    raised: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEUKOSCOPE_LOG", str(tmp_path / "errors.log"))

    def fails() -> None:
        raise raised

    with pytest.raises(ImageError) as refused:
        usable(fails, name="a.png")
    assert said in str(refused.value)
    assert "a.png" in str(refused.value)
    assert (tmp_path / "errors.log").exists() == ("report this" in said)


def test_what_is_not_the_files_fault_is_not_blamed_on_it() -> None:
    def fails() -> None:
        raise BundleError("The bundle is damaged.")

    with pytest.raises(BundleError):
        usable(fails, name="a.png")
    with pytest.raises(KeyboardInterrupt):
        usable(lambda: (_ for _ in ()).throw(KeyboardInterrupt()), name="a.png")
