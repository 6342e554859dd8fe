/* Pictures that go with a message: chosen, pasted or dropped, made smaller where the API would refuse them. */

import { t } from "./api.js";
import { h, render } from "./vendor/preact.js";
import htm from "./vendor/htm.js";

const html = htm.bind(h);
const { imagesMax, imageMaxLength } = JSON.parse(document.getElementById("data").textContent);
const place = document.getElementById("pictures");
const KINDS = ["image/png", "image/jpeg", "image/gif", "image/webp"];
const EDGES = [1568, 1024, 640, 320]; // Pixels of the longer side; models look at no more than the first.

let pictures = [];
let changed = () => {};
let note = "";

/** `then` is called whenever they change. */
export const watch = (then) => (changed = then);

/** The pictures as data URLs. */
export const images = () => [...pictures];

/** Take them away: they have been sent. */
export const clear = () => put([]);

function put(next, said = "") {
  pictures = next;
  note = said;
  render(
    html`${pictures.map(
        (url, at) => html`<span class="picture"><img src=${url} alt=${t(`Image ${at + 1}`, `이미지 ${at + 1}`)} />
          <button type="button" aria-label=${t(`Remove image ${at + 1}`, `이미지 ${at + 1} 빼기`)}
            onClick=${() => put(pictures.filter((_, other) => other !== at))}>×</button></span>`,
      )}${note && html`<span class="dim">${note}</span>`}`,
    place,
  );
  changed();
}

const read = (file) =>
  new Promise((done, failed) => {
    const reader = Object.assign(new FileReader(), { onload: () => done(reader.result), onerror: failed });
    reader.readAsDataURL(file);
  });

async function smaller(file) {
  const picture = await createImageBitmap(file);
  for (const edge of EDGES) {
    const scale = Math.min(1, edge / Math.max(picture.width, picture.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(picture.width * scale));
    canvas.height = Math.max(1, Math.round(picture.height * scale));
    canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
    const url = canvas.toDataURL("image/jpeg", 0.85);
    if (url.length <= imageMaxLength) return url;
  }
  throw new Error("too large");
}

/** Add files; those that are no picture are left out, and the page says so. */
export async function add(files) {
  const added = [];
  let said = "";
  for (const file of files) {
    try {
      if (!KINDS.includes(file.type)) throw new Error("no picture");
      const url = await read(file);
      added.push(url.length <= imageMaxLength ? url : await smaller(file));
      if (url.length > imageMaxLength) said = t("Made smaller", "크기를 줄였습니다");
    } catch {
      said = t("PNG, JPEG, GIF or WebP only", "PNG, JPEG, GIF, WebP만 쓸 수 있습니다");
    }
  }
  const all = [...pictures, ...added];
  if (all.length > imagesMax) said = t(`At most ${imagesMax} images`, `이미지는 최대 ${imagesMax}개입니다`);
  put(all.slice(0, imagesMax), said);
}
