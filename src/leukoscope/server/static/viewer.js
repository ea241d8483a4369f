// A field or a slide in OpenSeadragon: tiles from the server, lines over them in pixels of the picture, a scale bar.

import { address } from "./api.js";
import { drawn, element } from "./element.js";

const LIBRARY = new URL("openseadragon.min.js", import.meta.url).href;
const TILE = 512; // px, as the server cuts them
const MOST = 24; // screen pixels for one pixel of the picture
const BAR = 130; // px, the longest scale bar
const CALM = matchMedia("(prefers-reduced-motion: reduce)");

let library = null;

/** OpenSeadragon, fetched when the first field is opened. */
function fetched() {
  library ??= new Promise((resolve, reject) => {
    const script = element("script", { src: LIBRARY });
    // Its style for phones would break the content policy; it writes none where it finds this, and ours has its rule.
    const standIn = document.createElementNS("urn:leukoscope", "style"); // no style to the browser, one to its question
    standIn.setAttribute("data-openseadragon-mobile-css", "");
    document.head.append(standIn);
    script.addEventListener("load", () => resolve(globalThis.OpenSeadragon));
    script.addEventListener("error", () => ((library = null), reject(new Error("The viewer did not load. Load the page again."))));
    document.head.append(script);
  });
  return library;
}

/** Tells: "moved" when something else is in sight; press, drag, drop and click with the place in pixels of the picture. */
export class Viewer extends EventTarget {
  constructor(node) {
    super();
    Object.assign(this, { node, image: null, osd: null, held: false });
    this.ground = element("div", { class: "viewer-ground", "aria-hidden": "true" });
    this.svg = drawn("svg", { "aria-hidden": "true", preserveAspectRatio: "none" });
    this.bar = element("div", { class: "scale-bar", role: "img" }, element("i", {}), element("span", {}));
    node.append(this.ground, this.svg, this.bar);
  }

  /** Show an image; resolves when it can be moved, its tiles come as they come. */
  async open(image) {
    const OpenSeadragon = await fetched();
    this.osd ??= this.made(OpenSeadragon);
    this.image = image;
    this.osd.navigator.element.hidden = image.kind !== "slide";
    const ready = new Promise((resolve) => this.osd.addOnceHandler("open", resolve));
    this.osd.open(source(image));
    await ready;
    this.sync();
  }

  made(OpenSeadragon) {
    const gestures = { clickToZoom: false, dblClickToZoom: true, flickEnabled: false };
    const osd = new OpenSeadragon({
      element: this.ground, drawer: "canvas", showNavigationControl: false, tabIndex: -1, crossOriginPolicy: false, preload: false,
      gestureSettingsMouse: gestures, gestureSettingsTouch: { ...gestures, pinchToZoom: true }, gestureSettingsPen: gestures,
      zoomPerScroll: 1.25, animationTime: CALM.matches ? 0 : 0.35, springStiffness: 9, minZoomImageRatio: 0.8, maxZoomPixelRatio: MOST,
      visibilityRatio: 0.3, imageLoaderLimit: 4, showNavigator: true, navigatorPosition: "TOP_RIGHT", navigatorSizeRatio: 0.16,
    });
    for (const name of ["update-viewport", "resize"]) osd.addHandler(name, () => this.sync());
    osd.addHandler("animation-finish", () => this.dispatchEvent(new Event("rested")));
    osd.addHandler("canvas-key", (event) => (event.preventDefaultAction = true)); // keys belong to the field
    for (const [name, told] of [["press", "press"], ["drag", "drag"], ["drag-end", "drop"], ["click", "click"]]) osd.addHandler(`canvas-${name}`, (event) => this.tell(told, event));
    osd.addHandler("canvas-pinch", () => this.dispatchEvent(new Event("pinch")));
    osd.addHandler("tile-load-failed", () => this.dispatchEvent(new Event("lost")));
    this.library = OpenSeadragon;
    return osd;
  }

