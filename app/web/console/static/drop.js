/* A file that is dropped anywhere on the page. */

const carriesFiles = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
const mark = (is) => document.documentElement.classList.toggle("dropping", is);

/** Have `take` called with the first file of what is dropped. */
export function onDrop(take) {
  document.addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    mark(true);
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) mark(false);
  });
  document.addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    mark(false);
    const [file] = event.dataTransfer.files;
    if (file) take(file);
  });
}

/** Put a file into a form's field, as if a person had chosen it. */
export function choose(field, file) {
  const carried = new DataTransfer();
  carried.items.add(file);
  field.files = carried.files;
}
