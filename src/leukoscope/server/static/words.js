// Numbers, times and classes in words.

const SIGN = "\u00a0%"; // never at the start of a line
const WHOLE = new Intl.NumberFormat("en");
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });

export const whole = (number) => WHOLE.format(number);
export const count = (number, one, many = `${one}s`) => `${whole(number)} ${number === 1 ? one : many}`;

export const titled = (text) => text[0].toUpperCase() + text.slice(1);

/** 0.934 -> "93 %"; never 0 or 100 for what is not quite so. */
export function percent(share) {
  if (share === null || share === undefined) return "–";
  const points = 100 * share;
  if (points > 0 && points < 0.5) return `<1${SIGN}`;
  if (points < 100 && points >= 99.5) return `>99${SIGN}`;
  return `${Math.round(points)}${SIGN}`;
}

/** 0.82, −0.52: two places after the point, with a minus that is no hyphen. */
export const fixed = (number) => number.toFixed(2).replace("-", "\u2212");

export function between(low, high) {
  return `${Math.round(100 * low)} to ${Math.round(100 * high)}${SIGN}`;
}

/** "today 19:02", "yesterday 08:15", "3 Nov 2026". */
export function when(text, now = new Date()) {
  const time = new Date(text);
  if (Number.isNaN(time.getTime())) return "";
  const yesterday = new Date(now.getFullYear(), now.getMonth(), now.getDate() - 1);
  if (time.toDateString() === now.toDateString()) return `today ${CLOCK.format(time)}`;
  if (time.toDateString() === yesterday.toDateString()) return `yesterday ${CLOCK.format(time)}`;
  return DAY.format(time);
}

const TAKEN = "xzhfarvl"; // keys that mean something else

/** The model’s answer to a cell: its decision, or its type where that was not asked for. */
export const saidOf = ({ decision, type }) => (decision === "not asked" ? type : decision);

/** The model that is served, as the page speaks of it: classes with their words, keys and colours. */
export class Vocabulary {
  constructor(model) {
    this.model = model;
    this.classes = model?.classes ?? [];
    this.positive = model?.positive ?? "";
    this.types = model?.types ?? []; // labels in addition to the classes; none where the model knows no types
    this.labels = [...this.classes, ...this.types];
    this.keys = this.keysOf(model?.keys ?? {});
  }

  /** Key -> label: the laboratory's own first, then numbers in turn, then letters of the names. */
  keysOf(own) {
    const keys = new Map(Object.entries(own).map(([name, key]) => [key, this.labels.find((label) => label === name || this.title(label) === name)]));
    const left = this.labels.filter((label) => ![...keys.values()].includes(label));
    for (const label of left) {
      const number = String(this.labels.indexOf(label) + 1);
      const letters = [...this.title(label), ..."bcdegijkmnopqstuvwy"].filter((letter) => /[a-z]/.test(letter) && !TAKEN.includes(letter));
      keys.set([number, ...letters].find((key) => key.length === 1 && !keys.has(key)), label);
    }
    return keys;
  }

  title(label) {
    if (label === "not_a_cell") return "not a cell";
    if (label === "hidden") return "not yet read";
    return this.model?.titles?.[label] ?? label;
  }

  /** Whether a reader's label speaks against what the model had decided. */
  corrects(cell) {
    return this.labels.includes(saidOf(cell)) && cell.review.label !== saidOf(cell);
  }

  key(label) {
    return [...this.keys].find(([, name]) => name === label)?.[0] ?? "";
  }

  /** The style of a label: disease, other, unsure, refused. */
  hue(label) {
    if (label === "unsure" || label === "refused") return label;
    if (label === "not_a_cell") return "refused";
    if (label === "hidden") return "unread";
    if (this.types.includes(label)) return `type-${this.types.indexOf(label) % 9}`;
    if (!this.positive) return `class-${this.classes.indexOf(label) % 6}`;
    return label === this.positive ? "disease" : "other";
  }
}
