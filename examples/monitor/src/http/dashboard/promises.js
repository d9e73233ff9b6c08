// What is promised: who holds workers, who waits for some, and an override of all numbers.
import { $, clock, keyed, make, say, span } from "./page.js";
import { ask, has, now } from "./api.js";

// How long to wait after a change before asking again.
const PAUSE = 1000;
let due = 0;
let overridden = false;

/** Asks what is promised, soon. */
export function refreshSoon(status) {
  ({ overridden } = status);
  due ||= setTimeout(async () => {
    try {
      await refresh();
    } catch { /* Whether the service answers is told elsewhere. */ } finally {
      due = 0;
    }
  }, PAUSE);
}

async function refresh() {
  const list = async (path) => (has("GET", path) ? ask(path) : []);
  const [held, queue, policy] = await Promise.all([list("/reservations"), list("/queue"),
    // It may have ended just now.
    overridden && has("GET", "/override") ? ask("/override").catch(() => null) : null]);
  const items = [
    ...(policy ? [["override", "override", overriding(policy), `by ${policy.by}, until ${clock(policy.until)}`]] : []),
    ...held.map((it) => [`held ${it.id}`, "held", `${it.workers.length} of ${it.profile} for ${it.owner}`,
      [it.purpose, `${it.workers.join(", ")}; until ${clock(it.until)}`].filter(Boolean).join(" — ")]),
    ...queue.map((it) => [`waits ${it.id}`, "waits", `${it.position}. ${it.count} of ${it.profile} for ${it.owner}`, waiting(it)]),
  ];
  const count = [held.length && `${held.length} held`, queue.length && `${queue.length} waiting`].filter(Boolean).join(", ");
  say($("promise-count"), count);
  $("promises").hidden = !items.length;
  keyed($("promise-list"), items, ([key]) => key,
    () => make("li", "", make("b"), " ", make("span")),
    (item, [, kind, title, text]) => {
      item.className = kind;
      say(item.firstChild, title);
      say(item.lastChild, text);
    });
}

const overriding = (policy) => `Override: ${Object.entries(policy.allotted)
  .filter(([, it]) => it.requested).map(([name, it]) => `${name} ${it.explanation}`).join("; ")}`;

function waiting(it) {
  const parts = [`for ${span(now() - Date.parse(it.since))}`];
  if (it.estimate_s !== undefined && it.estimate_s !== null) parts.push(`about ${span(it.estimate_s * 1000)} to go`);
  return [...parts, ...(it.reasons ?? [])].join("; ");
}
