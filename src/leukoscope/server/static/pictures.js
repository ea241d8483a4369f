// Addresses of pictures, and one common magnification for all cells of a case, so that sizes can be compared by eye.

import { address } from "./api.js";

const versioned = (path, cell) => `${address(path)}${path.includes("?") ? "&" : "?"}v=${encodeURIComponent(cell.etag ?? "")}`;

export function thumbnail(cell, width) {
  const wanted = width * devicePixelRatio;
  const side = [96, 160].find((each) => wanted <= 1.2 * each) ?? 320;
  return versioned(`/cells/${cell.id}/thumbnail?side=${side}`, cell);
}

/** A cell large, in the colours in which people know it. */
export const natural = (cell) => versioned(`/cells/${cell.id}/thumbnail?side=640`, cell);

/** What the model saw; the heat map lies over it. */
export const crop = (cell, side = 448) => versioned(`/cells/${cell.id}/crop?side=${side}`, cell);
export const heat = (cell) => versioned(`/cells/${cell.id}/heat`, cell);

const SIDE = 48;
const BLACK = 24;
const MOST = 2.2;
const MEASURED = 24; // pictures looked at before the magnification stands
const ALIKE = 0.08; // of the frame, by which two pictures of a cell may differ and still have one scale

/** Learns from the first pictures how far all can be magnified alike: thumbnails, and crops as the model saw them. */
export class Magnifier {
  constructor() {
    Object.assign(this, { thumbnails: new Map(), crops: new Map() });
  }

  thumbnail(image, cell) {
    this.learn(this.thumbnails, image, cell, "--magnify");
  }

  /** A model may have seen each cell at a size of its own; then crops have their own magnification. */
  crop(image, cell) {
    const known = this.thumbnails.get(cell.id);
    if (known !== undefined && Math.abs(known - extent(image)) < ALIKE) return set("--magnify-crop", "var(--magnify)");
    return this.learn(this.crops, image, cell, "--magnify-crop");
  }

  learn(extents, image, cell, name) {
    if (extents.size >= MEASURED) return;
    extents.set(cell.id, extent(image));
    set(name, magnification([...extents.values()]).toFixed(2));
  }
}

const set = (name, value) => document.documentElement.style.setProperty(name, value);

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
