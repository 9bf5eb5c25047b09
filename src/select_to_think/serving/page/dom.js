// Elements and numbers. Text only ever becomes text: nothing here, or anywhere on the page, parses markup.

export function make(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "text") node.textContent = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...present(children));
  return node;
}

// Children that may be missing: null, undefined or false stand for none.
export function present(children) {
  return children.filter((child) => child !== null && child !== undefined && child !== false);
}

export function button(content, onclick, properties = {}) {
  return make("button", { type: "button", onclick, ...properties }, content);
}

export const byId = (id) => document.getElementById(id);

export const END = "∎";

export function visible(text) {
  return text.replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥") || END;
}

// A step that adds no text is the end of the answer, or a part of a character or of a text that is not shown.
export const PART = "·";
export const signOf = (step) => (step.text_added || !step.text ? trimmed(step.text_added) : PART);

// A token as one reads it: without its blanks, unless it is nothing else.
export const trimmed = (text) => text.trim() || visible(text);

export function quoted(text) {
  return text === "" ? "the end of the answer" : `“${trimmed(text)}”`;
}

export function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const small = size > 0 && size < 10 ** -digits;
  const text = !small ? value.toFixed(digits) : size < 1e-6 ? value.toExponential(1) : value.toPrecision(2);
  return text.replace(/-/g, "−");
}

export function percent(share) {
  return share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
}

export function plural(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

export function download(name, content) {
  const url = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
