// What runs say in the playground, as it shows it: messages that grow, other parts, and what came out. All of it is set as text.

import { grow } from "./ends.js";

export const log = document.getElementById("play-log");

/** An element with a class and a text. */
export function made(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

/** An amount of dollars, as other pages write it. */
export function cost(dollars) {
  if (dollars === 0) return "$0";
  if (dollars >= 1) return `$${dollars.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;
  return dollars >= 0.0001 ? `$${Number(dollars.toPrecision(3))}` : "< $0.0001";
}

/** The text of a message's content. */
function textOf(content) {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return content == null ? "" : JSON.stringify(content);
  return content.map((part) => (typeof part === "string" ? part : part?.text ?? part?.thinking ?? "")).join("");
}

const SPEAKERS = { human: "Human", user: "Human", ai: "AI", assistant: "AI", AIMessageChunk: "AI", tool: "Tool", system: "System" };
const CLASSES = { Human: "human", AI: "ai", Tool: "tool", System: "system" };

export const LONGEST = 20_000; // characters of a message

/** What one run has said, in the log. */
export class Shown {
  constructor() {
    this.byId = new Map(); // elements of messages
    this.parts = null; // what was said beside messages
    this.isPartSaid = false; // some text of that
    this.said = 0;
  }

  add(speaker, text) {
    const entry = made("article", `message message-${CLASSES[speaker] ?? "other"}`);
    const header = made("header");
    header.append(made("b", "", speaker));
    const body = made("div", "message-text", text);
    body.dir = "auto";
    entry.append(header, body);
    this.append(entry);
    return entry;
  }

  append(element) {
    grow(log);
    log.append(element);
  }

  /** A message, or a piece of one. */
  message(message, isRecalled = false) {
    if (!message || typeof message !== "object") return; // agents write what they like
    const kind = message.type ?? message.role ?? "ai";
    if (!isRecalled && (kind === "human" || kind === "user")) return;
    const speaker = SPEAKERS[kind] ?? String(kind);
    let entry = this.byId.get(message.id);
    if (!entry) {
      entry = this.add(speaker, "");
      this.byId.set(message.id ?? Symbol(), entry);
      this.said += 1;
    }
    grow(log);
    const body = entry.querySelector(".message-text");
    const text = textOf(message.content).slice(0, LONGEST);
    const isPiece = String(kind).endsWith("Chunk");
    if (isPiece) body.append(text);
    else body.textContent = text;
    entry.classList.toggle("is-streaming", isPiece);
    for (const call of Array.isArray(message.tool_calls) ? message.tool_calls : []) {
      if (!call?.name || entry.querySelector(`[data-call="${CSS.escape(String(call.id))}"]`)) continue;
      const line = made("div", "tool-call");
      line.dataset.call = call.id;
      line.append(made("span", "soft", "calls "), made("code", "", call.name));
      const args = JSON.stringify(call.args ?? {});
      if (!isPiece && args !== "{}") line.append(" ", made("code", "tool-arguments", args.slice(0, 2_000)));
      entry.append(line);
    }
  }

  /** Something else that an agent says as it goes. */
  part(value) {
    if (!this.parts) {
      this.parts = made("pre", "play-parts");
      this.parts.tabIndex = 0;
      this.parts.setAttribute("aria-label", "What it said as it went");
      this.append(this.parts);
    }
    const text = typeof value === "string" ? value : JSON.stringify(value);
    this.parts.append(`${this.isPartSaid ? "\n" : ""}${text.slice(0, 4_000)}`);
    this.isPartSaid ||= text !== "";
    grow(this.parts, true);
    grow(log, true);
  }

  problem(text) {
    const said = made("p", "problem", text);
    said.setAttribute("role", "alert");
    this.append(said);
    return said;
  }

  /** At the end nothing comes any more. */
  settle() {
    for (const entry of this.byId.values()) entry.classList.remove("is-streaming");
  }

  /** What has come out, if the messages have not said it already; `exact` gives it with its numbers as they were written. */
  output(values, exact) {
    if (values == null || this.said) return;
    const messages = Array.isArray(values.messages) ? values.messages : null;
    const last = messages?.[messages.length - 1];
    if (last && typeof last === "object" && !["human", "user"].includes(last.type ?? last.role)) {
      this.add(SPEAKERS[last.type ?? last.role] ?? "AI", textOf(last.content).slice(0, LONGEST));
      return;
    }
    if (!Object.keys(values).length) return;
    const text = JSON.stringify(exact(), null, 2);
    const entry = this.add("AI", text.slice(0, LONGEST));
    entry.querySelector("b").textContent = "Output";
    entry.querySelector(".message-text").classList.add("mono");
    if (text.length > LONGEST) entry.append(made("p", "soft", `… ${(text.length - LONGEST).toLocaleString()} more characters: see the thread`));
  }
}
