// One card for each answer: what it is, its tokens, how it ended, what it cost.

import { answerText, counters, preferencePair } from "./conversation.js";
import { download, make, percent, plural, quoted } from "./dom.js";
import { Tokens } from "./tokens.js";

export class Card {
  // `actions`: remove(), retry()
  constructor(turn, answer, method, expected, actions) {
    Object.assign(this, { turn, answer, method, expected, actions });
    this.tokens = new Tokens(answer, method);
    this.reading = make("p", { class: "unseen" }); // for who listens: the text at a stretch, before its tokens one by one
    this.facts = make("p", { class: "facts quiet" });
    this.final = make("p", { class: "final" });
    this.buttons = make("p", { class: "card-actions" });
    const title = make("h3", {}, make("span", { class: "count", text: answer.number }), this.title());
    this.node = make("article", { class: `card${answer.origin ? " branch" : ""}`, "aria-label": `Answer ${answer.number}: ${this.title()}` },
      make("div", { class: "card-head" }, title, make("span", { class: "quiet", text: this.subtitle() })),
      this.reading, this.tokens.node, this.final, this.facts, this.buttons);
    this.update();
  }

  title() {
    const { origin, settings, kept } = this.answer;
    if (!origin) return settings.method;
    return origin.choice ? `What if: ${quoted(kept.at(-1).text_added)}` : `Rewound to token ${origin.at + 1}`;
  }

  subtitle() {
    const { origin, settings } = this.answer;
    const how = settings.trigger ? `${settings.trigger} ${+(100 * settings.budget).toFixed(2)} % · K ${settings.candidates}` : "";
    if (!origin) return how;
    return `${settings.method} from token ${origin.at + 1} of answer ${origin.answer.number}`;
  }

  update() {
    const { answer } = this;
    this.tokens.update();
    this.node.dataset.status = answer.status;
    this.node.setAttribute("aria-busy", String(answer.status === "streaming"));
    this.facts.textContent = this.factLine();
    this.showFinal();
    const ended = answer.status !== "streaming" && answer.status !== "waiting";
    if (ended && !this.buttons.childElementCount) {
      this.reading.textContent = answerText(answer);
      this.showButtons();
    }
  }

  factLine() {
    const { answer, method } = this;
    const counts = counters(answer);
    const facts = [plural(counts.tokens, answer.kept.length ? "new token" : "token")];
    if (counts.perSecond && answer.status !== "waiting") facts.push(`${counts.perSecond.toFixed(0)} tokens/s`);
    if (counts.fired || method.trigger) facts.push(`${percent(counts.triggerRate ?? 0)} triggered`, plural(counts.flips, "flip"));
    if (counts.failures) facts.push(plural(counts.failures, "LLM failure"));
    if (answer.counts) {
      const { slm_forwards: slm, llm_forwards: llm } = answer.counts;
      facts.push(llm ? `LLM share ${percent(counts.llmShare ?? 0)}` : "no LLM");
      facts.push([slm && plural(slm, "forward"), llm && plural(llm, "LLM forward")].filter(Boolean).join(" + "));
    }
    const reused = answer.usage?.prompt_tokens_details?.cached_tokens;
    if (reused) facts.push(`${plural(reused, "token")} reused`);
    return facts.join(" · ");
  }

  showFinal() {
    const { answer, expected } = this;
    const parts = [];
    if (answer.status === "failed") parts.push(make("span", { class: "error", text: answer.error.message }));
    if (answer.status === "stopped") parts.push(make("span", { class: "quiet", text: "Stopped." }));
    if (answer.finish === "length") parts.push(make("span", { class: "quiet", text: "Cut off at the longest answer." }));
    if (answer.final !== null) {
      parts.push("Final answer ", make("strong", { text: answer.final }));
      if (expected !== null) parts.push(verdict(answer.final, expected));
    }
    if (answer.votes?.length) parts.push(make("span", { class: "quiet", text: ` Votes: ${answer.votes.join(", ")}` }));
    this.final.replaceChildren(...parts);
  }

  showButtons() {
    const { answer, turn, actions } = this;
    const button = (text, title, onclick) => make("button", { type: "button", class: "plain-button", text, title, onclick });
    const name = `answer-${answer.number}`;
    const found = [button("Trace", "Download this answer with every step", () => download(`${name}-trace.json`, this.trace()))];
    const origin = answer.origin?.answer;
    if (origin && answer.origin.choice) {
      const pair = (chosen, rejected) => () => download(`${name}-pair.json`, preferencePair(turn, chosen, rejected));
      found.push(button("Prefer this", "Download the pair with this ending as the chosen one", pair(answer, origin)));
      found.push(button("Prefer the other", "Download the pair with the first ending as the chosen one", pair(origin, answer)));
    }
    if (answer.status === "failed") found.push(button("Try again", "Ask again", actions.retry));
    found.push(button("Remove", "Take this answer, and what branches from it, off the page", actions.remove));
    this.buttons.replaceChildren(...found);
  }

  trace() {
    const { settings, kept, steps, counts, threshold, trigger, usage, final, finish } = this.answer;
    return { prompt: this.turn.question, answer: answerText(this.answer), final, finish_reason: finish, settings, threshold, trigger, counts, usage, kept, steps };
  }
}

function verdict(final, expected) {
  const right = final.trim().toLowerCase() === expected.trim().toLowerCase();
  return make("span", { class: right ? "right" : "wrong", text: right ? " ✓" : ` ✗ expected ${expected}` });
}
