// Which token the panel shows: the one under the pointer, until one is clicked, tapped or reached by keyboard.

import { byId } from "./dom.js";
import { hidePanel, showHint, showPlace, showStep } from "./inspector.js";
import { ownerOf } from "./tokens.js";

const HOVER_MS = 120; // a pointer that only passes by changes nothing

export class Pointing {
  // `rewindSettings`: (lane) -> the settings of the form.
  constructor(stage, rewindSettings) {
    Object.assign(this, { stage, rewindSettings });
    this.shown = null; // {answer, at, pinned}
    this.hover = 0;
    const conversation = byId("conversation");
    conversation.addEventListener("click", (event) => this.onClick(event));
    conversation.addEventListener("pointerover", (event) => this.onHover(event));
    conversation.addEventListener("keydown", (event) => this.onKey(event));
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.shown && !event.target.matches("textarea, input")) this.close();
    });
  }

  // After an answer has changed, was begun anew, or has left the page.
  refresh(answer) {
    if (this.shown && !this.stage.cards.get(this.shown.answer)?.tokens.elements[this.shown.at]) this.shown = null;
    if (this.shown?.answer === answer) this.renew(this.shown);
    if (!this.shown) this.rest();
  }

  show(token) {
    this.unmark();
    const { answer, at, pinned } = token;
    const another = this.shown?.answer !== answer || this.shown.at !== at;
    this.shown = token;
    document.body.classList.toggle("pinned", pinned);
    const { turn, method, tokens } = this.stage.cards.get(answer);
    tokens.select(at);
    showStep({ answer, at, method, pinned }, {
      close: () => this.close(),
      force: (option) => this.goOn(turn, answer, at, option, answer.settings),
      rewind: () => byId("composer").reportValidity() && this.goOn(turn, answer, at, null, this.rewindSettings(answer.lane)),
    });
    if (another) byId("inspector").scrollTop = 0;
  }

  // While the answer is written, nothing of a token changes but its place.
  renew(token) {
    const { method } = this.stage.cards.get(token.answer);
    if (token.answer.status === "streaming") showPlace({ ...token, method });
    else this.show(token);
  }

  goOn(...from) {
    if (isSheet()) this.close();
    this.stage.goOn(...from);
  }

  pin(element) {
    clearTimeout(this.hover);
    this.show({ ...ownerOf(element), pinned: true });
    if (isSheet()) element.scrollIntoView({ block: "nearest" });
  }

  unmark() {
    if (this.shown) this.stage.cards.get(this.shown.answer)?.tokens.select(-1);
  }

  close() {
    const { answer, at } = this.shown;
    this.unmark();
    this.shown = null;
    this.rest();
    this.stage.cards.get(answer)?.tokens.elements[at]?.focus({ preventScroll: true });
  }

  // No token is shown.
  rest() {
    document.body.classList.remove("pinned");
    if (this.stage.turns.length) showHint();
    else hidePanel();
  }

  onClick(event) {
    const element = tokenAt(event);
    if (element) this.pin(element);
  }

  onHover(event) {
    clearTimeout(this.hover);
    const element = tokenAt(event);
    if (!element || this.shown?.pinned || event.pointerType !== "mouse") return;
    this.hover = setTimeout(() => this.show({ ...ownerOf(element), pinned: false }), HOVER_MS);
  }

  onKey(event) {
    const element = tokenAt(event);
    if (!element) return;
    const { answer, at } = ownerOf(element);
    const entered = event.key === "Enter" || event.key === " ";
    const next = entered ? element : this.stage.cards.get(answer).tokens.neighbour(at, event.key);
    if (!next) return;
    event.preventDefault();
    this.pin(next);
    const panel = byId("inspector");
    (entered ? panel.querySelector(".option") ?? panel.querySelector("button") : next).focus();
  }
}

// Whether the panel covers the lower part of the window.
function isSheet() {
  return getComputedStyle(byId("inspector")).position === "fixed";
}

function tokenAt(event) {
  return event.target instanceof Element && event.target.closest(".token");
}
