// Outlines that become one, or two: the hull of several, the halves on both sides of a line.

/** The convex hull of points, by Andrew's monotone chain. */
export function hullOf(points) {
  const sorted = [...points].sort(([x, y], [right, bottom]) => x - right || y - bottom);
  const chain = (all) => {
    const kept = [];
    for (const point of all) {
      while (kept.length > 1 && turn(kept.at(-2), kept.at(-1), point) <= 0) kept.pop();
      kept.push(point);
    }
    return kept.slice(0, -1);
  };
  return [...chain(sorted), ...chain(sorted.reverse())];
}

const turn = ([x, y], [x1, y1], [x2, y2]) => (x1 - x) * (y2 - y) - (y1 - y) * (x2 - x);

/** The two parts of an outline on both sides of a line through x, y that is turned by an angle; null where one is empty. */
export function halvesOf(outline, { x, y, turn: angle }) {
  const side = ([across, down]) => (down - y) * Math.cos(angle) - (across - x) * Math.sin(angle);
  const halves = [1, -1].map((sign) => clipped(outline, (point) => sign * side(point)));
  return halves.every((points) => points.length > 2 && area(points) > 0.02 * area(outline)) ? halves : null;
}

/** What of an outline lies where `depth` is not negative (Sutherland and Hodgman). */
function clipped(outline, depth) {
  const kept = [];
  outline.forEach((point, place) => {
    const before = outline.at(place - 1);
    const [here, there] = [depth(point), depth(before)];
    if (here < 0 !== there < 0) kept.push(between(before, point, there / (there - here)));
    if (here >= 0) kept.push(point);
  });
  return kept;
}

const between = ([x, y], [right, bottom], part) => [x + part * (right - x), y + part * (bottom - y)];

function area(points) {
  let twice = 0;
  points.forEach(([x, y], place) => {
    const [before, above] = points.at(place - 1);
    twice += before * y - x * above;
  });
  return Math.abs(twice) / 2;
}

/** The line across the middle of the longer axis of an outline, where two cells that touch most likely meet. */
export function longAxis(outline) {
  const [x, y] = [0, 1].map((axis) => outline.reduce((sum, point) => sum + point[axis], 0) / outline.length);
  let [across, down, both] = [0, 0, 0];
  for (const [right, bottom] of outline) {
    across += (right - x) ** 2;
    down += (bottom - y) ** 2;
    both += (right - x) * (bottom - y);
  }
  return { x, y, turn: Math.atan2(2 * both, across - down) / 2 + Math.PI / 2 };
}

/** How far two boxes [left, top, width, height] are apart; 0 where they touch. */
export function gapOf([x, y, width, height], [left, top, wide, high]) {
  return Math.hypot(Math.max(0, x - left - wide, left - x - width), Math.max(0, y - top - high, top - y - height));
}
