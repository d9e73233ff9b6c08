// Starts everything, and tells each part of the page what the pool says.
import { $, clock, keyed, make, say, span, told } from "./page.js";
import * as api from "./api.js";
import * as events from "./events.js";
import * as forges from "./forges.js";
import * as jobDialog from "./job-dialog.js";
import * as jobs from "./jobs.js";
import * as profiles from "./profiles.js";
import * as promises from "./promises.js";
import * as screens from "./screens.js";
import * as workerDialog from "./worker-dialog.js";
import * as workers from "./workers.js";
import { follow } from "./stream.js";
import { prepare } from "./dialog.js";

const THEMES = ["system", "light", "dark"];
let known = "";
let seen = "";
let status = null;
let lost = null;
let streams = [];
let duties = [];

/** Takes in what the pool says now. */
function update(news) {
  ({ status } = news);
  const names = Object.keys(status.profiles).join("\n");
  if (names !== known) {
    known = names;
    profiles.learn().then(() => profiles.show(status)).catch(() => {});
  }
  profiles.show(status);
  if (sightOfForges() !== seen) {
    seen = sightOfForges();
    forges.refresh();
  }
  workers.update(news.workers, news.gone, news.whole);
  workerDialog.refresh();
  jobs.update(status);
  promises.refreshSoon(status);
  showSights();
  showCapacity();
}

const sights = () => [["hypervisor", status.hypervisor], ["images", status.builder],
  ...Object.entries(status.forges).map(([name, sight]) => [`forge ${name}`, sight])];

const sightOfForges = () => JSON.stringify(status.forges);

function showSights() {
  keyed($("sights"), sights(), ([name]) => name, () => make("li"), (item, [name, sight]) => {
    item.className = sight.seen ? "" : "blind";
    item.title = sight.seen ? "It can be seen" : sight.reason ?? "";
    say(item, sight.seen ? name : `${name}: not seen`);
  });
  showAlerts();
}

function showAlerts() {
  const alerts = [];
  if (lost?.detail) alerts.push(["lost", "The service does not answer", lost.detail, false]);
  if (status) {
    for (const [name, sight] of sights()) {
      if (!sight.seen) alerts.push([name, `The ${name} cannot be seen`, `${told(sight.reason)}. Nothing that depends on it is decided.`, false]);
    }
    for (const [key, title, text] of duties) alerts.push([key, title, text, true]);
    if (status.draining) alerts.push(["draining", "The pool is being emptied", "Jobs end, and no worker is made.", true]);
  }
  keyed($("alerts"), alerts, ([key]) => key,
    ([, , , mild]) => make("p", mild ? "mild" : "", make("b"), ": ", make("span")),
    (item, [, title, text]) => {
      say(item.firstChild, title);
      say(item.lastChild, text);
    });
}

function showCapacity() {
  const { capacity, used } = status;
  if (!capacity) return;
  const memory = (resources) => resources.memory_mib + resources.huge_memory_mib;
  const gib = (mib) => (mib >= 10_240 ? Math.round(mib / 1024) : Math.round(mib / 102.4) / 10);
  const kinds = [["vCPUs", used.vcpus, capacity.vcpus, String],
    ["GiB memory", memory(used), memory(capacity), gib],
    ...Object.keys(capacity.counters ?? {}).map((name) => [name, used.counters[name] ?? 0, capacity.counters[name], String])];
  keyed($("capacity"), kinds, ([name]) => name, ([name]) => {
    const meter = make("meter");
    meter.setAttribute("aria-label", name);
    return make("div", "", meter, make("span"));
  }, (item, [name, inUse, all, unit]) => {
    const [meter, text] = item.children;
    meter.max = Math.max(all, 1);
    meter.value = inUse;
    say(text, `${unit(inUse)} / ${unit(all)} ${name}`);
  });
}

/** Says whether what is shown is what is. */
function connection(state, error, pause) {
  const lamp = $("connection");
  lamp.dataset.state = state;
  if (state === "live") {
    lost = null;
    say(lamp, "live");
  } else {
    lost = lost ?? { since: Date.now() };
    lost.detail = error.status === 401 ? "it wants an API token; enter one above" : "";
    say(lamp, `disconnected since ${clock(lost.since)}${pause > 1000 ? `, next try in ${span(pause)}` : ""}`);
  }
  showAlerts();
}

async function begin() {
  streams.forEach((stream) => stream.stop());
  streams = [];
  await api.learn().catch(() => {});
  document.body.classList.toggle("no-screens", !screens.there());
  streams.push(follow("/status/follow", {
    event: ({ data }) => update(JSON.parse(data)),
    state: (state, error, pause) => {
      connection(state, error, pause);
      if (state === "live") {
        profiles.learn().then(() => status && profiles.show(status)).catch(() => {});
        jobs.refreshSoon();
      }
    },
  }));
  forges.start((found, all) => {
    duties = found;
    showAlerts();
    jobs.elsewhere(all, workers.all);
  });
  streams.push(await events.start((event) => {
    if (event.kinds.has("jobs")) jobs.refreshSoon();
  }));
}

function prepareTheme() {
  const show = () => say($("theme"), `Theme: ${localStorage.getItem("theme") ?? "system"}`);
  $("theme").addEventListener("click", () => {
    const now = THEMES.indexOf(localStorage.getItem("theme") ?? "system");
    const next = THEMES[(now + 1) % THEMES.length];
    if (next === "system") {
      localStorage.removeItem("theme");
      delete document.documentElement.dataset.theme;
    } else {
      localStorage.setItem("theme", next);
      document.documentElement.dataset.theme = next;
    }
    show();
  });
  show();
}

function prepareToken() {
  const open = prepare($("token-dialog"), () => { $("token-text").value = ""; });
  const show = () => say($("token"), api.token() ? "Token: set" : "Token: none");
  $("token").addEventListener("click", () => open($("token")));
  $("token-save").addEventListener("click", () => api.useToken($("token-text").value.trim()));
  $("token-drop").addEventListener("click", () => {
    api.useToken("");
    $("token-dialog").close();
  });
  api.onToken(() => {
    show();
    // Who was refused before may come in now.
    if (lost) location.reload();
  });
  show();
}

prepareTheme();
prepareToken();
workers.start(workerDialog.open);
workerDialog.start(workers.worker, jobDialog.open);
jobs.start(jobDialog.open);
jobDialog.start();
setInterval(() => {
  if (!status || lost || document.hidden) return;
  profiles.sample(status.profiles);
  profiles.show(status);
}, profiles.samplePause());
begin();
