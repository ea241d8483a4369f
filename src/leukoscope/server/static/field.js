// A field with its cells outlined: look, choose, add, redraw, remove; by mouse, finger or keys.

import { address, get, outdated, send } from "./api.js";
import { labelOf } from "./cells.js";
import { drawn, find } from "./element.js";
import { complain, note, say } from "./frame.js";
import { outlined } from "./reader.js";

const NEARER = 1.35;
const MOST = 40; // screen pixels for one pixel of the field
const STEP = 0.06; // of the sight, for one press of an arrow
const CLICK = 5; // px a finger may slip in a click
const CORNERS = 28; // of the circle that keys move
const HINTS = {
  look: "Click a cell to choose it. Drag to move, wheel or pinch to come nearer.",
  add: "Draw around the cell with mouse or finger. With keys: arrows move the circle, [ and ] change its size, Enter keeps it.",
  redraw: "Draw the outline of this cell anew. With keys: arrows move the circle, [ and ] change its size, Enter keeps it.",
};

export class Field extends EventTarget {
  constructor({ caseId, words, frozen = () => false }) {
    super();
    Object.assign(this, { caseId, words, frozen, tool: "look", image: null, chosen: null, draft: null, pointers: new Map() });
    this.dialog = find("field");
    this.stage = find("field-stage");
    this.picture = drawn("image", {});
    this.cells = drawn("g", {});
    this.pencil = drawn("polygon", { class: "pencil", "vector-effect": "non-scaling-stroke" });
    this.svg = drawn("svg", { "aria-hidden": "true" }, this.picture, this.cells, this.pencil);
    this.stage.append(this.svg);
    this.listen();
  }

  /** Open a field, with one of its cells chosen and in the middle. */
  async open(imageId, cellId = null) {
    try {
      this.image = await get(`/images/${imageId}`);
    } catch (error) {
      complain(error);
      return;
    }
    const { width, height, name } = this.image;
    for (const [fact, value] of Object.entries({ width, height, href: address(`/images/${imageId}/picture?side=2400`) })) this.picture.setAttribute(fact, value);
    find("field-title").textContent = name;
    this.take("look");
    this.choose(cellId);
    this.dialog.showModal();
    this.stage.focus();
    this.fit();
    if (this.cellNow()) this.centreOn(this.cellNow().box);
  }

  cellNow() {
    return this.image?.cells.find(({ id }) => id === this.chosen) ?? null;
  }

  choose(id) {
    this.chosen = id;
    this.paint();
    const cell = this.cellNow();
    if (cell) {
      this.dispatchEvent(new CustomEvent("chosen", { detail: cell.id }));
      say(`Cell ${cell.number}, ${this.words.title(labelOf(cell))}`);
    }
    this.allow();
  }

  /** A cell said something new elsewhere: show it here too. */
  replace(cell) {
    const place = this.image?.cells.findIndex(({ id }) => id === cell.id) ?? -1;
    if (place < 0) return;
    this.image.cells[place] = { ...this.image.cells[place], ...cell, outline: cell.outline ?? this.image.cells[place].outline };
    this.paint();
  }

  paint() {
    const lines = (this.image?.cells ?? []).filter(({ box }) => box).map((cell) => {
      const line = outlined(cell);
      line.setAttribute("class", `outline hue-${this.words.hue(labelOf(cell))}${cell.id === this.chosen ? " chosen" : ""}${cell.review ? " read" : ""}`);
      line.dataset.cell = cell.id;
      return line;
    });
    this.cells.replaceChildren(...lines);
  }

