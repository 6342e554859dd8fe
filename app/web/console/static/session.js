/* One session: its title and its metadata. What nobody has changed is not sent. */

import { again, api } from "./api.js";
import { show, tell } from "./console.js";
import { isTouched, valuesOf } from "./rows.js";

const form = document.getElementById("change");
const pairs = document.getElementById("pairs");
const stored = form ? JSON.parse(document.getElementById("data").textContent) : [];
let arePairsTouched = false;

async function save() {
  tell("");
  const { title } = form.elements;
  const body = isTouched(title) ? { title: title.value } : {};
  if (arePairsTouched) {
    const [, values] = valuesOf(pairs, stored, (parts) => [parts.name, parts.value]);
    body.metadata = Object.fromEntries(values);
  }
  try {
    await api("PATCH", `api/v1/sessions/${form.dataset.session}`, body);
    again();
  } catch (error) {
    show(error, form);
  }
}

if (form) {
  for (const kind of ["input", "change"]) pairs.addEventListener(kind, () => (arePairsTouched = true));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    save();
  });
}
