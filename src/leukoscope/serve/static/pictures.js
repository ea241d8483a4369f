// Addresses of pictures, and one common magnification for the crops of a case, so that sizes can be compared by eye.

import { address } from "./api.js";

const versioned = (path, cell) => `${address(path)}${path.includes("?") ? "&" : "?"}v=${encodeURIComponent(cell.etag ?? "")}`;

export function thumbnail(cell, width) {
  const wanted = width * devicePixelRatio;
  if (wanted > 240) return crop(cell);
  return versioned(`/cells/${cell.id}/thumbnail?side=${wanted > 100 ? 160 : 96}`, cell);
}

export const crop = (cell) => versioned(`/cells/${cell.id}/crop`, cell);
export const heat = (cell) => versioned(`/cells/${cell.id}/heat`, cell);

const SIDE = 48;
const BLACK = 24;
const MOST = 2.2;

/** How much of its frame a cell on black takes, from 0 to 1; 1 where nothing is black. */
export function extent(image) {
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
export function magnification(extents) {
  const largest = Math.max(0.01, ...extents);
  return Math.max(1, Math.min(MOST, 0.96 / largest));
}
