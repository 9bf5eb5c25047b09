// The API as the page uses it: the same public routes as any other client.

const KEY = "s2t-api-key";

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export function setKey(key) {
  sessionStorage.setItem(KEY, key.trim());
}

async function request(path, options = {}) {
  const key = sessionStorage.getItem(KEY) ?? "";
  if (/[^\x21-\x7e]/.test(key)) throw new ApiError("The API key holds a character that no key has: enter it again.", 401);
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer. Is it still running?", 0);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new ApiError(body?.error?.message ?? `The server answered ${response.status}.`, response.status);
}

export async function getJson(path) {
  return (await request(path)).json();
}

function postJson(path, body, signal) {
  return request(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });
}

export async function detokenize(tokens) {
  return (await (await postJson("detokenize", { tokens })).json()).prompt;
}

// The methods that this server can decode with, by name: what `/v1/models` says of each, and the id to ask for.
export async function loadMethods() {
  const { data } = await getJson("v1/models");
  const served = data.filter((model) => model.s2t && model.id.endsWith(`:${model.s2t.method}`));
  return new Map(served.map((model) => [model.s2t.method, { ...model.s2t, id: model.id }]));
}

// Yields the chunks of a streamed chat completion. Throws an ApiError, or an AbortError once `signal` says so.
export async function* streamChat(body, signal) {
  const streamed = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await postJson("v1/chat/completions", streamed, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch(broken);
      if (done) broken();
      const events = (waiting + value.replace(/\r/g, "")).split("\n\n");
      waiting = events.pop();
      for (const event of events) {
        if (!event.startsWith("data:")) continue; // a comment that keeps the connection open
        const data = event.slice("data:".length).trim();
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new ApiError(chunk.error.message, response.status);
        yield chunk;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function broken(error) {
  if (error?.name === "AbortError") throw error;
  throw new ApiError("The connection broke before the answer was finished.", 0);
}
