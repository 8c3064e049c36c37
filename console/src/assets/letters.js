// Letters of a kind, one by one: seen, chosen, edited. An edit sends only what was changed here; what is not shown can be
// replaced unseen.
"use strict";
const fields = ["key", "value", "headers"];
let letter, listed;

async function list(button) {
  listed = { topic: button.dataset.topic, fingerprint: button.dataset.fingerprint, next: null, from: button.id };
  by("letters-says").textContent = `Letters of kind ${listed.fingerprint} in ${listed.topic}`;
  by("letters-list").replaceChildren();
  by("letters").showModal();
  await more();
}

async function more() {
  by("letters-note").textContent = "reading";
  by("letters-more").hidden = true;
  const { topic, fingerprint, next } = listed;
  const query = new URLSearchParams({ fingerprint, limit: 50, ...(next && { after: next }) });
  try {
    const told = await ask("GET", `/v1/dead-letters/${encodeURIComponent(topic)}?${query}`);
    listed.next = told.next;
    by("letters-list").append(...told.letters.map(row));
    relative(by("letters-list"));
    by("letters-more").hidden = told.next === null;
    chosen();
  } catch (error) {
    by("letters-note").textContent = error.message;
  }
}

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function row({ topic, partition, offset, timestamp, key }) {
  const place = `${partition}@${offset}`;
  const choice = element("input", { type: "checkbox", id: `choose-${place}`, value: place });
  const label = element("label", { htmlFor: choice.id }, `${place}, key ${key ?? "none"}, `, element("time", { dateTime: timestamp ?? "" }));
  const record = element("button", { type: "button", className: "shows" }, "Record");
  record.dataset.url = `/v1/records/${encodeURIComponent(topic)}/${partition}/${offset}`;
  const edit = element("button", { type: "button", className: "edits admin" }, "Edit");
  Object.assign(edit.dataset, { topic, partition, offset, url: `/v1/dead-letters/${encodeURIComponent(topic)}/${partition}/${offset}` });
  return element("li", {}, choice, label, " ", record, edit);
}

function chosen() {
  const all = [...by("letters-list").querySelectorAll("input:checked")].map(({ value }) => value.split("@").map(Number));
  const count = by("letters-list").children.length;
  by("letters-note").textContent = `${all.length} chosen of ${count} shown`;
  by("letters-redrive").disabled = all.length === 0;
  return all;
}

function redriveChosen() {
  const { topic, from } = listed;
  const letters = chosen();
  const confirm = letters.length === 1 ? letters[0].join("@") : `${letters.length} letters`;
  const says = `Redrive ${letters.map((place) => place.join("@")).join(", ")} of ${topic} to their source topic. Every group of that topic sees them again.`;
  by("letters").close();
  confirmFirst({ says, url: "/v1/redrives", body: { topic, letters }, confirm, redrive: true, from });
}

async function editFirst(button) {
  const { topic, partition, offset, url } = button.dataset;
  by("letters").close();
  letter = { topic, partition: Number(partition), offset: Number(offset), from: button.id || listed.from, shown: {} };
  by("edit-says").textContent = `Edit the letter at partition ${partition}, offset ${offset} of ${topic}`;
  by("edit-note").textContent = "reading";
  by("edit-refusal").textContent = "";
  for (const field of fields) fill(field, "", true);
  by("edit").showModal();
  try {
    const { edit, left_out } = await ask("GET", url);
    const notes = Object.entries(left_out).map(([part, why]) => `${part}: ${why === "hidden" ? "hidden here" : "too long to be shown"}`);
    fill("key", ...text(edit.key));
    fill("value", ...text(edit.value));
    fill("headers", ...lines(edit.headers));
    by("edit-note").textContent = [...notes, "What you leave as it is stays."].join("; ");
  } catch (error) {
    by("edit-note").textContent = error.message;
  }
}

// Text as it is; bytes that are none can be edited by the API alone.
function text(content) {
  if (content === undefined || content === "none") return ["", false];
  return "text" in content ? [content.text, false] : ["not text", true];
}

function lines(headers = []) {
  const all = headers.map(([name, content]) => [name, ...text(content), content]);
  const is_line = ([name, value, disabled, content]) => !disabled && content !== "none" && !/[\r\n]/.test(value) && !/: /.test(name);
  if (!all.every(is_line)) return ["some are no lines of text", true];
  return [all.map(([name, value]) => `${name}: ${value}`).join("\n"), false];
}

// What a field makes of a text, such as of its line ends, is no change.
function fill(field, value, disabled) {
  const element = by(`edit-${field}`);
  element.value = value;
  element.disabled = disabled;
  letter.shown[field] = element.value;
}

function changes() {
  const edit = {};
  for (const field of fields) {
    const { value, disabled } = by(`edit-${field}`);
    if (disabled || value === letter.shown[field]) continue;
    edit[field] = field === "headers" ? value.split("\n").filter(Boolean).map(header) : { text: value };
  }
  return edit;
}

function header(line) {
  const at = line.indexOf(": ");
  if (at < 1) throw new Error(`"${line}" is no header: write name, colon, blank, value`);
  return [line.slice(0, at), { text: line.slice(at + 2) }];
}

function confirmEdit(event) {
  event.preventDefault();
  try {
    const edit = changes();
    const { topic, partition, offset, from } = letter;
    const what = Object.keys(edit).join(", ");
    if (!what) throw new Error("Nothing is changed.");
    by("edit").close();
    const says = `Redrive one letter of ${topic}: partition ${partition}, offset ${offset}, with another ${what}, to its source topic.`;
    confirmFirst({ says, url: "/v1/redrives", body: { topic, partition, offset, edit }, confirm: `${partition}@${offset}`, redrive: true, from });
  } catch (error) {
    by("edit-refusal").textContent = error.message;
  }
}

if (by("edit")) {
  by("main").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.classList.contains("edits")) editFirst(button);
    if (button?.classList.contains("lists")) list(button);
  });
  by("letters-list").addEventListener("change", chosen);
  by("letters-list").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.classList.contains("edits")) editFirst(button);
    if (button?.classList.contains("shows")) showRecord(button);
  });
  by("letters-more").addEventListener("click", more);
  by("letters-redrive").addEventListener("click", redriveChosen);
  by("letters-close").addEventListener("click", () => by("letters").close());
  by("edit").querySelector("form").addEventListener("submit", confirmEdit);
  by("edit-cancel").addEventListener("click", () => by("edit").close());
}
