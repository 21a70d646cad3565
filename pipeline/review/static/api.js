// Talking to the server: questions, pictures, and decisions that must not be lost.

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
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
  return answer(await fetch(asked ? `${path}?${asked}` : path, { signal }));
}

export async function tell(path, body, signal = undefined) {
  const raw = body instanceof Blob;
  const headers = { "X-Ovseg": "1", "Content-Type": raw ? "application/octet-stream" : "application/json" };
  return answer(await fetch(path, { method: "POST", headers, body: raw ? body : JSON.stringify(body), signal }));
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

  decide(decisions) {
    const last = this.waiting.at(-1);
    // Never into one that was sent before: the server may have it already.
    if (last?.path === "/api/decisions" && !last.sent && last.body.decisions.length + decisions.length < 500) last.body.decisions.push(...decisions);
    else this.waiting.push({ path: "/api/decisions", body: { decisions: [...decisions], nonce: nonce(), reviewer: this.reviewer } });
    this.send();
  }

  undo() {
    return new Promise((resolve) => {
      this.waiting.push({ path: "/api/undo", body: { nonce: nonce(), reviewer: this.reviewer }, resolve });
      this.send();
    });
  }

  async send() {
    if (this.sending) return;
    this.sending = true;
    while (this.waiting.length) {
      this.onstate("saving");
      const message = this.waiting.shift();
      message.sent = true;
      try {
        const said = await tell(message.path, message.body);
        this.onanswer(said);
        message.resolve?.(said);
      } catch (error) {
        if (error instanceof Refused && error.status < 500) {
          this.onrefusal(error, message.body.decisions ?? []);
          message.resolve?.({ undone: null });
          continue;
        }
        this.waiting.unshift(message);
        this.onstate("failed");
        await new Promise((resolve) => setTimeout(resolve, 1500));
      }
    }
    this.sending = false;
    this.onstate("saved");
  }
}
