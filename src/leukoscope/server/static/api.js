// The only way to the server: every answer is JSON, every error tells in plain words what to do.

const ROOT = "/api/v1";
const AWAY = "The server does not answer. See that leukoscope serve still runs, then try again. What was saved stays saved.";
let csrf = "";

export class ApiError extends Error {
  constructor(message, { status = 0, code = "", detail = {} } = {}) {
    super(message);
    Object.assign(this, { status, code, detail });
  }
}

export const address = (path) => ROOT + path;

export async function get(path) {
  return answer(await reach(path, {}));
}

/** Send a change. `seen` is the etag of what the reader saw; the server refuses the change when it is no longer so. */
export async function send(method, path, body, { seen = "" } = {}) {
  const json = body !== undefined && !(body instanceof FormData);
  const headers = { "X-CSRF-Token": csrf, ...(json ? { "Content-Type": "application/json" } : {}), ...(seen ? { "If-Match": `"${seen}"` } : {}) };
  return answer(await reach(path, { method, headers, body: json ? JSON.stringify(body) : body }));
}

/** Send a large file as the body of a request; `onProgress` gets the share that has been sent, 0 to 1. */
export function sendLarge(path, file, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch reports no progress
    request.open("POST", address(path));
    request.responseType = "text";
    request.setRequestHeader("X-CSRF-Token", csrf);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.addEventListener("progress", ({ loaded, total }) => onProgress(loaded / total));
    request.addEventListener("load", () => answer(new Response(request.responseText, { status: request.status })).then(resolve, reject));
    request.addEventListener("error", () => reject(new ApiError(AWAY, { code: "unreachable" })));
    request.send(file);
  });
}

/** Fetch a file and hand it to the browser's downloads, under the name that the server gives it. */
export async function download(path) {
  const response = await reach(path, {});
  if (!response.ok) throw await errorOf(response);
  const named = /filename\*?=(?:UTF-8'')?"?([^";]+)/i.exec(response.headers.get("Content-Disposition") ?? "");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = named ? decodeURIComponent(named[1]) : path.split("/").pop();
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  return link.download;
}

/** Whether an error means that somebody has changed the same thing meanwhile; its detail holds the current state. */
export const outdated = (error) => error.status === 412;

export async function session() {
  const found = await get("/session");
  csrf = found.csrf;
  return found.account;
}

export async function signIn(how) {
  const found = await send("POST", "/session", how);
  csrf = found.csrf;
  return found.account;
}

async function reach(path, options) {
  try {
    return await fetch(address(path), { credentials: "same-origin", ...options });
  } catch {
    throw new ApiError(AWAY, { code: "unreachable" });
  }
}

async function answer(response) {
  if (!response.ok) throw await errorOf(response);
  return response.status === 204 ? null : response.json();
}

async function errorOf(response) {
  const { status } = response;
  let found = {};
  try {
    found = (await response.json()).error ?? {};
  } catch {
    // A proxy's own page, not ours: the status is all there is to say.
  }
  const message = found.message ?? `The server answered ${status}. Load the page again; if it stays, look at the server's log.`;
  return new ApiError(message, { status, code: found.code ?? "", detail: found.detail ?? {} });
}
