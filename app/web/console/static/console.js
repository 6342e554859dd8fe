/* What every page has: language and theme, copying, and forms and buttons that call the server's own routes.

   <form data-api="POST" data-path="api/v1/clients">        sends its fields as JSON, and shows what is wrong beside them
   <button data-api="DELETE" data-path="…" data-confirm="…">  asks first; data-body has what it sends, as JSON
   Afterwards: data-then="console/sessions" goes there, data-then-next to where the sign-in page was asked for from,
   data-then-event has the page's own script hear "done" with the answer; else the page is loaded again.
   <div id="…" data-live="3">                                follows the server, every three seconds */

import { Problem, address, again, api, go, t } from "./api.js";

const YEAR = 365 * 24 * 3600;

function keep(name, value) {
  document.cookie = `llm_server_${name}=${value}; Path=/; Max-Age=${YEAR}; SameSite=Strict`;
}

function switchTheme() {
  const shown = document.documentElement;
  const dark = shown.dataset.theme ? shown.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  shown.dataset.theme = dark ? "light" : "dark";
  keep("theme", shown.dataset.theme);
}

function valueOf(field) {
  if (field.type === "checkbox") return field.checked;
  if (field.value === "") return field.dataset.empty === "null" ? null : undefined;
  if (field.type === "number") return Number(field.value);
  if (field.dataset.type === "lines") return field.value.split("\n").filter((line) => line.trim());
  return field.value;
}

/** The fields of a form as the members of a JSON object; those that are empty are left out. */
export function bodyOf(form) {
  const named = [...form.elements].filter((field) => field.name && !field.disabled);
  return Object.fromEntries(named.map((field) => [field.name, valueOf(field)]).filter(([, value]) => value !== undefined));
}

/** Say above the page what went wrong; nothing with an empty text. */
export function tell(text) {
  const place = document.getElementById("problem");
  place.textContent = text;
  place.hidden = !text;
  if (text) place.scrollIntoView({ block: "nearest" });
}

function tellFields(form, fields) {
  form.querySelectorAll(".wrong").forEach((shown) => shown.remove());
  for (const field of form.elements) field.removeAttribute("aria-invalid");
  for (const [name, rules] of Object.entries(fields)) {
    const field = form.elements.namedItem(name);
    if (!(field instanceof HTMLElement)) continue;
    const shown = document.createElement("span");
    shown.className = "wrong";
    shown.id = `wrong-${name}`;
    shown.textContent = [rules].flat(3).map((rule) => (typeof rule === "string" ? rule : JSON.stringify(rule))).join("; ");
    field.setAttribute("aria-invalid", "true");
    field.setAttribute("aria-describedby", shown.id);
    field.after(shown);
  }
}

/** Show a failure: beside the fields that it names, and above the page. */
export function show(error, form) {
  if (!(error instanceof Problem)) throw error;
  if (form) tellFields(form, error.fields);
  tell(error.message);
}

function afterwards(element, answer) {
  if ("thenEvent" in element.dataset) {
    element.dispatchEvent(new CustomEvent("done", { detail: answer, bubbles: true }));
  } else if ("thenNext" in element.dataset) {
    const next = new URLSearchParams(location.search).get("next") || "";
    go(/^console\/[^:\\]*$/.test(next) ? next : "console/playground");
  } else if ("then" in element.dataset) {
    go(element.dataset.then);
  } else {
    again();
  }
}

async function send(element, body) {
  tell("");
  element.setAttribute("aria-busy", "true");
  const button = element.matches("form") ? element.querySelector("button:not([type=button])") : element;
  if (button) button.disabled = true;
  try {
    afterwards(element, await api(element.dataset.api, element.dataset.path, body));
  } catch (error) {
    show(error, element.matches("form") ? element : null);
  } finally {
    element.removeAttribute("aria-busy");
    if (button) button.disabled = false;
  }
}

/** Show the moments within an element by the reader's clock. */
export function showTimes(within) {
  for (const shown of within.querySelectorAll("time[datetime]")) {
    shown.title = shown.dateTime;
    shown.textContent = new Date(shown.dateTime).toLocaleString(document.documentElement.lang);
  }
}

/** Copy a text. A browser gives `navigator.clipboard` only to pages that came over TLS or from this machine. */
async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const focused = document.activeElement;
  const field = Object.assign(document.createElement("textarea"), { value: text });
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
  return focused.focus();
}

/** Put a button beside a block that copies its text. */
export function addCopy(block) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = t("Copy", "복사");
  button.addEventListener("click", async () => {
    await copy(block.querySelector("code")?.textContent ?? block.textContent);
    button.textContent = t("Copied", "복사됨");
    setTimeout(() => (button.textContent = t("Copy", "복사")), 1500);
  });
  block.before(button);
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.dataset.api) return;
  event.preventDefault();
  send(form, bodyOf(form));
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if ("themeSwitch" in button.dataset) switchTheme();
  if (button.dataset.language) {
    keep("language", button.dataset.language);
    location.reload();
  }
  if (button.dataset.api && (!button.dataset.confirm || confirm(button.dataset.confirm))) {
    // A route that changes something takes JSON only, which another site's page cannot send: an empty object at least.
    const body = button.dataset.body ? JSON.parse(button.dataset.body) : {};
    send(button, button.dataset.api === "DELETE" ? undefined : body);
  }
});

for (const place of document.querySelectorAll("[data-url]")) place.textContent = address(place.dataset.url);
for (const block of document.querySelectorAll("[data-copy]")) addCopy(block);
showTimes(document);

/** Have a part with data-live="seconds" follow the server: the page is asked for again, and that part replaced. */
async function follow(part) {
  const idle = !document.hidden && !part.contains(document.activeElement) && !part.querySelector("[aria-busy]");
  if (idle) {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } }).catch(() => null);
    const next = answer?.ok && new DOMParser().parseFromString(await answer.text(), "text/html").getElementById(part.id);
    if (next && !part.contains(document.activeElement)) {
      part.replaceWith(next);
      showTimes(next);
      part = next;
    }
  }
  setTimeout(() => follow(part), 1000 * part.dataset.live);
}

for (const part of document.querySelectorAll("[data-live]")) setTimeout(() => follow(part), 1000 * part.dataset.live);
