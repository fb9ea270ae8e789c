// React without a browser: a hook is mounted into the DOM of happy-dom, and what each render saw is kept.
import { Window } from "happy-dom";

const page = new Window({ url: "http://localhost/" });
globalThis.window = page;
globalThis.document = page.document;
globalThis.navigator ??= page.navigator; // newer versions of Node have one

const { createElement, StrictMode, useEffect } = await import("react");
const { createRoot } = await import("react-dom/client");

// The page's storage, where `useStream` keeps which run it follows.
export const storage = page.sessionStorage;

// Mount a hook. `look` reads from what it gives, while it is rendered, what the test wants to see.
export async function mount(useHook, options, look, { strict = false } = {}) {
  const root = createRoot(document.createElement("div"));
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
