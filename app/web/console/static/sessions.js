/* The list of sessions: taking in an exported one. */

import { ask, go, t } from "./api.js";
import { show, tell } from "./console.js";
import { choose, onDrop } from "./drop.js";

const form = document.getElementById("take-in");
const { file: place, session_id: id } = form ? form.elements : {};

/** The id that an exported session had: its first line says it. */
async function idOf(file) {
  const [head] = (await file.slice(0, 1 << 20).text()).split("\n", 1);
  try {
    return JSON.parse(head).session_id || "";
  } catch {
    return "";
  }
}

async function look(file) {
  document.getElementById("taker").open = true;
  id.value = await idOf(file);
  id.focus();
}

async function takeIn() {
  tell("");
  if (/[/\\]|^\.{1,2}$/.test(id.value)) {
    tell(t("An id has no / and no \\, and is not . or ..", "ID에는 /와 \\를 쓸 수 없으며, . 이나 .. 일 수 없습니다."));
    return;
  }
  const lines = new Blob([place.files[0]], { type: "application/x-ndjson" });
  const path = `sessions/${encodeURIComponent(id.value)}`;
  form.setAttribute("aria-busy", "true");
  try {
    await ask("POST", `api/v1/${path}/import`, lines);
    go(`console/${path}`);
  } catch (error) {
    show(error, form);
  } finally {
    form.removeAttribute("aria-busy");
  }
}

if (form) {
  place.addEventListener("change", () => place.files[0] && look(place.files[0]));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    takeIn();
  });
  onDrop((file) => {
    choose(place, file);
    look(file);
  });
}
