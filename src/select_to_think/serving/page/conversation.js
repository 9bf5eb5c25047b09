// What was asked and answered: turns hold a question and its answers, and an answer may begin as another one did.
//
// An answer: {number, settings, origin, kept, steps, status ...}. `kept` are the steps that it took over from the answer
// `origin.answer` up to token `origin.at`, the last of them chosen by hand unless the origin was only rewound.

import { ApiError, detokenize, streamChat } from "./client.js";

const MOST_ALTERNATIVES = 20;

export function newTurn(question, history) {
  return { question, history, answers: [] };
}

export function newAnswer(turn, lane, settings) {
  return addAnswer(turn, { lane, settings, origin: null, kept: [] });
}

// An answer that goes on from token `at` of another one: behind `choice`, or (without one) written anew from there.
export async function branch(turn, answer, at, choice, settings) {
  const kept = allSteps(answer).slice(0, at);
  if (choice) {
    const text = choice.text && await addedText(kept, choice.id);
    kept.push({ ...allSteps(answer)[at], token: choice.id, text_added: text, text, mine: true });
  }
  return addAnswer(turn, { lane: answer.lane, settings, origin: { answer, at, choice }, kept, asked: answer.asked });
}

// What a token adds behind others; by itself it may be written in another way. A part of a character adds nothing yet.
async function addedText(steps, token) {
  const ids = steps.map((step) => step.token);
  const [before, after] = await Promise.all([ids, [...ids, token]].map(wholeText));
  return after.slice(before.length);
}

const wholeText = async (tokens) => (tokens.length ? (await detokenize(tokens)).replace(/\uFFFD+$/, "") : "");

function addAnswer(turn, answer) {
  const number = 1 + Math.max(0, ...turn.answers.map((other) => other.number));
  const whole = { number, asked: null, ...unwritten(), ...answer };
  const place = answer.origin ? lastOfFamily(turn, answer.origin.answer) + 1 : turn.answers.length;
  turn.answers.splice(place, 0, whole);
  return whole;
}

// What an answer is before it is asked for.
export function unwritten() {
  return { steps: [], status: "waiting", error: null, final: null, finish: null, counts: null, threshold: null,
    trigger: null, votes: null, usage: null, seconds: 0 };
}

const descends = (answer, from) => answer === from || (answer.origin && descends(answer.origin.answer, from));

// A branch stands behind its origin and the earlier branches of that.
function lastOfFamily(turn, origin) {
  return turn.answers.findLastIndex((answer) => descends(answer, origin));
}

// Removes an answer and what branches from it.
export function removeAnswer(turn, answer) {
  turn.answers = turn.answers.filter((other) => !descends(other, answer));
}

export const allSteps = (answer) => [...answer.kept, ...answer.steps];
export const textOf = (steps) => steps.map((step) => step.text_added).join("");
export const answerText = (answer) => textOf(allSteps(answer));

// What was said before goes along where the model knows conversations.
function messages(turn, { lane, settings }) {
  const before = (settings.remembers ? turn.history : []).flatMap((earlier) => {
    const written = earlier.answers.filter((other) => !other.origin && answerText(other));
    const answer = written.find((other) => other.lane === lane) ?? written[0];
    return answer ? [["user", earlier.question], ["assistant", answerText(answer)]] : [];
  });
  return [...before, ["user", turn.question]].map(([role, content]) => ({ role, content }));
}

// What an answer was asked with, or would be.
export const asked = (turn, answer) => answer.asked ?? messages(turn, answer);

function requestBody(turn, answer) {
  const { method, id, trigger, budget, candidates, consultRate, maxTokens, seed } = answer.settings;
  const s2t = { method, trace: true, alternatives: Math.min(MOST_ALTERNATIVES, Math.max(8, candidates ?? 0)) };
  if (trigger) Object.assign(s2t, { trigger, trigger_budget: budget, candidates });
  if (consultRate !== undefined) s2t.consult_rate = consultRate;
  if (answer.kept.length) s2t.answer_tokens = answer.kept.map((step) => step.token);
  answer.asked ??= messages(turn, answer);
  return { model: id, messages: answer.asked, max_completion_tokens: maxTokens, seed, s2t };
}

// Streams the answer into itself; `changed` is called after every chunk. Failures end up in `answer.error`.
export async function run(turn, answer, signal, changed) {
  const start = performance.now();
  answer.status = "streaming";
  try {
    for await (const chunk of streamChat(requestBody(turn, answer), signal)) {
      take(answer, chunk);
      answer.seconds = (performance.now() - start) / 1000;
      changed();
    }
    answer.status = "done";
  } catch (error) {
    if (error instanceof ApiError) Object.assign(answer, { status: "failed", error });
    else if (error.name === "AbortError") answer.status = "stopped";
    else throw error;
  }
  changed();
}

function take(answer, chunk) {
  if (chunk.usage) answer.usage = chunk.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const { steps = [], answer: final, ...facts } = choice.s2t ?? {};
  answer.steps.push(...steps);
  for (const name of ["counts", "threshold", "trigger", "votes"]) if (name in facts) answer[name] = facts[name];
  if (final !== undefined) answer.final = final;
  if (choice.finish_reason) answer.finish = choice.finish_reason;
}

// Counters of an answer, live; costs come with the last chunk. They are of the new tokens, not of those taken over.
export function counters(answer) {
  const tokens = answer.steps.length;
  const fired = answer.steps.filter((step) => step.fired).length;
  return {
    tokens,
    fired,
    flips: answer.steps.filter((step) => step.flip).length,
    perSecond: answer.seconds ? tokens / answer.seconds : null,
    triggerRate: tokens ? fired / tokens : null,
    llmShare: answer.counts && tokens ? answer.counts.llm_tokens_generated / tokens : null,
    failures: answer.steps.filter((step) => step.llm_failed).length,
  };
}

// A preference pair: which of the two endings is better is for a person to say.
export function preferencePair(turn, chosen, rejected) {
  const younger = chosen.origin?.answer === rejected ? chosen : rejected;
  return {
    prompt: turn.question,
    messages: asked(turn, younger),
    chosen: answerText(chosen),
    rejected: answerText(rejected),
    shared: textOf(younger.kept.slice(0, younger.origin.at)),
    token: younger.origin.at,
    chosen_tokens: allSteps(chosen).map((step) => step.token),
    rejected_tokens: allSteps(rejected).map((step) => step.token),
    chosen_final: chosen.final,
    rejected_final: rejected.final,
    settings: younger.settings,
  };
}
