"""The rooms of the program and who imports whom, drawn from the imports as they are."""

import ast
from html import escape
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "leukoscope"
WIDTH, BOX, STEP, MARGIN = 760, 34, 74, 14  # pixels


def rooms() -> list[str]:
    """Return the names of all rooms: folders with code, and modules beside them."""
    folders = [path.parent.name for path in SOURCE.glob("*/__init__.py")]
    return sorted(folders + [path.stem for path in SOURCE.glob("[!_]*.py")])


def imports() -> dict[str, set[str]]:
    """Return room -> rooms that it imports, wherever in its code the import stands."""
    known = set(rooms())
    return {room: set().union(*(_rooms_in(path) for path in _files(room))) & known - {room} for room in known}


def floors() -> list[list[str]]:
    """Return the rooms by height, the ground first: a room stands one floor above the highest that it imports."""
    needs, height = imports(), {}
    while len(height) < len(needs):
        ready = [room for room in needs if room not in height and needs[room] <= height.keys()]
        assert ready, f"These rooms import each other in a circle: {sorted(needs.keys() - height.keys())}"
        height |= {room: 1 + max((height[below] for below in needs[room]), default=-1) for room in ready}
    return [sorted(room for room in height if height[room] == floor) for floor in range(max(height.values()) + 1)]


def picture() -> str:
    """Return an SVG: a box per room, a line to each room that it imports and that no other line leads to."""
    levels, needs = floors(), imports()
    tall = STEP * len(levels) + MARGIN
    place: dict[str, tuple[float, float]] = {}
    for floor, level in reversed(list(enumerate(levels))):
        for index, room in enumerate(sorted(level, key=lambda room: _middle(room, needs, place))):
            place[room] = (WIDTH * (index + 0.5) / len(level), tall - STEP * (floor + 1) + MARGIN)
    lines = [_line(place[room], place[below]) for room in sorted(needs) for below in sorted(_nearest(room, needs))]
    boxes = [_box(room, *place[room]) for room in sorted(place)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {tall}" role="img" font-family="sans-serif">'
    return "\n".join([head, "<title>Rooms and their imports</title>", *lines, *boxes, "</svg>"]) + "\n"


def _files(room: str) -> list[Path]:
    return sorted((SOURCE / room).rglob("*.py")) if (SOURCE / room).is_dir() else [SOURCE / f"{room}.py"]


def _rooms_in(path: Path) -> set[str]:
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


def _nearest(room: str, needs: dict[str, set[str]]) -> set[str]:
    """Return what a room imports, without what is reached through another of its imports."""
    return {below for below in needs[room] if not any(below in _below(other, needs) for other in needs[room])}


def _below(room: str, needs: dict[str, set[str]]) -> set[str]:
    return needs[room].union(*(_below(other, needs) for other in needs[room]))


def _middle(room: str, needs: dict[str, set[str]], place: dict[str, tuple[float, float]]) -> float:
    """Return the mean place across of those that import a room, so that few lines cross."""
    above = [place[other][0] for other in place if room in needs[other]]
    return sum(above) / len(above) if above else WIDTH / 2


def _line(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x, y), (u, v) = (start[0], start[1] + BOX), end
    half = (v - y) / 2
    return (
        f'<path d="M{x:.0f} {y:.0f}C{x:.0f} {y + half:.0f} {u:.0f} {v - half:.0f} {u:.0f} {v:.0f}"'
        ' fill="none" stroke="#8a7fa8" stroke-width="1.5"/>'
    )


def _box(room: str, x: float, y: float) -> str:
    wide = 8.4 * len(room) + 22
    return (
        f'<rect x="{x - wide / 2:.0f}" y="{y:.0f}" width="{wide:.0f}" height="{BOX}" rx="8" fill="#5b3f8c"/>'
        f'<text x="{x:.0f}" y="{y + 22:.0f}" fill="#fff" font-size="15" text-anchor="middle">{escape(room)}</text>'
    )
