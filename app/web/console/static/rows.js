/* Rows that one adds, moves and removes with the mouse or the keyboard:

   <ol id="lore">…</ol> <template id="lore-row"><li>…</li></template>
   <button data-add="lore">, and in a row <button data-remove>, <button data-up>, <button data-down>

   A script hears "change" from the list. */

const fieldsOf = (row) => row.querySelectorAll("input, select, textarea");

function changed(list) {
  list.dispatchEvent(new Event("change", { bubbles: true }));
}

/** Put an empty row at the end, and go to its first field. */
export function addRow(name) {
  const list = document.getElementById(name);
  list.append(document.getElementById(`${name}-row`).content.cloneNode(true));
  fieldsOf(list.lastElementChild)[0].focus();
  changed(list);
}

function removeRow(row) {
  const list = row.parentElement;
  const next = row.nextElementSibling || row.previousElementSibling;
  row.remove();
  (next ? fieldsOf(next)[0] : document.querySelector(`[data-add="${list.id}"]`)).focus();
  changed(list);
}

function moveRow(row, button) {
  const other = "up" in button.dataset ? row.previousElementSibling : row.nextElementSibling;
  if (!other) return;
  if ("up" in button.dataset) other.before(row);
  else other.after(row);
  button.focus();
  changed(row.parentElement);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.add) addRow(button.dataset.add);
  const row = button.closest("li");
  if ("remove" in button.dataset) removeRow(row);
  if ("up" in button.dataset || "down" in button.dataset) moveRow(row, button);
});

const atFirst = new Map();
for (const field of document.querySelectorAll(".rows :is(input, select, textarea), form [name]")) {
  atFirst.set(field, field.value);
}

/** Whether a person has changed the field. What is shown may differ from what is stored: browsers normalise lines. */
export const isTouched = (field) => atFirst.get(field) !== field.value;

/** The values of a list's rows as they are to be sent: of a row that nobody has touched what is stored. A row without
    any value is left out. `stored`: what the rows were made of; `read`: makes the value of a row's parts. */
export function valuesOf(list, stored, read) {
  const rows = [...list.children].filter((row) => [...fieldsOf(row)].some((field) => field.matches(":not(select)") && field.value));
  const values = rows.map((row) => {
    const fields = [...fieldsOf(row)];
    const kept = stored[row.dataset.index];
    if (kept !== undefined && !fields.some(isTouched)) return kept;
    return read(Object.fromEntries(fields.map((field) => [field.dataset.part, field.value])));
  });
  return [rows, values];
}
