// The page: its form, its examples, and conversations that come from or go to an address or a file.

import { getJson, loadMethods, setKey } from "./client.js";
import { button, byId, download, make, plural } from "./dom.js";
import { Pointing } from "./pointing.js";
import { file, fromFile, fromHash, recipe, toHash } from "./saved.js";
import { SettingsForm } from "./settings.js";
import { Stage } from "./stage.js";

const STATE_MS = { working: 500, idle: 5000 };
const EXAMPLES_PER_DOMAIN = 2;

const question = byId("question");
let examples = [];
let form = null;
let stage = null;
let pointing = null;
let ownHash = "";
let nextState = 0;

async function start() {
  try {
    const methods = await loadMethods();
    if (!methods.size) throw new Error("This server offers no method that the page can use.");
    await showExamples();
    // A model that knows nothing but its examples was trained on single questions.
    form = new SettingsForm(methods, { remembers: !examples.length });
    stage = new Stage({ methods, expected, changed: (answer) => pointing.refresh(answer), settled });
    pointing = new Pointing(stage, (lane) => form.read()[lane] ?? form.read()[0]);
  } catch (error) {
    notify(error.message, error.status === 401);
    return;
  }
  notify("");
  followServer();
  await followAddress();
}

function notify(text, wantsKey = false) {
  byId("notice").textContent = text;
  byId("key-field").hidden = !wantsKey;
  byId("ask").textContent = wantsKey ? "Use this key" : "Ask";
  if (wantsKey) byId("key").focus();
}

const expected = (text) => examples.find((example) => example.question === text)?.answer ?? null;

async function showExamples() {
  const found = await getJson("v1/s2t/examples");
  examples = found.examples;
  const offered = [...new Set(examples.map(({ domain }) => domain))]
    .flatMap((domain) => examples.filter((example) => example.domain === domain).slice(0, EXAMPLES_PER_DOMAIN));
  if (!offered.length) return;
  byId("examples").replaceChildren(make("p", { class: "note", text: found.note }), make("ul", {}, ...offered.map(exampleItem)));
}

function exampleItem({ domain, question: text }) {
  const item = button(make("span", { class: "quiet", text: domain }), () => ask(text), { class: "example", title: text });
  item.append(make("span", { class: "excerpt", text }));
  return make("li", {}, item);
}

function ask(text) {
  if (!form || !byId("composer").reportValidity()) return;
  notify("");
  question.value = "";
  fitQuestion();
  byId("settings").open = false;
  stage.ask(text, form.read());
  followServer();
}

function settled(error) {
  if (error) notify(error.message, error.status === 401);
  followServer();
  if (!stage.replaying) writeAddress();
}

function fitQuestion() {
  question.style.height = "auto";
  question.style.height = `${question.scrollHeight}px`;
}

question.addEventListener("input", fitQuestion);
question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId("composer").requestSubmit();
});
byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!byId("key-field").hidden) {
    setKey(byId("key").value);
    if (stage) notify("");
    else start();
  } else if (question.value.trim()) {
    ask(question.value);
  }
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address holds the conversation
  question.focus();
});
byId("stop").addEventListener("click", () => stage.stop());
byId("refused").addEventListener("change", (event) => document.body.classList.toggle("show-refused", event.target.checked));

// The counters of the server, while somebody looks
async function followServer() {
  clearTimeout(nextState);
  const state = document.hidden ? null : await getJson("v1/s2t/state").catch(() => null);
  if (!state && !document.hidden) byId("server").textContent = "";
  if (state) {
    const { rows, queue, tokens_per_second: rate, slm_forwards: slm, llm_forwards: llm } = state;
    const facts = [`${plural(rows, "answer")} in the batch`, `${queue} waiting`, `${Math.round(rate)} tokens/s`];
    byId("server").textContent = [...facts, plural(slm, "SLM forward"), `${llm.toLocaleString("en")} of the LLM`].join(" · ");
  }
  clearTimeout(nextState);
  nextState = setTimeout(followServer, stage.running.size ? STATE_MS.working : STATE_MS.idle);
}

// Conversations in the address
// Returns whether the address could hold it.
async function writeAddress() {
  const hash = stage.turns.length ? await toHash(recipe(form.read(), stage.turns)) : "";
  ownHash = hash ? `#${hash}` : "";
  history.replaceState(null, "", ownHash || location.pathname + location.search);
  return hash !== null;
}

async function followAddress() {
  if (!form || !location.hash || location.hash === ownHash) return;
  const saved = await fromHash(location.hash).catch((error) => notify(error.message));
  if (!saved) return;
  form.show(saved.lanes);
  show([]);
  if (await stage.askAgain(saved.turns)) writeAddress();
}

function show(turns) {
  stage.show(turns);
  pointing.refresh(null);
}

window.addEventListener("hashchange", followAddress);
byId("new").addEventListener("click", () => {
  show([]);
  writeAddress();
  question.focus();
});
byId("link").addEventListener("click", async () => {
  if (!await writeAddress()) {
    notify("This conversation is too long for an address: save it.");
    return;
  }
  const copied = await navigator.clipboard?.writeText(location.href).then(() => true, () => false);
  byId("status").textContent = copied ? "The address was copied." : "The address bar holds the address to copy.";
  byId("link").textContent = copied ? "Copied" : "See the address bar";
  setTimeout(() => { byId("link").textContent = "Link"; }, 2000);
});

// And in files
byId("save").addEventListener("click", () => download("conversation.json", file(form.read(), stage.turns)));
byId("open").addEventListener("click", () => (form ? byId("file").click() : byId("key").focus()));
byId("file").addEventListener("change", async ({ target }) => {
  const [chosen] = target.files;
  try {
    const saved = fromFile(await chosen.text());
    form.show(saved.lanes);
    show(saved.turns);
    writeAddress();
    notify("");
  } catch (error) {
    notify(error.message);
  }
  target.value = "";
});

start();
