// What all pages of the console do: fetch themselves anew when something has changed, keys, times, copies, confirmations.
// No page writes markup from data: what comes from agents and users is set as text, or comes escaped from the server.

const root = document.querySelector('meta[name="trackside-root"]').content;
export const token = document.querySelector('meta[name="trackside-token"]').content;
const main = document.getElementById("main");
const PATIENCE = 12_000; // milliseconds without a heartbeat after which a stream counts as lost

/** The address of something below the app's root. */
export const at = (path) => `${root}${path}`;

/** Show a sentence for a moment. */
export function toast(text, bad = false) {
  const shown = document.createElement("div");
  shown.className = bad ? "toast bad" : "toast";
  shown.textContent = text;
  shown.title = "Click, or press Escape, to dismiss";
  shown.addEventListener("click", () => shown.remove());
  document.getElementById("toasts").append(shown);
  setTimeout(() => shown.remove(), bad ? 9_000 : 5_000);
}

// A page that costs the server much is fetched less often, however much goes on: it rests for many times as long as the
// server had to do with it. Many pages are open, and agents run beside them.

const REST = 20;
const LONGEST_REST = 10_000; // milliseconds
let isFetching = false;
let isAsked = false; // somebody wants to see what he did, while the page was on its way
let isOld = false; // something has changed meanwhile
let rested = 0;
let later = 0;

/** Have the page fetch itself anew, and take over its parts that are different. */
export function refresh() {
  const element = document.getElementById("refresh");
  if (isFetching) isAsked = true;
  else if (element) htmx.trigger(element, "changed");
}

/** The same when the page has rested. */
function refreshSoon() {
  if (isFetching) {
    isOld = true;
    return;
  }
  later ||= setTimeout(() => {
    later = 0;
    refresh();
  }, Math.max(0, rested - performance.now()));
}

const isRefresh = (event) => event.detail.ctx.sourceElement?.id === "refresh";
document.addEventListener("htmx:before:request", (event) => {
  if (!isRefresh(event)) return;
  clearTimeout(later);
  later = 0;
  isFetching = true;
});
document.addEventListener("htmx:finally:request", (event) => {
  if (!isRefresh(event)) return;
  isFetching = false;
  const took = /dur=([\d.]+)/.exec(event.detail.ctx.response?.headers.get("server-timing"))?.[1] ?? 0;
  rested = performance.now() + Math.min(REST * took, LONGEST_REST);
  const again = isAsked ? refresh : isOld ? refreshSoon : null;
  isAsked = isOld = false;
  if (again) setTimeout(again); // when htmx has let go of this one
});

// Times: as the server wrote them until now, in this browser's zone and words from here on. How old something is, is said by
// the server's clock: the one here may be off.

let ahead = 0; // milliseconds that this clock is ahead of the server's
const words = new Intl.RelativeTimeFormat(undefined, { numeric: "auto", style: "narrow" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hourCycle: "h23" });
const UNITS = [["day", 86_400], ["hour", 3_600], ["minute", 60], ["second", 1]];

function ago(milliseconds) {
  const seconds = milliseconds / 1_000;
  const [unit, size] = UNITS.find(([, size]) => Math.abs(seconds) >= size) ?? ["second", 1];
  return words.format(-Math.trunc(seconds / size), unit);
}

const WRITTEN = {
  ago: (when, now) => ago(Math.max(0, now - when)), // what has happened lies behind, whatever the clocks say
  ahead: (when, now) => ago(Math.min(0, now - when)), // and what is to come does not
  clock: (when) => clock.format(when),
  dated: (when) => full.format(when),
};

export function writeTimes(within = document) {
  const now = Date.now() - ahead;
  for (const element of within.querySelectorAll(Object.keys(WRITTEN).map((way) => `time[data-${way}]`).join())) {
    const when = new Date(element.dateTime);
    if (Number.isNaN(when.getTime())) continue;
    const way = Object.keys(WRITTEN).find((one) => one in element.dataset);
    const text = WRITTEN[way](when, now);
    if (element.textContent !== text) element.textContent = text;
    element.title = full.format(when);
  }
}

async function compareClocks() {
  const before = Date.now();
  const response = await fetch(at("/health/live"), { cache: "no-store" });
  const theirs = Date.parse(response.headers.get("date") ?? "");
  const off = (before + Date.now()) / 2 - theirs - 500; // `Date` has whole seconds
  if (Math.abs(off) > 2_000) ahead = off;
}

// What goes on. A stream is open only while the page is seen: browsers have six connections to a server, and many pages.

/** Notices that nothing is heard of a stream any more, though nothing was closed, and calls `missed` then. */
export class Hearing {
  #missed;
  #watch = 0;

  constructor(missed) {
    this.#missed = missed;
  }

  /** The stream is about to open, or has said something. */
  heard() {
    this.end();
    this.#watch = setTimeout(this.#missed, PATIENCE);
  }

