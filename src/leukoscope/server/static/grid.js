// A wall of cells of which only the rows in sight are in the page, however many there are.

import { labelOf } from "./cells.js";
import { drawn, element, icon } from "./element.js";
import { hasHeat, heat, thumbnail } from "./pictures.js";
import { percent, saidOf } from "./words.js";

const WIDTHS = [4.6, 6.3, 8.2, 11, 15]; // rem, smallest to largest
const GAP = 0.5; // rem
const CAPTION = 1.75; // rem
const ROOMY = 165; // px of a tile that has room for an uncertain class and its probability
const MOUSE = matchMedia("(pointer: fine)"); // a finger that stays on a cell selects it, and drags nothing
const BEYOND = 2; // rows kept above and below the sight

export class Grid extends EventTarget {
  constructor(node, { list, words, magnifier }) {
    super();
    Object.assign(this, { node, list, words, magnifier, chosen: -1, picked: new Set(), step: 3, heat: false, rows: new Map(), columns: 1 });
    this.below = element("div", { class: "grid-rows", role: "presentation" });
    node.append(this.below);
    list.addEventListener("renewed", () => this.renew());
    list.addEventListener("grown", () => this.update({ redraw: true }));
    list.addEventListener("changed", ({ detail }) => this.repaint(detail));
    addEventListener("scroll", () => this.soon(), { passive: true });
    new ResizeObserver(() => this.measure()).observe(node);
    node.addEventListener("click", (event) => this.pressed(event));
    node.addEventListener("focus", () => this.chosen < 0 && this.list.total && this.choose(0, { scroll: false }));
  }

  setStep(step) {
    this.step = Math.max(1, Math.min(WIDTHS.length, step));
    this.measure({ redraw: true });
    if (this.chosen >= 0 && this.rowHeight) this.reveal(this.chosen); // what is looked at stays in sight
  }

  setHeat(on) {
    this.heat = on;
    this.update({ redraw: true });
  }

  renew() {
    this.chosen = -1;
    this.node.removeAttribute("aria-activedescendant");
    this.measure({ redraw: true });
  }

  /** Work out columns and heights from the width there is. */
  measure({ redraw = false } = {}) {
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const width = this.node.clientWidth;
    this.stale ||= redraw;
    if (!width) return; // hidden: measured again when it shows
    const gap = GAP * rem;
    const columns = Math.max(2, Math.floor((width + gap) / (WIDTHS[this.step - 1] * rem + gap)));
    const tile = (width - gap * (columns - 1)) / columns;
    const kept = columns === this.columns && tile === this.tile && !this.stale;
    this.stale = false;
    Object.assign(this, { columns, tile, rowHeight: tile + CAPTION * rem + gap });
    this.node.style.setProperty("--columns", columns);
    if (!kept) this.update({ redraw: true });
  }

