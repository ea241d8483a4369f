// The cells of a case in the order that the server gives, loaded from the front in pages, the rest in the background.

import { get } from "./api.js";
import { saidOf } from "./words.js";

const FIRST = 120;
const PAGE = 500;

/** What a cell is called now: by its reader, else by the model. */
export const labelOf = (cell) => cell.review?.label ?? saidOf(cell);

export class CellList extends EventTarget {
  constructor(caseId) {
    super();
    Object.assign(this, { caseId, filter: "every", order: "priority", like: null, total: 0, cells: [], counts: null, turn: 0 });
    this.places = new Map();
  }

  /** Load the list again. Resolves when the first cells are there; the rest comes behind, with a "grown" event for each page. */
  async load({ filter = this.filter, order = this.order, like = order === this.order ? this.like : null } = {}) {
    Object.assign(this, { filter, order, like });
    const mine = ++this.turn;
    const page = await this.page({ offset: 0, limit: FIRST });
    if (mine !== this.turn) return;
    this.cells = [];
    this.places.clear();
    this.take(page);
    this.dispatchEvent(new Event("renewed"));
    this.rest(mine);
  }

  at(place) {
    return this.cells[place];
  }

  placeOf(id) {
    return this.places.get(id) ?? -1;
  }

  /** Put in a cell's newer state; it keeps its place until the list is loaded again. */
  replace(cell) {
    const place = this.placeOf(cell.id);
    if (place < 0) return void this.dispatchEvent(new CustomEvent("elsewhere", { detail: cell }));
    this.cells[place] = { ...this.cells[place], ...cell };
    this.dispatchEvent(new CustomEvent("changed", { detail: place }));
  }

  async refreshCounts() {
    const { counts } = await this.page({ offset: 0, limit: 1 });
    this.counts = counts;
    this.dispatchEvent(new Event("counted"));
  }

  async rest(mine) {
    try {
      while (mine === this.turn && this.cells.length < this.total) {
        const page = await this.page({ offset: this.cells.length - this.gone(), limit: PAGE });
        if (mine !== this.turn) return;
        if (!this.take(page)) return;
        this.dispatchEvent(new Event("grown"));
      }
    } catch (error) {
      this.dispatchEvent(new CustomEvent("failed", { detail: error }));
    }
  }

  page({ offset, limit }) {
    const { filter, order, like } = this;
    return get(`/cases/${this.caseId}/cells?${new URLSearchParams({ filter, order, ...(like ? { like } : {}), offset, limit })}`);
  }

  /** Take a page; returns how many of its cells were new. */
  take({ total, counts, cells }) {
    const fresh = cells.filter(({ id }) => !this.places.has(id));
    for (const cell of fresh) this.places.set(cell.id, this.cells.push(cell) - 1);
    this.total = Math.max(this.cells.length, fresh.length ? total + this.gone() : this.cells.length);
    this.counts = counts;
    return fresh.length;
  }

  /** How many loaded cells the server no longer counts among these, because they were read since. */
  gone() {
    return this.cells.filter((cell) => !this.belongs(cell)).length;
  }

  belongs(cell) {
    if (this.filter === "every") return true;
    if (this.filter === "unread") return !cell.review && !cell.disputed;
    if (this.filter === "disputed") return cell.disputed && !cell.review;
    return labelOf(cell) === this.filter || `class:${labelOf(cell)}` === this.filter;
  }
}
