// The page: a file is chosen, shown as it will be read, sent, and followed to its end. What is needed after a reload stands in
// localStorage: the channel, and the import. All text of files and answers goes into the page as text.

import { Channel } from "./channel.js";

const KEPT = "siteview-import";
const PREVIEW_BYTES = 64 * 1024;
const ERRORS_SHOWN = 50;
// Rates are those of the last seconds.
const RATE_MS = 10_000;
const SENDS_MAX = 6;
// An import is told about on its channel, which should outlive it.
const CHANNEL_LEFT_MS = 4 * 3600 * 1000;
// Refusals after which certainly nothing of the file is in the log, though all of it was sent.
const NOTHING_DONE = ["/problems/overloaded", "/problems/spool-full"];

const element = id => document.getElementById(id);
const number = new Intl.NumberFormat("en");
const ended = state => ["completed", "failed", "cancelled"].includes(state);
const MEANINGS = ["email", "name", "phone"];

let config, channel, chosen = null, current = null, seen = [];
// `sending`: the upload in hand, over all its attempts. `unknown`: the last one, when it may or may not have become an import.
let sending = null, unknown = null;

start();

async function start() {
  config = await (await again(() => fetch("/v1/config"))).json();
  const urls = { http: config.notifier_url, socket: config.notifier_socket_url };
  channel = new Channel(urls, take, state => {
    element("live").textContent = { live: "live", away: "notifier away, trying again", connecting: "connecting" }[state];
    element("live").dataset.state = state;
  });
  const kept = JSON.parse(localStorage.getItem(KEPT) ?? "null");
  if (kept) {
    element("owner").value = kept.owner;
    if (kept.import_id) follow({ ...kept, ended: false });
  }
  await channel.listen();
  if (current) await ask();
}

// ---- choosing

for (const id of ["file", "encoding", "delimiter"]) element(id).addEventListener("change", () => look({}));
for (const id of MEANINGS) element(id).addEventListener("change", () => look(meanings()));
element("start").addEventListener("click", () => send());
element("cancel").addEventListener("click", () => cancel());
element("again").addEventListener("click", () => anew());

function meanings() {
  return Object.fromEntries(MEANINGS.map(id => [id, element(id).value]));
}

function reading(more) {
  return new URLSearchParams({ encoding: element("encoding").value, delimiter: element("delimiter").value, ...more });
}

// Shows how the begin of the file is read, by the code that will read all of it.
async function look(asked) {
  chosen = element("file").files[0] ?? null;
  element("preview").hidden = true;
  wrong("");
  if (!chosen) return;
  const body = chosen.slice(0, PREVIEW_BYTES);
  try {
    const answer = await fetch(`/v1/imports/preview?${reading(asked)}`, { method: "POST", body });
    const told = await answer.json();
    if (!answer.ok) return wrong(told.detail);
    show(told);
  } catch (error) {
    wrong(`The file can't be looked at: ${error.message}`);
  }
}

function show(told) {
  const named = { ",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars" }[told.delimiter];
  element("found").textContent = `${chosen.name}: ${number.format(chosen.size)} bytes, ${told.encoding}, ${named} between fields, ${told.columns.length} columns`;
  for (const id of MEANINGS) {
    const none = id === "email" ? option("", "choose a column") : option("", "none");
    element(id).replaceChildren(none, ...told.columns.map(column => option(column.title, column.title)));
    element(id).value = told.columns.find(column => column.holds === id)?.title ?? "";
  }
  const titles = told.columns.map(column => {
    const cell = node("th", column.title);
    cell.scope = "col";
    if (column.holds) cell.append(node("small", column.holds));
    return cell;
  });
  element("columns").replaceChildren(line(titles));
  element("rows").replaceChildren(...told.rows.map(([, fields]) => line(fields.map(field => node("td", field)))));
  element("start").disabled = Boolean(told.refused);
  wrong(told.refused ?? "");
  element("preview").hidden = false;
}

// ---- sending

async function send() {
  element("start").disabled = true;
  wrong("");
  const owner = element("owner").value.trim();
  const asked = String(reading({ ...meanings(), owner_id: owner, mode: element("check").checked ? "check" : "import" }));
  const isAgain = unknown?.file === chosen && unknown.asked === asked;
  const upload = sending = isAgain ? unknown : { file: chosen, asked, key: random(), channel_id: null, mayExist: false };
  upload.isUnwanted = false;
  follow({ import_id: null, owner, file: upload.file.name });
  say(`Sending ${upload.file.name}`);
  const answer = await attempts(upload);
  sending = null;
  if (answer.status !== 202) return refused(upload, answer);
  unknown = null;
  if (current) keep({ ...current, import_id: answer.location.split("/").pop() });
  say(`${upload.file.name} is accepted`);
  return upload.isUnwanted ? cancel() : ask();
}

