// A field or slide with its cells outlined: look, choose, add, redraw, remove, draw what to analyse; mouse, finger, keys.

import { get, outdated, send } from "./api.js";
import { labelOf } from "./cells.js";
import { drawn, element, find } from "./element.js";
import { complain, note, say } from "./frame.js";
import { outlined } from "./reader.js";
import { gapOf, halvesOf, hullOf, longAxis } from "./outlines.js";
import { Viewer } from "./viewer.js";
import { percent, saidOf, titled, whole } from "./words.js";

const NEARER = 1.35;
const STEP = 0.06; // of the sight, for one press of an arrow
const CORNERS = 28; // of the circle that keys move
const SAME = 0.3; // intersection over union of two boxes above which they are one cell
const MANY = 300; // cells above which only those in sight are drawn
const BESIDE = 0.35; // gap between two cells, in sizes of the smaller, up to which they are offered as one
const TURN = Math.PI / 18; // of the line that splits, for one press of a key
const DOT = 7; // px on the screen below which a cell is drawn as a dot
const HINTS = {
  look: "Click a cell to choose it. Drag to move, wheel or pinch to come nearer. F goes back to the cells.",
  add: "Draw around the cell with mouse or finger. With keys: arrows move the circle, [ and ] change its size, Enter keeps it.",
  redraw: "Draw a new outline of this cell. With keys: arrows move the circle, [ and ] change its size, Enter keeps it.",
  merge: "Choose the outlines that show this cell too; Enter makes one cell of them. With keys: comma and full stop go from cell to cell, Space takes one in or out.",
  split: "Draw a line where the two cells meet. With keys: arrows move the line, [ and ] turn it, Enter splits the cell.",
  area: "Draw the area in which cells are to be found. With keys: arrows move it, [ and ] change its size, Enter keeps it.",
};

export class Field extends EventTarget {
  constructor({ caseId, words, frozen = () => false }) {
    super();
    Object.assign(this, { caseId, words, frozen, tool: "look", image: null, chosen: null, draft: null, halves: null, parts: new Set(), fields: [] });
    this.dialog = find("field");
    this.stage = find("field-stage");
    this.viewer = new Viewer(this.stage);
    this.areas = drawn("g", { class: "areas" });
    this.cells = drawn("g", {});
    this.pencil = drawn("polygon", { class: "pencil", "vector-effect": "non-scaling-stroke" });
    this.viewer.svg.append(this.areas, this.cells, this.pencil);
    this.listen();
  }

  get sight() {
    return this.viewer.sight;
  }

  get slide() {
    return this.image?.kind === "slide";
  }

  /** Open a field, or the slide that it is an area of, with one of its cells chosen and in the middle; `merge`: ids. */
  async open(imageId, cellId = null, { merge = null } = {}) {
    let area = null;
    try {
      this.image = await get(`/images/${imageId}`);
      if (this.image.part_of) [area, this.image] = [this.image, await get(`/images/${this.image.part_of.image}`)];
      find("field-title").textContent = this.image.name;
      find("field-area").hidden = !this.slide;
      if (!this.dialog.open) this.dialog.showModal();
      this.stage.focus({ preventScroll: true });
      await this.viewer.open(this.image);
    } catch (error) {
      if (this.dialog.open) this.dialog.close();
      return void complain(error);
    }
    this.take("look");
    this.choose(cellId);
    this.viewer.fit();
    if (this.cellNow()) this.viewer.centreOn(this.cellNow().box);
    else if (area) this.viewer.centreOn([area.part_of.left, area.part_of.top, area.width, area.height]);
    if (merge) this.take("merge", merge);
    await this.showPlace();
  }

  /** Which field of how many this is, and the way to the others. */
  async showPlace() {
    try {
      const { images } = await get(`/cases/${this.caseId}/images?limit=1000`);
      this.fields = images.filter(({ kind, part_of }) => ["field", "dicom", "slide"].includes(kind) && !part_of).map(({ id }) => id);
    } catch (error) {
      complain(error);
    }
    const place = this.fields.indexOf(this.image.id);
    find("field-place").textContent = place < 0 ? "" : `${whole(place + 1)} of ${whole(this.fields.length)}`;
    find("field-before").disabled = place <= 0;
    find("field-next").disabled = place < 0 || place + 1 >= this.fields.length;
  }

