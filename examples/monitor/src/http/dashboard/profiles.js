// The kinds of runner: counts against targets, and the last hour.
import { $, button, clock, heard, keyed, make, say, span, toast, told } from "./page.js";
import { ask, at, has, now, onToken, token } from "./api.js";

export const PHASES = ["busy", "reserved", "idle", "starting", "over", "unseen"];
// Phases that are told only where there is something to tell.
const RARE = new Set(["reserved", "over", "unseen"]);
const SAMPLES = 360;
// A young history is not squeezed into a corner.
const FEWEST = 30;
const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [132, 30];

let infos = new Map();
let series = new Map();
let step = 10;
let reasons = new Map();

export const labelsOf = (name) => infos.get(name)?.labels ?? [];

/** Learns what each profile offers, and how the last hour was. */
export async function learn() {
  const profiles = await ask("/profiles");
  const list = Array.isArray(profiles) ? profiles : profiles.profiles;
  infos = new Map(list.map((profile) => [profile.name, profile]));
  if (!has("GET", "/history")) return;
  const history = await ask("/history");
  step = history.step_s || step;
  series = new Map(Object.entries(history.profiles));
  for (const numbers of series.values()) numbers.drawn = false;
}

/** Adds what is now to the last hour, as the service does. */
export function sample(profiles) {
  for (const [name, counts] of Object.entries(profiles)) {
    const numbers = series.get(name) ?? { busy: [], idle: [], reserved: [], queued: [] };
    series.set(name, numbers);
    for (const key of ["busy", "idle", "reserved", "queued"]) {
      numbers[key].push(counts[key]);
      if (numbers[key].length > SAMPLES) numbers[key].shift();
    }
    numbers.drawn = false;
  }
}

export const samplePause = () => step * 1000;

export const isPaused = (counts) => Boolean(counts.paused ?? counts.adjustment?.paused);

export function show(status) {
  const { profiles } = status;
  reasons = reasonsOf(status);
  const order = [...infos.keys()];
  const place = (name) => (order.includes(name) ? order.indexOf(name) : order.length);
  const entries = Object.entries(profiles).sort(([a], [b]) => place(a) - place(b) || a.localeCompare(b));
  keyed($("profile-list"), entries, ([name]) => name, create, update);
}

/** Why a profile has not what it should have, in the words of what is held back or failed. */
function reasonsOf({ held, failures }) {
  const of = /^(?:image of )?profile (.+)$/;
  const found = new Map();
  const failed = failures.map(({ subject, error, retry_at }) => [subject, `the last try failed: ${error}; next try at ${clock(retry_at)}`]);
  for (const [subject, text] of [...failed, ...held.map(({ subject, why_not }) => [subject, why_not])]) {
    const name = subject.match(of)?.[1];
    if (name && !found.has(name)) found.set(name, told(text));
  }
  return found;
}

function create([name]) {
  const row = make("li", "profile");
  const parts = {
    name: make("div", "name", make("b", "", name), make("span")),
    bars: make("div", "bars"),
    ready: make("span"), most: make("span"), policy: make("span"), image: make("span"), why: make("p", "why-short"),
    numbers: make("div", "numbers"), segments: {}, counts: {},
    waits: make("span", "waits"),
  };
  for (const phase of PHASES) {
    parts.segments[phase] = make("i", phase);
    parts.bars.append(parts.segments[phase]);
    const count = make("b");
    const number = make("span", "", make("i", `mark ${phase}`), count);
    number.title = phase;
    number.append(heard(` ${phase}`));
    parts.counts[phase] = { number, count };
    parts.numbers.append(number);
  }
  parts.numbers.append(parts.waits, make("span", "targets", parts.ready, parts.most));
  parts.bars.setAttribute("role", "img");
  parts.spark = document.createElementNS(SVG, "svg");
  parts.spark.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  parts.spark.setAttribute("preserveAspectRatio", "none");
  parts.spark.setAttribute("role", "img");
  parts.spark.setAttribute("aria-label", `${name}: its last hour is not known yet`);
  const stack = make("div", "stack", parts.bars, parts.numbers, make("div", "policy", parts.image, parts.policy), parts.why);
  row.append(parts.name, stack, parts.spark);
  if (has("PATCH", "/profiles/{}")) {
    parts.pause = button("Pause", () => pause(name, !row.classList.contains("paused")));
    parts.allow = () => {
      parts.pause.disabled = !token();
      parts.pause.title = token() ? "" : "Enter a token to pause or resume";
    };
    parts.allow();
    onToken(parts.allow);
    row.append(parts.pause);
  }
  row.parts = parts;
  return row;
}

