// The workers: one tile each, made once and changed in place.
import { $, make, say, span } from "./page.js";
import { now } from "./api.js";
import { PHASES } from "./profiles.js";
import * as screens from "./screens.js";

const tiles = new Map();
const natural = new Intl.Collator("en", { numeric: true });
const filter = { text: "", profile: "", phases: new Set() };
let order = [];
let open = () => {};

export const worker = (name) => tiles.get(name)?.worker;

export const all = () => [...tiles.values()].map((tile) => tile.worker);

export function start(opener) {
  open = opener;
  for (const phase of PHASES) {
    const count = make("b", "", "0");
    const chip = make("button", "", make("i", `mark ${phase}`), ` ${phase} `, count);
    chip.type = "button";
    chip.dataset.phase = phase;
    chip.count = count;
    chip.setAttribute("aria-pressed", "false");
    chip.addEventListener("click", () => {
      const on = !filter.phases.delete(phase);
      if (on) filter.phases.add(phase);
      chip.setAttribute("aria-pressed", String(on));
      sift();
    });
    $("phases").append(chip);
  }
  $("worker-text").addEventListener("input", (event) => {
    filter.text = event.target.value.trim().toLowerCase();
    sift();
  });
  $("worker-profile").addEventListener("change", (event) => {
    filter.profile = event.target.value;
    sift();
  });
  $("worker-list").addEventListener("click", (event) => {
    const tile = event.target.closest(".worker");
    if (tile) open(tile.worker.name, tile);
  });
  setInterval(() => tiles.forEach((tile) => tile.onscreen && age(tile)), 1000);
  screens.start();
}

/** Takes in what is new, and what is gone. */
export function update(changed, gone, whole) {
  if (whole) {
    const names = new Set(changed.map(({ name }) => name));
    gone = order.filter((name) => !names.has(name));
  }
  for (const name of gone) {
    const tile = tiles.get(name);
    if (!tile) continue;
    screens.unwatch(tile);
    // Whoever is on it with the keyboard is not thrown back to the page's start.
    if (document.activeElement === tile) (tile.parentNode.nextSibling?.firstChild ?? $("workers")).focus();
    tile.parentNode.remove();
    tiles.delete(name);
  }
  const added = [];
  for (const info of changed) {
    let tile = tiles.get(info.name);
    if (!tile) {
      tile = create(info);
      tiles.set(info.name, tile);
      added.push(info.name);
    }
    fill(tile, info);
  }
  if (added.length || gone.length) {
    order = [...tiles.keys()].sort(natural.compare);
    const list = $("worker-list");
    order.forEach((name, index) => {
      const item = tiles.get(name).parentNode;
      if (list.children[index] !== item) list.insertBefore(item, list.children[index] ?? null);
    });
  }
  added.forEach((name) => screens.watch(tiles.get(name)));
  offer();
  sift();
}

function create(info) {
  const tile = make("button", "worker");
  tile.type = "button";
  tile.setAttribute("aria-haspopup", "dialog");
  tile.image = make("img");
  tile.image.alt = "";
  tile.image.hidden = true;
  tile.mark = make("i", "mark");
  tile.word = make("span");
  tile.since = make("span", "since");
  tile.job = make("span", "job-of");
  tile.append(make("span", "shot", tile.image), make("span", "name", info.name),
    make("span", "phase", tile.mark, tile.word, tile.since), tile.job);
  tile.appear = () => age(tile);
  make("li", "", tile);
  return tile;
}

function fill(tile, info) {
  tile.worker = info;
  tile.dataset.phase = info.phase;
  tile.mark.className = `mark ${info.phase}`;
  const held = info.hold ? ", held" : "";
  say(tile.word, info.phase + held);
  const place = info.job_place;
  say(tile.job, info.ending ?? place?.title ?? info.job ?? (info.reservation ? `for ${info.reservation}` : info.profile));
  tile.title = info.ending ?? "";
  if (!screens.hasScreen(info) && !tile.image.hidden) {
    screens.forget(tile.image);
    tile.image.hidden = true;
    tile.image.removeAttribute("src");
  }
  tile.text = [info.name, info.profile, info.job, place?.title, place?.repository, info.ending, info.reservation, info.image, info.phase]
    .join("\n").toLowerCase();
  age(tile);
}

function age(tile) {
  say(tile.since, span(now() - Date.parse(tile.worker.since)));
}

/** The profiles and phases to choose from, with their numbers. */
function offer() {
  const counts = {};
  const profiles = new Set();
  for (const { worker } of tiles.values()) {
    counts[worker.phase] = (counts[worker.phase] ?? 0) + 1;
    if (worker.profile) profiles.add(worker.profile);
  }
  for (const chip of $("phases").children) {
    const count = counts[chip.dataset.phase] ?? 0;
    say(chip.count, String(count));
    chip.hidden = count === 0 && chip.getAttribute("aria-pressed") === "false";
  }
  const select = $("worker-profile");
  if (filter.profile) profiles.add(filter.profile);
  const names = [...profiles].sort(natural.compare);
  const there = [...select.options].slice(1).map((option) => option.value);
  if (names.join("\n") !== there.join("\n")) {
    select.replaceChildren(select.options[0], ...names.map((name) => new Option(name, name)));
    select.value = filter.profile;
  }
}

function sift() {
  let shown = 0;
  for (const tile of tiles.values()) {
    const fits = (!filter.profile || tile.worker.profile === filter.profile)
      && (!filter.phases.size || filter.phases.has(tile.worker.phase))
      && (!filter.text || tile.text.includes(filter.text));
    if (tile.parentNode.hidden === fits) tile.parentNode.hidden = !fits;
    shown += fits;
  }
  say($("worker-count"), shown === tiles.size ? String(shown) : `${shown} of ${tiles.size}`);
  const none = tiles.size ? "No worker is like that." : "There are no workers.";
  say($("worker-note"), shown ? "" : none);
}
