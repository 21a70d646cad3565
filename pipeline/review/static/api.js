// Requests to the server: facts, pictures, and decisions that must not be lost.

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

let shown = "";

// Names the run of the page, and the generation of its images, in every later request: a server of another refuses it.
export function showing(run) {
  shown = run.key;
}

// Fetches; the error of a server that is away has status 0.
async function reach(path, given) {
  try {
    return await fetch(path, { ...given, headers: { ...given.headers, ...(shown && { "X-Ovseg-Run": shown }) } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server does not answer.", 0);
  }
}

async function answer(response) {
  if (response.ok) return response.json();
  const text = await response.text();
  let message = text;
  try {
    message = JSON.parse(text).error;
  } catch {
    // not JSON: a plain sentence of the access control
  }
  throw new Refused(message || `the server answered ${response.status}`, response.status);
}

export async function ask(path, query = {}, signal = undefined) {
  const text = new URLSearchParams(query).toString();
  return answer(await reach(text ? `${path}?${text}` : path, { signal }));
}

export async function send(path, body, signal = undefined) {
  const raw = body instanceof Blob;
  const headers = { "X-Ovseg": "1", "Content-Type": raw ? "application/octet-stream" : "application/json" };
  return answer(await reach(path, { method: "POST", headers, body: raw ? body : JSON.stringify(body), signal }));
}

export const picture = (kind, id, version, more = {}) =>
  `/${kind}?${new URLSearchParams({ id, v: version, ...more })}`;

// Names a message, so that one whose answer was lost is not stored twice.
const nonce = () => [...crypto.getRandomValues(new Uint32Array(4))].map((part) => part.toString(36)).join("-");

const REVIEWER = "ovseg reviewer";

// A random name that this browser keeps: undo takes back decisions of this name.
function reviewer() {
  const made = [...crypto.getRandomValues(new Uint8Array(8))].map((part) => part.toString(16).padStart(2, "0")).join("");
  try {
    if (!/^[0-9a-f]{16}$/.test(localStorage.getItem(REVIEWER) ?? "")) localStorage.setItem(REVIEWER, made);
    return localStorage.getItem(REVIEWER);
  } catch {
    return made; // storage is denied: kept as long as the page is open
  }
}

// A message refused with these is wrong and is dropped; other failures may pass and it is sent again:
// a server that is away or has a new token, another run at this address, a full disk.
const NEVER = [400, 413, 422];

// Sends decisions one by one, in their order, and tries again until the server has stored them.
export class Outbox {
  constructor({ onstate, onanswer, onrefusal }) {
    Object.assign(this, { onstate, onanswer, onrefusal });
    this.reviewer = reviewer();
    this.waiting = [];
    this.sending = false;
    addEventListener("beforeunload", (event) => {
      if (this.busy) event.preventDefault();
    });
  }

  get busy() {
    return this.sending || this.waiting.length > 0;
  }

  // Whether a decision on an image is not answered yet.
  awaits(id) {
    return this.waiting.some(({ body }) => body.decisions?.some((one) => one.image_id === id));
  }

  // One message per decision: the decisions of a message are undone together.
  decide(decision) {
    this.post("/api/decisions", { decisions: [decision] });
  }

  undo() {
    return new Promise((resolve) => this.post("/api/undo", {}, resolve));
  }

  post(path, body, resolve = undefined) {
    this.waiting.push({ path, body: { ...body, nonce: nonce(), reviewer: this.reviewer }, resolve });
    this.send();
  }

  async send() {
    if (this.sending) return;
    this.sending = true;
    while (this.waiting.length) {
      this.onstate("saving");
      const message = this.waiting.shift();
      try {
        const answered = await send(message.path, message.body);
        this.onanswer(answered);
        message.resolve?.(answered);
      } catch (error) {
        if (NEVER.includes(error.status)) {
          this.onrefusal(error, message.body.decisions ?? []);
          message.resolve?.({ undone: null });
          continue;
        }
        this.waiting.unshift(message);
        this.onstate("failed", error.message);
        await new Promise((resolve) => setTimeout(resolve, 1500));
      }
    }
    this.sending = false;
    this.onstate("saved");
  }
}
