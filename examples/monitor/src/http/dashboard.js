"use strict";
// Everything shown comes from the API and goes in as text, never as markup.
const API = "/api/v2";
const EVENTS = 50;

async function ask(path) {
  const answer = await fetch(API + path);
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

function table(id, head, rows) {
  const line = (cells, kind) => {
    const tr = document.createElement("tr");
    for (const cell of cells) {
      const element = document.createElement(kind);
      element.textContent = cell ?? "";
      tr.append(element);
    }
    return tr;
  };
  const lines = rows.map((row) => line(row, "td"));
  document.getElementById(id).replaceChildren(line(head, "th"), ...lines);
}

function health(status) {
  const sights = { hypervisor: status.hypervisor, images: status.builder, ...status.forges };
  const blind = Object.entries(sights).filter(([, sight]) => !sight.seen);
  const text = blind.map(([name, sight]) => `${name}: ${sight.reason}`).join("; ");
  const element = document.getElementById("health");
  element.textContent = text || (status.draining ? "draining" : "everything can be seen");
  element.className = text ? "bad" : "";
}

async function refresh() {
  const [status, profiles, workers, page] = await Promise.all(
    ["/status", "/profiles", "/workers", "/jobs?limit=20"].map(ask));
  health(status);
  const phases = ["starting", "idle", "reserved", "busy", "over"];
  table("profiles", ["profile", ...phases, "keep ready", "at most", "jobs waiting"],
    profiles.map(({ name, counts }) => [name, ...phases.map((phase) => counts[phase]),
      counts.min_idle, counts.max, counts.queued]));
  table("workers", ["worker", "profile", "phase", "since", "job"],
    workers.map((worker) => [worker.name, worker.profile,
      worker.ending ? `${worker.phase}: ${worker.ending}` : worker.phase,
      new Date(worker.since).toLocaleTimeString(), worker.job]));
  table("jobs", ["job", "state", "profile", "worker", "what"],
    page.jobs.map((job) => [job.id, job.reason ? `${job.state}: ${job.reason}` : job.state,
      job.profile, job.worker, job.title || (job.argv ?? ["(script)"]).join(" ").slice(0, 80)]));
}

function show(event) {
  const list = document.getElementById("events");
  const item = document.createElement("li");
  item.textContent = `${new Date(event.at).toLocaleTimeString()} ${event.text}`;
  list.prepend(item);
  while (list.children.length > EVENTS) list.lastChild.remove();
}

let pending = false;
function refreshSoon() {
  if (pending) return;
  pending = true;
  setTimeout(async () => {
    pending = false;
    try {
      await refresh();
    } catch (error) {
      const element = document.getElementById("health");
      element.textContent = `the service does not answer (${error.message})`;
      element.className = "bad";
    }
  }, 200);
}

async function main() {
  refreshSoon();
  let after = 0;
  try {
    const page = await ask(`/events?limit=${EVENTS}`);
    page.events.forEach(show);
    after = page.next;
  } catch { /* The stream below tells when the service is back. */ }
  const stream = new EventSource(`${API}/events/follow?after=${after}`);
  stream.onmessage = (message) => { show(JSON.parse(message.data)); refreshSoon(); };
  stream.onopen = stream.onerror = refreshSoon;
}
main();
