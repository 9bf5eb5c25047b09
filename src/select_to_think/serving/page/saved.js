// Conversations outside the page. An address holds what was asked and chosen, to be asked again; a file holds every trace.

const PLAIN = "ask="; // base64url of JSON
const SQUEEZED = "askz="; // of deflated JSON
const LONGEST_PLAIN = 300; // characters of JSON
const FORMAT = "s2t-playground/1";
const LONGEST_ADDRESS = 50_000; // characters; whoever made the address decides what it asks of the server,
const MOST_ANSWERS = 50; // so that there is an end to it

// What it takes to ask a conversation again: questions, settings, and the choices made by hand.
export function recipe(lanes, turns) {
  return {
    lanes,
    turns: turns.map(({ question, answers }) => ({
      question,
      answers: answers.map(({ number, lane, settings, origin }) => ({
        number, lane, settings, origin: origin && { number: origin.answer.number, at: origin.at, choice: origin.choice },
      })),
    })),
  };
}

export function file(lanes, turns) {
  const plain = recipe(lanes, turns);
  plain.turns.forEach((turn, t) => turn.answers.forEach((answer, a) => {
    const { lane, settings, origin, number, ...results } = turns[t].answers[a];
    Object.assign(answer, results, { error: results.error?.message ?? null });
  }));
  return { format: FORMAT, ...plain };
}

// The address of a recipe, or null for one that is too long to be read again.
export async function toHash(content) {
  const json = JSON.stringify(content);
  const bytes = new TextEncoder().encode(json);
  const text = json.length <= LONGEST_PLAIN
    ? PLAIN + base64(bytes)
    : SQUEEZED + base64(await through(new CompressionStream("deflate-raw"), bytes));
  return isLong(content, text) ? null : text;
}

const isLong = ({ turns }, text) =>
  text.length > LONGEST_ADDRESS || turns.flatMap((turn) => turn.answers).length > MOST_ANSWERS;

// The recipe in an address, or null where there is none. Throws an Error where it cannot be read.
export async function fromHash(hash) {
  const text = hash.replace(/^#/, "");
  const squeezed = text.startsWith(SQUEEZED);
  if (!squeezed && !text.startsWith(PLAIN)) return null;
  try {
    if (text.length > LONGEST_ADDRESS) throw new Error();
    let bytes = bytesOf(text.slice((squeezed ? SQUEEZED : PLAIN).length));
    if (squeezed) bytes = await through(new DecompressionStream("deflate-raw"), bytes);
    const content = checked(JSON.parse(new TextDecoder().decode(bytes)));
    if (isLong(content, text)) throw new Error();
    return content;
  } catch {
    throw new Error("The address holds no conversation that can be read: it was cut off, changed, or is too long.");
  }
}

// The turns of a saved conversation. Throws an Error for any other file.
export function fromFile(text) {
  let content;
  try {
    content = JSON.parse(text);
    if (content.format !== FORMAT) throw new Error();
    checked(content).turns.forEach(({ answers }) => answers.forEach(checkTrace));
  } catch {
    throw new Error("This file holds no conversation of this page.");
  }
  const turns = [];
  for (const { question, answers } of content.turns) {
    for (const answer of answers) {
      const { origin } = answer;
      if (["streaming", "waiting"].includes(answer.status)) answer.status = "stopped"; // it was saved while written
      if (origin) answer.origin = { ...origin, answer: answers.find((other) => other.number === origin.number) };
      if (answer.error) answer.error = new Error(answer.error);
    }
    turns.push({ question, answers, history: [...turns] });
  }
  return { lanes: content.lanes, turns };
}

function checked(content) {
  const good = Array.isArray(content.lanes) && content.lanes.length >= 1 && content.lanes.length <= 2
    && content.lanes.every(isSettings) && Array.isArray(content.turns) && content.turns.every(isTurn);
  if (!good) throw new Error();
  return content;
}

const isSettings = (settings) => typeof settings?.method === "string" && Number.isInteger(settings.seed);

function isTurn({ question, answers }) {
  const numbers = new Set();
  return typeof question === "string" && Array.isArray(answers) && answers.every(({ number, settings, origin }) => {
    const known = origin === null || (numbers.has(origin.number) && Number.isInteger(origin.at));
    numbers.add(number);
    return Number.isInteger(number) && isSettings(settings) && known
      && (!origin?.choice || (Number.isInteger(origin.choice.id) && typeof origin.choice.text === "string"));
  });
}

function checkTrace({ kept, steps, status, final, threshold, counts }) {
  const good = typeof status === "string" && [...kept, ...steps].every(isStep) && isNumber(threshold)
    && (final === null || typeof final === "string") && (counts === null || Object.values(counts).every(isNumber));
  if (!good) throw new Error();
}

const isNumber = (value) => value === null || value === undefined || typeof value === "number";

function isStep({ token, text, text_added: added, statistic, candidates, alternatives }) {
  return Number.isInteger(token) && typeof text === "string" && typeof added === "string" && isNumber(statistic)
    && [candidates, alternatives].every((options) => Array.isArray(options) && options.every(isOption));
}

function isOption({ id, text, logprob, score }) {
  return Number.isInteger(id) && typeof text === "string" && isNumber(logprob) && isNumber(score);
}

async function through(stream, bytes) {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
}

function base64(bytes) {
  const characters = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  return btoa(characters).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

function bytesOf(text) {
  return Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (character) => character.charCodeAt(0));
}
