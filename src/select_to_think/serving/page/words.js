// What happened at a token, in plain sentences.

import { number, percent, plural, quoted } from "./dom.js";

const STATISTICS = {
  entropy: ["The entropy of the SLM’s next-token distribution", " nats"],
  margin: ["The closeness of the SLM’s two best tokens (1 − (p₁ − p₂))", ""],
  kl: ["The divergence of the SLM’s distribution from the LLM’s", " nats"],
  learned: ["The learned trigger’s logit", ""],
  random: ["The coin", ""],
};
const CHOOSERS = { llm: "The LLM", scorer: "The scorer (the SLM itself, with an adapter)", slm: "The SLM" };

// `plain`: nothing was asked. `kept`: asked, and the SLM's first choice stands. Segments of MentorCollab are two more.
export function decision(step, method) {
  if (step.mine) return "yours";
  if (step.llm_failed) return "failed";
  if (!step.fired) return "plain";
  if (method.mentor) return "disputed";
  return step.flip ? "flip" : "kept";
}

export const KINDS = {
  plain: "not asked",
  kept: "asked, and kept",
  flip: "flip",
  disputed: "disputed segment",
  failed: "the LLM failed",
  yours: "your choice",
};

export function greedyText(step) {
  return [...step.candidates, ...step.alternatives].find((option) => option.id === step.greedy)?.text ?? null;
}

export function explain(step, answer, method) {
  if (step.mine) return ["You chose this token. What follows was written behind it."];
  const sentences = step.llm_failed ? ["The LLM did not answer here, so the SLM went on alone."] : [];
  if (method.mentor) return [...sentences, mentorSentence(step)];
  if (!method.trigger) return [...sentences, `${method.method} has no trigger: ${method.help}.`];
  sentences.push(triggerSentence(step, answer));
  if (step.fired) sentences.push(choiceSentence(step));
  return sentences;
}

function triggerSentence(step, answer) {
  const trigger = answer.trigger ?? answer.settings.trigger;
  const [what, unit] = STATISTICS[trigger] ?? [`The statistic of the trigger ${trigger}`, ""];
  const verdict = step.fired ? "The trigger fired." : "No trigger here.";
  if (step.statistic === null) return `${verdict} Its statistic was not computed at this token.`;
  const value = `${what} was ${number(step.statistic)}${unit}`;
  if (answer.threshold === null) {
    const missing = answer.status === "streaming" ? "the threshold comes with the end of the answer" : "there is no finite threshold";
    return `${verdict} ${value}; ${missing}.`;
  }
  const threshold = `the threshold of ${number(answer.threshold)} (for a budget of ${percent(answer.settings.budget)})`;
  return step.fired
    ? `${verdict} ${value}, above ${threshold}.`
    : `${verdict} ${value}, not above ${threshold}, so the SLM’s most probable token stands.`;
}

function choiceSentence(step) {
  const who = CHOOSERS[step.chooser] ?? step.chooser;
  const greedy = greedyText(step);
  const refused = greedy === null ? "another token" : quoted(greedy);
  const chosen = quoted(step.text);
  const first = `the SLM’s first ${step.candidates.length}`;
  if (step.choice === null) return `${who} wrote ${chosen}, which is not among ${first}.`;
  if (!step.flip) return `${who} compared ${first} and kept the most probable, ${chosen}.`;
  return `${who} compared ${first} and took ${chosen}; alone, the SLM would have written ${refused}.`;
}

function mentorSentence(step) {
  if (!step.fired) {
    return step.chooser === "llm"
      ? "Part of a segment that the LLM wrote as mentor."
      : "The LLM was not asked here, or agreed: it is asked at words drawn by chance.";
  }
  const winner = step.chooser === "llm" ? "the LLM’s segment was taken" : "the SLM’s own segment was kept";
  return `The LLM, asked as mentor, wrote another word than the SLM. Both wrote on; the verifier judged, and ${winner}.`;
}

// One line for a screen reader when an answer ends.
export function summary(answer, counts) {
  const name = answer.settings.method;
  if (answer.status === "failed") return `${name}: ${answer.error.message}`;
  const ending = answer.status === "stopped" ? "was stopped" : "has answered";
  const final = answer.final === null ? "" : ` Final answer: ${answer.final}.`;
  return `${name} ${ending} with ${plural(counts.tokens, "token")}, ${plural(counts.flips, "flip")}.${final}`;
}
