// Talking to the server: questions, pictures, and decisions that must not be lost.

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

let shown = "";

// Tells the run that the page shows with all that is asked and told: no other run may answer for it.
export function showing(run) {
  shown = run.key;
}

// The answer of a server that is there; else the error says that it is not.
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
    // not JSON: the guard's plain sentence
  }
  throw new Refused(message || `the server answered ${response.status}`, response.status);
}

export async function ask(path, query = {}, signal = undefined) {
  const asked = new URLSearchParams(query).toString();
  return answer(await reach(asked ? `${path}?${asked}` : path, { signal }));
}

export async function tell(path, body, signal = undefined) {
  const raw = body instanceof Blob;
  const headers = { "X-Ovseg": "1", "Content-Type": raw ? "application/octet-stream" : "application/json" };
  return answer(await reach(path, { method: "POST", headers, body: raw ? body : JSON.stringify(body), signal }));
}

export const picture = (kind, id, version, size = "") =>
  `/${kind}?${new URLSearchParams({ id, v: version, ...(size ? { size } : {}) })}`;

// Names a message, so that one whose answer was lost is not done twice.
const nonce = () => [...crypto.getRandomValues(new Uint32Array(4))].map((part) => part.toString(36)).join("-");

const REVIEWER = "ovseg reviewer";

// A lasting random name of this browser: undo takes back what was decided under it.
function reviewer() {
  const made = [...crypto.getRandomValues(new Uint8Array(8))].map((part) => part.toString(16).padStart(2, "0")).join("");
  try {
    if (!/^[0-9a-f]{16}$/.test(localStorage.getItem(REVIEWER) ?? "")) localStorage.setItem(REVIEWER, made);
    return localStorage.getItem(REVIEWER);
  } catch {
    return made; // storage is denied: it lasts as long as the page
  }
}

// What is refused so makes no sense and never will; all else may be mended: a server that is away or
// has a new token, another run at this address, a full disk.
const NEVER = [400, 413, 422];

// Sends decisions one after the other, in their order, and tries again until the server has them.
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

  // Whether something said of an image is still to be answered.
  awaits(id) {
    return this.waiting.some(({ body }) => body.decisions?.some((one) => one.image_id === id));
  }

  // One message each: what is told together is undone together.
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
        const said = await tell(message.path, message.body);
        this.onanswer(said);
        message.resolve?.(said);
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
