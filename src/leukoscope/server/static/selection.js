// Several cells at once: selected with mouse, keys or fingers, and labelled by one key, press or drop.

import { element, find } from "./element.js";
import { note, say } from "./frame.js";
import { count, titled } from "./words.js";

const MOST = 1000; // cells that the server takes at once
const LONG = 500; // ms of a finger on a cell that select it
const STILL = 10; // px that a finger may move meanwhile
const KIND = "application/x-leukoscope-cells";

/** Tells: "changed"; "said" with the label for all of them; "merge". `shut` says why nothing can be selected, or "". */
export class Selection extends EventTarget {
  constructor({ grid, list, words, shut }) {
    super();
    Object.assign(this, { grid, list, words, shut, ids: new Set(), anchor: -1, several: false, held: 0, swallow: false });
    grid.picked = this.ids;
    list.addEventListener("renewed", () => this.clear());
    grid.addEventListener("pressed", (event) => this.pressed(event));
    find("several-button").addEventListener("click", () => this.setSeveral(!this.several));
    find("tray-clear").addEventListener("click", () => (this.setSeveral(false), this.clear()));
    find("tray-merge").addEventListener("click", () => this.dispatchEvent(new Event("merge")));
    this.makeButtons();
    this.listenToFingers();
    this.listenToDrags();
  }

  get size() {
    return this.ids.size;
  }

  /** The selected cells in the order of the wall. */
  get cells() {
    const places = [...this.ids].map((id) => this.list.placeOf(id)).filter((place) => place >= 0);
    return places.sort((one, other) => one - other).map((place) => this.list.at(place));
  }

  clear() {
    this.anchor = -1;
    if (!this.size) return;
    this.ids.clear();
    this.show();
  }

  setSeveral(on) {
    this.several = on && this.allowed();
    find("several-button").setAttribute("aria-pressed", String(this.several));
    if (!on) this.clear();
    else if (this.several) say("Presses select cells now.");
  }

  allowed() {
    const why = this.shut();
    if (why) note(why);
    return !why;
  }

  toggle(place) {
    const cell = this.list.at(place);
    if (!cell || !this.allowed()) return;
    if (!this.ids.delete(cell.id)) this.ids.add(cell.id);
    this.anchor = place;
    this.show();
  }

  /** Select all from where the selection began to a place, instead of what was selected, or in addition to it. */
  extend(place, { adding = false } = {}) {
    if (!this.allowed()) return;
    if (this.anchor < 0) this.anchor = Math.max(0, this.grid.chosen);
    if (!adding) this.ids.clear();
    const [first, last] = [Math.min(this.anchor, place), Math.max(this.anchor, place)];
    for (let each = first; each <= last; each++) if (this.list.at(each)) this.ids.add(this.list.at(each).id);
    this.show();
  }

  all() {
    if (!this.allowed()) return;
    for (const { id } of this.list.cells) this.ids.add(id);
    this.show();
  }

  show() {
    const { size } = this;
    this.grid.showPicked();
    find("tray").hidden = !size;
    find("tray-words").textContent = `${count(size, "cell")} selected`;
    find("tray-merge").hidden = !this.mergeable();
    for (const button of find("tray-labels").children) button.disabled = size > MOST;
    say(size > MOST ? `${count(size, "cell")} selected; at most ${MOST} can be labelled at once.` : find("tray-words").textContent);
    if (size > MOST) find("tray-words").textContent += `, at most ${MOST} at once`;
    this.dispatchEvent(new Event("changed"));
  }

  /** Whether they are outlines of one field, which may be one cell. */
  mergeable() {
    if (this.size < 2 || this.size > 16) return false;
    const { cells } = this;
    return cells.every(({ box, image }) => box && image === cells[0].image);
  }

  pressed(event) {
    const { place, press } = event.detail;
    if (this.swallow) {
      this.swallow = false; // the finger that has selected this cell comes off it
      return event.preventDefault();
    }
    const adding = press.ctrlKey || press.metaKey;
    if (press.shiftKey) this.extend(place, { adding });
    else if (adding || this.several) this.toggle(place);
    else return void (this.clear(), (this.anchor = place));
    event.preventDefault();
    return this.grid.choose(place, { scroll: false });
  }

