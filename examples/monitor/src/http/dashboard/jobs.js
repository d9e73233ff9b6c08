// The jobs: what waits and why, what runs, what is over.
import { $, clock, keyed, make, say, span, told } from "./page.js";
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
    const row = event.target.closest(".job");
    if (row) open(row.job.id, row);
  });
  setInterval(() => jobs.length && show(), 5000);
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
  keyed($("job-list"), jobs, ({ id }) => id, create, fill);
  const none = { queued: "No job waits.", running: "No job runs.", over: "No job is over yet." };
  const rest = view === "over" ? "Older ones are in the API." : `Only ${SHOWN} are shown.`;
  say($("job-note"), jobs.length ? (more ? rest : "") : none[view]);
}

function create() {
  const row = make("button", "job", make("span", "title"), make("span", "when"),
    make("span", "sub", make("b", "state"), make("span")));
  row.type = "button";
  row.setAttribute("aria-haspopup", "dialog");
  return make("li", "", row);
}

function fill(item, job) {
  const row = item.firstChild;
  const [title, when, sub] = row.children;
  row.job = job;
  say(title, job.title || (job.argv ?? ["a script"]).join(" "));
  const since = (time) => span(now() - Date.parse(time));
  say(when, job.ended_at ? clock(job.ended_at) : since(job.started_at ?? job.assigned_at ?? job.queued_at));
  const [state, rest] = sub.children;
  state.className = `state ${job.state}`;
  say(state, job.state === "queued" ? "" : job.state.replace("_", " "));
  const about = [job.id, job.profile ?? [...job.labels].join(" + "), job.worker];
  const reason = job.state === "queued" ? reasonOf(job) : job.reason;
  say(rest, `${job.state === "queued" ? "" : " · "}${about.filter(Boolean).join(" · ")}${reason ? ` — ${reason}` : ""}`);
}

/** Why a job waits, as far as the pool has said so already. */
export function reasonOf(job) {
  if (!status) return "";
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
