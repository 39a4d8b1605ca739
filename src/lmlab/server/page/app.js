// The frame: views, models, the address, exports.

import { get } from "./api.js";
import { later } from "./dom.js";
import { csvOf, pngOf, save } from "./export.js";
import { write } from "./write.js";
import { score } from "./score.js";
import { beam } from "./beam.js";
import { compare } from "./compare.js";

const MAKERS = { write, score, beam, compare };
const LONGEST = 8000; // characters of an address
const views = {};
const $ = (id) => document.getElementById(id);
let current = null;

const app = {
  models: [],
  names: [],
  say: (message) => ($("status").textContent = message),
  changed: later(150, () => {
    const address = `#${current}?${new URLSearchParams(views[current].params())}`;
    if (address.length <= LONGEST) history.replaceState(null, "", address);
    else history.replaceState(null, "", `#${current}`);
  }),
  /** The result of some work; what it throws is shown until work of the same kind is done well. */
  async tried(kind, work) {
    try {
      const made = await work;
      wrong.delete(kind);
      return made;
    } catch (error) {
      if (error.status === 401) $("key").hidden = false;
      wrong.set(kind, error.message);
    } finally {
      showWrong();
    }
  },
};

const wrong = new Map();
function showWrong() {
  $("alert").textContent = [...wrong.values()].at(-1) ?? "";
  $("alert").hidden = wrong.size === 0;
}

function open(hash) {
  const [name, query] = hash.slice(1).split(/\?(.*)/s);
  if (current && !(name in MAKERS)) return; // the skip link
  current = name in MAKERS ? name : "write";
  wrong.clear();
  showWrong();
  const section = $(`view-${current}`);
  for (const other of document.querySelectorAll("main > section")) other.hidden = other !== section;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${current}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${current[0].toUpperCase()}${current.slice(1)} · lmlab`;
  const fresh = !views[current];
  views[current] ??= MAKERS[current](section, app);
  if (fresh || query) views[current].open(new URLSearchParams(query ?? ""));
  app.changed();
}

async function start() {
  const { data } = await get("v1/models");
  app.models = data;
  app.names = data.map((model) => model.id);
  open(location.hash);
}

$("key").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", $("key").querySelector("input").value);
  $("key").hidden = true;
  app.tried("start", start());
});

$("link").addEventListener("click", async () => {
  const whole = location.hash.includes("?");
  await navigator.clipboard?.writeText(location.href).catch(() => {});
  app.say(whole ? "The link is copied; it holds what you see." : "Too long for a link: export it instead.");
  setTimeout(() => app.say(""), 4000);
});

for (const choice of document.querySelectorAll("[data-as]")) {
  choice.addEventListener("click", async () => {
    choice.closest("details").open = false;
    const view = views[current];
    const as = choice.dataset.as;
    const content = as === "csv" ? csvOf(view.table()) : as === "json" ? JSON.stringify({ address: location.href, ...view.json() }, null, 2) : await app.tried("picture", pngOf(view.picture()));
    if (content) save(`lmlab-${current}.${as}`, content, { csv: "text/csv", json: "application/json", png: "image/png" }[as]);
  });
}
document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
});
document.addEventListener("keydown", (event) => {
  const menu = event.key === "Escape" && document.querySelector("details.menu[open]");
  if (menu) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});

const dark = matchMedia("(prefers-color-scheme: dark)");
const theme = (name) => (document.documentElement.dataset.theme = name);
theme(localStorage.getItem("theme") ?? (dark.matches ? "dark" : "light"));
dark.addEventListener("change", () => localStorage.getItem("theme") ?? theme(dark.matches ? "dark" : "light"));
$("theme").addEventListener("click", () => {
  theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  localStorage.setItem("theme", document.documentElement.dataset.theme);
});

// Not location.hash: the address of the view that is left may have been written over it since the click.
addEventListener("hashchange", (event) => open(new URL(event.newURL).hash));
app.tried("start", start());
