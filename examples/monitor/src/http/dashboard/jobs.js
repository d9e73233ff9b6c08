// The jobs: what waits and why, what runs, what is over.
import { $, clock, keyed, link, make, say, span, told } from "./page.js";
import { ask, now } from "./api.js";
import { labelsOf } from "./profiles.js";

const SHOWN = 100;
const EVERY = 1000;
const QUERIES = { queued: `state=queued&limit=${SHOWN}`, running: `state=running&limit=${SHOWN}`, over: `limit=${SHOWN}` };
const OVER = new Set(["succeeded", "failed", "cancelled", "timed_out", "interrupted"]);

let view = "queued";
let jobs = [];
let status = null;
let more = false;
let asked = 0;
let timer = 0;
let open = () => {};
let forges = [];
let workers = () => [];

export function start(opener) {
  open = opener;
  for (const choice of $("job-states").children) {
    choice.addEventListener("click", () => {
      view = choice.dataset.view;
      for (const other of $("job-states").children) other.setAttribute("aria-pressed", String(other === choice));
      asked = 0;
      refreshSoon();
    });
  }
  $("job-list").addEventListener("click", (event) => {
    const row = event.target.closest("button.job");
    if (row) open(row.job.id, row);
  });
  setInterval(show, 5000);
}

/** Takes in the forges elsewhere, with the jobs that wait there; `all` tells of the workers. */
export function elsewhere(told, all) {
  [forges, workers] = [told, all];
  show();
}

/** The jobs of forges elsewhere that are looked for. */
function others() {
  if (view === "over") return [];
  const place = (forge, { repository, title, url }) => ({ forge, repository, title, url });
  if (view === "queued") {
    return forges.flatMap(({ name, waiting }) => (waiting ?? []).map((job) => ({ ...job, ...place(name, job), state: view })));
  }
  return workers().filter((worker) => worker.job_place).map(({ name, profile, forge, job, job_place, since }) =>
    ({ ...place(forge, job_place), id: job, profile, labels: [], worker: name, state: view, started_at: since }));
}

/** Asks for the jobs again, but once a second at most. */
export function refreshSoon() {
  if (timer || document.hidden) return;
  timer = setTimeout(async () => {
    timer = 0;
    asked = Date.now();
    const wanted = view;
    try {
      const page = await ask(`/jobs?${QUERIES[wanted]}`);
      if (wanted !== view) return;
      jobs = wanted === "over" ? page.jobs.filter(({ state }) => OVER.has(state)) : page.jobs;
      // What has waited longest is what one looks for.
      if (wanted === "queued") jobs.reverse();
      more = Boolean(page.next);
      show();
    } catch { /* The page says already that the service does not answer. */ }
  }, Math.max(0, asked + EVERY - Date.now()));
}

/** Takes in the pool: what is held, and why. */
export function update(news) {
  status = news;
  const sum = (key) => Object.values(status.profiles).reduce((all, counts) => all + counts[key], 0);
  const queued = Object.values(status.queued).reduce((all, count) => all + count, 0);
  for (const choice of $("job-states").children) {
    const count = choice.querySelector("b");
    if (count) say(count, String(choice.dataset.view === "queued" ? queued : sum("busy")));
  }
  const held = heldBack();
  keyed($("held-list"), held, ({ key }) => key,
    ({ failed }) => make("li", failed ? "failed" : "", make("b"), ": ", make("span")),
    (item, { subjects, text }) => {
      say(item.firstChild, subjects.length > 3 ? many(subjects) : subjects.join(", "));
      item.title = subjects.length > 3 ? subjects.join(", ") : "";
      say(item.lastChild, text);
    });
  $("held").hidden = !held.length;
  document.title = queued ? `(${queued}) monitor` : "monitor";
}

/** What is held back: once for each reason, and failures with when they are tried again. */
function heldBack() {
  const reasons = new Map();
  const add = (subject, text, failed) => {
    const key = `${failed} ${text}`;
    const reason = reasons.get(key) ?? { key, text, failed, subjects: [] };
    reasons.set(key, reason);
    reason.subjects.push(subject);
  };
  for (const { subject, error, failures, retry_at } of status.failures) {
    const times = failures > 1 ? ` (${failures} times in a row)` : "";
    add(subject, `${told(error)}${times}; next try at ${clock(retry_at)}`, true);
  }
  const failed = new Set(status.failures.map(({ subject }) => subject));
  for (const { subject, why_not } of status.held) {
    if (!failed.has(subject) || !why_not.startsWith("the last try failed")) add(subject, told(why_not), false);
  }
  return [...reasons.values()];
}