  goTo(by) {
    const next = this.fields[this.fields.indexOf(this.image.id) + by];
    if (next) this.open(next);
  }

  /** What is new in this image, such as the cells of an area; what is in sight stays. */
  async refresh() {
    if (!this.dialog.open || !this.image) return;
    try {
      this.image = await get(`/images/${this.image.id}`);
    } catch (error) {
      return void complain(error);
    }
    this.choose(this.cellNow() ? this.chosen : null, { quiet: true });
  }

  cellNow() {
    return this.image?.cells.find(({ id }) => id === this.chosen) ?? null;
  }

  choose(id, { quiet = false } = {}) {
    this.chosen = id;
    this.paint();
    const cell = this.cellNow();
    this.describe(cell);
    if (cell && !quiet) {
      this.dispatchEvent(new CustomEvent("chosen", { detail: cell.id }));
      say(`Cell ${cell.number}, ${this.words.title(labelOf(cell))}`);
    }
    this.allow();
  }

  /** The cell before or behind the chosen one, in the order of their numbers. */
  step(by) {
    const boxed = this.image.cells.filter(({ box }) => box).sort((one, other) => one.number - other.number);
    const place = boxed.findIndex(({ id }) => id === this.chosen);
    const next = boxed[place < 0 ? 0 : Math.max(0, Math.min(boxed.length - 1, place + by))];
    if (next) this.show(next);
  }

  show(cell) {
    this.choose(cell.id);
    const [x, y, width, height] = cell.box;
    const { x: left, y: top, width: wide, height: high } = this.sight;
    const inside = x > left && y > top && x + width < left + wide && y + height < top + high;
    if (!inside || width * this.sight.scale < DOT) this.viewer.centreOn(cell.box, { atOnce: false });
  }

  /** After a cell was read here: the next unread one of this field, if there is any. */
  afterReading(id) {
    const unread = this.image.cells.filter((cell) => cell.box && !cell.review && cell.id !== id);
    const read = this.image.cells.find((cell) => cell.id === id);
    const next = unread.find(({ number }) => number > read?.number) ?? unread[0];
    if (next) this.show(next);
    else say("Every cell of this field has been read.");
  }

  /** A cell was labelled elsewhere: show it here too. */
  replace(cell) {
    const place = this.image?.cells.findIndex(({ id }) => id === cell?.id) ?? -1;
    if (place < 0) return;
    const known = this.image.cells[place];
    this.image.cells[place] = { ...known, ...cell, box: known.box, outline: known.outline };
    this.paint();
    if (cell.id === this.chosen) this.describe(this.cellNow());
  }

  describe(cell) {
    const { words } = this;
    const box = find("field-cell");
    box.hidden = !cell;
    if (!cell) return;
    const model = cell.decision === "hidden" ? "" : ` ${words.title(saidOf(cell)) || "not seen yet"}`;
    const chance = cell.probability && words.positive ? `, ${words.title(words.positive)} ${percent(cell.probability[words.positive])}` : "";
    const read = cell.review ? `; ${cell.review.reader} says ${words.title(cell.review.label)}` : "; not yet read";
    box.className = `field-cell hue-${words.hue(labelOf(cell))}`;
    box.replaceChildren(element("i", {}), element("b", {}, `Cell ${cell.number}`), `${model}${chance}${read}`);
  }

  /** Colours and what they mean, of what is in this field, with how many there are. */
  showLegend() {
    const numbers = new Map();
    for (const cell of this.image.cells) if (cell.box) numbers.set(labelOf(cell), (numbers.get(labelOf(cell)) ?? 0) + 1);
    const rows = [...numbers].sort(([, one], [, other]) => other - one);
    find("field-legend").replaceChildren(...rows.map(([label, number]) => element("li", { class: `hue-${this.words.hue(label)}` }, element("i", {}), `${titled(this.words.title(label) || "not seen yet")} ${whole(number)}`)));
  }