  /** It is closed. */
  end() {
    clearTimeout(this.#watch);
  }
}

let stream = null;
let again = 0;
const hearing = new Hearing(missed);
const STATES = { connecting: "", live: "live", paused: "paused", lost: "not live: reconnecting" };

/** Show whether the page is live. */
export function say(state) {
  const element = document.getElementById("liveness");
  if (element.dataset.state === state) return;
  // That a page is live is what everybody expects: read aloud it is only when it is lost, and when it comes back.
  element.ariaLive = [state, element.dataset.state].includes("lost") ? "polite" : "off";
  element.dataset.state = state;
  element.textContent = STATES[state];
}

/** So it may be with whatever else is open to the server. */
function missed() {
  document.dispatchEvent(new CustomEvent("trackside:silence"));
  lose();
}

function close() {
  clearTimeout(again);
  hearing.end();
  stream?.close();
  stream = null;
}

function lose() {
  close();
  say("lost");
  again = setTimeout(listen, 2_000);
}

function listen() {
  const address = main.dataset.live.trim();
  if (!address || document.hidden || stream) return;
  const url = new URL(at(address), location.href);
  stream = new EventSource(url);
  hearing.heard(); // one that does not open is lost as well
  const isOpen = () => {
    hearing.heard();
    say("live");
  };
  stream.addEventListener("open", () => {
    isOpen();
    refresh(); // what has happened since the page was written, or was missed meanwhile
  });
  stream.addEventListener("message", isOpen);
  stream.addEventListener("beat", () => {
    isOpen();
    if (isBehind) refreshSoon(); // nothing else may happen any more that has it look again
  });
  stream.addEventListener("changed", () => {
    isOpen();
    refreshSoon();
  });
  stream.addEventListener("error", () => {
    lose();
    refresh(); // who is not let in any more finds out, and where to sign in
  });
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) close();
  else listen();
});
addEventListener("pagehide", () => stream?.close());

// Actions: forms that htmx sends. What the server says to them is a sentence.

// Who clicks twice means it once: htmx would send a form again as soon as it was answered.
let sent = new WeakSet();
const isForm = (element) => element?.matches?.("form[method=post]");
document.addEventListener("submit", (event) => {
  if (!sent.has(event.target)) return;
  event.preventDefault();
  event.stopImmediatePropagation();
}, true);
document.addEventListener("htmx:before:request", ({ detail: { ctx } }) => {
  if (isForm(ctx.sourceElement)) sent.add(ctx.sourceElement);
});
document.addEventListener("htmx:finally:request", ({ detail: { ctx } }) => {
  if (!ctx.hx?.redirect) sent.delete(ctx.sourceElement); // else the page is left
});
addEventListener("pageshow", () => {
  sent = new WeakSet(); // also of a page that somebody comes back to
});

document.addEventListener("htmx:after:request", (event) => {
  const { ctx } = event.detail;
  if (ctx.request.method === "GET") {
    if (ctx.sourceElement?.id === "refresh") sayHowOld(ctx.response.status);
    return;
  }
  // An answer that is part of a page is not said: it is shown where it belongs.
  const isSaid = !ctx.response.headers.get("content-type")?.startsWith("text/html");
  const isBad = ctx.response.status >= 400;
  if (ctx.hx?.redirect) {
    if (isSaid && !isBad) keep(ctx.text);
    return;
  }
  if (isSaid && ctx.text) toast(ctx.text, isBad);
  else if (isBad) toast(`The server answered with ${ctx.response.status}. Check whether it was done before you try again.`, true); // or a proxy did
  refresh();
});
document.addEventListener("htmx:error", (event) => {
  const { ctx } = event.detail;
  if (ctx?.sourceElement?.id === "refresh") isBehind = true; // no answer came, though the stream may go on
  if (ctx?.request?.method !== "GET") toast("The server does not answer. Check whether it was done before you try again.", true);
});
document.addEventListener("htmx:after:swap", (event) => {
  if (isRefresh(event) && event.detail.ctx.title) document.title = event.detail.ctx.title; // htmx leaves it alone where only parts are taken over
  writeTimes();
  letKeysScroll();
  takeBack();
});
// A question whose object is gone, or is something else by now, is taken back.

let asked = null;
let askedFor = null;

function takeBack() {
  const dialog = document.getElementById("confirm");
  if (!dialog.open || (asked?.isConnected && asked.getAttribute("action") === askedFor && document.getElementById("stale").hidden)) return;
  dialog.close("no");
}

