// What happens, newest first: filtered by text and kind, and held still on demand.
import { $, clock, make, say, told } from "./page.js";
import { ask } from "./api.js";
import { follow } from "./stream.js";

const KEPT = 1000;
const SHOWN = 250;
const KINDS = {
  decided: "actions", done: "actions", failed: "trouble", held: "waiting", freed: "waiting", blind: "trouble",
  sighted: "notes", phase: "phases", reserved: "actions", job: "jobs", note: "notes",
};
const ILL = /\b(?:failed|interrupted|timed_out)\b/;

let events = [];
let paused = false;
let missed = 0;
let drawing = false;
const filter = { text: "", kind: "" };

export async function start(news) {
  $("event-text").addEventListener("input", (event) => {
    filter.text = event.target.value.trim().toLowerCase();
    redraw();
  });
  $("event-kind").addEventListener("change", (event) => {
    filter.kind = event.target.value;
    redraw();
  });
  $("event-pause").addEventListener("click", () => {
    paused = !paused;
    missed = 0;
    $("event-pause").setAttribute("aria-pressed", String(paused));
    tell();
    if (!paused) redraw();
  });
  let after = 0;
  try {
    const page = await ask(`/events?limit=${SHOWN}`);
    page.events.forEach(take);
    after = page.next;
  } catch { /* The stream below tells when the service is back. */ }
  redraw();
  return follow("/events/follow", {
    last: after ? String(after) : "",
    event: ({ data }) => {
      const event = JSON.parse(data);
      take(event);
      news(event);
      if (paused) {
        missed += 1;
        tell();
      } else {
        redrawSoon();
      }
    },
  });
}

function take(event) {
  const what = Object.keys(event.what ?? {})[0] ?? (typeof event.what === "string" ? event.what : "note");
  let kind = KINDS[what] ?? "notes";
  if (what === "job" && ILL.test(event.what.job?.state ?? "")) kind = "trouble";
  event.kinds = new Set([kind, KINDS[what] ?? "notes"]);
  event.kind = kind;
  event.lower = event.text.toLowerCase();
  events.unshift(event);
  if (events.length > KEPT) events.length = KEPT;
}

function tell() {
  say($("event-pause"), paused ? `Go on${missed ? ` (${missed} new)` : ""}` : "Pause");
}

function redrawSoon() {
  if (drawing) return;
  drawing = true;
  setTimeout(() => {
    drawing = false;
    if (!paused) redraw();
  }, 200);
}

function redraw() {
  const list = $("event-list");
  const fits = ({ kinds, lower }) =>
    (!filter.kind || kinds.has(filter.kind)) && (!filter.text || lower.includes(filter.text));
  const shown = [];
  for (const event of events) {
    if (fits(event)) shown.push(event);
    if (shown.length === SHOWN) break;
  }
  // Events never change: those that are there already are kept, in order.
  const wanted = new Set(shown.map(({ id }) => id));
  for (const item of [...list.children]) if (!wanted.has(item.number)) item.remove();
  let next = list.firstChild;
  for (const event of shown) {
    if (next?.number === event.id) {
      next = next.nextSibling;
      continue;
    }
    const item = make("li", `kind-${event.kind}`, make("time", "", clock(event.at)), make("span", "", told(event.text)));
    item.number = event.id;
    list.insertBefore(item, next);
  }
  if (!shown.length) {
    const none = make("li", "", make("time"), make("span", "note", events.length ? "No event is like that." : "Nothing has happened yet."));
    list.replaceChildren(none);
  }
}