/** How many there are of each sort: `57 workers`. */
function many(subjects) {
  const sorts = new Map();
  for (const subject of subjects) {
    const sort = subject.split(" ")[0];
    sorts.set(sort, (sorts.get(sort) ?? 0) + 1);
  }
  return [...sorts].map(([sort, count]) => `${count} ${sort}${count === 1 ? "" : "s"}`).join(", ");
}

function show() {
  const begun = (job) => Date.parse(view === "queued" ? job.queued_at : job.started_at ?? job.queued_at);
  const rows = view === "over" ? jobs
    : [...jobs, ...others()].sort((a, b) => (view === "queued" ? begun(a) - begun(b) : begun(b) - begun(a)));
  keyed($("job-list"), rows, ({ forge, id, url }) => `${forge ?? ""} ${id} ${url ? "page" : ""}`, create, fill);
  const none = { queued: "No job waits.", running: "No job runs.", over: "No job is over yet." };
  const rest = view === "over" ? "Older ones are in the API." : `Only ${SHOWN} are shown.`;
  const there = view === "over" && forges.length ? `What is over at ${forges.map(({ name }) => name).join(" and ")} is told there.` : "";
  say($("job-note"), [rows.length ? (more ? rest : "") : none[view], there].filter(Boolean).join(" "));
}

/** One of ours opens here, one of a forge elsewhere there. */
function create({ forge, url }) {
  const parts = [make("span", "title"), make("span", "when"), make("span", "sub", make("b", "state"), make("span"))];
  if (forge) {
    const row = link("", url) || make("div");
    row.className = "job";
    row.prepend(...parts);
    return make("li", "", row);
  }
  const row = make("button", "job", ...parts);
  row.type = "button";
  row.setAttribute("aria-haspopup", "dialog");
  return make("li", "", row);
}

function fill(item, job) {
  const row = item.firstChild;
  const [title, when, sub] = row.children;
  row.job = job;
  say(title, job.title || (job.forge ? job.id : (job.argv ?? ["a script"]).join(" ")));
  const since = (time) => span(now() - Date.parse(time));
  say(when, job.ended_at ? clock(job.ended_at) : since(job.started_at ?? job.assigned_at ?? job.queued_at));
  const [state, rest] = sub.children;
  state.className = `state ${job.state}`;
  say(state, job.state === "queued" ? "" : job.state.replace("_", " "));
  const labels = job.reserved_for ? `reserved for ${job.reserved_for}` : [...job.labels].join(" + ");
  const about = [job.repository ?? job.id, job.profile ?? labels, job.worker];
  const reason = job.state === "queued" ? reasonOf(job) : job.reason;
  say(rest, `${job.state === "queued" ? "" : " · "}${about.filter(Boolean).join(" · ")}${reason ? ` — ${reason}` : ""}`);
}

/** Why a job waits, as far as the pool has said so already. */
export function reasonOf(job) {
  if (!status || job.reserved_for) return "";
  const offers = (name) => job.labels.every((label) =>
    [name, ...labelsOf(name)].some((own) => own.toLowerCase() === label.toLowerCase()));
  const names = job.profile ? [job.profile] : Object.keys(status.profiles).filter(offers);
  if (!names.length) return "no profile offers these labels";
  const why = (subject) => status.held.find((held) => held.subject === subject)?.why_not;
  const failure = (subject) => status.failures.find((failed) => failed.subject === subject)?.error;
  for (const name of names) {
    const counts = status.profiles[name];
    const reason = why(`job ${job.id}`) ?? why(`profile ${name}`) ?? failure(`profile ${name}`)
      ?? why(`image of profile ${name}`) ?? failure(`image of profile ${name}`);
    if (reason) return told(reason);
    if (counts?.starting) return `${counts.starting} ${counts.starting === 1 ? "worker is" : "workers are"} starting`;
  }
  return "";
}
