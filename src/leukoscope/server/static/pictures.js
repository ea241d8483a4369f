// Addresses of pictures, and one common magnification for all cells of a case, so that sizes can be compared by eye.

import { address } from "./api.js";

const versioned = (path, cell) => `${address(path)}${path.includes("?") ? "&" : "?"}v=${encodeURIComponent(cell.etag ?? "")}`;

export function thumbnail(cell, width) {
  const wanted = width * devicePixelRatio;
  const side = [96, 160].find((each) => wanted <= 1.2 * each) ?? 320;
  return versioned(`/cells/${cell.id}/thumbnail?side=${side}`, cell);
}

/** A cell large, in the colours in which people know it, with what lies left and right of it in its field. */
export const natural = (cell) => versioned(`/cells/${cell.id}/thumbnail?side=640&wide=${Boolean(cell.box)}`, cell);

/** What the model saw; the heat map lies over it. */
export const crop = (cell, side = 448) => versioned(`/cells/${cell.id}/crop?side=${side}`, cell);
/** The heat map over the model's crop, or over the cell in its natural picture. */
export const heat = (cell, over = "thumbnail") => versioned(`/cells/${cell.id}/heat?over=${over}`, cell);
export const hasHeat = ({ decision }) => !["refused", "not asked", "hidden"].includes(decision);

const SIDE = 48;
const BLACK = 24;
const MOST = 2.2;
const MEASURED = 24; // pictures that are measured before the magnification is fixed

/** Finds, from the first pictures, one magnification that suits all. */
export class Magnifier {
  constructor() {
    this.extents = new Map();
  }

  learn(image, cell) {
    if (this.extents.size >= MEASURED) return;
    this.extents.set(cell.id, extent(image));
    document.documentElement.style.setProperty("--magnify", magnification([...this.extents.values()]).toFixed(2));
  }
}

/** How much of its frame a cell on black takes, from 0 to 1; 1 where nothing is black. */
function extent(image) {
  const canvas = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, SIDE, SIDE);
  const { data } = context.getImageData(0, 0, SIDE, SIDE);
  let reach = 0;
  for (let place = 0; place < SIDE * SIDE; place++) {
    if (Math.max(data[4 * place], data[4 * place + 1], data[4 * place + 2]) <= BLACK) continue;
    const [x, y] = [place % SIDE, Math.floor(place / SIDE)];
    reach = Math.max(reach, Math.abs(x - SIDE / 2 + 0.5), Math.abs(y - SIDE / 2 + 0.5));
  }
  return Math.min(1, (2 * reach + 1) / SIDE);
}

/** The magnification at which the largest of these cells still fits. */
function magnification(extents) {
  const largest = Math.max(0.01, ...extents);
  return Math.max(1, Math.min(MOST, 0.96 / largest));
}