  tell(name, event) {
    if (!this.sight) return;
    if (this.held && (name === "drag" || name === "drop")) event.preventDefaultAction = true;
    const { x, y, scale } = this.sight;
    this.dispatchEvent(new CustomEvent(name, { detail: { place: [x + event.position.x / scale, y + event.position.y / scale], quick: event.quick } }));
  }

  /** While something is drawn, one finger draws and does not move the picture. */
  hold(on) {
    this.held = on;
  }

  // --- what is in sight -------------------------------------------------------------------------------------------

  sync() {
    const { viewport, world } = this.osd ?? {};
    if (!viewport || !world.getItemCount() || !this.node.clientWidth) return; // none, or in a closed dialog
    const { x, y, width, height } = viewport.viewportToImageRectangle(viewport.getBounds(true));
    const scale = this.node.clientWidth / width;
    const before = this.sight;
    this.sight = { x, y, width, height, scale };
    if (before && ["x", "y", "width", "height"].every((each) => Math.abs(before[each] - this.sight[each]) < 1e-6)) return;
    this.svg.setAttribute("viewBox", `${x} ${y} ${width} ${height}`);
    this.measure();
    this.dispatchEvent(new Event("moved"));
  }

  /** Bring left, top and screen pixels per pixel of the picture into sight. */
  look({ x, y, scale }, { atOnce = false } = {}) {
    const { clientWidth: across, clientHeight: down } = this.node;
    const { viewport } = this.osd;
    viewport.fitBounds(viewport.imageToViewportRectangle(new this.library.Rect(x, y, across / scale, down / scale)), atOnce || CALM.matches);
    if (atOnce) this.sync();
  }

  fit() {
    this.look(this.whole(), { atOnce: true });
  }

  /** The whole picture in the middle. */
  whole() {
    const { clientWidth: across, clientHeight: down } = this.node;
    const { width, height } = this.image;
    const scale = Math.min(across / width, down / height);
    return { x: (width - across / scale) / 2, y: (height - down / scale) / 2, scale };
  }

  /** Bring a box into the middle, large enough to be seen well, without bare ground where the picture can fill it. */
  centreOn([x, y, width, height], { atOnce = true } = {}) {
    const { clientWidth: across, clientHeight: down } = this.node;
    const fitting = this.whole().scale;
    const scale = Math.max(fitting, Math.min(MOST, Math.min(across, down) / (5 * Math.max(width, height))));
    const held = (middle, seen, all) => (seen >= all ? (all - seen) / 2 : Math.max(0, Math.min(all - seen, middle - seen / 2)));
    this.look({ x: held(x + width / 2, across / scale, this.image.width), y: held(y + height / 2, down / scale, this.image.height), scale }, { atOnce });
  }

  zoom(factor) {
    this.osd.viewport.zoomBy(factor).applyConstraints();
  }

  /** Move by shares of what is in sight. */
  pan(across, down) {
    const { viewport } = this.osd;
    const bounds = viewport.getBounds();
    viewport.panBy(new this.library.Point(across * bounds.width, down * bounds.height)).applyConstraints();
  }

  measure() {
    const { um_per_px: scale } = this.image;
    this.bar.hidden = !scale;
    if (!scale) return;
    const longest = (BAR / this.sight.scale) * scale; // µm
    const power = 10 ** Math.floor(Math.log10(longest));
    const um = [5, 2, 1].find((step) => step * power <= longest) * power;
    const [line, words] = this.bar.children;
    line.style.width = `${(um / scale) * this.sight.scale}px`;
    words.textContent = um >= 1000 ? `${um / 1000} mm` : `${Number(um.toPrecision(1))} µm`;
    this.bar.setAttribute("aria-label", `Scale bar of ${words.textContent}`);
  }
}

function source({ id, width, height }) {
  const maxLevel = Math.ceil(Math.log2(Math.max(width, height)));
  return { width, height, tileSize: TILE, tileOverlap: 0, minLevel: Math.min(8, maxLevel), maxLevel, getTileUrl: (level, column, row) => address(`/images/${id}/tiles/${level}/${column}/${row}?v=${id}`) };
}
