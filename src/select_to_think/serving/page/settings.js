// The form below the question: one line of settings for each method that answers.

import { byId, make } from "./dom.js";

export class SettingsForm {
  // `remembers`: whether earlier turns go along, where the model knows conversations.
  constructor(methods, { remembers }) {
    this.methods = methods;
    this.remembers = remembers;
    this.lanes = [];
    byId("compare").addEventListener("click", () => {
      const lanes = this.read();
      this.setLanes(lanes.length === 1 ? [...lanes, this.rival()] : lanes.slice(0, 1));
    });
    byId("composer").addEventListener("invalid", () => { byId("settings").open = true; }, true);
    this.setLanes([{ method: this.favourite() }]);
  }

  favourite() {
    const all = [...this.methods.values()];
    return (all.find((method) => method.default) ?? all[0]).method;
  }

  // What to compare with: greedy decoding, unless that is the first already.
  rival() {
    const other = [...this.methods.keys()].filter((name) => name !== this.lanes[0].method.value);
    return { method: other.includes("greedy") ? "greedy" : other[0] ?? this.favourite() };
  }

  setLanes(settings) {
    this.lanes = settings.map((lane, index) => new Lane(this.methods, lane, index, () => this.showSummary()));
    byId("lanes").replaceChildren(...this.lanes.map((lane) => lane.node));
    const two = settings.length > 1;
    byId("compare").setAttribute("aria-pressed", String(two));
    byId("compare").textContent = two ? "One method only" : "Compare two methods";
    this.showSummary();
  }

  showSummary() {
    byId("settings").firstElementChild.textContent = this.lanes.map((lane) => lane.summary()).join(" and ");
  }

  // The settings of each lane, as an answer takes them.
  read() {
    const common = { maxTokens: byId("max-tokens").valueAsNumber || null, seed: byId("seed").valueAsNumber || 0 };
    return this.lanes.map((lane) => ({ ...lane.read(), ...common, remembers: this.remembers && lane.record.chat_template }));
  }

  // Shows the settings of answers that were read from an address or a file.
  show(lanes) {
    byId("max-tokens").value = lanes[0].maxTokens ?? "";
    byId("seed").value = lanes[0].seed;
    this.setLanes(lanes);
  }
}

class Lane {
  constructor(methods, settings, index, changed) {
    this.methods = methods;
    this.method = select([...methods.keys()], settings.method);
    this.trigger = select([], null);
    this.budget = numberInput({ min: 0, max: 100, step: "any" });
    this.candidates = numberInput({ min: 1, max: 64 });
    this.consultRate = numberInput({ min: 0, max: 100, step: "any" });
    this.help = make("p", { class: "quiet" });
    this.fields = {
      trigger: labelled("Trigger", this.trigger),
      budget: labelled("Budget %", this.budget),
      candidates: labelled("Candidates K", this.candidates),
      consultRate: labelled("Asks at % of words", this.consultRate),
    };
    this.node = make("fieldset", { class: "lane" }, make("legend", { class: "unseen", text: `Method ${index + 1}` }),
      labelled("Method", this.method), ...Object.values(this.fields), this.help);
    this.follow(settings);
    this.node.addEventListener("input", (event) => {
      if (event.target === this.method) this.follow({});
      changed();
    });
  }

  get record() {
    return this.methods.get(this.method.value);
  }

  // Offers what the method has.
  follow({ trigger, budget, candidates, consultRate }) {
    const { record } = this;
    const percents = (share) => +(100 * share).toFixed(3);
    fill(this.trigger, record.triggers, trigger ?? record.trigger);
    this.budget.value = percents(budget ?? record.trigger_budget);
    this.candidates.value = candidates ?? record.candidates;
    this.consultRate.value = percents(consultRate ?? record.consult_rate);
    for (const name of ["trigger", "budget", "candidates"]) this.offer(name, Boolean(record.trigger));
    this.offer("consultRate", record.mentor);
    this.help.textContent = record.help;
  }

  offer(name, wanted) {
    this.fields[name].hidden = !wanted;
    this[name].disabled = !wanted;
  }

  read() {
    const { record } = this;
    const settings = { method: record.method, id: record.id };
    const [budget, consultRate] = [this.budget, this.consultRate].map((input) => input.valueAsNumber / 100);
    if (record.mentor) return { ...settings, consultRate };
    if (!record.trigger) return settings;
    return { ...settings, trigger: this.trigger.value, budget, candidates: this.candidates.valueAsNumber };
  }

  summary() {
    const { method, trigger, candidates } = this.read();
    return trigger ? `${method} · ${trigger} ${this.budget.value} % · K ${candidates}` : method;
  }
}

function labelled(text, input) {
  return make("label", {}, make("span", { text }), input);
}

function numberInput(properties) {
  return make("input", { type: "number", required: true, ...properties });
}

function select(values, chosen) {
  const node = make("select");
  fill(node, values, chosen);
  return node;
}

function fill(node, values, chosen) {
  node.replaceChildren(...values.map((value) => make("option", { value, text: value })));
  if (values.includes(chosen)) node.value = chosen;
}
