// One job: its facts, why it waits or how it went, its log as it comes.
import { $, button, clock, facts, make, say, span, toast } from "./page.js";
import { ask, at, has, now, onToken, request, token } from "./api.js";
import { Terminal } from "./ansi.js";
import { explain } from "./explain.js";
import { follow } from "./stream.js";
import { prepare } from "./dialog.js";

const EVERY = 2000;
// Of a longer log only the end is shown; the whole is one request away.
const TAIL = 512 * 1024;

const dialog = $("job-dialog");
const terminal = new Terminal(dialog.querySelector(".terminal"));
const actions = dialog.querySelector(".actions");
const show = prepare(dialog, leave);

let id = "";
let job = null;
let log = null;
let timer = 0;

export function start() {
  onToken(allow);
}

export async function open(wanted, opener) {
  leave();
  id = wanted;
  terminal.clear();
  dialog.querySelector(".why").hidden = true;
  dialog.querySelector(".facts").replaceChildren();
  dialog.querySelector(".badge").replaceChildren();
  say($("job-dialog-title"), id);
  actions.replaceChildren();
  show(opener);
  const tell = (text) => say(dialog.querySelector(".stream-state"), text);
  tell("");
  await refresh();
  if (id !== wanted || !job) return;
  makeActions();
  const from = Math.max(0, job.log_bytes - TAIL);
  if (from) terminal.write(`[the first ${from} bytes are left out here]\n`);
  log = follow(`${at("jobs", id)}/log/follow`, {
    last: from ? String(from) : "",
    event: ({ kind, data }) => {
      const part = JSON.parse(data);
      if (kind !== "end") {
        terminal.write(part.text);
        return false;
      }
      tell("complete");
      refresh();
      return true;
    },
    state: (state, error, pause) => {
      if (state === "live") tell("live");
      else tell(`lost: ${error.message}${pause ? `; next try in ${span(pause)}` : ""}`);
    },
  });
}

async function refresh() {
  clearTimeout(timer);
  const wanted = id;
  try {
    const told = await ask(at("jobs", wanted));
    if (wanted !== id) return;
    job = told;
    fill();
  } catch (error) {
    if (wanted !== id) return;
    if (!job) say(dialog.querySelector(".stream-state"), error.message);
  }
  const path = `${at("jobs", wanted)}/explain`;
  if (has("GET", "/jobs/{}/explain")) await explain(dialog.querySelector(".why"), path);
  if (wanted === id && !job?.ended_at) timer = setTimeout(refresh, EVERY);
}

function fill() {
  say($("job-dialog-title"), job.title || job.id);
  dialog.querySelector(".badge").replaceChildren(make("b", `state ${job.state}`, job.state.replace("_", " ")));
  const between = (from, to) => (from ? span((to ? Date.parse(to) : now()) - Date.parse(from)) : "");
  const whole = job.argv ? job.argv.join(" ") : (job.script ?? "").trim().split("\n")[0];
  const command = whole.replace(/[\x00-\x1f\x7f]/g, "");
  facts(dialog.querySelector(".facts"), [
    ["Id", job.id], ["Because", job.reason],
    ["Profile", job.profile], ["Labels", job.labels.join(", ")], ["Worker", job.worker],
    ["Runs", command.length > 200 ? `${command.slice(0, 200)}…` : command],
    ["Waited", between(job.queued_at, job.started_at ?? job.ended_at)],
    ["Ran", between(job.started_at, job.ended_at)],
    ["Submitted", clock(job.queued_at)], ["Ended", job.ended_at ? clock(job.ended_at) : ""],
    ["Exit code", job.exit_code === undefined ? "" : String(job.exit_code)],
    ["Priority", job.priority ? String(job.priority) : ""],
    ["Log", `${job.log_bytes} bytes${job.log_cut ? ", cut" : ""}`],
    ["Cancelled", job.cancel_requested && !job.ended_at ? "it was asked to end" : ""],
  ]);
  for (const act of actions.children) act.allow?.();
}

function makeActions() {
  const cancel = button("Cancel", async () => {
    job = await ask(`${at("jobs", id)}/cancel`, { method: "POST" });
    toast(job.ended_at ? `${id} is cancelled.` : `${id} was asked to end.`);
    fill();
  }, { sure: "Really cancel it?" });
  cancel.allow = () => {
    cancel.hidden = Boolean(job?.ended_at);
    cancel.disabled = !token() || Boolean(job?.cancel_requested);
    cancel.title = token() ? "" : "Enter a token first";
  };
  const outputs = button("Outputs", () => save(`${at("jobs", id)}/outputs`, `${id}.tar`));
  outputs.allow = () => { outputs.hidden = !job?.has_outputs; };
  const whole = button("Whole log", () => save(`${at("jobs", id)}/log`, `${id}.log`));
  actions.replaceChildren(cancel, outputs, whole);
  allow();
}

/** Saves what is at `path`; a link could not send the token. */
async function save(path, name) {
  const url = URL.createObjectURL(await (await request(path)).blob());
  const link = make("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

function allow() {
  for (const act of actions.children) act.allow?.();
}

function leave() {
  clearTimeout(timer);
  log?.stop();
  log = null;
  job = null;
  id = "";
}
