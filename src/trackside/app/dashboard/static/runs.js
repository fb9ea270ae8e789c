// The page of runs: which are selected, new ones that wait while somebody is at work in the table, and saved views.

import { refresh, toast } from "./console.js";
import { soFar } from "./durations.js";
import { TODAY } from "./filters.js";

const region = () => document.getElementById("runs");
const rows = () => [...document.querySelectorAll("#runs tr[data-run]")];
const boxOf = (row) => row.querySelector("input[name=run_ids]");

// Selection. The boxes are the truth; a row is the same element however often the page takes over what is new.

const bulk = document.getElementById("bulk");
let last = null; // the row whose box was clicked last: where a selection with shift begins

function number(count, what) {
  return `${count} ${what}${count === 1 ? "" : "s"}`;
}

function showSelection() {
  if (!bulk) return;
  const all = rows();
  const chosen = all.filter((row) => boxOf(row)?.checked);
  const ended = chosen.filter((row) => row.dataset.ended === "yes").length;
  const going = chosen.length - ended;
  for (const row of all) row.classList.toggle("is-selected", chosen.includes(row));
  const box = document.getElementById("all");
  if (box) {
    box.checked = chosen.length > 0 && chosen.length === all.length;
    box.indeterminate = chosen.length > 0 && chosen.length < all.length;
  }
  bulk.hidden = chosen.length === 0;
  document.getElementById("bulk-count").textContent = `${number(chosen.length, "run")} selected`;
  const cancel = document.getElementById("bulk-cancel");
  cancel.textContent = `Cancel ${going}`;
  cancel.disabled = going === 0;
  cancel.dataset.hxConfirm = `Cancel ${number(going, "run")}? What they have done so far stays.`;
  const retry = document.getElementById("bulk-retry");
  retry.textContent = `Retry ${ended}`;
  retry.disabled = ended === 0;
  retry.dataset.hxConfirm = `Retry ${number(ended, "run")} with the same input? Each becomes a new run and may cost as much again.`;
}

function selectNone() {
  for (const row of rows()) if (boxOf(row)) boxOf(row).checked = false;
  last = null;
  showSelection();
  release();
}

document.addEventListener("click", (event) => {
  const box = event.target;
  if (!box.matches?.("#runs input[type=checkbox]")) return;
  if (box.id === "all") for (const row of rows()) boxOf(row).checked = box.checked;
  else {
    const row = box.closest("tr");
    const all = rows();
    const [from, to] = [all.indexOf(last), all.indexOf(row)].sort((a, b) => a - b);
    if (event.shiftKey && from >= 0) for (const one of all.slice(from, to + 1)) boxOf(one).checked = box.checked;
    last = row;
  }
  showSelection();
});
document.getElementById("bulk-none")?.addEventListener("click", selectNone);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.target.closest?.("input:not([type=checkbox]), dialog") && !bulk?.hidden) selectNone();
});
document.addEventListener("click", (event) => {
  if (event.target.closest("[data-close]")) document.getElementById("bulk-done").replaceChildren();
});

// Only those that can be are sent: the others are no failures that anybody has to read.
document.addEventListener("htmx:config:request", ({ detail: { ctx } }) => {
  const ended = { "bulk-cancel": "no", "bulk-retry": "yes" }[ctx.sourceElement.id];
  if (ended === undefined) return;
  ctx.request.body.delete("run_ids");
  for (const row of rows()) {
    if (boxOf(row).checked && row.dataset.ended === ended) ctx.request.body.append("run_ids", row.dataset.run);
  }
});
document.addEventListener("htmx:after:swap", ({ detail: { ctx } }) => {
  if (ctx.sourceElement.id === "bulk-cancel" || ctx.sourceElement.id === "bulk-retry") selectNone();
});

// Nothing moves under the pointer. While somebody is at work in the table, or has gone down in it, the newest page stays the
// one that begins with the same run; what is new since is counted. What fits no more stays too, grey, until it is left.

const SEARCH_EVERY = 3_000; // milliseconds: a search looks at thousands of runs
let later = 0;
let pointed = false;
let top = null; // the run that the page is held at

function isHeld() {
  const area = region();
  if (area.dataset.newest !== "yes") return false;
  return pointed || area.contains(document.activeElement) || rows().some((row) => boxOf(row)?.checked) || area.getBoundingClientRect().top < 0;
}

function release() {
  if (top === null || isHeld()) return;
  top = null;
  refresh();
}

document.addEventListener("pointerover", (event) => {
  const within = event.target.closest?.("#runs .table-wrap") != null && event.pointerType !== "touch";
  if (within === pointed) return;
  pointed = within;
  release();
});
document.documentElement.addEventListener("pointerleave", () => {
  pointed = false;
  release();
});
document.addEventListener("focusout", () => setTimeout(release)); // when the focus has arrived where it goes
document.addEventListener("scroll", release, { passive: true });

