// A channel at the notifier: made, kept over reloads, listened to by websocket, or by server-sent events where no websocket gets
// through. It comes back by itself with the last cursor, so a restart of the notifier loses nothing. Nothing is polled.

const KEPT = "siteview-channel";
const PAUSE_MS = 250, PAUSE_MAX_MS = 10_000;
// After so many websockets that did not open, one stream of events is tried.
const SOCKETS_MAX = 3;
// A channel with less time left is not listened to any more.
const LEFT_MS = 60_000;

export class Channel {
  #urls; #onFrame; #onState; #kept = null; #failures = 0; #connection = null; #listening = false; #making = null; #timer = 0;

  // `onFrame` gets each frame, `onState` one of connecting, live, away.
  constructor(urls, onFrame, onState) {
    this.#urls = urls;
    this.#onFrame = onFrame;
    this.#onState = onState;
    addEventListener("online", () => this.#soon(0));
    addEventListener("pagehide", () => this.#close());
    addEventListener("pageshow", event => event.persisted && this.#soon(0));
  }

  // The id of a channel that has so much time left, once there is one; waits for the notifier.
  async id(left = LEFT_MS) {
    const kept = this.#kept ?? read();
    if (kept && until(kept) - Date.now() > left) return this.#use(kept);
    // One for all who wait.
    this.#making ??= this.#make().finally(() => { this.#making = null; });
    return this.#use(await this.#making);
  }

  async #make() {
    for (let failures = 0; ; failures++) {
      try {
        const answer = await fetch(`${this.#urls.http}/v1/channels`, { method: "POST" });
        if (answer.ok) {
          const made = await answer.json();
          // By this clock, which may differ from the notifier's. What was just made is taken however little time it has.
          return { ...made, until: made.expires_in_s && Date.now() + made.expires_in_s * 1000 };
        }
      } catch { /* away, as below */ }
      this.#onState("away");
      await new Promise(done => setTimeout(done, pause(failures)));
    }
  }

  #use(kept) {
    const before = this.#kept?.channel_id ?? kept.channel_id;
    this.#kept = kept;
    write(kept);
    if (before !== kept.channel_id) {
      this.#close();
      this.#onFrame({ type: "gap" });
      this.#soon(0);
    }
    return kept.channel_id;
  }

  #close() {
    clearTimeout(this.#timer);
    this.#connection?.close();
    this.#connection = null;
  }

  // Connects, and stays so.
  async listen() {
    if (this.#connection || this.#listening) return;
    this.#listening = true;
    this.#onState("connecting");
    const id = await this.id();
    this.#listening = false;
    const cursor = this.#kept.cursor ?? "";
    const path = `/v1/channels/${encodeURIComponent(id)}?after=${encodeURIComponent(cursor)}`;
    const asEvents = this.#failures > 0 && this.#failures % (SOCKETS_MAX + 1) === SOCKETS_MAX;
    const open = () => { this.#failures = 0; this.#onState("live"); };
    const text = data => this.#take(JSON.parse(data));
    const lost = () => { this.#connection = null; this.#lost(); };
    this.#connection = asEvents ? events(this.#urls.http + path, open, text, lost) : socket(this.#urls.socket + path, open, text, lost);
  }

  #take(frame) {
    if (frame.cursor) {
      this.#kept.cursor = frame.cursor;
      write(this.#kept);
    }
    this.#onFrame(frame);
  }

  #lost() {
    this.#onState("away");
    this.#soon(pause(this.#failures++));
  }

  #soon(after) {
    if (this.#connection || this.#listening) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(async () => {
      if (this.#failures > 1) await this.#forgetIfRefused();
      await this.listen();
    }, after);
  }

  // A websocket does not say why it was refused. A channel that has expired is made anew.
  async #forgetIfRefused() {
    try {
      const answer = await fetch(`${this.#urls.http}/v1/channels/${encodeURIComponent(this.#kept.channel_id)}`);
      if (answer.status === 403 || answer.status === 410) this.#kept.until = 1;
    } catch { /* away: nothing is known */ }
  }
}

function socket(url, open, text, lost) {
  const socket = new WebSocket(url);
  socket.onopen = open;
  socket.onmessage = event => text(event.data);
  socket.onclose = lost;
  return { close: () => { socket.onclose = socket.onmessage = socket.onopen = null; socket.close(); } };
}

function events(url, open, text, lost) {
  const events = new EventSource(url);
  events.onopen = open;
  events.onmessage = event => text(event.data);
  // It would come back by itself, but with the address of its begin and never as a websocket.
  events.onerror = () => { events.close(); lost(); };
  return { close: () => events.close() };
}

function until(kept) {
  return kept.until || Date.parse(kept.expires_at);
}

// Doubled, and spread so that not all browsers come back at once.
function pause(failures) {
  return Math.min(PAUSE_MS * 2 ** failures, PAUSE_MAX_MS) * (0.5 + Math.random());
}

function read() {
  try { return JSON.parse(localStorage.getItem(KEPT)); } catch { return null; }
}

function write(kept) {
  localStorage.setItem(KEPT, JSON.stringify(kept));
}