  paint() {
    if (!this.image) return;
    this.showLegend();
    this.areas.replaceChildren(...(this.image.areas ?? []).map(({ box: [x, y, width, height], state }) => drawn("rect", { x, y, width, height, class: `area ${state}`, "vector-effect": "non-scaling-stroke" })));
    this.paintCells();
  }

  paintCells() {
    const boxed = this.image.cells.filter(({ box }) => box);
    const shown = boxed.length > MANY && this.sight ? boxed.filter((cell) => this.near(cell)) : boxed;
    this.cells.replaceChildren(...shown.map((cell) => this.line(cell)));
  }

  near({ box: [x, y, width, height] }) {
    const sight = this.sight;
    return x + width > sight.x - sight.width / 2 && x < sight.x + 1.5 * sight.width && y + height > sight.y - sight.height / 2 && y < sight.y + 1.5 * sight.height;
  }

  line(cell) {
    const [x, y, width, height] = cell.box;
    const scale = this.sight?.scale ?? 1;
    const small = Math.max(width, height) * scale < DOT;
    const line = small ? drawn("circle", { cx: x + width / 2, cy: y + height / 2, r: DOT / 2 / scale, "vector-effect": "non-scaling-stroke" }) : outlined(cell);
    line.setAttribute("class", `outline hue-${this.words.hue(labelOf(cell))}${cell.id === this.chosen ? " chosen" : ""}${this.parts.has(cell.id) ? " part" : ""}${cell.review ? " read" : ""}${small ? " dot" : ""}`);
    line.dataset.cell = cell.id;
    return line;
  }

