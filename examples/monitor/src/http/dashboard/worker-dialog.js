// One worker: its screen, its facts, why it is as it is, its console, and what can be done about it.
import { $, button, clock, facts, link, make, say, span, toast } from "./page.js";
import { at, has, now, onToken, request, token } from "./api.js";
import { Terminal } from "./ansi.js";
import { explain } from "./explain.js";
import { labelsOf } from "./profiles.js";
import { follow } from "./stream.js";
import { prepare } from "./dialog.js";
import * as screens from "./screens.js";

const PICTURE_EVERY = 2500;
const EXPLAIN_EVERY = 5000;

const dialog = $("worker-dialog");
const screen = dialog.querySelector(".screen");
const [image, noPicture] = screen.children;
const badge = dialog.querySelector(".badge");
const actions = dialog.querySelector(".actions");
const terminal = new Terminal(dialog.querySelector(".terminal"));
const show = prepare(dialog, leave);

let name = "";
let last = null;
let lookup = () => null;
let showJob = () => {};
let console_ = null;
let timers = [];

export function start(find, openJob) {
  lookup = find;
  showJob = openJob;
  onToken(allow);
  screen.addEventListener("click", () => enlarge(!screen.classList.contains("large")));
}

/** Gives the picture the whole width, or a part of it. */
function enlarge(large) {
  screen.classList.toggle("large", large);
  screen.setAttribute("aria-pressed", String(large));
}

export function open(worker, opener) {
  leave();
  name = worker;
  last = null;
  say($("worker-dialog-title"), name);
  dialog.querySelector(".why").hidden = true;
  image.hidden = true;
  noPicture.hidden = false;
  image.alt = `The screen of ${name}`;
  enlarge(false);
  terminal.clear();
  makeActions();
  refresh();
  show(opener);
  timers = [setInterval(refresh, 1000)];
  if (screens.there()) {
    look();
    timers.push(setInterval(look, PICTURE_EVERY));
  }
  if (has("GET", "/workers/{}/explain")) {
    const why = () => explain(dialog.querySelector(".why"), `${at("workers", name)}/explain`);
    why();
    timers.push(setInterval(why, EXPLAIN_EVERY));
  }
  readConsole();
}

/** Shows what is known of it now; what it was, once it is gone. */
export function refresh() {
  if (!name) return;
  const worker = lookup(name);
  last = worker ?? last;
  const phase = worker?.phase ?? "over";
  badge.replaceChildren(make("i", `mark ${phase}`), worker ? phase : "gone");
  if (!last) return;
  const resources = last.resources;
  const list = dialog.querySelector(".facts");
  facts(list, [
    ["Profile", last.profile], ["Labels", last.profile ? [last.profile, ...labelsOf(last.profile)].join(", ") : ""],
    ["Forge", last.forge], ["Image", last.image],
    ["In this phase", worker ? span(now() - Date.parse(last.since)) : "it is gone"],
    ["Because", last.ending],
    ["Made", last.created_at ? `${clock(last.created_at)}, ${span(now() - Date.parse(last.created_at))} ago` : ""],
    ["Job", jobOf(last)], ["Reservation", last.reservation],
    ["Held", last.hold ? `until ${clock(last.hold.until)} by ${last.hold.by}${last.hold.purpose ? `: ${last.hold.purpose}` : ""}` : ""],
    ["Machine", last.running === undefined ? "none listed" : last.running ? "runs" : "stopped"],
    ["Takes", resources ? `${resources.vcpus} vCPUs, ${resources.memory_mib + resources.huge_memory_mib} MiB` : ""],
  ]);
  const ours = list.querySelector("button");
  if (ours) ours.onclick = () => showJob(last.job, ours);
  if (!worker || !screens.hasScreen(worker)) say(noPicture, worker ? "Its machine shows nothing." : "It is gone.");
  for (const act of actions.children) act.allow();
}

/** Its job, and the way to it: here, or at its forge. */
function jobOf({ job, job_place: place, forge }) {
  if (!job) return "";
  if (place) return link([place.repository, place.title].filter(Boolean).join(": "), place.url);
  return forge === "local" ? make("button", "link", job) : job;
}

function makeActions() {
  const all = [];
  const add = (method, path, text, sure, act, fits) => {
    if (!has(method, path)) return;
    const element = button(text, act, { sure });
    element.allow = () => {
      const worker = lookup(name);
      element.hidden = !worker || !fits(worker);
      element.disabled = !token();
      element.title = token() ? "" : "Enter a token first";
    };
    all.push(element);
  };
  add("POST", "/workers/{}/hold", "Hold for 1 h", "", async () => {
    await request(`${at("workers", name)}/hold`, { method: "POST", body: { for: "1h", purpose: "from the dashboard" } });
    toast(`${name} is held.`);
  }, (worker) => !worker.hold);
  add("DELETE", "/workers/{}/hold", "Let go", "", async () => {
    await request(`${at("workers", name)}/hold`, { method: "DELETE" });
    toast(`${name} is not held any more.`);
  }, (worker) => Boolean(worker.hold));
  add("POST", "/workers/{}/retire", "Retire", "Really retire it?", async () => {
    await request(`${at("workers", name)}/retire`, { method: "POST" });
    toast(`${name} goes as soon as it has no job.`);
  }, (worker) => worker.phase !== "over");
  actions.replaceChildren(...all);
}

function allow() {
  for (const act of actions.children) act.allow();
}

async function look() {
  const worker = lookup(name);
  if (!worker || !screens.hasScreen(worker) || document.hidden) return;
  const wanted = name;
  try {
    await screens.picture(wanted, image);
    if (wanted !== name) return;
    noPicture.hidden = true;
  } catch (error) {
    if (image.hidden) say(noPicture, error.message);
  }
}

async function readConsole() {
  const path = `${at("workers", name)}/console`;
  const box = dialog.querySelector(".console");
  box.hidden = false;
  if (has("GET", "/workers/{}/console/follow")) {
    console_ = follow(`${path}/follow`, {
      event: ({ kind, data }) => {
        if (kind === "end") return true;
        terminal.write(text(data));
        return false;
      },
      state: (state, error) => {
        if (state === "gone") terminal.write(`\n[${error.message}]\n`);
      },
    });
  } else if (has("GET", "/workers/{}/console")) {
    const wanted = name;
    try {
      const told = await (await request(path)).text();
      if (wanted === name) terminal.write(told);
    } catch (error) {
      terminal.write(`[${error.message}]\n`);
    }
  } else {
    box.hidden = true;
  }
}

function text(data) {
  try {
    const part = JSON.parse(data);
    return typeof part === "string" ? part : part.text ?? "";
  } catch {
    return data;
  }
}

function leave() {
  timers.forEach(clearInterval);
  timers = [];
  console_?.stop();
  console_ = null;
  screens.forget(image);
  image.removeAttribute("src");
  name = "";
}
