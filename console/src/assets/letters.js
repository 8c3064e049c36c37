// A letter that is edited before it goes back: only what was changed here is sent; what is not shown can be replaced unseen.
"use strict";
const fields = ["key", "value", "headers"];
let letter;

async function editFirst(button) {
  const { topic, partition, offset, url } = button.dataset;
  letter = { topic, partition: Number(partition), offset: Number(offset), from: button.id, shown: {} };
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
  });
  by("edit").querySelector("form").addEventListener("submit", confirmEdit);
  by("edit-cancel").addEventListener("click", () => by("edit").close());
}