async function pause(name, paused) {
  await ask(at("profiles", name), { method: "PATCH", body: { paused } });
  toast(paused ? `${name} makes no workers now; jobs that run go on.` : `${name} goes on.`);
}

function update(row, [name, counts]) {
  const { parts } = row;
  const labels = infos.get(name)?.labels ?? [];
  say(parts.name.lastChild, labels.join(" · "));
  const all = PHASES.reduce((sum, phase) => sum + counts[phase], 0);
  const whole = Math.max(counts.max, all, 1);
  for (const phase of PHASES) {
    const width = `${(100 * counts[phase]) / whole}%`;
    if (parts.segments[phase].style.width !== width) parts.segments[phase].style.width = width;
    say(parts.counts[phase].count, String(counts[phase]));
    parts.counts[phase].number.hidden = RARE.has(phase) && !counts[phase];
  }
  const words = PHASES.filter((phase) => counts[phase]).map((phase) => `${counts[phase]} ${phase}`);
  parts.bars.setAttribute("aria-label", `${name}: ${words.join(", ") || "no workers"} of at most ${counts.max}`);
  const paused = isPaused(counts);
  // Fewer ready than wanted, although there could be more.
  const short = !paused && counts.idle < counts.min_idle && all < counts.max;
  say(parts.ready, `${counts.idle} of ${counts.min_idle} ready`);
  parts.ready.classList.toggle("short", short);
  say(parts.most, `${counts.healthy} of ${counts.max} workers`);
  say(parts.policy, `${counts.healthy} healthy of target ${counts.target}${counts.wanted ? `, ${counts.wanted} wanted` : ""}`);
  parts.policy.classList.toggle("short", counts.wanted > 0);
  say(parts.why, reasons.get(name));
  parts.why.hidden = !reasons.has(name);
  say(parts.image, imageOf(counts));
  parts.image.classList.toggle("short", counts.build === "failed" || !counts.image_built_at);
  say(parts.waits, `${counts.queued} waiting`);
  parts.waits.hidden = !counts.queued;
  parts.waits.classList.toggle("some", counts.queued > 0);
  row.classList.toggle("paused", paused);
  if (parts.pause && !parts.pause.classList.contains("sure")) {
    say(parts.pause, paused ? "Resume" : "Pause");
    parts.pause.setAttribute("aria-label", `${paused ? "Resume" : "Pause"} ${name}`);
  }
  const numbers = series.get(name);
  if (numbers && !numbers.drawn) draw(parts.spark, name, numbers, counts.max);
}

/** How old the image is that new workers boot, and how the build of the next one goes. */
function imageOf({ image_built_at: built, build }) {
  const age = built ? `image ${span(now() - Date.parse(built))} old` : "no image";
  const word = { building: "next one is built", failed: "build failed" }[build];
  return word ? `${age}, ${word}` : age;
}

function draw(svg, name, numbers, max) {
  numbers.drawn = true;
  const most = Math.max(max, ...numbers.busy, ...numbers.idle, ...numbers.queued, 1);
  const count = numbers.busy.length;
  const steps = Math.max(count, FEWEST) - 1;
  const x = (index) => (WIDTH - ((count - 1 - index) * WIDTH) / steps).toFixed(1);
  const y = (value) => (HEIGHT - 1 - (value / most) * (HEIGHT - 3)).toFixed(1);
  const line = (values) => values.map((value, index) => `${index ? "L" : "M"}${x(index)} ${y(value)}`).join("");
  const area = count ? `${line(numbers.busy)}L${WIDTH} ${HEIGHT - 1}L${x(0)} ${HEIGHT - 1}Z` : "";
  const shapes = [["spark-base", `M0 ${HEIGHT - 0.5}H${WIDTH}`], ["spark-busy", area],
    ["spark-idle", line(numbers.idle)], ["spark-wait", Math.max(...numbers.queued) > 0 ? line(numbers.queued) : ""]];
  shapes.forEach(([className, path], index) => {
    const shape = svg.children[index] ?? svg.appendChild(document.createElementNS(SVG, "path"));
    shape.setAttribute("class", className);
    shape.setAttribute("d", path);
  });
  const least = Math.min(...numbers.busy);
  svg.setAttribute("aria-label", `${name}, last ${span(count * step * 1000)}: ${least} to ${Math.max(...numbers.busy)} busy,`
    + ` at most ${Math.max(...numbers.queued)} waiting`);
}