// The answer that is worth no further attempt. All have one key and one channel: whichever of them arrives, there is one import.
async function attempts(upload) {
  upload.channel_id ??= await channel.id(CHANNEL_LEFT_MS);
  for (let attempt = 0; ; attempt++) {
    // What may exist is sent again even if it is unwanted: the answer tells what is to be cancelled.
    if (upload.isUnwanted && !upload.mayExist) return { status: 0, detail: "The upload was cancelled; nothing of it was imported." };
    const answer = await post(upload);
    const isWorthMore = answer.status === 0 || answer.status === 409 || answer.status >= 500;
    if (!isWorthMore || attempt === SENDS_MAX) return answer;
    await new Promise(done => {
      upload.goOn = done;
      setTimeout(done, 500 * 2 ** attempt);
    });
  }
}

function refused(upload, answer) {
  // A channel that is refused can't be asked on.
  unknown = upload.mayExist && answer.status !== 403 && answer.status !== 410 ? upload : null;
  anew();
  element("preview").hidden = false;
  element("start").disabled = false;
  const doubt = "All of the file was sent, and it is not known whether it is being imported. Import it again to find out; it is imported once.";
  wrong(unknown ? `${answer.detail} ${doubt}` : answer.detail);
}

function random() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), byte => byte.toString(16).padStart(2, "0")).join("");
}

// As fetch, but it tells how much is sent. Once all of the file is, the import may come to be whatever becomes of the connection.
function post(upload) {
  return new Promise(done => {
    const request = upload.request = new XMLHttpRequest();
    const before = upload.mayExist;
    const end = told => { upload.request = null; done(told); };
    request.open("POST", `/v1/imports?${upload.asked}&channel_id=${encodeURIComponent(upload.channel_id)}`);
    request.setRequestHeader("Content-Type", "text/csv");
    request.setRequestHeader("Idempotency-Key", upload.key);
    request.upload.onprogress = event => bar("Sending the file", event.loaded, event.total);
    request.upload.onload = () => { upload.mayExist = true; };
    request.onload = () => {
      const told = problem(request.responseText);
      const isRefused = request.status >= 400 && request.status < 500 && request.status !== 409;
      if (isRefused || NOTHING_DONE.includes(told.type)) upload.mayExist = before;
      end({ status: request.status, location: request.getResponseHeader("Location"), detail: told.detail });
    };
    request.onerror = request.onabort = () => end({ status: 0, detail: upload.mayExist ? "The connection broke off." : "The connection broke off; nothing of the file was imported." });
    request.send(upload.file);
  });
}

function problem(text) {
  try { return JSON.parse(text); } catch { return { detail: "The server's answer can't be read." }; }
}

// ---- following

function follow(kept) {
  seen = [];
  keep(kept);
  element("choosing").hidden = element("preview").hidden = true;
  element("import").hidden = false;
  element("errors").hidden = element("again").hidden = true;
  element("cancel").hidden = element("cancel").disabled = false;
  element("what").textContent = kept.file;
  paint({ state: "sending", rows: 0, imported: 0, updated: 0, skipped: 0, failed: 0, jobs: 1, jobs_done: 0 });
  element("import-title").focus();
}

function keep(kept) {
  current = kept;
  if (kept) localStorage.setItem(KEPT, JSON.stringify(kept));
  else localStorage.removeItem(KEPT);
}

// A frame of the channel.
function take(frame) {
  if (frame.type === "hello") return frame.recovered || ask();
  if (frame.type === "gap") return ask();
  // The answer to the upload may come later than the first frames about it: then what they said is asked for. They may as well be about
  // an import of another tab.
  if (current?.import_id && frame.import_id === current.import_id) paint(frame);
}

// The state as it is: once, when frames may be missing.
async function ask() {
  const id = current?.import_id;
  if (!id) return;
  const answer = await again(() => fetch(`/v1/imports/${id}`));
  if (current?.import_id !== id) return;
  if (answer.status === 404) return anew();
  if (answer.ok) paint(await answer.json());
}

