// An answer with its triggered tokens marked, and the card that shows a step's candidates.
// Only textContent and createElement are used: nothing from the data is ever parsed as markup.

const MARKS = { g: "greedy", c: "chosen", l: "LLM top-1" };
const CHOOSERS = { slm: "the small model", llm: "the LLM", scorer: "the scorer (small model)" };

function make(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "text") node.textContent = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

function visible(text) {
  return text.replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥") || "(nothing)";
}

function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

function number(value, digits) {
  return value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−");
}

function stepTitle(step) {
  const kind = step.flip ? "Flip" : "Triggered, greedy kept";
  return `${kind} at token ${step.index + 1}: ${visible(step.text)}`;
}

function candidateTable(step) {
  const head = make("tr", {}, ...["Candidate", "p (SLM)", "log p", "Score", ""].map((title, column) =>
    make("th", { text: title, scope: "col", class: column && column < 4 ? "num" : null })));
  const rows = step.candidates.map(([text, logprob, score, marks]) => {
    const share = logprob === null ? 0 : Math.exp(logprob);
    const meter = make("span", { class: "meter" }, make("i"));
    meter.firstChild.style.width = `${(100 * share).toFixed(1)}%`;
    return make("tr", { class: marks.includes("c") ? "chosen" : null },
      make("th", { scope: "row" }, make("code", { text: visible(text) })),
      make("td", { class: "num" }, meter, make("span", { class: "share", text: logprob === null ? "–" : `${(100 * share).toFixed(1)} %` })),
      make("td", { class: "num", text: number(logprob, 2) }),
      make("td", { class: "num", text: number(score, 3) }),
      make("td", { text: [...marks].map((mark) => MARKS[mark]).join(", ") }));
  });
  return make("table", { class: "candidates" }, make("thead", {}, head), make("tbody", {}, ...rows));
}

function stepCard(step) {
  const facts = [`Chosen by ${CHOOSERS[step.chooser] ?? step.chooser ?? "an unknown chooser"}`];
  if (step.statistic !== null && step.statistic !== undefined) facts.push(`trigger statistic ${number(step.statistic, 3)}`);
  for (const role of step.outside) facts.push(`${MARKS[role]} token not among the candidates`);
  return make("div", { class: "card" },
    make("p", { class: "card-title", text: stepTitle(step) }),
    step.candidates.length ? candidateTable(step) : null,
    make("p", { class: "card-facts", text: `${facts.join("; ")}.` }));
}

function tokenButton(step, label) {
  const button = make("button", {
    type: "button", class: `tok ${step.flip ? "flip" : "kept"}`, "aria-label": stepTitle(step), text: label,
  });
  button.step = step;
  return button;
}

// Offsets count code points (as Python does), not UTF-16 units.
function answerText(answer) {
  const points = Array.from(answer.text);
  const box = make("div", { class: "answer-text", dir: "auto" });
  let at = 0;
  const placed = answer.steps.filter((step) => step.start !== null && step.start !== undefined && step.start <= points.length);
  for (const step of placed) {
    const start = Math.max(step.start, at);
    const end = Math.max(Math.min(step.end, points.length), start);
    box.append(points.slice(at, start).join(""));
    const label = points.slice(start, end).join("");
    const core = label.trimStart();
    if (core) box.append(label.slice(0, label.length - core.length), tokenButton(step, core));
    else box.append(tokenButton(step, visible(label || "∎")), label);
    at = end;
  }
  box.append(points.slice(at).join(""));
  if (answer.cut) box.append(make("span", { class: "cut", text: ` … ${answer.cut} more characters are in the records file` }));
  return box;
}

function verdict(right) {
  return make("span", { class: right ? "verdict right" : "verdict wrong", text: right ? "✓ right" : "✗ wrong" });
}

function answerNode(answer, method) {
  const facts = [`${answer.tokens} tokens`, `${answer.fired} triggered`, plural(answer.flips, "flip")];
  if (answer.finish === "length") facts.push("cut off at the token limit");
  if (answer.finish === "prompt_too_long") facts.push("not asked: the prompt does not fit the context");
  const node = make("article", { class: "answer", "aria-label": `Answer of ${method}` },
    make("h4", {}, make("span", { class: "method", text: method }), " ", verdict(answer.right)),
    answerText(answer),
    make("p", { class: "answer-facts", text: facts.join(" · ") }),
    make("p", { class: "answer-facts" }, "Extracted: ", make("code", { text: answer.extracted ?? "nothing" }),
      answer.rule ? ` (rule ${answer.rule})` : ""));
  if (answer.votes.length) node.append(make("p", { class: "answer-facts", text: `Votes: ${answer.votes.join(", ")}` }));
  return node;
}

function stepList(answer, open) {
  const more = answer.fired > answer.steps.length ? ` (the first ${answer.steps.length} of ${answer.fired})` : "";
  return make("details", { class: "steps", open },
    make("summary", { text: `Triggered steps as a list${more}` }),
    make("ol", {}, ...answer.steps.map((step) => make("li", {}, stepCard(step)))));
}

const pop = document.getElementById("pop");
let popOwner = null;
let popTimer = 0;

function placePop(owner) {
  if (window.matchMedia("(max-width: 40rem)").matches) {
    pop.style.left = pop.style.top = "";
    return;
  }
  const box = owner.getBoundingClientRect();
  const size = pop.getBoundingClientRect();
  const left = Math.min(Math.max(8, box.left), document.documentElement.clientWidth - size.width - 8);
  const below = box.bottom + 6 + size.height < window.innerHeight || box.top < size.height + 6;
  pop.style.left = `${left + window.scrollX}px`;
  pop.style.top = `${(below ? box.bottom + 6 : box.top - size.height - 6) + window.scrollY}px`;
}

function showPop(owner) {
  clearTimeout(popTimer);
  if (popOwner === owner) return;
  hidePop();
  popOwner = owner;
  pop.replaceChildren(owner.step ? stepCard(owner.step) : make("p", { text: owner.dataset.tip }));
  pop.hidden = false;
  if (owner.step) owner.setAttribute("aria-describedby", "pop");
  owner.classList.add("open");
  placePop(owner);
}

function hidePop() {
  clearTimeout(popTimer);
  if (popOwner) {
    popOwner.removeAttribute("aria-describedby");
    popOwner.classList.remove("open");
  }
  popOwner = null;
  pop.hidden = true;
}

function popSource(event) {
  return event.target instanceof Element ? event.target.closest("button.tok, [data-tip]") : null;
}

function moveBetweenTokens(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const token = event.target instanceof Element ? event.target.closest(".tok") : null;
  if (!step || !token) return;
  const all = [...token.closest(".answer-text").querySelectorAll(".tok")];
  const next = all[all.indexOf(token) + step];
  if (next) {
    event.preventDefault();
    next.focus();
  }
}

for (const kind of ["pointerover", "focusin", "click"]) {
  document.addEventListener(kind, (event) => {
    const source = popSource(event);
    if (source) showPop(source);
    else if (kind === "click" && !pop.contains(event.target)) hidePop();
    else if (pop.contains(event.target)) clearTimeout(popTimer);
  });
}
for (const kind of ["pointerout", "focusout"]) {
  document.addEventListener(kind, (event) => {
    if (!popSource(event) && !pop.contains(event.target)) return;
    clearTimeout(popTimer);
    popTimer = setTimeout(() => { if (!popOwner || popOwner !== document.activeElement) hidePop(); }, 150);
  });
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") hidePop();
  moveBetweenTokens(event);
});
window.addEventListener("resize", hidePop);
