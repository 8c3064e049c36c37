// What the page does by itself: shows each change, and asks before anything is done. The server renders all of it.
"use strict";
const by = (id) => document.getElementById(id);
const ago = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

function relative(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const seconds = (Date.parse(time.dateTime) - Date.now()) / 1000;
    if (Number.isNaN(seconds)) continue;
    const [unit, size] = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]].find(([, size]) => Math.abs(seconds) >= size) ?? ["second", 1];
    time.textContent = ago.format(Math.round(seconds / size), unit);
    time.title = time.dateTime;
  }
}

async function ask(method, url, body) {
  const headers = { "X-Console": "1", "Content-Type": "application/json" };
  const answer = await fetch(url, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const text = await answer.text();
  const told = text ? JSON.parse(text) : {};
  if (!answer.ok) throw new Error(told.detail ?? answer.statusText);
  return told;
}

function say(text) {
  by("said").textContent = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { by("said").textContent = ""; }, 8000);
}

// Focus stays where it is when the part around it is replaced.
function show(html) {
  const focused = document.activeElement?.id;
  const inside = by("main").contains(document.activeElement) && document.activeElement !== by("main");
  by("main").innerHTML = html;
  relative(by("main"));
  if (inside && focused) (by(focused) ?? by("main")).focus({ preventScroll: true });
}

function follow() {
  const events = new EventSource("/events");
  events.addEventListener("open", () => { by("live").textContent = "live"; });
  events.addEventListener("error", () => { by("live").textContent = "not connected; trying again"; });
  events.addEventListener("page", (event) => show(JSON.parse(event.data)));
}

let action;
function confirmFirst(what) {
  action = what;
  by("confirm-says").textContent = what.says;
  by("expected").textContent = what.confirm;
  by("rate-row").hidden = !action.redrive;
  for (const id of ["reason", "named"]) by(id).value = "";
  for (const id of ["refusal", "counted"]) by(id).textContent = "";
  by("confirm").showModal();
  by("reason").focus();
}

function actionOf({ id, dataset }) {
  const { says, url, confirm } = dataset;
  return { says, url, confirm, body: JSON.parse(dataset.body), redrive: "redrive" in dataset, from: id };
}

async function doIt(event) {
  event.preventDefault();
  by("refusal").textContent = "";
  by("do").disabled = true;
  const body = { ...action.body, reason: by("reason").value, confirm: by("named").value };
  if (action.redrive) body.rate = Number(by("rate").value);
  try {
    const told = await ask("POST", action.url, body);
    by("confirm").close();
    (by(action.from) ?? by("main")).focus();
    say(told.event === "refused" ? `Refused: ${told.detail}` : told.event === null ? "Sent; nobody has followed it yet" : "Done");
  } catch (error) {
    by("refusal").textContent = error.message;
  } finally {
    by("do").disabled = false;
  }
}

async function countFirst() {
  by("counted").textContent = "counting";
  try {
    const { counts } = await ask("POST", action.url, { ...action.body, dry_run: true });
    by("counted").textContent = `${counts.moved} would go; not: ${counts.moved_before} given back before, ${counts.guarded} too often, ${counts.without_value} without value`;
  } catch (error) {
    by("counted").textContent = error.message;
  }
}

async function showRecord(button) {
  by("record-text").textContent = "reading";
  by("record").showModal();
  try {
    by("record-text").textContent = JSON.stringify(await ask("GET", button.dataset.url), null, 2);
  } catch (error) {
    by("record-text").textContent = error.message;
  }
}

if (by("sign-in")) {
  by("sign-in").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await ask("POST", "/v1/session", { token: by("token").value });
      location.reload();
    } catch (error) {
      by("refused").textContent = error.message;
    }
  });
} else {
  by("main").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.classList.contains("does")) confirmFirst(actionOf(button));
    if (button?.classList.contains("shows")) showRecord(button);
  });
  by("confirm").querySelector("form").addEventListener("submit", doIt);
  by("cancel").addEventListener("click", () => by("confirm").close());
  by("count").addEventListener("click", countFirst);
  by("record-close").addEventListener("click", () => by("record").close());
  by("sign-out")?.addEventListener("click", async () => { await ask("DELETE", "/v1/session"); location.reload(); });
  relative(document);
  // What is shown of a moment grows old between two changes.
  setInterval(() => relative(document), 5000);
  follow();
}