  // --- what they are ------------------------------------------------------------------------------------------------

  makeButtons() {
    const { words } = this;
    const labels = [...words.labels, "unsure", "not_a_cell"];
    const button = (name) => element("button", { type: "button", class: `class hue-${words.hue(name)}`, "data-label": name, onclick: () => this.tell(name) }, element("span", {}, titled(words.title(name))), element("kbd", {}, this.key(name)));
    find("tray-labels").append(...labels.map(button));
  }

  key(name) {
    return { unsure: "0", not_a_cell: "X" }[name] ?? this.words.key(name).toUpperCase();
  }

  tell(label) {
    this.dispatchEvent(new CustomEvent("said", { detail: label }));
  }

  // --- fingers ------------------------------------------------------------------------------------------------------

  listenToFingers() {
    const { node } = this.grid;
    let start = null;
    const stop = () => (clearTimeout(this.held), (start = null));
    node.addEventListener("pointerdown", (event) => {
      const tile = event.target.closest("[data-place]");
      this.swallow = false;
      if (event.pointerType !== "touch" || !tile) return;
      start = [event.clientX, event.clientY];
      this.held = setTimeout(() => this.holdOn(Number(tile.dataset.place)), LONG);
    });
    node.addEventListener("pointermove", (event) => start && Math.hypot(event.clientX - start[0], event.clientY - start[1]) > STILL && stop());
    for (const end of ["pointerup", "pointercancel", "pointerleave"]) node.addEventListener(end, stop);
    node.addEventListener("contextmenu", (event) => start && event.preventDefault());
  }

  holdOn(place) {
    if (!this.allowed()) return;
    this.swallow = true;
    this.setSeveral(true);
    this.toggle(place);
    navigator.vibrate?.(10);
  }

  // --- drags --------------------------------------------------------------------------------------------------------

  listenToDrags() {
    const { node } = this.grid;
    node.addEventListener("dragstart", (event) => this.drag(event));
    node.addEventListener("dragend", () => this.dragged());
    for (const kind of ["dragenter", "dragover"]) document.addEventListener(kind, (event) => this.over(event));
    document.addEventListener("drop", (event) => this.drop(event));
  }

  drag(event) {
    const place = Number(event.target.closest("[data-place]")?.dataset.place ?? -1);
    const cell = this.list.at(place);
    if (!cell || this.shut()) return event.preventDefault();
    this.lone = !this.ids.has(cell.id); // a cell that is not selected is dragged alone
    if (this.lone) this.ids.clear();
    this.ids.add(cell.id);
    this.badge = element("div", { class: "drag-badge" }, count(this.size, "cell"));
    document.body.append(this.badge);
    event.dataTransfer.setData(KIND, String(this.size));
    event.dataTransfer.effectAllowed = "move";
    event.dataTransfer.setDragImage(this.badge, -12, -12);
    setTimeout(() => (document.body.classList.add("dragging"), this.show()), 0); // a page that changes under it ends a drag
    return undefined;
  }

  dragged() {
    this.badge?.remove();
    document.body.classList.remove("dragging");
    this.mark(null);
    if (this.lone) this.clear();
    this.lone = false;
  }

  over(event) {
    if (!event.dataTransfer?.types.includes(KIND)) return;
    const target = this.target(event);
    this.mark(target);
    if (target) event.preventDefault();
  }

  drop(event) {
    if (!event.dataTransfer?.types.includes(KIND)) return;
    event.preventDefault();
    const target = this.target(event);
    this.lone = false;
    if (target) this.tell(this.labelOf(target));
  }

  target(event) {
    const node = event.target.closest?.("[data-label], [data-filter]");
    return node && this.labelOf(node) ? node : null;
  }

  /** What a button, or the filter of a class, says of a cell that is dropped on it. */
  labelOf({ dataset: { label, filter = "" } }) {
    const name = label ?? filter.replace(/^class:/, "");
    return [...this.words.labels, "unsure", "not_a_cell"].includes(name) ? name : "";
  }

  mark(target) {
    for (const node of document.querySelectorAll(".drop-here")) if (node !== target) node.classList.remove("drop-here");
    target?.classList.add("drop-here");
  }
}