  soon() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.update();
    });
  }

  /** Bring the rows in the page in step with the sight. */
  update({ redraw = false } = {}) {
    if (!this.rowHeight) return;
    const all = Math.ceil(this.list.total / this.columns);
    this.node.setAttribute("aria-rowcount", all);
    this.node.setAttribute("aria-colcount", this.columns);
    this.below.style.height = `${all * this.rowHeight}px`;
    const [first, last] = this.inSight(all);
    for (const [row, node] of this.rows) {
      if (redraw || row < first || row > last) {
        node.remove();
        this.rows.delete(row);
      }
    }
    for (let row = first; row <= last; row++) if (!this.rows.has(row)) this.addRow(row);
    this.point();
  }

  inSight(all) {
    const top = -this.below.getBoundingClientRect().top;
    const first = Math.floor(top / this.rowHeight) - BEYOND;
    const last = Math.ceil((top + innerHeight) / this.rowHeight) + BEYOND;
    return [Math.max(0, first), Math.min(all - 1, last)];
  }

  addRow(row) {
    const node = element("div", { class: "grid-row", role: "row", "aria-rowindex": row + 1 });
    node.style.transform = `translateY(${row * this.rowHeight}px)`;
    const end = Math.min(this.list.total, (row + 1) * this.columns);
    for (let place = row * this.columns; place < end; place++) node.append(this.tileAt(place));
    this.rows.set(row, node);
    this.below.append(node);
  }

  tileAt(place) {
    const cell = this.list.at(place);
    const facts = { role: "gridcell", "data-place": place, "aria-colindex": (place % this.columns) + 1, id: `tile-${place}` };
    if (!cell) return element("div", { ...facts, class: "tile waiting", "aria-label": "loading" });
    const label = labelOf(cell);
    const style = `tile hue-${this.words.hue(label)}${cell.review ? " read" : ""}${place === this.chosen ? " chosen" : ""}${this.picked.has(cell.id) ? " picked" : ""}`;
    return element("div", { ...facts, class: style, draggable: String(MOUSE.matches), "aria-selected": String(this.isSelected(place)), "aria-label": this.described(cell) }, this.eye(cell), this.caption(cell, label));
  }

  /** Whether a cell is selected: one of several, or, where none are, the chosen one. */
  isSelected(place) {
    return this.picked.size ? this.picked.has(this.list.at(place)?.id) : place === this.chosen;
  }

  showPicked() {
    for (const tile of this.node.querySelectorAll(".tile[data-place]")) this.mark(Number(tile.dataset.place));
  }

  eye(cell) {
    const image = picture({ src: thumbnail(cell, this.tile) });
    image.addEventListener("load", () => this.magnifier.learn(image, cell), { once: true });
    image.addEventListener("error", () => image.parentElement?.classList.add("lost"), { once: true });
    const over = this.heat && hasHeat(cell) ? picture({ class: "heat", src: heat(cell) }) : null;
    over?.addEventListener("error", () => over.remove(), { once: true });
    return element("span", { class: "eye" }, image, over);
  }

  caption(cell, label) {
    const mark = cell.review ? icon(this.words.corrects(cell) ? "pen" : "check") : drawn("svg", { class: "icon dot", viewBox: "0 0 24 24", "aria-hidden": "true" }, drawn("circle", { cx: 12, cy: 12, r: 5 }));
    const whole = cell.review || cell.decision === "refused" ? "" : this.chance(cell);
    const chance = this.tile < ROOMY ? whole.split(" ").at(-1) : whole;
    return element("span", { class: "caption" }, mark, element("b", {}, differs(cell) ? "in dispute" : this.words.title(label)), element("span", {}, chance));
  }

  /** The probability that a caption shows: of the disease where the cell is unsure, of the class where it has one. */
  chance(cell) {
    if (cell.decision === "not asked") return cell.types && cell.type !== "unsure" ? percent(cell.types[cell.type]) : "";
    if (!cell.probability) return "";
    const { positive } = this.words;
    if (cell.decision === "unsure") return positive ? `${this.words.title(positive)} ${percent(cell.probability[positive])}` : "";
    return percent(cell.probability[cell.decision] ?? Math.max(...Object.values(cell.probability)));
  }

  described(cell) {
    const model = cell.decision === "refused" ? "refused" : `${this.words.title(saidOf(cell))} ${this.chance(cell)}`;
    const read = cell.review ? `read as ${this.words.title(cell.review.label)}` : differs(cell) ? "readers differ" : "not yet read";
    return [`Cell ${cell.number}`, ...(cell.decision === "hidden" ? [] : [model]), read].join(", ");
  }

  repaint(place) {
    const old = this.node.querySelector(`#tile-${place}`);
    if (!old) return;
    const fresh = this.tileAt(place);
    const [was, is] = [old.querySelector(".eye"), fresh.querySelector(".eye")];
    if (was && is && was.firstChild.src === is.firstChild.src) is.replaceWith(was); // no flicker
    old.replaceWith(fresh);
  }

  /** Choose a cell: it is marked, brought into sight, and an event reports it. */
  choose(place, { scroll = true, open = false } = {}) {
    if (!this.list.total) return;
    const before = this.chosen;
    this.chosen = Math.max(0, Math.min(this.list.total - 1, place));
    if (scroll) this.reveal(this.chosen);
    for (const each of [before, this.chosen]) if (each >= 0) this.mark(each);
    this.point();
    this.dispatchEvent(new CustomEvent("chosen", { detail: { place: this.chosen, open } }));
  }

  mark(place) {
    const tile = this.node.querySelector(`#tile-${place}`);
    tile?.classList.toggle("chosen", place === this.chosen);
    tile?.classList.toggle("picked", this.picked.has(this.list.at(place)?.id));
    tile?.setAttribute("aria-selected", String(this.isSelected(place)));
  }

  point() {
    const there = this.chosen >= 0 && this.node.querySelector(`#tile-${this.chosen}`);
    if (there) this.node.setAttribute("aria-activedescendant", there.id);
    else this.node.removeAttribute("aria-activedescendant");
  }

  reveal(place) {
    const style = getComputedStyle(this.node);
    const top = this.below.getBoundingClientRect().top + Math.floor(place / this.columns) * this.rowHeight;
    const [above, under] = [parseFloat(style.scrollMarginTop) || 0, parseFloat(style.scrollMarginBottom) || 0];
    if (top < above) scrollBy({ top: top - above });
    else if (top + this.rowHeight > innerHeight - under) scrollBy({ top: top + this.rowHeight - innerHeight + under });
    this.update();
  }

  pressed(event) {
    const tile = event.target.closest("[data-place]");
    if (!tile) return;
    const place = Number(tile.dataset.place);
    const told = new CustomEvent("pressed", { detail: { place, press: event }, cancelable: true });
    if (this.dispatchEvent(told)) this.choose(place, { scroll: false, open: true });
  }

  /** Rows that one screen holds, for Page Up and Page Down. */
  get screenful() {
    return Math.max(1, Math.floor((innerHeight * 0.8) / this.rowHeight)) * this.columns;
  }
}

/** Whether readers differ on a cell, and nobody has settled it. */
const differs = (cell) => cell.disputed && !cell.review;
const picture = (facts) => element("img", { alt: "", decoding: "async", draggable: "false", ...facts });