document.addEventListener("htmx:config:request", (event) => {
  const { ctx } = event.detail;
  if (ctx.sourceElement.id !== "refresh") return;
  const early = region().dataset.searches === "yes" ? rendered + SEARCH_EVERY - performance.now() : 0;
  if (early > 0) {
    event.preventDefault();
    clearTimeout(later);
    later = setTimeout(refresh, early);
    return;
  }
  const [first] = rows();
  top = isHeld() && first ? first.dataset.run : null;
  if (top !== null) ctx.request.body.set("top", top);
});

function asGone(row) {
  row.classList.add("is-gone");
  row.title = "This run no longer matches the filters, or was deleted.";
  return row;
}

function keepWhatIsGone(area) {
  const body = area.querySelector("tbody");
  if (!body) {
    const table = region().querySelector(".table-wrap")?.cloneNode(true);
    if (!table) return;
    for (const row of table.querySelectorAll("tbody tr")) asGone(row);
    area.querySelector(".empty")?.replaceWith(table);
    return;
  }
  const coming = new Map([...body.rows].map((row) => [row.id, row]));
  let behind = null;
  for (const row of rows()) {
    const same = coming.get(row.id);
    if (same) behind = same;
    else {
      const kept = asGone(row.cloneNode(true));
      if (behind) behind.after(kept);
      else body.prepend(kept);
      behind = kept;
    }
  }
}

document.addEventListener("htmx:before:swap", ({ detail: { ctx, tasks } }) => {
  if (ctx.sourceElement.id !== "refresh") return;
  const area = tasks.find((task) => task.fragment?.querySelector?.("#runs"))?.fragment.querySelector("#runs");
  if (top !== null && area) keepWhatIsGone(area);
});
document.addEventListener("htmx:after:swap", ({ detail: { ctx } }) => {
  if (ctx.sourceElement.id !== "refresh") return;
  rendered = performance.now();
  showSelection();
});

document.addEventListener("click", (event) => {
  if (!event.target.closest("#newer a") || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  document.activeElement?.blur?.();
  pointed = false;
  scrollTo({ top: 0 });
  selectNone();
  top = null;
  refresh();
});

// How long runs take that go on.

let rendered = performance.now();
setInterval(() => {
  const since = (performance.now() - rendered) / 1_000;
  for (const cell of document.querySelectorAll("#runs [data-running]")) {
    cell.textContent = soFar(Number(cell.dataset.running) + since);
  }
}, 1_000);

// Views: an address is one, so that who gets it sees the same. Names for some are kept in this browser.

const KEY = "trackside-views";
const views = document.getElementById("views");
const dialog = document.getElementById("name-view");

function savedViews() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(found) ? found.filter((view) => typeof view?.name === "string" && typeof view?.query === "string") : [];
  } catch {
    return [];
  }
}

function keep(found) {
  try {
    localStorage.setItem(KEY, JSON.stringify(found));
  } catch {
    toast("This browser stores nothing. Keep the address of the view instead.", true);
  }
}

function here() {
  const query = new URLSearchParams(location.search);
  for (const name of ["before", "after", "top"]) query.delete(name);
  return query.toString();
}

/** A query with another word for a day. */
function withDay(query, from, to) {
  const found = new URLSearchParams(query);
  for (const name of ["since", "until"]) if (found.get(name) === from) found.set(name, to);
  return found.toString();
}

/** A query as it is kept: `today` is the day where the browser is when it is asked for, which may be on summer time then. */
const kept = (query) => withDay(TODAY === "today" ? query : withDay(query, "today", "today+00:00"), TODAY, "today");

function showViews() {
  for (const shown of views.querySelectorAll(".view")) shown.remove();
  const query = here();
  const page = views.closest("nav").dataset.page;
  const saved = savedViews();
  for (const view of saved) {
    const shown = document.createElement("span");
    shown.className = "view";
    const link = document.createElement("a");
    link.className = "chip";
    link.href = `${page}?${withDay(view.query, "today", TODAY)}`;
    link.textContent = view.name;
    if (view.query === kept(query)) link.setAttribute("aria-current", "true");
    const remove = document.createElement("button");
    remove.type = "button";
    remove.className = "quiet small";
    remove.textContent = "×";
    remove.setAttribute("aria-label", `Forget the view ${view.name}`);
    remove.addEventListener("click", () => {
      keep(savedViews().filter((one) => one.name !== view.name));
      showViews();
    });
    shown.append(link, remove);
    views.append(shown);
  }
  document.getElementById("save-view").hidden = query === "" || views.querySelector("[aria-current]") !== null;
}

document.getElementById("save-view").addEventListener("click", () => {
  document.getElementById("view-name").value = "";
  dialog.returnValue = "no";
  dialog.showModal();
});
dialog.addEventListener("close", () => {
  const name = document.getElementById("view-name").value.trim();
  if (dialog.returnValue !== "save" || !name) return;
  keep([...savedViews().filter((view) => view.name !== name), { name, query: kept(here()) }]);
  showViews();
});

for (const link of views.querySelectorAll("a[href*='since=today']")) {
  const url = new URL(link.href);
  url.searchParams.set("since", TODAY);
  link.href = url;
}

showViews();
showSelection();
addEventListener("pageshow", showSelection); // browsers bring boxes back as they were left
