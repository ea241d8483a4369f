// One cell large: as it lies in the smear, under its heat map, or as the model saw it; wheel, pinch and keys come nearer.

import { element, find } from "./element.js";
import { crop, hasHeat, heat, natural } from "./pictures.js";

const NEARER = 1.35;
const MOST = 10;
const STEP = 40; // px that an arrow moves what is near
const SWIPE = 48; // px

export class Stage extends EventTarget {
  constructor({ magnifier }) {
    super();
    Object.assign(this, { magnifier, cell: null, heat: false, seen: false, near: { zoom: 1, x: 0, y: 0 }, pointers: new Map() });
    this.node = find("stage");
    this.picture = element("img", { alt: "", class: "cell", draggable: "false" });
    this.over = element("img", { alt: "", class: "heat", draggable: "false", hidden: true });
    this.sight = element("div", { class: "sight" }, this.picture, this.over);
    this.node.prepend(this.sight);
    this.button = find("seen-button");
    this.over.addEventListener("error", () => (this.over.hidden = true));
    this.listen();
  }

  show(cell) {
    this.cell = cell;
    this.look({ zoom: 1, x: 0, y: 0 });
    this.picture.alt = `Cell ${cell.number}, large`;
    this.draw();
  }

  setHeat(on) {
    this.heat = on;
    if (this.cell) this.draw();
  }

  /** Show what the model saw instead of the cell in the smear, or back. */
  setSeen(on) {
    this.seen = on;
    this.button.setAttribute("aria-pressed", String(on));
    if (this.cell) this.draw();
  }

  draw() {
    const { cell, seen } = this;
    this.node.classList.toggle("natural", Boolean(cell.box) && !seen);
    this.node.classList.toggle("model", seen);
    const src = seen ? crop(cell) : natural(cell);
    if (this.picture.getAttribute("src") !== src) this.picture.src = src;
    this.over.hidden = !this.heat || !hasHeat(cell);
    if (!this.over.hidden) this.over.src = heat(cell, seen ? "crop" : "thumbnail");
  }

  // --- nearer and farther -----------------------------------------------------------------------------------------

  look({ zoom, x, y }) {
    const [wide, high] = [((zoom - 1) * this.node.clientWidth) / 2, ((zoom - 1) * this.node.clientHeight) / 2];
    this.near = { zoom, x: Math.max(-wide, Math.min(wide, x)), y: Math.max(-high, Math.min(high, y)) };
    this.sight.style.transform = zoom === 1 ? "" : `translate(${this.near.x}px, ${this.near.y}px) scale(${zoom})`;
    this.node.classList.toggle("near", zoom > 1);
  }

  /** Come nearer by a factor; the place under (left, top), from the middle, stays where it is. */
  zoom(factor, left = 0, top = 0) {
    const { zoom, x, y } = this.near;
    const next = Math.max(1, Math.min(MOST, zoom * factor));
    this.look({ zoom: next, x: left - ((left - x) * next) / zoom, y: top - ((top - y) * next) / zoom });
  }

  pan(across, down) {
    this.look({ ...this.near, x: this.near.x + across, y: this.near.y + down });
  }

  fromMiddle({ clientX, clientY }) {
    const frame = this.node.getBoundingClientRect();
    return [clientX - frame.left - frame.width / 2, clientY - frame.top - frame.height / 2];
  }

  // --- hands ------------------------------------------------------------------------------------------------------

  listen() {
    const { node } = this;
    node.addEventListener("wheel", (event) => (event.preventDefault(), this.zoom(Math.exp(-event.deltaY / 400), ...this.fromMiddle(event))), { passive: false });
    node.addEventListener("dblclick", (event) => (this.near.zoom > 1 ? this.look({ zoom: 1, x: 0, y: 0 }) : this.zoom(3, ...this.fromMiddle(event))));
    node.addEventListener("pointerdown", (event) => this.down(event));
    node.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) node.addEventListener(end, (event) => this.up(event));
    node.addEventListener("keydown", (event) => this.key(event));
    this.button.addEventListener("click", () => this.dispatchEvent(new Event("seen")));
  }

  down(event) {
    if (event.target.closest("button")) return;
    if (!this.pointers.size) this.start = event;
    this.pointers.set(event.pointerId, this.fromMiddle(event));
    this.pinched = this.pointers.size > 1;
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = this.fromMiddle(event);
    if (this.pointers.size === 2) this.pinch(event.pointerId, before, now);
    else if (this.near.zoom > 1) this.pan(now[0] - before[0], now[1] - before[1]);
    this.pointers.set(event.pointerId, now);
  }

  pinch(id, before, now) {
    const [other] = [...this.pointers].filter(([each]) => each !== id).map(([, place]) => place);
    const apart = (place) => Math.hypot(place[0] - other[0], place[1] - other[1]);
    this.pinched = true;
    this.zoom(apart(now) / Math.max(1, apart(before)), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId) || this.pointers.size) return;
    const [across, down] = [event.clientX - this.start.clientX, event.clientY - this.start.clientY];
    const swiped = event.type === "pointerup" && event.pointerType !== "mouse" && !this.pinched && this.near.zoom === 1;
    if (swiped && Math.abs(across) > SWIPE && Math.abs(across) > 2 * Math.abs(down)) this.dispatchEvent(new CustomEvent("step", { detail: across < 0 ? 1 : -1 }));
  }

  /** Keys while the stage has the focus; arrows go on to other cells unless one is near. */
  key(event) {
    const { zoom } = this.near;
    const arrows = { ArrowLeft: [STEP, 0], ArrowRight: [-STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] };
    if (event.ctrlKey || event.altKey || event.metaKey || event.target !== this.node) return;
    if (event.key === "+" || event.key === "=") this.zoom(NEARER);
    else if (event.key === "-") this.zoom(1 / NEARER);
    else if (zoom > 1 && arrows[event.key]) this.pan(...arrows[event.key]);
    else if (zoom > 1 && event.key === "Escape") this.look({ zoom: 1, x: 0, y: 0 });
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
