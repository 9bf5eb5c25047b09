// The tokens of one answer as they come: marked by what was decided, each within reach of pointer, finger and keyboard.

import { END, make, PART, quoted, signOf, trimmed } from "./dom.js";
import { decision, greedyText, KINDS } from "./words.js";

const owners = new WeakMap(); // token element -> {answer, at}
export const ownerOf = (element) => owners.get(element);

export class Tokens {
  constructor(answer, method) {
    this.answer = answer;
    this.method = method;
    this.elements = [];
    this.segment = null; // of one author: {author, node, left}; `left` characters of a disputed one are still to come
    this.node = make("div", {
      class: "tokens",
      role: "toolbar",
      dir: "auto",
      "aria-label": `Tokens of ${method.method}. Left and right go from token to token, up and down from decision to decision.`,
    });
    answer.kept.forEach((step) => this.add(step));
  }

  // Shows the steps that came since the last call.
  update() {
    for (const step of this.answer.steps.slice(this.elements.length - this.answer.kept.length)) this.add(step);
  }

  add(step) {
    const at = this.elements.length;
    const text = step.text_added;
    const [, lead, core, trail] = /^(\s*)(.*?)(\s*)$/s.exec(text);
    const kind = decision(step, this.method);
    const element = make("span", {
      role: "button",
      tabindex: at === 0 ? "0" : "-1",
      class: `token ${kind}${at < this.answer.kept.length && !step.mine ? " taken-over" : ""}${core ? "" : " blank"}`,
      "aria-label": kind === "plain" ? null : label(step, kind),
      text: signOf(step),
    });
    const before = this.elements.at(-1);
    if (before?.textContent === END) before.textContent = PART; // it was not the end
    owners.set(element, { answer: this.answer, at });
    this.elements.push(element);
    const refused = step.flip && !step.mine && !this.method.mentor ? greedyText(step) : null;
    const struck = refused === null ? [] : [make("del", { text: trimmed(refused) })];
    this.parent(step).append(core ? lead : "", ...struck, element, core ? trail : text);
  }

  // Where a token belongs: into the segment of its author, or beside it.
  parent(step) {
    const disputed = this.method.mentor && step.fired && !step.mine;
    const author = disputed ? step.chooser : step.chooser === "llm" && !step.fired ? "llm" : null;
    const goesOn = this.segment && !disputed && (this.segment.left > 0 || this.segment.author === author);
    if (!goesOn) {
      this.segment = author && { author, node: make("span", { class: `by-${author}` }), left: disputed ? length(step) : 0 };
      if (this.segment) this.node.append(this.segment.node);
    }
    if (!this.segment) return this.node;
    this.segment.left -= step.text_added.length;
    return this.segment.node;
  }

  // Makes `at` the one that the tab key reaches, and marks it as the one that the panel shows.
  select(at) {
    for (const element of this.elements) {
      element.tabIndex = -1;
      element.removeAttribute("aria-current");
    }
    const chosen = this.elements[at] ?? this.elements[0];
    if (chosen) chosen.tabIndex = 0;
    if (this.elements[at]) chosen.setAttribute("aria-current", "true");
  }

  // The token that an arrow key leads to from `at`, or undefined.
  neighbour(at, key) {
    const decided = (element) => !element.matches(".plain, .taken-over");
    switch (key) {
      case "ArrowRight": return this.elements[at + 1];
      case "ArrowLeft": return this.elements[at - 1];
      case "ArrowDown": return this.elements.slice(at + 1).find(decided);
      case "ArrowUp": return this.elements.slice(0, at).findLast(decided);
      case "Home": return this.elements[0];
      case "End": return this.elements.at(-1);
      default: return undefined;
    }
  }
}

// Characters of a disputed segment, with the blanks before it.
function length(step) {
  return step.text.trim().length + step.text_added.length - step.text_added.trimStart().length;
}

function label(step, kind) {
  const greedy = step.flip ? greedyText(step) : null;
  const instead = kind === "flip" && greedy !== null ? ` instead of ${quoted(greedy)}` : "";
  return `${signOf(step)}, ${KINDS[kind]}${instead}`;
}
