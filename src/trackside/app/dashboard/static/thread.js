// A thread's page: it says when the thread is gone, and finds checkpoints that are named in an address.

// Links from elsewhere name a checkpoint alone; it is in the history.
const named = /^#checkpoint-(.+)$/.exec(location.hash);
if (named && !document.getElementById(location.hash.slice(1))) {
  const at = decodeURIComponent(named[1]);
  const there = new URL(location.href);
  if (there.searchParams.get("at") !== at) {
    there.search = new URLSearchParams({ view: "history", at });
    location.replace(there);
  }
}

document.addEventListener("htmx:after:request", (event) => {
  const { ctx } = event.detail;
  if (ctx.request.method === "GET" && ctx.response.status === 404) document.getElementById("gone").hidden = false;
});

// Who has marked checkpoints to compare keeps what he sees: new ones would move what is marked.
document.addEventListener("change", (event) => {
  if (event.target.closest(".compare")) document.getElementById("thread-view").setAttribute("hx-morph-skip", "");
});