  take(tool) {
    if (tool === "redraw" && !this.cellNow()) tool = "look";
    this.tool = tool;
    for (const button of this.dialog.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
    this.stage.classList.toggle("drawing", tool !== "look");
    this.setDraft(tool === "look" || !this.sight ? null : this.circle());
    find("field-hint").textContent = HINTS[tool];
    this.allow();
  }

  allow() {
    const frozen = this.frozen();
    for (const button of this.dialog.querySelectorAll("[data-tool]")) {
      const needsCell = button.dataset.tool === "redraw" && !this.cellNow();
      button.disabled = button.dataset.tool !== "look" && (frozen || needsCell);
    }
    find("field-remove").disabled = frozen || !this.cellNow();
  }

  setDraft(points) {
    this.draft = points;
    this.pencil.setAttribute("points", (points ?? []).map((point) => point.map((number) => number.toFixed(1)).join(",")).join(" "));
    find("field-confirm").hidden = !points;
  }

  /** The circle that keys move: where the chosen cell is, else in the middle of the sight. */
  circle({ x, y, radius } = this.round()) {
    this.ring = { x, y, radius };
    return Array.from({ length: CORNERS }, (_, corner) => {
      const turn = (2 * Math.PI * corner) / CORNERS;
      return this.within([x + radius * Math.cos(turn), y + radius * Math.sin(turn)]);
    });
  }

  round() {
    const { x, y, width, height } = this.sight;
    const cell = this.tool === "redraw" ? this.cellNow() : null;
    if (cell) return { x: cell.box[0] + cell.box[2] / 2, y: cell.box[1] + cell.box[3] / 2, radius: Math.max(cell.box[2], cell.box[3]) / 2 };
    const sizes = this.image.cells.filter(({ box }) => box).map(({ box }) => Math.max(box[2], box[3])).sort((a, b) => a - b);
    return { x: x + width / 2, y: y + height / 2, radius: (sizes[sizes.length >> 1] ?? Math.min(width, height) / 4) / 2 };
  }

  within([x, y]) {
    return [Math.max(0, Math.min(this.image.width, x)), Math.max(0, Math.min(this.image.height, y))];
  }

  async keep() {
    if (!this.draft || this.frozen()) return;
    const outline = this.draft.map(([x, y]) => [Math.round(10 * x) / 10, Math.round(10 * y) / 10]);
    const redrawn = this.tool === "redraw" ? this.cellNow() : null;
    try {
      const cell = redrawn
        ? await send("PATCH", `/cells/${redrawn.id}`, { outline }, { seen: redrawn.etag })
        : await send("POST", `/cases/${this.caseId}/cells`, { image: this.image.id, outline });
      const others = this.image.cells.filter(({ id }) => id !== cell.id && id !== redrawn?.id);
      this.image.cells = [...others, { outline, ...cell }];
      this.take("look");
      this.choose(cell.id);
      this.dispatchEvent(new CustomEvent(redrawn ? "redrawn" : "added", { detail: cell }));
    } catch (error) {
      this.refused(error, "Your outline is still there: keep it, or discard it.");
    }
  }

  async remove() {
    const cell = this.cellNow();
    if (!cell || this.frozen()) return;
    try {
      await send("DELETE", `/cells/${cell.id}`, undefined, { seen: cell.etag });
      this.image.cells = this.image.cells.filter(({ id }) => id !== cell.id);
      this.choose(null);
      note(`Cell ${cell.number} is removed. Undo (Z) brings it back.`);
      this.dispatchEvent(new CustomEvent("removed", { detail: cell }));
    } catch (error) {
      this.refused(error, "Look at it again before you remove it.");
    }
  }

  /** Say why a change was not saved; a cell that somebody has changed meanwhile is shown as it is now. */
  refused(error, next) {
    if (!outdated(error)) return void complain(error);
    const { cell } = error.detail;
    if (cell.removed) this.image.cells = this.image.cells.filter(({ id }) => id !== cell.id);
    else this.replace(cell);
    this.dispatchEvent(new CustomEvent("outdated", { detail: cell }));
    find("field-hint").textContent = cell.removed ? `Cell ${cell.number} was removed by somebody meanwhile.` : `Somebody has changed cell ${cell.number} meanwhile. ${next}`;
    if (cell.removed) this.choose(null);
    else this.paint();
  }

  // --- what is in sight -------------------------------------------------------------------------------------------

  fit() {
    const { width, height } = this.image;
    const { clientWidth: across, clientHeight: down } = this.stage;
    const scale = Math.min(across / width, down / height);
    this.look({ x: (width - across / scale) / 2, y: (height - down / scale) / 2, scale });
  }

  look({ x, y, scale }) {
    const { clientWidth: across, clientHeight: down } = this.stage;
    this.sight = { x, y, scale, width: across / scale, height: down / scale };
    this.svg.setAttribute("viewBox", `${x} ${y} ${across / scale} ${down / scale}`);
  }

  centreOn([x, y, width, height]) {
    const scale = Math.max(this.sight.scale, Math.min(this.stage.clientWidth, this.stage.clientHeight) / (8 * Math.max(width, height)));
    this.look({ x: x + width / 2 - this.stage.clientWidth / scale / 2, y: y + height / 2 - this.stage.clientHeight / scale / 2, scale });
  }

  /** Come nearer by a factor; the place under (left, top) of the stage stays where it is. */
  zoom(factor, left = this.stage.clientWidth / 2, top = this.stage.clientHeight / 2) {
    const { x, y, scale } = this.sight;
    const whole = Math.min(this.stage.clientWidth / this.image.width, this.stage.clientHeight / this.image.height);
    const next = Math.max(0.8 * whole, Math.min(MOST, scale * factor));
    this.look({ x: x + left / scale - left / next, y: y + top / scale - top / next, scale: next });
  }

  pan(across, down) {
    const { x, y, scale } = this.sight;
    this.look({ x: x - across / scale, y: y - down / scale, scale });
  }

  placeOf(event) {
    const frame = this.stage.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  }

  inField(event) {
    const [left, top] = this.placeOf(event);
    return this.within([this.sight.x + left / this.sight.scale, this.sight.y + top / this.sight.scale]);
  }

  // --- hands ------------------------------------------------------------------------------------------------------

  listen() {
    const { stage, dialog } = this;
    for (const button of dialog.querySelectorAll("[data-tool]")) button.addEventListener("click", () => (this.take(button.dataset.tool), stage.focus()));
    find("field-remove").addEventListener("click", () => this.remove());
    find("field-close").addEventListener("click", () => dialog.close());
    find("field-in").addEventListener("click", () => this.zoom(NEARER));
    find("field-out").addEventListener("click", () => this.zoom(1 / NEARER));
    find("field-keep").addEventListener("click", () => this.keep());
    find("field-drop").addEventListener("click", () => (this.take("look"), stage.focus()));
    stage.addEventListener("wheel", (event) => (event.preventDefault(), this.zoom(Math.exp(-event.deltaY / 400), ...this.placeOf(event))), { passive: false });
    stage.addEventListener("pointerdown", (event) => this.down(event));
    stage.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, (event) => this.up(event));
    dialog.addEventListener("keydown", (event) => this.key(event));
    dialog.addEventListener("cancel", (event) => this.tool !== "look" && (event.preventDefault(), this.take("look")));
    dialog.addEventListener("close", () => this.dispatchEvent(new Event("closed")));
    new ResizeObserver(() => this.sight && dialog.open && this.look(this.sight)).observe(stage);
  }

