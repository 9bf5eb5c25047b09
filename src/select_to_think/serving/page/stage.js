// The conversation on the page: asks, goes on from a token, asks again what an address holds, and shows the cards.

import { Card } from "./cards.js";
import { allSteps, branch, counters, newAnswer, newTurn, removeAnswer, run, unwritten } from "./conversation.js";
import { byId, make } from "./dom.js";
import { summary } from "./words.js";

export class Stage {
  // `methods`: by name. `expected`: (question) -> its right answer, or null. `changed(answer)` is called as answers grow,
  // `settled(error)` when nothing is being written any more; the error is that of the last answer, or null.
  constructor({ methods, expected, changed, settled }) {
    Object.assign(this, { methods, expected, changed, settled });
    this.turns = [];
    this.cards = new Map(); // answer -> Card
    this.running = new Map(); // answer that is being written -> its AbortController
    this.replaying = 0;
    this.replay = 0; // the number of the conversation that is asked again; an older one goes no further
  }

  async ask(question, lanes) {
    const turn = this.begin(question);
    const answers = lanes.map((settings, lane) => newAnswer(turn, lane, settings));
    this.render();
    byId("conversation").lastElementChild.scrollIntoView({ block: "start" });
    await Promise.all(answers.map((answer) => this.write(turn, answer)));
  }

  begin(question) {
    const turn = newTurn(question, [...this.turns]);
    this.turns.push(turn);
    return turn;
  }

  async goOn(turn, origin, at, choice, settings) {
    const answer = await branch(turn, origin, at, choice, settings).catch(this.settled);
    if (!answer || !this.turns.includes(turn)) return null; // the page has said why, or what it was about is gone
    this.render();
    this.cards.get(answer).node.scrollIntoView({ block: "center" });
    await this.write(turn, answer);
    return answer;
  }

  // Asks the turns of a recipe again, one after the other, until something stops it. Returns whether all are there.
  async askAgain(turns) {
    this.replaying += 1; // until its end the address keeps what is still to come
    const whole = await this.replayed(turns, ++this.replay);
    this.replaying -= 1;
    return whole;
  }

  async replayed(turns, replay) {
    const goesOn = () => replay === this.replay;
    let whole = true;
    for (const { question, answers } of turns) {
      if (!goesOn()) return false;
      const turn = this.begin(question);
      const made = new Map();
      for (const { number, lane, settings } of answers.filter(({ origin }) => !origin)) {
        made.set(number, newAnswer(turn, lane, settings));
      }
      this.render();
      await Promise.all([...made.values()].map((answer) => this.write(turn, answer)));
      for (const { number, origin, settings } of answers.filter((plan) => plan.origin)) {
        const from = made.get(origin.number);
        const answer = goesOn() && from && origin.at < allSteps(from).length
          ? await this.goOn(turn, from, origin.at, origin.choice, settings) : null;
        if (answer) made.set(number, answer);
      }
      whole &&= answers.every(({ number }) => made.get(number)?.status === "done");
    }
    return whole && goesOn();
  }

  async write(turn, answer) {
    const controller = new AbortController();
    this.running.set(answer, controller);
    byId("stop").hidden = false;
    await run(turn, answer, controller.signal, () => {
      this.cards.get(answer)?.update();
      this.changed(answer);
    });
    this.running.delete(answer);
    if (this.cards.has(answer)) byId("status").textContent = summary(answer, counters(answer));
    if (this.running.size) return;
    byId("stop").hidden = true;
    this.settled(answer.error);
  }

  stop() {
    this.replay += 1;
    for (const controller of this.running.values()) controller.abort();
  }

  show(turns) {
    this.stop();
    this.turns = turns;
    this.render();
  }

  render() {
    const begun = this.turns.length > 0;
    for (const id of ["welcome", "examples"]) byId(id).hidden = begun;
    byId("legend").hidden = !begun;
    document.body.classList.toggle("begun", begun);
    const answers = new Set(this.turns.flatMap((turn) => turn.answers));
    for (const answer of this.cards.keys()) if (!answers.has(answer)) this.cards.delete(answer);
    byId("conversation").replaceChildren(...this.turns.map((turn) => this.section(turn)));
  }

  section(turn) {
    return make("section", { class: "turn", "aria-label": "Question and answers" },
      make("h2", { text: turn.question, tabindex: -1, dir: "auto" }),
      make("div", { class: "answers" }, ...turn.answers.map((answer) => this.card(turn, answer).node)));
  }

  card(turn, answer) {
    if (!this.cards.has(answer)) {
      const { method: name, trigger } = answer.settings;
      const method = this.methods.get(name) ?? { method: name, trigger, help: "this server does not have it" };
      const actions = { remove: () => this.remove(turn, answer), retry: () => this.retry(turn, answer) };
      this.cards.set(answer, new Card(turn, answer, method, this.expected(turn.question), actions));
    }
    return this.cards.get(answer);
  }

  remove(turn, answer) {
    const place = this.turns.indexOf(turn);
    removeAnswer(turn, answer);
    for (const [other, controller] of this.running) {
      if (!this.turns.some(({ answers }) => answers.includes(other))) controller.abort();
    }
    if (!turn.answers.length) this.turns = this.turns.filter((other) => other !== turn);
    this.render();
    this.changed(answer);
    this.settled(null);
    [...byId("conversation").querySelectorAll("h2")].slice(0, place + 1).at(-1)?.focus({ preventScroll: true });
  }

  retry(turn, answer) {
    Object.assign(answer, unwritten());
    this.cards.delete(answer);
    this.render();
    this.changed(answer);
    this.write(turn, answer);
  }
}
