// The slides of a case above its cells: each opens in the viewer, where areas to analyse are drawn.

import { address, get } from "./api.js";
import { element, find } from "./element.js";
import { complain } from "./frame.js";
import { count, whole } from "./words.js";

export class Slides {
  constructor({ caseId, open }) {
    Object.assign(this, { caseId, open, some: false });
    this.node = find("slides");
  }

  async refresh() {
    try {
      const { images } = await get(`/cases/${this.caseId}/images?limit=1000`);
      const slides = images.filter(({ kind }) => kind === "slide");
      this.some = slides.length > 0;
      this.node.hidden = !this.some;
      this.node.replaceChildren(...slides.map((slide) => element("li", {}, this.button(slide, images))));
    } catch (error) {
      complain(error);
    }
  }

  button(slide, images) {
    const areas = images.filter(({ part_of }) => part_of?.image === slide.id);
    const words = areas.length ? `${count(areas.length, "area")} analysed` : "nothing analysed yet: draw an area";
    const size = `${whole(slide.width)} x ${whole(slide.height)} px`;
    return element("button", { type: "button", "data-slide": slide.id, onclick: () => this.open(slide.id) }, element("img", { alt: "", src: overview(slide) }), element("span", {}, element("b", {}, slide.name), element("span", { class: "soft" }, `${size}, ${words}`)));
  }
}

/** The address of the whole slide in one tile. */
export function overview({ id, width, height }) {
  const longer = Math.max(width, height);
  return address(`/images/${id}/tiles/${Math.ceil(Math.log2(longer)) - Math.ceil(Math.log2(longer / 512))}/0/0?v=${id}`);
}
