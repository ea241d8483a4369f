// From a drop or a choice of files to the server: folders are walked, files go in small batches, two at a time.

import { send, sendLarge } from "./api.js";

const FIRST = 4; // files of the first batch: the first cells are to be seen at once
const FILES = 24;
const BYTES = 32 * 2 ** 20;
const AT_ONCE = 2;
const SLIDE = /\.(svs|ndpi|scn|bif|tiff?|dcm|dicom|ima)$/i;
const SLIDE_BYTES = 24 * 2 ** 20; // a TIFF above this is sent by itself; the server decides whether it is a slide
const HIDDEN = /(^|\/)(\.|__MACOSX|Thumbs\.db|desktop\.ini)/i;

/** Accept drops on `zone` and choices of two inputs; `take` gets [{file, name}]. */
export function receive({ zone, buttons, inputs, take, over = () => {} }) {
  buttons.files.addEventListener("click", () => inputs.files.click());
  buttons.folder.addEventListener("click", () => inputs.folder.click());
  for (const input of Object.values(inputs)) {
    input.addEventListener("change", () => {
      const chosen = [...input.files].map((file) => ({ file, name: file.webkitRelativePath || file.name }));
      input.value = "";
      take(visible(chosen));
    });
  }
  dropping(zone, { take, over });
}

/** Send files to a case. Calls `onProgress({sent, total, accepted, refused})` after each batch; returns its last state. */
export async function upload(caseId, files, { kind = "auto", scale = "", onProgress = () => {} } = {}) {
  const state = { sent: 0, total: files.length, accepted: 0, refused: [] };
  const slides = files.filter(isSlide);
  const batches = batched(files.filter((each) => !isSlide(each)));
  const work = async () => {
    for (let batch = batches.shift(); batch; batch = batches.shift()) {
      await sendBatch(caseId, batch, { kind, scale, state });
      onProgress(state);
    }
  };
  onProgress(state);
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  for (const slide of slides) await sendSlide(caseId, slide, { scale, state, onProgress });
  return state;
}

const isSlide = ({ file, name }) => SLIDE.test(name) && file.size > SLIDE_BYTES;

/** Send one slide by itself: it may have many gigabytes. */
async function sendSlide(caseId, { file, name }, { scale, state, onProgress }) {
  const query = new URLSearchParams({ name, ...(scale ? { um_per_px: scale } : {}) });
  try {
    const answer = await sendLarge(`/cases/${caseId}/slides?${query}`, file, (part) => onProgress({ ...state, part, name }));
    state.accepted += answer.accepted.length;
    state.refused.push(...answer.refused);
  } catch (error) {
    if (error.status === 401 || error.status === 403 || error.status === 409) throw error;
    state.refused.push({ name, error: error.message });
  }
  state.sent += 1;
  onProgress(state);
}

async function sendBatch(caseId, batch, { kind, scale, state }) {
  const form = new FormData();
  form.append("kind", kind);
  if (scale) form.append("um_per_px", scale);
  for (const { file, name } of batch) form.append("files", file, name);
  try {
    const answer = await send("POST", `/cases/${caseId}/images`, form);
    state.accepted += answer.accepted.length;
    state.refused.push(...answer.refused);
  } catch (error) {
    if (error.status === 401 || error.status === 403 || error.status === 409) throw error;
    state.refused.push(...batch.map(({ name }) => ({ name, error: error.message })));
  }
  state.sent += batch.length;
}

function batched(files) {
  const batches = [];
  let bytes = Infinity;
  for (const each of files) {
    const last = batches.at(-1);
    if (!last || last.length >= (batches.length > 1 ? FILES : FIRST) || bytes + each.file.size > BYTES) {
      batches.push([each]);
      bytes = each.file.size;
    } else {
      last.push(each);
      bytes += each.file.size;
    }
  }
  return batches;
}

function dropping(zone, { take, over }) {
  let depth = 0;
  const holdsFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  zone.addEventListener("dragenter", (event) => holdsFiles(event) && (event.preventDefault(), ++depth === 1 && over(true)));
  zone.addEventListener("dragover", (event) => holdsFiles(event) && event.preventDefault());
  zone.addEventListener("dragleave", (event) => holdsFiles(event) && --depth === 0 && over(false));
  zone.addEventListener("drop", async (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    depth = 0;
    over(false);
    take(visible(await dropped(event.dataTransfer)));
  });
}

function visible(files) {
  return files.filter(({ name }) => !HIDDEN.test(name));
}

/** Entries must be asked for before the first await: afterwards the browser has emptied the list. */
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files].map((file) => ({ file, name: file.name }));
  return (await Promise.all(entries.map(walked))).flat();
}

async function walked(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ file, name: entry.fullPath.replace(/^\//, "") }];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return found;
    found.push(...(await Promise.all(some.map(walked))).flat());
  }
}

/** A name for a case from what was dropped: its folder, its zip, or the day. */
export function caseName(files, now = new Date()) {
  const folder = files[0].name.includes("/") ? files[0].name.split("/")[0] : "";
  const zip = files.length === 1 && /\.zip$/i.test(files[0].name) ? files[0].name.slice(0, -4) : "";
  const day = new Intl.DateTimeFormat("en-GB", { dateStyle: "long", timeStyle: "medium" }); // to the second
  return (folder || zip || `Case of ${day.format(now)}`).slice(0, 120);
}
