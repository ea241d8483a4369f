"""The packages of the program and who imports whom, drawn from the imports as they are."""

import ast
from html import escape
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "leukoscope"
WIDTH, BOX, STEP, MARGIN = 760, 34, 74, 14  # pixels


def packages() -> list[str]:
    """Return the names of all packages: folders with code, and modules beside them."""
    folders = [path.parent.name for path in SOURCE.glob("*/__init__.py")]
    return sorted(folders + [path.stem for path in SOURCE.glob("[!_]*.py")])


def imports() -> dict[str, set[str]]:
    """Return package -> packages that it imports, wherever in its code the import stands."""
    known = set(packages())
    return {
        package: set().union(*(_packages_in(path) for path in _files(package))) & known - {package} for package in known
    }


def floors() -> list[list[str]]:
    """Return the packages by height, the ground first: a package stands one floor above the highest that it imports."""
    needs, height = imports(), {}
    while len(height) < len(needs):
        ready = [package for package in needs if package not in height and needs[package] <= height.keys()]
        assert ready, f"These packages import each other in a circle: {sorted(needs.keys() - height.keys())}"
        height |= {package: 1 + max((height[below] for below in needs[package]), default=-1) for package in ready}
    return [
        sorted(package for package in height if height[package] == floor) for floor in range(max(height.values()) + 1)
    ]


def picture() -> str:
    """Return an SVG: a box per package, a line to each package that it imports and that no other line leads to."""
    levels, needs = floors(), imports()
    tall = STEP * len(levels) + MARGIN
    place: dict[str, tuple[float, float]] = {}
    for floor, level in reversed(list(enumerate(levels))):
        for index, package in enumerate(sorted(level, key=lambda package: _middle(package, needs, place))):
            place[package] = (WIDTH * (index + 0.5) / len(level), tall - STEP * (floor + 1) + MARGIN)
    lines = [
        _line(place[package], place[below]) for package in sorted(needs) for below in sorted(_nearest(package, needs))
    ]
    boxes = [_box(package, *place[package]) for package in sorted(place)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {tall}" role="img" font-family="sans-serif">'
    return "\n".join([head, "<title>Packages and their imports</title>", *lines, *boxes, "</svg>"]) + "\n"


def _files(package: str) -> list[Path]:
    return sorted((SOURCE / package).rglob("*.py")) if (SOURCE / package).is_dir() else [SOURCE / f"{package}.py"]


def _packages_in(path: Path) -> set[str]:
    package = ["leukoscope", *path.relative_to(SOURCE).parts[:-1]]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            found |= {
                name for alias in node.names for name in [*module, alias.name][1:2] if module[:1] == ["leukoscope"]
            }
    return found


def _nearest(package: str, needs: dict[str, set[str]]) -> set[str]:
    """Return what a package imports, without what is reached through another of its imports."""
    return {below for below in needs[package] if not any(below in _below(other, needs) for other in needs[package])}


def _below(package: str, needs: dict[str, set[str]]) -> set[str]:
    return needs[package].union(*(_below(other, needs) for other in needs[package]))


def _middle(package: str, needs: dict[str, set[str]], place: dict[str, tuple[float, float]]) -> float:
    """Return the mean place across of those that import a package, so that few lines cross."""
    above = [place[other][0] for other in place if package in needs[other]]
    return sum(above) / len(above) if above else WIDTH / 2


def _line(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x, y), (u, v) = (start[0], start[1] + BOX), end
    half = (v - y) / 2
    return (
        f'<path d="M{x:.0f} {y:.0f}C{x:.0f} {y + half:.0f} {u:.0f} {v - half:.0f} {u:.0f} {v:.0f}"'
        ' fill="none" stroke="#8a7fa8" stroke-width="1.5"/>'
    )


def _box(package: str, x: float, y: float) -> str:
    wide = 8.4 * len(package) + 22
    return (
        f'<rect x="{x - wide / 2:.0f}" y="{y:.0f}" width="{wide:.0f}" height="{BOX}" rx="8" fill="#5b3f8c"/>'
        f'<text x="{x:.0f}" y="{y + 22:.0f}" fill="#fff" font-size="15" text-anchor="middle">{escape(package)}</text>'
    )
