"""The reference of all settings, from the models that check them."""

from leukoscope.config import Experiment, Settings

_INTRODUCTION = """# Settings

An experiment is one TOML file (`--config`); single settings are changed with `--set train.epochs=5`. All of them,
defaults included, are copied into `RUN/config.toml`. A name that is not here is refused, and the nearest one is named.
"""


def page() -> str:
    """Return the page as Markdown: one table per section of the file."""
    own = _rows({name: field for name, field in Experiment.model_fields.items() if not _section_of(field)})
    parts = [_INTRODUCTION, own]
    for name, field in Experiment.model_fields.items():
        section = _section_of(field)
        if section:
            parts += [f"## [{name}]", section.__doc__ or "", _rows(section.model_fields)]
    return "\n\n".join(parts) + "\n"


def _section_of(field: object) -> type[Settings] | None:
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, Settings) else None


def _rows(fields: dict[str, object]) -> str:
    rows = [f"| `{name}` | {_default(field.default)} | {_meaning(field)} |" for name, field in fields.items()]
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows])


def _default(value: object) -> str:
    toml = {True: "true", False: "false"}.get(value) if isinstance(value, bool) else None
    if toml is None:
        toml = (
            str(list(value)) if isinstance(value, tuple) else f'"{value}"' if isinstance(value, str) else f"{value:g}"
        )
    return f"`{toml}`"


def _meaning(field: object) -> str:
    """Return the description, with the values that are allowed where they are a list of words."""
    allowed = getattr(field.annotation, "__args__", ()) if "Literal" in str(field.annotation) else ()
    words = ", ".join(f"`{value}`" for value in allowed)
    text = " ".join((field.description or "").split())
    return " ".join(part for part in (text, f"One of {words}." if words else "") if part)