function paint(told) {
  const done = told.imported + told.updated + told.skipped + told.failed;
  // Frames and answers come on different ways: what is older says less.
  if (current.ended && !ended(told.state)) return;
  if (done < (seen.at(-1)?.done ?? 0)) return;
  const words = { sending: "Sending", accepted: "Accepted", running: "Running", cancelling: "Cancelling", completed: "Completed", failed: "Failed", cancelled: "Cancelled" };
  element("state").textContent = words[told.state];
  element("state").dataset.state = told.state;
  element("rows-all").textContent = number.format(told.rows);
  for (const id of ["imported", "updated", "skipped", "failed"]) element(id).textContent = number.format(told[id]);
  element("failed").toggleAttribute("data-some", told.failed > 0);
  element("cancel").disabled = told.state === "cancelling";
  if (told.state !== "sending") bar(`${number.format(done)} of ${number.format(told.rows)} rows`, done, told.rows);
  speed(done, told);
  if (ended(told.state) && !current.ended) finish(told);
}

function speed(done, told) {
  const now = performance.now();
  seen = [...seen.filter(one => now - one.at < RATE_MS), { at: now, done }];
  const [first] = seen, took = (now - first.at) / 1000;
  const rate = took > 0 ? (done - first.done) / took : 0;
  const isMoving = rate > 0 && !ended(told.state);
  element("speed").textContent = isMoving ? `${number.format(Math.round(rate))} rows a second, ${left((told.rows - done) / rate)} left` : "";
}

function left(seconds) {
  if (seconds < 1) return "less than a second";
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  return seconds < 5400 ? `${Math.ceil(seconds / 60)} min` : `${Math.ceil(seconds / 3600)} h`;
}

function bar(label, value, max) {
  element("bar-label").textContent = label;
  element("bar").max = Math.max(max, 1);
  element("bar").value = value;
}

async function finish(told) {
  keep({ ...current, ended: true });
  element("cancel").hidden = true;
  element("again").hidden = false;
  const counts = `${number.format(told.imported)} imported, ${number.format(told.updated)} updated, ${number.format(told.skipped)} skipped, ${number.format(told.failed)} failed`;
  say(`${element("state").textContent}: ${counts}`);
  if (told.failed > 0) await showErrors(current.import_id);
}

async function showErrors(id) {
  const answer = await again(() => fetch(`/v1/imports/${id}/errors?limit=${ERRORS_SHOWN}`));
  if (!answer.ok) return wrong("The rows that failed can't be shown at the moment.");
  const { errors, next } = await answer.json();
  const row = error => line([error.line, error.column, error.message, error.row].map(text => node("td", text)));
  element("error-rows").replaceChildren(...errors.map(row));
  element("errors-caption").textContent = next ? `The first ${errors.length}` : `All ${errors.length}`;
  element("error-file").href = `/v1/imports/${id}/errors.csv`;
  element("errors").hidden = false;
}

async function cancel() {
  element("cancel").disabled = true;
  if (sending) {
    sending.isUnwanted = true;
    say("Cancelling");
    // Nothing is, while not all of the file is sent. Later the import is cancelled as soon as its id is known.
    if (sending.mayExist) return;
    sending.request?.abort();
    sending.goOn?.();
    return;
  }
  const answer = await again(() => fetch(`/v1/imports/${current.import_id}/cancel`, { method: "POST" }));
  if (answer.ok) return say("Cancelling: what no importer has begun is skipped");
  element("cancel").disabled = false;
  if (answer.status === 409) return ask();
  wrong((await answer.json()).detail);
}

function anew() {
  keep(null);
  element("import").hidden = true;
  element("choosing").hidden = false;
  element("file").focus();
}

// ---- small things

// Until the server is there.
async function again(request) {
  for (let failures = 0; ; failures++) {
    try {
      const answer = await request();
      if (answer.status !== 503) return answer;
    } catch { /* away */ }
    await new Promise(done => setTimeout(done, Math.min(250 * 2 ** failures, 5000)));
  }
}

function say(text) { element("said").textContent = text; }

function wrong(text) {
  element("wrong").textContent = text;
  element("wrong").hidden = !text;
}

function node(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

function option(value, text) {
  const made = node("option", text);
  made.value = value;
  return made;
}

function line(cells) {
  const made = document.createElement("tr");
  made.append(...cells);
  return made;
}
