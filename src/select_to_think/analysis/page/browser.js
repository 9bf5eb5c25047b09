// The worked example and the item browser.

const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 40;
const OPEN_STEPS = 8; // of the worked example: more are folded

function entryLabel(index) {
  const entry = data.entries[index];
  const runs = new Set(data.entries.map((other) => other.run));
  return runs.size > 1 ? `${entry.name} · ${entry.run}` : entry.name;
}

function changeOf(item, index) {
  const before = item.answers[data.entries[index].against];
  const after = item.answers[index];
  if (!before || !after || before.right === after.right) return null;
  return after.right ? "fixed" : "broken";
}

const OUTCOMES = {
  any: () => true,
  right: (item, index) => item.answers[index].right,
  wrong: (item, index) => !item.answers[index].right,
  fixed: (item, index) => changeOf(item, index) === "fixed",
  broken: (item, index) => changeOf(item, index) === "broken",
  flip: (item, index) => item.answers[index].flips > 0,
  cut: (item, index) => item.answers[index].finish === "length",
};

function matching(filters) {
  const words = filters.search.trim().toLowerCase();
  return data.items.filter((item) =>
    item.answers[filters.entry] !== undefined
    && (filters.domain === "" || item.domain === filters.domain)
    && OUTCOMES[filters.outcome](item, filters.entry)
    && (words === "" || `${item.id}\n${item.subject ?? ""}\n${item.question}`.toLowerCase().includes(words)));
}

function itemNode(item, index, open) {
  const { against, baseline } = data.entries[index];
  const shown = against !== index && item.answers[against] ? [against, index] : [index];
  const change = { fixed: `Wrong under ${baseline}, right here.`, broken: `Right under ${baseline}, wrong here.` }[changeOf(item, index)];
  return make("div", { class: "item" },
    make("p", { class: "question", dir: "auto", text: item.question }),
    make("p", { class: "gold" }, "Right answer: ", make("code", { text: item.gold }), change ? ` · ${change}` : ""),
    make("div", { class: "answers" }, ...shown.map((entry) => answerNode(item.answers[entry], entryLabel(entry)))),
    item.answers[index].steps.length ? stepList(item.answers[index], open) : null);
}

function itemTitle(item) {
  return [item.domain, item.subject, item.id].filter(Boolean).join(" · ");
}

function showExample() {
  const place = document.getElementById("example-body");
  if (!place || !data.example) return;
  const item = data.items[data.example.item];
  place.replaceChildren(make("p", { class: "item-id", text: itemTitle(item) }), itemNode(item, data.example.entry, item.answers[data.example.entry].steps.length <= OPEN_STEPS));
}

function startBrowser(form) {
  const state = { shown: PAGE, item: null, found: [] };
  const list = document.getElementById("item-list");
  const detail = document.getElementById("item-detail");
  const status = document.getElementById("item-status");
  const filters = () => ({
    entry: Number(form.elements.entry.value), domain: form.elements.domain.value,
    outcome: form.elements.outcome.value, search: form.elements.search.value,
  });

  function listEntry(item) {
    const { entry } = filters();
    const answer = item.answers[entry];
    const tags = [changeOf(item, entry), answer.flips ? plural(answer.flips, "flip") : null]
      .filter(Boolean).join(" · ");
    const button = make("button", { type: "button", class: "pick", "aria-pressed": String(item === state.item), onclick: () => choose(item, true) },
      make("span", { class: answer.right ? "sign right" : "sign wrong", text: answer.right ? "✓" : "✗", "aria-hidden": "true" }),
      make("span", { class: "pick-text" },
        make("span", { class: "item-id", dir: "auto", text: `${item.id} · ${answer.right ? "right" : "wrong"}${tags ? ` · ${tags}` : ""}` }),
        make("span", { class: "snippet", text: item.question.slice(0, 120) })));
    button.item = item;
    return make("li", {}, button);
  }

  function methodChips(item) {
    const { entry } = filters();
    return make("div", { class: "chips", role: "group", "aria-label": "This item under every method" },
      ...data.entries.map((_, index) => item.answers[index] === undefined ? null : make("button", {
        type: "button", class: `chip ${item.answers[index].right ? "right" : "wrong"}`, "aria-pressed": String(index === entry),
        text: `${item.answers[index].right ? "✓" : "✗"} ${entryLabel(index)}`,
        "aria-label": `${entryLabel(index)}: ${item.answers[index].right ? "right" : "wrong"}`,
        onclick: () => {
          form.elements.entry.value = String(index);
          update(item);
          detail.querySelector('.chip[aria-pressed="true"]').focus();
        },
      })));
  }

  function choose(item, byHand) {
    hidePop();
    state.item = item;
    for (const button of list.querySelectorAll(".pick")) button.setAttribute("aria-pressed", String(button.item === item));
    if (!item) {
      detail.replaceChildren(make("p", { class: "muted", text: "No item matches these filters." }));
      return;
    }
    detail.replaceChildren(make("h3", { text: itemTitle(item), tabindex: "-1" }), methodChips(item), itemNode(item, filters().entry, false));
    if (byHand && window.matchMedia("(max-width: 56rem)").matches) {
      detail.scrollIntoView({ block: "start" });
      detail.querySelector("h3").focus({ preventScroll: true });
    }
  }

  function drawList() {
    list.replaceChildren(...state.found.slice(0, state.shown).map(listEntry));
    if (state.found.length > state.shown) {
      list.append(make("li", {}, make("button", {
        type: "button", class: "more", text: `Show ${Math.min(PAGE, state.found.length - state.shown)} more`,
        onclick: () => {
          const first = state.shown;
          state.shown += PAGE;
          drawList();
          list.children[first].firstChild.focus();
        },
      })));
    }
  }

  // `kept` stays open although the filters may not match it: the reader compares methods on one item.
  function update(kept) {
    const current = filters();
    state.found = matching(current);
    state.shown = PAGE;
    const changes = data.entries[current.entry].changes;
    const whole = changes ? ` In the whole run ${entryLabel(current.entry)} fixed ${changes.fixed} and broke ${changes.broken} items against ${data.entries[current.entry].baseline}.` : "";
    status.textContent = `${state.found.length} of ${data.items.length} items on this page match.${whole}`;
    drawList();
    choose(kept ?? state.found[0] ?? null, false);
  }

  form.addEventListener("input", () => update());
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => update()));
  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const row = event.target.closest("li");
    const next = step > 0 ? row?.nextElementSibling : row?.previousElementSibling;
    if (!step || !next) return;
    event.preventDefault();
    next.firstChild.focus();
  });
  update();
}

// Paper shows what a click would show: details open, and only while printing.
function openForPrint() {
  for (const node of document.querySelectorAll("#example details:not([open]), #provenance details:not([open])")) {
    node.open = true;
    node.dataset.opened = "";
  }
  hidePop();
}

function closeAfterPrint() {
  for (const node of document.querySelectorAll("details[data-opened]")) {
    node.open = false;
    delete node.dataset.opened;
  }
}

showExample();
const form = document.getElementById("filters");
if (form) startBrowser(form);
window.addEventListener("beforeprint", openForPrint);
window.addEventListener("afterprint", closeAfterPrint);