  take(tool, parts = null) {
    if ((OF_A_CELL.includes(tool) && !this.cellNow()) || (tool === "area" && !this.slide)) tool = "look";
    this.tool = tool;
    this.halves = null;
    this.parts = new Set(tool === "merge" ? (parts ?? this.proposedParts()) : []);
    for (const button of this.dialog.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
    const draws = !["look", "merge"].includes(tool);
    this.stage.classList.toggle("drawing", draws);
    this.viewer.hold(draws);
    find("field-hint").textContent = this.slide && tool === "look" && !this.image.areas.length ? "Nothing of this slide has been analysed yet. Draw the area to analyse." : HINTS[tool];
    this.setDraft(tool === "look" || !this.sight ? null : this.shape());
    if (this.image) this.paintCells();
    this.allow();
  }

  /** The chosen cell and the nearest one, where that lies close by. */
  proposedParts() {
    const cell = this.cellNow();
    const others = this.image.cells.filter(({ id, box, image }) => box && id !== cell.id && image === cell.image);
    const far = (other) => gapOf(cell.box, other.box) / Math.min(...[cell, other].map(({ box }) => Math.max(box[2], box[3])));
    const near = others.map((other) => [far(other), other.id]).sort(([one], [other]) => one - other)[0];
    return near && near[0] <= BESIDE ? [cell.id, near[1]] : [cell.id];
  }

  togglePart(id) {
    if (!this.parts.delete(id)) this.parts.add(id);
    this.setDraft(this.shape());
    this.paintCells();
    say(`${whole(this.parts.size)} outlines for one cell`);
  }

  allow() {
    const frozen = this.frozen();
    for (const button of this.dialog.querySelectorAll("[data-tool]")) {
      const needsCell = OF_A_CELL.includes(button.dataset.tool) && !this.cellNow();
      button.disabled = button.dataset.tool !== "look" && (frozen || needsCell);
    }
    find("field-remove").disabled = frozen || !this.cellNow();
  }

  setDraft(points) {
    this.draft = points;
    this.pencil.setAttribute("points", (points ?? []).map((point) => point.map((number) => number.toFixed(1)).join(",")).join(" "));
    find("field-confirm").hidden = !points;
    find("field-keep").textContent = { area: "Analyse this area", merge: `Make one cell of ${whole(this.parts.size)}`, split: "Split the cell here" }[this.tool] ?? "Keep this outline";
    if (points && this.tool === "area") find("field-hint").textContent = `${this.areaWords(boxOf(points))} ${HINTS.area}`;
  }

  areaWords([, , width, height]) {
    const { um_per_px: scale, most_area: most } = this.image;
    const size = scale ? `${((width * scale) / 1000).toFixed(2)} x ${((height * scale) / 1000).toFixed(2)} mm.` : `${whole(Math.round(width))} x ${whole(Math.round(height))} px.`;
    return width * height > most ? `${size} Too large: at most ${whole(Math.round(most / 1e6))} million pixels at a time.` : size;
  }

  /** What keys move: a circle, a rectangle for an area, one half of a cell for the line that splits it. */
  shape(ring = this.round()) {
    if (this.tool === "merge") return this.parts.size > 1 ? hullOf(this.partCells().flatMap(outlineOf)) : null;
    if (this.tool === "split") return this.cutBy(ring);
    this.ring = ring;
    const { x, y, radius } = ring;
    if (this.tool === "area") return rectangle([x - radius, y - 0.75 * radius], [x + radius, y + 0.75 * radius]).map((point) => this.within(point));
    return Array.from({ length: CORNERS }, (_, corner) => {
      const turn = (2 * Math.PI * corner) / CORNERS;
      return this.within([x + radius * Math.cos(turn), y + radius * Math.sin(turn)]);
    });
  }

  partCells() {
    return this.image.cells.filter(({ id }) => this.parts.has(id));
  }

  /** Half of the chosen cell on one side of a line through x and y; the last one where the line misses the cell. */
  cutBy(line) {
    const halves = halvesOf(outlineOf(this.cellNow()), line);
    if (halves) [this.ring, this.halves] = [line, halves];
    return this.halves?.[0] ?? null;
  }

  /** Where a shape begins: on the chosen cell when that is redrawn, else where no cell is, near the middle of the sight. */
  round() {
    const { x, y, width, height } = this.sight;
    if (this.tool === "split") return longAxis(outlineOf(this.cellNow()));
    const cell = this.tool === "redraw" ? this.cellNow() : null;
    if (cell) return { x: cell.box[0] + cell.box[2] / 2, y: cell.box[1] + cell.box[3] / 2, radius: Math.max(cell.box[2], cell.box[3]) / 2 };
    const middle = this.within([x + width / 2, y + height / 2]);
    if (this.tool === "area") return { x: middle[0], y: middle[1], radius: Math.min(width / 3, Math.sqrt(this.image.most_area / 3)) };
    const sizes = this.image.cells.filter(({ box }) => box).map(({ box }) => Math.max(box[2], box[3])).sort((a, b) => a - b);
    return this.free(middle, (sizes[sizes.length >> 1] ?? Math.min(width, height) / 4) / 2);
  }

  /** The place nearest to the middle where a circle touches no cell; the middle where there is none in sight. */
  free([x, y], radius) {
    const { width, height } = this.sight;
    for (let out = 0; out < Math.min(width, height) / 2; out += radius / 2) {
      for (let turn = 0; turn < (out ? 12 : 1); turn++) {
        const [across, down] = this.within([x + out * Math.cos((turn * Math.PI) / 6), y + out * Math.sin((turn * Math.PI) / 6)]);
        const box = [across - radius, down - radius, 2 * radius, 2 * radius];
        if (!this.image.cells.some((cell) => cell.box && overlap(cell.box, box) > 0)) return { x: across, y: down, radius };
      }
    }
    return { x, y, radius };
  }

  within([x, y]) {
    return [Math.max(0, Math.min(this.image.width, x)), Math.max(0, Math.min(this.image.height, y))];
  }

  async keep() {
    if (!this.draft || this.frozen()) return;
    if (this.tool === "area") return void (await this.analyse());
    if (this.tool === "merge" || this.tool === "split") return void (await this.replaceCells());
    const redrawn = this.tool === "redraw" ? this.cellNow() : null;
    const there = this.image.cells.find((cell) => cell.box && cell.id !== redrawn?.id && overlap(cell.box, boxOf(this.draft)) > SAME);
    if (there) return void this.refuse(`Cell ${there.number} is there already. Move the outline, or choose that cell and redraw it (R).`);
    const image = redrawn ? redrawn.image : this.imageAt(this.draft);
    if (!image) return void this.refuse("This place has not been analysed. Draw the area to analyse first.");
    const [left, top] = this.corner(image);
    const outline = this.draft.map(([x, y]) => [Math.round(10 * (x - left)) / 10, Math.round(10 * (y - top)) / 10]);
    try {
      const cell = redrawn
        ? await send("PATCH", `/cells/${redrawn.id}`, { outline }, { seen: redrawn.etag })
        : await send("POST", `/cases/${this.caseId}/cells`, { image, outline });
      const others = this.image.cells.filter(({ id }) => id !== cell.id && id !== redrawn?.id);
      this.image.cells = [...others, { ...this.placed(cell), outline: this.draft }];
      this.take("look");
      this.choose(cell.id);
      this.dispatchEvent(new CustomEvent(redrawn ? "redrawn" : "added", { detail: cell }));
    } catch (error) {
      this.refused(error, "Your outline is still there: keep it, or discard it.");
    }
  }

  /** Put one outline in the place of several, or two in the place of one; they are analysed, and have to be read again. */
  async replaceCells() {
    const how = this.tool === "merge" ? "merged" : "split";
    const old = how === "merged" ? this.partCells() : [this.cellNow()];
    const { image } = old[0];
    if (old.some((cell) => cell.image !== image)) return void this.refuse("These cells belong to two areas of the slide, so they stay two cells.");
    const [left, top] = this.corner(image);
    const outlines = (how === "merged" ? [this.draft] : this.halves).map((points) => points.map(([x, y]) => [Math.round(10 * (x - left)) / 10, Math.round(10 * (y - top)) / 10]));
    try {
      const seen = old.map(({ etag }) => etag).join('", "');
      const { cells } = await send("POST", `/images/${image}/replacements`, { cells: old.map(({ id }) => id), outlines }, { seen });
      const gone = new Set(old.map(({ id }) => id));
      this.image.cells = [...this.image.cells.filter(({ id }) => !gone.has(id)), ...cells.map((cell) => this.placed(cell))];
      this.take("look");
      this.choose(cells[0].id);
      const numbers = (some) => some.map(({ number }) => number).join(" and ");
      note(how === "merged" ? `Cells ${numbers(old)} are one cell now, number ${cells[0].number}. Undo (Z) parts them again.` : `Cell ${old[0].number} is two cells now, numbers ${numbers(cells)}. Undo (Z) joins them again.`);
      this.dispatchEvent(new CustomEvent(how, { detail: cells[0] }));
    } catch (error) {
      this.refused(error, "Look at it again, then decide.");
    }
  }

  /** A cell as the server gives it, in pixels of its own image, placed in the picture that is shown. */
  placed(cell) {
    const [left, top] = this.corner(cell.image);
    const [x, y, width, height] = cell.box;
    return { ...cell, box: [x + left, y + top, width, height], outline: cell.outline?.map(([across, down]) => [across + left, down + top]) };
  }

  refuse(text) {
    find("field-hint").textContent = text;
    say(text);
  }

  /** The image that a cell drawn here belongs to: this one, or the area of this slide that holds it. */
  imageAt(points) {
    if (!this.slide) return this.image.id;
    const [x, y, width, height] = boxOf(points);
    const holds = ({ box, state }) => state === "done" && x >= box[0] && y >= box[1] && x + width <= box[0] + box[2] && y + height <= box[1] + box[3];
    return this.image.areas.find(holds)?.id ?? null;
  }

  corner(image) {
    return this.image.areas?.find(({ id }) => id === image)?.box ?? [0, 0];
  }

  async analyse() {
    const box = boxOf(this.draft).map(Math.round);
    if (box[2] * box[3] > this.image.most_area) return void this.refuse(this.areaWords(box));
    try {
      const area = await send("POST", `/images/${this.image.id}/areas`, { box });
      this.image.areas = [...this.image.areas, area];
      this.take("look");
      this.paint();
      find("field-hint").textContent = "This area is being analysed. Its cells appear here as soon as they are found.";
      this.dispatchEvent(new Event("area"));
    } catch (error) {
      complain(error);
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
    const cell = error.detail.cell ?? error.detail.cells[0];
    if (cell.removed) this.image.cells = this.image.cells.filter(({ id }) => id !== cell.id);
    else this.moved(cell);
    this.dispatchEvent(new CustomEvent("outdated", { detail: cell }));
    find("field-hint").textContent = cell.removed ? `Cell ${cell.number} was removed by somebody meanwhile.` : `Somebody has changed cell ${cell.number} meanwhile. ${next}`;
    if (cell.removed) this.choose(null);
    else this.paint();
  }

  /** Take a cell as it is now, its outline too where it is given. */
  moved(cell) {
    const now = this.placed(cell);
    this.image.cells = this.image.cells.map((each) => (each.id === cell.id ? { ...each, ...now, outline: now.outline ?? each.outline } : each));
  }

  // --- hands ------------------------------------------------------------------------------------------------------

  listen() {
    const { stage, dialog, viewer } = this;
    const press = (id, act) => find(id).addEventListener("click", () => (act(), stage.focus({ preventScroll: true })));
    for (const button of dialog.querySelectorAll("[data-tool]")) button.addEventListener("click", () => (this.take(button.dataset.tool), stage.focus({ preventScroll: true })));
    find("field-close").addEventListener("click", () => dialog.close());
    find("field-back").addEventListener("click", () => dialog.close());
    press("field-remove", () => this.remove());
    press("field-in", () => viewer.zoom(NEARER));
    press("field-out", () => viewer.zoom(1 / NEARER));
    press("field-whole", () => viewer.fit());
    press("field-before", () => this.goTo(-1));
    press("field-next", () => this.goTo(1));
    press("field-keep", () => this.keep());
    press("field-drop", () => this.take("look"));
    for (const name of ["press", "drag", "drop", "click"]) viewer.addEventListener(name, ({ detail }) => this[`on_${name}`](detail));
    viewer.addEventListener("pinch", () => (this.trace = null));
    viewer.addEventListener("rested", () => this.image?.cells.length && this.paintCells());
    viewer.addEventListener("lost", () => this.lose());
    dialog.addEventListener("keydown", (event) => this.key(event));
    dialog.addEventListener("cancel", (event) => this.tool !== "look" && (event.preventDefault(), this.take("look")));
    dialog.addEventListener("close", () => this.dispatchEvent(new Event("closed")));
  }

  lose() {
    find("field-hint").textContent = "A part of this picture could not be drawn. Close it and open it again; if it stays, the file is damaged there.";
  }

  on_press({ place }) {
    this.trace = ["look", "merge"].includes(this.tool) ? null : [this.within(place)];
  }

  on_drag({ place }) {
    if (!this.trace) return;
    if (["area", "split"].includes(this.tool)) this.trace = [this.trace[0], this.within(place)];
    else this.trace.push(this.within(place));
    this.setDraft(this.traced());
  }

  traced() {
    if (this.tool === "area") return rectangle(...this.trace);
    return this.tool === "split" ? this.shape(lineThrough(...this.trace)) : this.trace;
  }

  on_drop() {
    if (this.trace) this.finish();
    this.trace = null;
  }

  on_click({ place, quick }) {
    if (!quick) return;
    if (this.tool === "look") this.choose(this.cellAt(place)?.id ?? null);
    else if (this.tool === "merge") this.cellAt(place) && this.togglePart(this.cellAt(place).id);
    else if (this.trace?.length === 1) this.setDraft(this.shape({ ...this.round(), x: this.trace[0][0], y: this.trace[0][1] }));
    this.trace = null;
  }

  finish() {
    const [x, y, width, height] = boxOf(this.trace);
    if (this.tool === "split") return this.setDraft(Math.max(width, height) * this.sight.scale < 6 ? this.shape({ ...this.ring, x, y }) : this.traced());
    const tiny = Math.min(width, height) * this.sight.scale < 6 || (this.tool !== "area" && this.trace.length < 6);
    if (tiny) return this.setDraft(this.shape({ ...this.round(), x, y }));
    return this.setDraft(this.tool === "area" ? rectangle(...this.trace) : this.trace);
  }

  /** The smallest cell whose box holds the place that was pressed; a dot counts as large as it is drawn. */
  cellAt([x, y]) {
    const slack = DOT / this.sight.scale;
    const reach = ({ box }) => Math.max(0, slack - Math.max(box[2], box[3])) / 2;
    const holds = (cell) => cell.box && x >= cell.box[0] - reach(cell) && x <= cell.box[0] + cell.box[2] + reach(cell) && y >= cell.box[1] - reach(cell) && y <= cell.box[1] + cell.box[3] + reach(cell);
    return this.image.cells.filter(holds).sort((a, b) => a.box[2] * a.box[3] - b.box[2] * b.box[3])[0];
  }

  key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || !this.sight) return;
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const acts = {
      A: () => this.take("area"), M: () => this.take("merge"), S: () => this.take("split"), a: () => this.take("add"), r: () => this.take("redraw"), Delete: () => this.remove(), f: () => this.dialog.close(),
      "+": () => this.viewer.zoom(NEARER), "=": () => this.viewer.zoom(NEARER), "-": () => this.viewer.zoom(1 / NEARER),
      "[": () => this.resize(1 / 1.1), "]": () => this.resize(1.1), Home: () => this.viewer.fit(),
      ",": () => this.step(-1), ".": () => this.step(1), PageUp: () => this.goTo(-1), PageDown: () => this.goTo(1),
    };
    const act = acts[event.key] ?? acts[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (event.key === "Enter" && event.target === this.stage) this.keep();
    else if (event.key === " " && this.tool === "merge" && event.target === this.stage) this.cellNow() && this.togglePart(this.chosen);
    else if (arrows[event.key] && event.target === this.stage) this.arrow(arrows[event.key]);
    else if (act) act();
    else return void this.dispatchEvent(new CustomEvent("key", { detail: event }));
    event.preventDefault();
  }

  arrow([across, down]) {
    if (!this.draft || this.tool === "merge") return this.viewer.pan(across * STEP, down * STEP);
    const step = Math.min(this.sight.width, this.sight.height) * (STEP / 4);
    return this.setDraft(this.shape({ ...this.ring, x: this.ring.x + across * step, y: this.ring.y + down * step }));
  }

  resize(factor) {
    if (this.draft && this.tool === "split") this.setDraft(this.shape({ ...this.ring, turn: this.ring.turn + (factor > 1 ? TURN : -TURN) }));
    else if (this.draft && this.tool !== "merge") this.setDraft(this.shape({ ...this.ring, radius: this.ring.radius * factor }));
  }
}

const OF_A_CELL = ["redraw", "merge", "split"]; // tools that need a chosen cell

function outlineOf({ outline, box: [x, y, width, height] }) {
  return outline?.length ? outline : rectangle([x, y], [x + width, y + height]);
}

const lineThrough = ([x, y], [right, bottom]) => ({ x: (x + right) / 2, y: (y + bottom) / 2, turn: Math.atan2(bottom - y, right - x) });

/** [left, top, width, height] around points. */
function boxOf(points) {
  const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
  const [left, top] = [Math.min(...xs), Math.min(...ys)];
  return [left, top, Math.max(...xs) - left, Math.max(...ys) - top];
}

const rectangle = ([x, y], [right, bottom] = [x, y]) => [[x, y], [right, y], [right, bottom], [x, bottom]];

/** Intersection over union of two boxes. */
function overlap(one, other) {
  const wide = Math.min(one[0] + one[2], other[0] + other[2]) - Math.max(one[0], other[0]);
  const high = Math.min(one[1] + one[3], other[1] + other[3]) - Math.max(one[1], other[1]);
  const both = Math.max(0, wide) * Math.max(0, high);
  return both / (one[2] * one[3] + other[2] * other[3] - both);
}
