/* One character: its form, whose rows are added and removed, and its versions. */

import { Problem, address, again, api, go, root, t } from "./api.js";
import { show, tell } from "./console.js";
import { pageOf, ruleOf } from "./names.js";
import { isTouched, valuesOf } from "./rows.js";

const form = document.getElementById("character");
const stored = JSON.parse(document.getElementById("data").textContent);
const LISTS = {
  examples: ({ role, content }) => ({ role, content }),
  lore: ({ keywords, text }) => ({ keywords: keywords.split("\n").map((one) => one.trim()).filter(Boolean), text }),
};
let isDirty = false;
let rows = {};

/** What a field says, and where nobody has touched it what is stored. */
function valueOf(field) {
  if (field.type === "checkbox") return field.checked;
  if (field.name in stored && !isTouched(field)) return stored[field.name];
  return field.type === "number" && field.value !== "" ? Number(field.value) : field.value;
}

function bodyOf() {
  const body = {};
  for (const field of form.querySelectorAll("[name]:not([name=name])")) {
    const value = field.validity.badInput ? "" : valueOf(field);
    if (value !== "" && value !== false) body[field.name] = value;
    if (field.validity.badInput) body[field.name] = "?";
  }
  for (const [name, read] of Object.entries(LISTS)) {
    const [found, values] = valuesOf(document.getElementById(name), stored[name] || [], read);
    rows[name] = found;
    if (values.length) body[name] = values;
  }
  if (form.dataset.shared) body.shared = true;
  return body;
}

function nameOf() {
  const field = form.elements.namedItem("name");
  if (!field) return form.dataset.name;
  const name = field.value.normalize("NFC").trim();
  if (ruleOf(form).test(name)) return name;
  throw new Problem({ detail: t("The name cannot be used", "사용할 수 없는 이름입니다"), errors: { json: { name: [form.dataset.form] } } });
}

/** Every rule below a member, as texts; deeper ones with their number, counted from 1. */
function flat(told) {
  if (typeof told === "string") return [told];
  if (Array.isArray(told)) return told.flatMap(flat);
  return Object.entries(told).flatMap(([index, inner]) => flat(inner).map((rule) => `${Number(index) + 1}: ${rule}`));
}

function mark(place, told, field) {
  const shown = document.createElement("span");
  shown.className = "wrong";
  shown.textContent = flat(told).join("; ");
  place.append(shown);
  field?.setAttribute("aria-invalid", "true");
}

/** Show broken rules of the lists beside their rows; what is wrong with a whole list, below it. */
function showRows(fields) {
  for (const name of Object.keys(LISTS)) {
    const told = fields[name];
    if (!told) continue;
    const list = document.getElementById(name);
    if (Array.isArray(told)) mark(list.parentElement, told);
    else for (const [index, rules] of Object.entries(told)) mark(rows[name][index], rules, rows[name][index].querySelector("textarea:last-of-type"));
  }
  form.querySelector("[aria-invalid]")?.focus();
}

/** Show the character as it is now, with a word of what was done. */
function showSaved({ name, version }) {
  isDirty = false;
  const target = new URL(address(pageOf(name, version)));
  target.hash = `saved-${version}`;
  const isHere = target.pathname + target.search === location.pathname + location.search;
  if (isHere) {
    history.replaceState(null, "", target);
    again();
  } else {
    go(pageOf(name, version) + target.hash);
  }
}

async function isTaken(name) {
  const query = new URLSearchParams({ search: name, limit: 1 });
  const { characters } = await api("GET", `api/v1/characters?${query}`);
  return characters.some((one) => one.name === name);
}

async function save() {
  tell("");
  rows = {};
  const body = bodyOf();
  const name = nameOf();
  const question = t("There is a character of this name. Save this as its new version?", "같은 이름의 캐릭터가 있습니다. 그 캐릭터의 새 버전으로 저장할까요?");
  if (!form.dataset.name && (await isTaken(name)) && !confirm(`${name}: ${question}`)) return;
  const saved = await api("PUT", `api/v1/characters/${encodeURIComponent(name)}`, body);
  const isSame = String(saved.version) === form.dataset.version && saved.shared === (form.dataset.whose === "everybody");
  if (!isSame) showSaved(saved);
  else say(t(`Nothing has changed: it is still version ${saved.version}.`, `바뀐 내용이 없습니다. 그대로 버전 ${saved.version}입니다.`));
}

async function takeAgain() {
  const path = `api/v1/characters/${encodeURIComponent(form.dataset.name)}`;
  const query = `?version=${form.dataset.version}${new URLSearchParams(location.search).get("shared") === "true" ? "&shared=true" : ""}`;
  const { shared, ...old } = await api("GET", path + query);
  showSaved(await api("PUT", path, form.dataset.shared ? { ...old, shared } : old));
}

function say(text) {
  const place = document.getElementById("done");
  place.textContent = text;
  place.hidden = !text;
  if (text) place.scrollIntoView({ block: "nearest" });
}

async function attempt(work, button) {
  say("");
  form.setAttribute("aria-busy", "true");
  button.disabled = true;
  try {
    await work();
  } catch (error) {
    show(error, form);
    showRows(error.fields);
  } finally {
    form.removeAttribute("aria-busy");
    button.disabled = false;
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (form.dataset.name && !form.querySelector(".save")) return;
  attempt(save, form.querySelector(".save button"));
});
for (const kind of ["input", "change"]) form.addEventListener(kind, () => (isDirty = true));
addEventListener("beforeunload", (event) => isDirty && event.preventDefault());
document.getElementById("again")?.addEventListener("click", (event) => attempt(takeAgain, event.currentTarget));

const saved = /^#saved-(\d+)$/.exec(location.hash);
if (saved) {
  say(t(`Saved as version ${saved[1]}.`, `버전 ${saved[1]}(으)로 저장했습니다.`));
  history.replaceState(null, "", location.pathname + location.search);
}
