// The panel that stays open: how one token was decided, and what else it might have been.

import { allSteps } from "./conversation.js";
import { button, byId, make, number, percent, present, signOf, trimmed, visible } from "./dom.js";
import { decision, explain, KINDS } from "./words.js";

const panel = byId("inspector");
const SEGMENTS = "The two segments; the answer can go on from the first token of the other";

// `actions`: close(), force(option), rewind(), each about the token shown.
export function showStep({ answer, at, method, pinned }, actions) {
  const step = allSteps(answer)[at];
  const kind = decision(step, method);
  const focused = [...panel.querySelectorAll("button")].indexOf(document.activeElement);
  panel.hidden = false;
  panel.replaceChildren(...present([
    make("div", { class: "panel-head" },
      make("h2", { id: "inspector-title" },
        make("code", { text: signOf(step), class: kind }), ` ${KINDS[kind]}`),
      button("×", actions.close, { class: "plain-button", "aria-label": "Close the panel" })),
    make("p", { class: "quiet place" }),
    ...explain(step, answer, method).map((sentence) => make("p", { text: sentence })),
    gauge(step, answer),
    optionTable(step, method, actions),
    make("p", { class: "panel-actions" },
      button("Rewind to here", actions.rewind),
      make("span", { class: "quiet", text: "decides this token anew, with the settings of the form" })),
  ]));
  showPlace({ answer, at, method, pinned });
  panel.querySelectorAll("button")[focused]?.focus({ preventScroll: true });
}

export function showPlace({ answer, at, method, pinned }) {
  const place = `${method.method} · token ${at + 1} of ${allSteps(answer).length}`;
  panel.querySelector(".place").textContent = pinned ? place : `${place} · click to keep it here`;
}

export function showHint() {
  panel.hidden = false;
  panel.replaceChildren(
    make("h2", { id: "inspector-title", text: "Why this token?" }),
    make("p", {
      class: "quiet",
      text: "Point at a token, tap it, or go there with the Tab and arrow keys. Its candidates stay here; choose another "
        + "one, and the answer goes on from it.",
    }));
}

export function hidePanel() {
  panel.hidden = true;
}

// Where the statistic lies against the threshold.
function gauge(step, answer) {
  if (step.statistic === null || answer.threshold === null || step.mine) return null;
  const low = Math.min(0, step.statistic, answer.threshold);
  const span = 1.15 * (Math.max(step.statistic, answer.threshold) - low) || 1;
  const place = (value) => `${(100 * (value - low)) / span}%`;
  const bar = make("i", { class: step.fired ? "fired" : "" });
  const mark = make("b");
  bar.style.width = place(step.statistic);
  mark.style.left = place(answer.threshold);
  return make("div", { class: "gauge", "aria-hidden": "true" }, make("div", { class: "track" }, bar, mark),
    make("span", { text: number(step.statistic) }), make("span", { text: `threshold ${number(answer.threshold)}` }));
}

// What judged the options: how it is called here, and how its scores read.
function judgeOf(step, method) {
  if (method.mentor) return ["Verifier", percent];
  return step.chooser === "llm" ? ["LLM", (score) => percent(Math.exp(score))] : ["Scorer", (score) => number(score, 2)];
}

function optionTable(step, method, actions) {
  const options = step.candidates.length ? step.candidates : step.alternatives;
  if (!options.length) return make("p", { class: "quiet", text: "No other tokens were noted here." });
  const segments = method.mentor && step.fired;
  const ranks = ranksBy(options, (option) => option.score);
  const [judge, shown] = judgeOf(step, method);
  const proposer = step.chooser === "llm" && !step.fired ? "LLM" : "SLM";
  const columns = segments ? ["Segment", "First token", judge] : ["Token", proposer, ...(ranks.size ? [judge] : []), "Rank"];
  const rows = options.map((option, index) => {
    const cells = [make("td", {}, ...probability(option, !segments))];
    if (ranks.size) cells.push(make("td", { text: typeof option.score === "number" ? shown(option.score) : "–" }));
    if (!segments) cells.push(make("td", {}, rankCell(index + 1, ranks.get(option))));
    const author = segments && ["the SLM’s", "the LLM’s"][index];
    const name = nameCell({ option, options, step, author }, actions);
    return make("tr", { class: rowClass(option, step, segments && index === 1) }, name, ...cells);
  });
  return make("table", { class: segments ? "options segments" : "options" },
    make("caption", { text: segments ? SEGMENTS : "Choose another token to see where it leads" }),
    make("thead", {}, make("tr", {}, ...columns.map((text) => make("th", { scope: "col", text })))),
    make("tbody", {}, ...rows));
}

function ranksBy(options, value) {
  const order = options.filter((option) => typeof value(option) === "number").sort((a, b) => value(b) - value(a));
  return new Map(order.map((option, index) => [option, index + 1]));
}

function rowClass(option, step, mentors = false) {
  if (option.id === step.token) return mentors ? "taken mentors" : step.flip || step.mine ? "taken changed" : "taken";
  return step.flip && option.id === step.greedy ? "refused" : null;
}

function nameCell({ option, options, step, author }, actions) {
  const twins = options.filter((other) => other.text.trim() === option.text.trim());
  const part = option.text.includes("\uFFFD") ? ` ${option.id}` : ""; // of a character: all of them look alike
  const code = make("code", { text: (twins.length > 1 ? visible(option.text) : trimmed(option.text)) + part });
  const taken = option.id === step.token;
  const refused = rowClass(option, step) === "refused";
  const llmsFirst = option.id === step.llm_top && !author;
  const tags = present([author, taken && (step.mine ? "yours" : "chosen"), refused && "refused", llmsFirst && "LLM’s first"]);
  const name = taken
    ? make("strong", {}, code)
    : button(code, () => actions.force(option), { class: "option", "aria-label": `Go on from ${code.textContent} instead` });
  return make("th", { scope: "row" }, name, tags.length > 0 && make("span", { class: "tag", text: tags.join(", ") }));
}

function probability(option, withBar) {
  const share = option.logprob === null ? null : Math.exp(option.logprob);
  const bar = make("i");
  bar.style.width = `${100 * (share ?? 0)}%`;
  const meter = withBar && make("span", { class: "meter", "aria-hidden": "true" }, bar);
  return present([meter, share === null ? "–" : percent(share)]);
}

// The rank by the SLM, and the rank by the score where there is one.
function rankCell(before, after) {
  if (!after) return `${before}`;
  const move = after < before ? "▲" : after > before ? "▼" : "=";
  return make("span", { class: "ranks" }, `${before} → ${after} `, make("span", { "aria-hidden": "true", text: move }));
}
