// One card for each answer: what it is, its tokens, how it ended, what it cost.

import { answerText, asked, counters, preferencePair } from "./conversation.js";
import { button, download, make, percent, plural, quoted } from "./dom.js";
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
    const label = `Answer ${answer.number}: ${this.title()}`;
    this.node = make("article", { class: answer.origin ? "card branch" : "card", "aria-label": label },
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
    const { origin, settings: { method, trigger, budget, candidates } } = this.answer;
    if (origin) return `${method} from token ${origin.at + 1} of answer ${origin.answer.number}`;
    return trigger ? `${trigger} ${+(100 * budget).toFixed(2)} % · K ${candidates}` : "";
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
      parts.push("Final answer ", make("strong", { text: answer.final, dir: "auto" }));
      if (expected !== null) parts.push(verdict(answer.final, expected));
    }
    if (answer.votes?.length) parts.push(make("span", { class: "quiet", text: ` Votes: ${answer.votes.join(", ")}` }));
    this.final.replaceChildren(...parts);
  }

  showButtons() {
    const { answer, turn, actions } = this;
    const plain = (text, title, onclick) => button(text, onclick, { class: "plain-button", title });
    const name = `answer-${answer.number}`;
    const found = [plain("Trace", "Download this answer with every step", () => download(`${name}-trace.json`, this.trace()))];
    const origin = answer.origin?.answer;
    if (origin && answer.origin.choice) {
      const pair = (chosen, rejected) => () => download(`${name}-pair.json`, preferencePair(turn, chosen, rejected));
      found.push(plain("Prefer this", "Download the pair with this ending as the chosen one", pair(answer, origin)));
      found.push(plain("Prefer the other", "Download the pair with the first ending as the chosen one", pair(origin, answer)));
    }
    if (answer.status === "failed") found.push(plain("Try again", "Ask again", actions.retry));
    found.push(plain("Remove", "Take this answer, and what branches from it, off the page", actions.remove));
    this.buttons.replaceChildren(...found);
  }

  trace() {
    const { finish: finish_reason, final, settings, trigger, threshold, counts, usage, kept, steps } = this.answer;
    const answer = answerText(this.answer);
    const before = { prompt: this.turn.question, messages: asked(this.turn, this.answer) };
    return { ...before, answer, final, finish_reason, settings, trigger, threshold, counts, usage, kept, steps };
  }
}

function verdict(final, expected) {
  const right = final.trim().toLowerCase() === expected.trim().toLowerCase();
  return make("span", { class: right ? "right" : "wrong", text: right ? " ✓" : ` ✗ expected ${expected}` });
}