document.addEventListener("htmx:confirm", (event) => {
  const { ctx, issueRequest, dropRequest } = event.detail;
  event.preventDefault();
  const dialog = document.getElementById("confirm");
  document.getElementById("confirm-text").textContent = ctx.confirm;
  asked = ctx.sourceElement;
  askedFor = asked.getAttribute("action");
  const does = asked.dataset.confirmYes ?? asked.querySelector("button")?.textContent ?? asked.textContent;
  dialog.querySelector("[value=yes]").textContent = does.trim();
  dialog.returnValue = "no";
  dialog.showModal();
  dialog.addEventListener("close", () => (dialog.returnValue === "yes" ? issueRequest() : dropRequest()), { once: true });
});

/** Have what is wider or longer than its place be reached with keys, which scroll it then. */
function letKeysScroll() {
  for (const one of document.querySelectorAll(".table-wrap, .scroll, pre")) {
    if (one.scrollWidth > one.clientWidth || one.scrollHeight > one.clientHeight) one.tabIndex = 0;
  }
}
addEventListener("resize", letKeysScroll);

// What is said when the page is left at once is said by the next one.

const KEPT = "trackside-said";

function keep(text) {
  try {
    sessionStorage.setItem(KEPT, text);
  } catch {
    // then it is not said
  }
}

function sayWhatWasKept() {
  try {
    const text = sessionStorage.getItem(KEPT);
    sessionStorage.removeItem(KEPT);
    if (text) toast(text);
  } catch {
    // nothing was kept
  }
}

// A page that cannot fetch itself anew says so: what it shows is how it was.

const WHY_OLD = {
  403: "You may not see this any more. What you see is how it was.",
  404: "This is not there any more. What you see is how it was.",
};

let isBehind = false;

function sayHowOld(status) {
  const shown = document.getElementById("stale");
  shown.hidden = status < 400;
  if (status >= 400) shown.textContent = WHY_OLD[status] ?? "The server cannot look this up now. What you see may be old.";
  if (status === 404) takeBack();
  isBehind = status >= 400 && !(status in WHY_OLD);
}

// Copies.

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    toast("Copied.");
  } catch {
    toast("This browser does not allow copying from here.", true);
  }
});

// Light and dark.

document.getElementById("theme").addEventListener("click", () => {
  const html = document.documentElement;
  const isDark = html.dataset.theme ? html.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  html.dataset.theme = isDark ? "light" : "dark";
  try {
    localStorage.setItem("trackside-theme", html.dataset.theme);
  } catch {
    // it holds for this page
  }
  document.dispatchEvent(new CustomEvent("trackside:theme"));
});

// Keys.

let goes = false;
const rows = () => [...document.querySelectorAll("[data-row]")];
let current = null; // the row that the keys are at, whose mark the server knows nothing of
document.addEventListener("htmx:before:swap", (event) => {
  if (isRefresh(event)) current = document.querySelector("[data-row].is-current")?.id ?? null;
});
document.addEventListener("htmx:after:swap", (event) => {
  if (isRefresh(event) && current !== null) document.getElementById(current)?.classList.add("is-current");
});

function move(step) {
  const all = rows();
  if (!all.length) return;
  // The row may be gone since, and what has the focus is another one then.
  const focused = document.activeElement?.closest("[data-row]");
  const marked = all.findIndex((row) => row.classList.contains("is-current"));
  all[marked]?.classList.remove("is-current");
  const here = focused ? all.indexOf(focused) : marked;
  const next = all[Math.min(Math.max(here + step, 0), all.length - 1)];
  next.classList.add("is-current");
  (next.querySelector("a") ?? next).focus({ preventScroll: true });
  next.scrollIntoView({ block: "nearest" });
}

document.getElementById("keys").addEventListener("click", () => document.getElementById("shortcuts").showModal());
document.addEventListener("keydown", (event) => {
  const where = event.target;
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) document.getElementById("toasts").replaceChildren();
  if (event.ctrlKey || event.metaKey || event.altKey || where.closest?.("input:not([type=checkbox], [type=radio]), select, textarea, dialog, [contenteditable]")) return;
  if (goes) {
    goes = false;
    document.querySelector(`.bar nav a[data-key="${CSS.escape(event.key)}"]`)?.click();
    return;
  }
  const does = {
    g: () => { goes = true; setTimeout(() => { goes = false; }, 1_500); },
    j: () => move(1),
    k: () => move(-1),
    x: () => document.querySelector("[data-row].is-current input[type=checkbox]")?.click(),
    n: () => document.querySelector("a[rel=next]")?.click(),
    p: () => document.querySelector("a[rel=prev]")?.click(),
    "/": () => document.querySelector(".filters input, .filters select")?.focus(),
    "?": () => document.getElementById("shortcuts").showModal(),
  }[event.key];
  if (!does) return;
  event.preventDefault();
  does();
});

document.querySelector(".bar nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
sayWhatWasKept();
letKeysScroll();
compareClocks().catch(() => {}).then(() => writeTimes());
setInterval(writeTimes, 5_000);
setTimeout(listen); // behind htmx, which begins in the same way: before that nobody hears that the page is to fetch itself
