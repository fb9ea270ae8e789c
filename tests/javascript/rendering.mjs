// React without a browser: a hook is mounted into the DOM of happy-dom, and what each render saw is kept.
import { afterEach } from "node:test";

import { Window } from "happy-dom";

const page = new Window({ url: "http://localhost/" });
globalThis.window = page;
globalThis.document = page.document;
globalThis.navigator ??= page.navigator; // newer versions of Node have one

const { createElement, StrictMode, useEffect } = await import("react");
const { createRoot } = await import("react-dom/client");

// The page's storage, where `useStream` keeps which run it follows.
export const storage = page.sessionStorage;

// What a test that fails has left mounted would follow its server for ever, and keep Node from ending.
const roots = [];
const rootIn = (place) => {
  const root = createRoot(place);
  roots.push(root);
  return root;
};
afterEach(() => roots.splice(0).forEach((root) => root.unmount()));

// Mount a hook. `look` reads from what it gives, while it is rendered, what the test wants to see.
export async function mount(useHook, options, look, { strict = false } = {}) {
  const root = rootIn(document.createElement("div"));
  const views = [];
  const waiting = new Set();
  let stream;
  function Mounted(given) {
    const current = useHook(given.options);
    const view = look(current);
    useEffect(() => {
      stream = current;
      views.push(view);
      for (const check of waiting) check();
    });
    return null;
  }
  const show = (given) => {
    const element = createElement(Mounted, { options: given });
    root.render(strict ? createElement(StrictMode, null, element) : element);
  };
  // The first view, from now on, that is as it should be.
  const until = (wanted) =>
    new Promise((resolve, reject) => {
      const check = () => {
        try {
          if (views.length === 0 || !wanted(views.at(-1))) return;
          resolve(views.at(-1));
        } catch (error) {
          reject(error);
        }
        waiting.delete(check);
      };
      waiting.add(check);
      check();
    });
  show(options);
  await until(() => true);
  return {
    views,
    until,
    get stream() {
      return stream;
    },
    get now() {
      return views.at(-1);
    },
    rerender: show,
    unmount: () => root.unmount(),
  };
}

// Render a component into the page, and use it as people do.
export async function render(component, properties) {
  const place = document.createElement("div");
  document.body.append(place);
  const root = rootIn(place);
  const looks = [];
  const waiting = new Set();
  new page.MutationObserver(() => {
    looks.push(place.innerHTML);
    for (const check of waiting) check();
  }).observe(place, { childList: true, subtree: true, characterData: true, attributes: true });
  const until = (wanted) =>
    new Promise((resolve) => {
      const check = () => {
        if (!wanted()) return;
        waiting.delete(check);
        resolve();
      };
      waiting.add(check);
      check();
    });
  root.render(createElement(component, properties));
  await until(() => place.children.length > 0);
  const event = (name) => new page.Event(name, { bubbles: true, cancelable: true });
  return {
    until,
    looks,
    one: (selector) => place.querySelector(selector),
    all: (selector) => [...place.querySelectorAll(selector)],
    type(input, text) {
      // React listens to what the setter of the DOM itself does.
      Object.getOwnPropertyDescriptor(page.HTMLInputElement.prototype, "value").set.call(input, text);
      input.dispatchEvent(event("input"));
    },
    submit: (form) => form.dispatchEvent(event("submit")),
    click: (button) => button.dispatchEvent(new page.MouseEvent("click", { bubbles: true })),
    unmount: () => root.unmount(),
  };
}
