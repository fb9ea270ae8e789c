// Whoever goes by keys stays about where he was when the page takes over what is new, and his place is not there any more.

let around = []; // the ids of what the focus was in, from within

document.addEventListener("htmx:before:swap", () => {
  around = [];
  for (let one = document.activeElement; one; one = one.parentElement) if (one.id) around.push(one.id);
});
document.addEventListener("htmx:after:swap", () => {
  if (document.activeElement !== document.body) return;
  const next = around.map((id) => document.getElementById(id)).find((one) => one !== null);
  if (!next) return;
  if (next.tabIndex < 0) next.tabIndex = -1;
  next.focus({ preventScroll: true });
});
