// The forges elsewhere: whether each can be used, who tells what waits, and what took over.
import { $, clock, keyed, make, say, told } from "./page.js";
import { ask, has } from "./api.js";

const EVERY = 5000;
let timer = 0;
let asking = false;
let listener = () => {};

/** Asks now and then, as long as the page is looked at; `news` is told of what an operator must know, and all of it. */
export function start(news) {
  listener = news;
  clearInterval(timer);
  timer = setInterval(() => !document.hidden && refresh(), EVERY);
  return refresh();
}

/** Asks now. */
export async function refresh() {
  if (asking || !has("GET", "/forges")) return;
  asking = true;
  try {
    show(await ask("/forges"));
  } catch { /* That the service does not answer is told elsewhere. */
  } finally {
    asking = false;
  }
}

function show(forges) {
  $("forges").hidden = !forges.length;
  keyed($("forge-list"), forges, ({ name }) => name, create, update);
  listener(warnings(forges), forges);
}

/** What someone must do something about, in sentences. */
function warnings(forges) {
  return forges.flatMap(({ name, profiles }) => Object.entries(profiles)
    .filter(([, { program }]) => program?.warning)
    .map(([profile, { program }]) => [`program ${name} ${profile}`, `The image of ${profile} needs a newer runner program`, told(program.warning)]));
}

function create({ name }) {
  const row = make("li", "forge");
  row.parts = {
    place: make("span"), state: make("span", "state"), reason: make("p", "reason"),
    sources: make("ul", "sources"), note: make("p", "note"),
  };
  const { place, state, reason, sources, note } = row.parts;
  row.append(make("div", "name", make("b", "", name), place), state, reason, sources, note);
  return row;
}

function update(row, forge) {
  const { place, state, reason, sources, note } = row.parts;
  say(place, forge.place);
  say(state, forge.usable ? "usable" : `not usable${forge.since ? ` since ${clock(forge.since)}` : ""}`);
  row.classList.toggle("ill", !forge.usable);
  say(reason, told(forge.reason));
  reason.hidden = forge.usable;
  keyed(sources, Object.entries(forge.profiles), ([name]) => name,
    ([name]) => make("li", "", make("b", "", name), make("span", "chain"), make("span", "why")),
    (item, [name, profile]) => source(item, name, profile, forge.sources));
  const [last] = forge.notes;
  say(note, last ? `${clock(last.at)} ${told(last.text)}` : "");
  note.hidden = !last;
}

/** Who is asked for a profile, among those who could be, and why not the first of them. */
function source(item, name, profile, sources) {
  const [, chain, why] = item.children;
  item.classList.toggle("over", profile.failed_over);
  keyed(chain, profile.order, (kind) => kind, () => make("i"), (step, kind) => {
    step.className = kind === profile.source ? "now" : "";
    say(step, kind);
    if (kind === profile.source) step.setAttribute("aria-current", "true");
    else step.removeAttribute("aria-current");
  });
  const first = sources.find(({ kind, profile: only }) => kind === profile.order[0] && (!only || only === name));
  const because = first?.reason ? `: ${told(first.reason)}` : "";
  const words = profile.source ? `${profile.source} has taken over` : "nobody tells what waits";
  say(why, profile.failed_over ? `${words}${because}` : "");
}
