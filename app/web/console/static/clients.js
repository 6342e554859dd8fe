/* The pages of the clients: a new token is shown once, in a dialog, and never kept by the page. */

import { address } from "./api.js";
import { addCopy } from "./console.js";

const DAY = 24 * 3600 * 1000;
const dialog = document.getElementById("token");
const [token, line] = dialog.querySelectorAll("code");
dialog.querySelectorAll("pre").forEach(addCopy);

document.addEventListener("done", ({ detail }) => {
  token.textContent = detail.token;
  line.textContent =
    `curl -s ${address("api/v1/chat")} -H 'Authorization: Bearer ${detail.token}' ` +
    `-H 'Content-Type: application/json' -d '{"user_message": "What is the capital of France?", "temperature": 0, "free_mode": true}'`;
  dialog.showModal();
});

dialog.addEventListener("close", () => {
  token.textContent = line.textContent = "";
  location.reload();
});

/* The life of a token is chosen in days and sent as a moment. */
for (const chosen of document.querySelectorAll("[data-lifetime]")) {
  chosen.removeAttribute("name");
  const sent = document.createElement("input");
  sent.type = "hidden";
  sent.name = "expires_at";
  chosen.after(sent);
  chosen.addEventListener("change", () => {
    sent.value = chosen.value ? new Date(Date.now() + chosen.value * DAY).toISOString() : "";
  });
}
