/* Taking in a character from a file: a card as PNG or JSON, or what the server's own route has given. */

import { Problem, api, ask, root, t } from "./api.js";
import { show, tell } from "./console.js";
import { choose, onDrop } from "./drop.js";
import { fitted, pageOf, ruleOf } from "./names.js";

const PNG = [0x89, 0x50, 0x4e, 0x47];
const KEYWORDS = ["ccv3", "chara"];
const form = document.getElementById("take-in");
const { file: place, name, shared } = form.elements;
const rule = ruleOf(form);
const latin = new TextDecoder("latin1");

async function inflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Where the n-th byte 0 is. */
function zero(bytes, n) {
  let at = -1;
  for (; n > 0; n -= 1) at = bytes.indexOf(0, at + 1);
  return at;
}

/** The texts of a picture by their keywords. Source: PNG specification (third edition), 11.3.3. */
async function textsOf(bytes) {
  const texts = {};
  const view = new DataView(bytes.buffer);
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const kind = latin.decode(bytes.subarray(at + 4, at + 8));
    const content = bytes.subarray(at + 8, at + 8 + length);
    const key = latin.decode(content.subarray(0, zero(content, 1)));
    at += 12 + length;
    if (!KEYWORDS.includes(key) || key in texts) continue;
    if (kind === "tEXt") texts[key] = content.subarray(zero(content, 1) + 1);
    if (kind === "zTXt") texts[key] = await inflated(content.subarray(zero(content, 1) + 2));
    if (kind === "iTXt") {
      const flag = zero(content, 1) + 1;
      const rest = content.subarray(flag + 2);
      const text = rest.subarray(zero(rest, 2) + 1);
      texts[key] = content[flag] ? await inflated(text) : text;
    }
  }
  return texts;
}

/** What a file says, as far as it can be read here; the server reads it again, and says what is wrong with it. */
async function read(file) {
  try {
    const bytes = new Uint8Array(await file.arrayBuffer());
    const isPicture = PNG.every((byte, index) => bytes[index] === byte);
    let text = bytes;
    if (isPicture) {
      const texts = await textsOf(bytes);
      const coded = atob(latin.decode(texts[KEYWORDS.find((key) => key in texts)]));
      text = Uint8Array.from(coded, (letter) => letter.charCodeAt(0));
    }
    return { isPicture, told: JSON.parse(new TextDecoder().decode(text)) };
  } catch {
    return { isPicture: file.type === "image/png", told: null };
  }
}

const isCard = (told) => "spec" in told || "first_mes" in told;

async function look(file) {
  document.getElementById("taker").open = true;
  document.getElementById("taken").hidden = true;
  const { told } = await read(file);
  const said = told && (told.data ?? told).name;
  name.value = fitted(typeof said === "string" ? said : "", rule) || fitted(file.name.replace(/\.[^.]*$/, ""), rule);
  name.focus();
  name.select();
}

/** The body with which a file is put: a picture as it is, our own JSON without the name that it had. */
async function bodyOf(file) {
  const { isPicture, told } = await read(file);
  if (isPicture) return new Blob([file], { type: "image/png" });
  if (!told || typeof told !== "object" || isCard(told)) return new Blob([file], { type: "application/json" });
  const { name: _, shared: __, ...rest } = told;
  return rest;
}

/** Whether there is a character of this name, of the caller's own or everybody's. */
async function existing(called) {
  const query = new URLSearchParams({ search: called, limit: 1 });
  const { characters } = await api("GET", `api/v1/characters?${query}`);
  return characters.find((one) => one.name === called);
}

async function takeIn() {
  tell("");
  const called = name.value.normalize("NFC").trim();
  if (!rule.test(called)) throw new Problem({ detail: t("The name cannot be used", "사용할 수 없는 이름입니다"), errors: { json: { name: [form.dataset.form] } } });
  const there = await existing(called);
  const question = t("There is a character of this name. Replace it with a new version?", "같은 이름의 캐릭터가 있습니다. 새 버전으로 바꿀까요?");
  if (there && !confirm(`${called}: ${question}`)) return;
  const path = `api/v1/characters/${encodeURIComponent(called)}${shared?.checked ? "?shared=true" : ""}`;
  const answer = await ask("PUT", path, await bodyOf(place.files[0]));
  tellTaken(await answer.json());
}

function tellTaken(taken) {
  const place = document.getElementById("taken");
  const leftOut = taken.left_out?.length ? t(` Left out, as it has no use here: ${taken.left_out.join(", ")}.`, ` 여기에서 쓰이지 않아 제외한 항목: ${taken.left_out.join(", ")}.`) : "";
  place.querySelector("p").textContent = t(`${taken.name} is here, in version ${taken.version}.`, `${taken.name}, 버전 ${taken.version}을 가져왔습니다.`) + leftOut;
  document.getElementById("taken-open").href = root + pageOf(taken.name, taken.version);
  document.getElementById("taken-chat").href = `${root}console/playground?character=${encodeURIComponent(taken.name)}`;
  place.hidden = false;
  form.reset();
  place.focus();
}

place.addEventListener("change", () => place.files[0] && look(place.files[0]));
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  form.setAttribute("aria-busy", "true");
  try {
    await takeIn();
  } catch (error) {
    show(error, form);
  } finally {
    form.removeAttribute("aria-busy");
  }
});
onDrop((file) => {
  choose(place, file);
  look(file);
});
