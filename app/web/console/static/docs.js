// Starts Swagger UI on /docs. Its address is docs/start.js, and all others are relative to the page.

const page = document.documentElement;
const csrf = document.querySelector("meta[name=csrf]")?.content;

const theme = matchMedia("(prefers-color-scheme: dark)");
const show = () => page.classList.toggle("dark-mode", page.dataset.theme ? page.dataset.theme === "dark" : theme.matches);
theme.addEventListener("change", show);
show();

// What deletes stands last, the innermost first: who tries one after the other finds what was made before.
const rank = (operation) => operation.get("method") === "delete" ? 1000 - operation.get("path").length : 0;

// Swagger UI writes a text in quotes where a media type has "json" in its name, and so lines of JSON as one string.
const lines = () => ({
  afterLoad() {
    const sample = this.fn.getSampleSchema;
    this.fn.getSampleSchema = (schema, type, config, example) => {
      const asItIs = type === "application/x-ndjson" && typeof example === "string";
      return asItIs ? example : sample(schema, type, config, example);
    };
  },
});

// Each operation that is opened has its references resolved. Swagger UI would first read all of the document anew for it,
// which takes most of the time; ours has references of one kind, to what stands in the same document.
// In `$$ref` Swagger UI looks for the name of what was there.
const resolved = (value, root, above = []) => {
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map((one) => resolved(one, root, above));
  const target = value.$ref;
  if (typeof target !== "string") {
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, resolved(one, root, above)]));
  }
  if (above.includes(target)) return value;
  const found = target.split("/").slice(1).reduce((at, name) => at[name], root);
  return { ...resolved(found, root, [...above, target]), $$ref: target };
};
const references = () => ({
  fn: {
    resolveSubtree: async (root, path) => {
      const at = path.reduce((value, name) => value[name], root);
      const shared = path[0] === "paths" && path.length === 3 ? root.paths[path[1]].parameters ?? [] : [];
      const spec = shared.length ? { ...at, parameters: [...shared, ...(at.parameters ?? [])] } : at;
      return { spec: resolved(spec, root), errors: [] };
    },
  },
});

// With each step Swagger UI draws all texts of a section anew, of which none has changed: it would parse them again, make
// them harmless again and colour answers again.
const drawnOnce = (...names) => (Original, {React}) => function Kept(props) {
  return React.useMemo(() => React.createElement(Original, props), names.map((name) => props[name]));
};
const texts = () => ({
  wrapComponents: {
    Markdown: drawnOnce("source", "className"),
    SyntaxHighlighter: drawnOnce("children", "language", "className"),
  },
});

// What Swagger UI leaves without a name, out of the keyboard's reach, at the wrong level of headings, or in a button.
const words = page.lang === "ko"
  ? {about: "이 API", token: "토큰", body: "요청 본문", example: "예시", media: "미디어 형식", value: "값"}
  : {about: "This API", token: "Token", body: "Request body", example: "Example", media: "Media type", value: "Value"};
const completed = [
  [".information-container", {role: "region", "aria-label": words.about}],
  [".scheme-container", {role: "region", "aria-label": words.token}],
  [".examples-select-element", {"aria-label": words.example}],
  ["select.content-type", {"aria-label": words.media}],
  ["select", {"aria-label": words.value}],
  ["textarea", {"aria-label": words.body}],
  ["pre.microlight", {tabindex: 0}],
  [".opblock-tag, .models > h4", {"aria-level": 2}],
  [".opblock-body h4", {"aria-level": 3}],
  [".opblock-body h5", {"aria-level": 4}],
];
const complete = () => {
  for (const [selector, attributes] of completed) {
    for (const [name, value] of Object.entries(attributes)) {
      for (const one of document.querySelectorAll(selector)) if (!one.hasAttribute(name)) one.setAttribute(name, value);
    }
  }
  for (const link of document.querySelectorAll(".opblock-summary-control a[href]")) link.removeAttribute("href");
};
let due = 0;
const soon = () => {
  due ||= requestAnimationFrame(() => {
    due = 0;
    complete();
  });
};
new MutationObserver(soon).observe(document.body, {childList: true, subtree: true});

SwaggerUIBundle({
  url: page.lang === "ko" ? "docs/openapi.ko.json" : "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  plugins: [lines, references, texts],
  operationsSorter: (one, other) => rank(one) - rank(other),
  // Who is signed in to the console needs no token here, but may write only with this; it is not in the curl line.
  requestInterceptor: (request) => {
    if (csrf && !request.loadSpec) request.headers["X-CSRF-Token"] = csrf;
    return request;
  },
  showMutatedRequest: false,
  validatorUrl: null,
});