  down(event) {
    this.stage.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, this.placeOf(event));
    this.start = this.placeOf(event);
    if (this.pointers.size === 1 && this.tool !== "look") this.trace = [this.inField(event)];
    else this.trace = null;
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = this.placeOf(event);
    if (this.pointers.size === 2) this.pinch(event.pointerId, before, now);
    else if (this.trace) this.draw(event);
    else this.pan(now[0] - before[0], now[1] - before[1]);
    this.pointers.set(event.pointerId, now);
  }

  draw(event) {
    this.trace.push(this.inField(event));
    this.setDraft(this.trace);
  }

  pinch(id, before, now) {
    const [other] = [...this.pointers].filter(([each]) => each !== id).map(([, place]) => place);
    const apart = (place) => Math.hypot(place[0] - other[0], place[1] - other[1]);
    this.zoom(apart(now) / Math.max(1, apart(before)), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    const slipped = Math.hypot(...this.placeOf(event).map((place, axis) => place - this.start[axis]));
    if (this.trace) this.finish();
    else if (slipped < CLICK && this.tool === "look") this.pick(event);
    this.trace = null;
  }

  finish() {
    const across = new Set(this.trace.map(([x]) => Math.round(x))).size;
    if (this.trace.length < 6 || across < 3) return this.setDraft(this.circle({ ...this.round(), x: this.trace[0][0], y: this.trace[0][1] }));
    return this.setDraft(this.trace);
  }

  /** Choose the smallest cell whose box holds the place that was pressed. */
  pick(event) {
    const [x, y] = this.inField(event);
    const holds = ({ box }) => box && x >= box[0] && x <= box[0] + box[2] && y >= box[1] && y <= box[1] + box[3];
    const found = this.image.cells.filter(holds).sort((a, b) => a.box[2] * a.box[3] - b.box[2] * b.box[3])[0];
    this.choose(found?.id ?? null);
  }

  key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const acts = {
      a: () => this.take("add"), r: () => this.take("redraw"), Delete: () => this.remove(),
      "+": () => this.zoom(NEARER), "=": () => this.zoom(NEARER), "-": () => this.zoom(1 / NEARER),
      "[": () => this.resize(1 / 1.1), "]": () => this.resize(1.1),
    };
    const pressed = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (event.key === "Enter" && event.target === this.stage) this.keep();
    else if (arrows[event.key] && event.target === this.stage) this.arrow(arrows[event.key]);
    else if (acts[pressed]) acts[pressed]();
    else return void this.dispatchEvent(new CustomEvent("key", { detail: event }));
    event.preventDefault();
  }

  arrow([across, down]) {
    const { width, height } = this.sight;
    if (!this.draft) return this.pan(-across * STEP * this.stage.clientWidth, -down * STEP * this.stage.clientHeight);
    const step = Math.min(width, height) * (STEP / 4);
    return this.setDraft(this.circle({ ...this.ring, x: this.ring.x + across * step, y: this.ring.y + down * step }));
  }

  resize(factor) {
    if (this.draft) this.setDraft(this.circle({ ...this.ring, radius: this.ring.radius * factor }));
  }
}
