import { createElement } from "react";
import { createRoot } from "react-dom/client";
import { Chat } from "./chat.mjs";

// Where the server is: the only thing that changes from one server to another.
const url = new URLSearchParams(location.search).get("server") ?? "http://127.0.0.1:2024";
createRoot(document.querySelector("main")).render(createElement(Chat, { url }));
