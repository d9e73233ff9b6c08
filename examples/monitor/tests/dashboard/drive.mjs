// Drives the dashboard in a real Chromium, over a crowd of fake workers: what a person would do and see.
// Arguments: the modules' directory, the crowd's program, Chromium, where screenshots go.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { spawn } from "node:child_process";
import { mkdtempSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

const [modules, crowdProgram, chromiumProgram, shots] = process.argv.slice(2).map((path) => resolve(path));
const require = createRequire(join(modules, "node_modules", "/"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

// Everything here waits for a condition; this is how long the slowest host may take for one.
const PATIENCE = 60_000;
const scratch = mkdtempSync(join(tmpdir(), "dashboard-"));
const crowds = [];
mkdirSync(shots, { recursive: true });

/** A crowd, once it answers. */
async function crowd(...args) {
  const data = args.includes("--data") ? args[args.indexOf("--data") + 1] : join(scratch, `crowd-${crowds.length}`);
  const process_ = spawn(crowdProgram, args.includes("--data") ? args : [...args, "--data", data],
    { stdio: ["ignore", "pipe", "inherit"] });
  const ended = new Promise((resolve) => { process_.once("exit", resolve); });
  const url = await new Promise((resolve, reject) => {
    let said = "";
    process_.stdout.on("data", (part) => {
      said += part;
      const found = said.match(/listening on (http:\S+)/);
      if (found) resolve(found[1]);
    });
    ended.then((code) => reject(new Error(`the crowd ended with ${code}`)));
  });
  const one = {
    url, data, process: process_, token: readFileSync(join(data, "api-token"), "utf8").trim(),
    stop: async () => {
      process_.kill("SIGTERM");
      await ended;
    },
    send: async (method, path, body) => {
      const headers = { Authorization: `Bearer ${one.token}`, "Content-Type": "application/json" };
      const answer = await fetch(url + path, { method, headers, body: body && JSON.stringify(body) });
      assert.ok(answer.ok, `${method} ${path}: ${answer.status} ${await answer.clone().text()}`);
      return answer;
    },
    api: async (path, body) => (await one.send(body ? "POST" : "GET", `/api/v2${path}`, body)).json(),
  };
  crowds.push(one);
  return one;
}

async function until(what, condition) {
  const end = Date.now() + PATIENCE;
  for (;;) {
    const found = await condition();
    if (found) return found;
    if (Date.now() > end) throw new Error(`it did not come about: ${what}`);
    await new Promise((resolve) => { setTimeout(resolve, 50); });
  }
}

/** A page of its own, and what it complained about. */
async function visit(browser, url, { width = 1280, height = 900, scheme = "light", motion = "reduce" } = {}) {
  const page = await browser.newPage({ viewport: { width, height }, colorScheme: scheme, reducedMotion: motion });
  page.setDefaultTimeout(PATIENCE);
  const complaints = [];
  // A worker or an override that ends, or a worker that gets a job, between the look at it and the question for more
  // is no fault of the page.
  const raced = (address) => /\/workers\/[^/]+\/(screenshot|explain|console|hold|retire)|\/api\/v2\/override$/.test(address);
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type()) && !raced(message.location().url ?? "")) {
      complaints.push(`${message.type()}: ${message.text()}`);
    }
  });
  page.on("pageerror", (error) => complaints.push(`error: ${error.stack}`));
  page.on("response", (answer) => {
    if (answer.status() >= 400 && !raced(answer.url())) complaints.push(`${answer.status()} ${answer.url()}`);
  });
  page.on("requestfailed", (request) => {
    // Streams are ended by the page itself.
    const aborted = request.failure()?.errorText === "net::ERR_ABORTED";
    if (!aborted) complaints.push(`${request.failure()?.errorText} ${request.url()}`);
  });
  page.complaints = complaints;
  await page.goto(url);
  await page.waitForSelector('#connection[data-state="live"]');
  return page;
}

const shoot = (page, name) => page.screenshot({ path: join(shots, `${name}.png`) });

/** No serious finding of axe, and nothing that scrolls sideways. */
async function inspect(page, where) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run({ resultTypes: ["violations"] }));
  const serious = violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
  const said = serious.map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map(({ html, failureSummary }) => `${html}\n  ${failureSummary}`).join("\n")}`);
  assert.deepEqual(said, [], where);
  const [whole, seen] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(whole <= seen, `${where}: the page is ${whole} wide and the screen ${seen}`);
}

const steps = {
  async "the crowd is there, and every part of the page tells of it"({ page }) {
    await until("a crowd of workers", async () => await page.locator("#worker-list .worker").count() >= 170);
    assert.equal(await page.locator(".profile").count(), 6);
    await page.waitForSelector(".sights li:has-text('forge local')");
    await page.waitForSelector(".sights li:has-text('forge github')");
    await page.waitForSelector("#event-list li");
    await page.waitForSelector(".capacity meter");
    const box = await page.locator(".profile .bars .busy").first().boundingBox();
    assert.ok(box.height > 4, "the bars have a height");
  },

  async "updates arrive, and change what is there in place"({ page }) {
    await page.evaluate(() => {
      for (const tile of document.querySelectorAll(".worker")) tile.seenBefore = tile.dataset.phase;
    });
    await until("a worker with another phase in its old tile", () => page.evaluate(() =>
      [...document.querySelectorAll(".worker")].some((tile) => tile.seenBefore && tile.seenBefore !== tile.dataset.phase)));
    const newest = await page.locator("#event-list li").first().textContent();
    await until("a newer event", async () => await page.locator("#event-list li").first().textContent() !== newest);
    const { profiles } = await page.evaluate(async () => (await fetch("/api/v2/status")).json());
    assert.deepEqual((await page.locator(".profile .name b").allTextContents()).sort(), Object.keys(profiles).sort());
  },

  async "each profile tells its numbers, its last hour, its image and what it lacks"({ page }) {
    const rows = () => page.$$eval(".profile", (all) => all.map((row) => ({
      name: row.querySelector(".name b").textContent, text: row.querySelector(".stack").innerText.replace(/\s+/g, " "),
      bars: row.querySelector(".bars").getAttribute("aria-label"), chart: row.querySelector("svg").getAttribute("aria-label"),
      drawn: row.querySelector(".spark-busy")?.getAttribute("d"),
    })));
    await until("a chart of each", async () => (await rows()).every(({ drawn }) => drawn));
    for (const { name, text, bars, chart } of await rows()) {
      assert.match(text, /\d+ of \d+ ready \d+ of \d+ workers/, name);
      assert.match(text, /image \d+ (s|min).* old/, name);
      assert.match(text, /\d+ healthy of target \d+/, name);
      assert.match(bars, new RegExp(`^${name}: \\d+ .* of at most \\d+$`), name);
      assert.match(chart, /, last .*: \d+ to \d+ busy, at most \d+ waiting$/, name);
    }
    // What is told at one moment is what the API tells at the next, if nothing happened in between.
    await until("the API's own numbers", async () => {
      const { profiles } = await page.evaluate(async () => (await fetch("/api/v2/status")).json());
      return (await rows()).every(({ name, text }) => {
        const { healthy, target, wanted } = profiles[name];
        return text.includes(`${healthy} healthy of target ${target}${wanted ? `, ${wanted} wanted` : ""}`);
      });
    });
    await until("why one lacks something", async () => await page.locator(".profile .why-short:visible").count() > 0);
    assert.match(await page.locator(".profile .why-short:visible").first().textContent(), /\w+ \w+/);
  },

  async "pictures of screens come for the workers that are seen, and only for those"({ page }) {
    const wanted = [];
    page.on("request", (request) => {
      const found = request.url().match(/workers\/([^/]+)\/screenshot/);
      if (found) wanted.push(found[1]);
    });
    await until("pictures", () => page.evaluate(() =>
      [...document.querySelectorAll(".worker img")].filter((image) => image.naturalWidth > 100).length >= 8));
    const far = await page.evaluate(() => [...document.querySelectorAll(".worker")]
      .filter((tile) => tile.getBoundingClientRect().top > innerHeight * 3).map((tile) => tile.worker.name));
    assert.ok(far.length > 20, "there is more than one screenful");
    assert.deepEqual(wanted.filter((name) => far.includes(name)), []);
  },

  async "workers are found by text, profile and phase"({ page }) {
    const shown = () => page.$$eval("#worker-list li:not([hidden]) .worker", (tiles) => tiles.map(({ worker }) => worker));
    const before = (await shown()).length;
    await page.fill("#worker-text", "ANDROID-");
    const found = await shown();
    assert.ok(found.length > 0 && found.length < before);
    assert.ok(found.every(({ name }) => name.startsWith("android-")));
    await page.fill("#worker-text", "no such worker");
    assert.deepEqual(await shown(), []);
    assert.equal(await page.textContent("#worker-note"), "No worker is like that.");
    await page.fill("#worker-text", "");
    await page.selectOption("#worker-profile", "kernel");
    assert.ok((await shown()).every(({ profile }) => profile === "kernel"));
    await page.click('#phases [data-phase="busy"]');
    await until("busy kernel workers only", async () => {
      const left = await shown();
      return left.length > 0 && left.every(({ profile, phase }) => profile === "kernel" && phase === "busy");
    });
    await page.click('#phases [data-phase="busy"]');
    await page.selectOption("#worker-profile", "");
  },

  async "events are found by text and kind, and stand still when told to"({ page }) {
    const texts = () => page.locator("#event-list li span").allTextContents();
    await page.fill("#event-text", "provision");
    await until("only what was looked for", async () => {
      const found = await texts();
      return found.length > 0 && found.every((text) => text.toLowerCase().includes("provision"));
    });
    await page.fill("#event-text", "");
    await page.selectOption("#event-kind", "jobs");
    await until("only jobs", async () => (await texts()).every((text) => text.startsWith("job ")));
    await page.selectOption("#event-kind", "");
    await page.click("#event-pause");
    const still = await texts();
    await until("events that are counted", async () => /\(\d+ new\)/.test(await page.textContent("#event-pause")));
    assert.deepEqual(await texts(), still);
    await page.click("#event-pause");
    await until("events that go on", async () => (await texts())[0] !== still[0]);
  },

  async "the keyboard reaches a worker, opens it and comes back"({ page }) {
    await page.reload();
    await page.waitForSelector(".worker");
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.className), "skip");
    await page.keyboard.press("Enter");
    for (let presses = 0; presses < 20; presses += 1) {
      await page.keyboard.press("Tab");
      if (await page.evaluate(() => document.activeElement.matches(".worker"))) break;
    }
    const name = await page.evaluate(() => document.activeElement.worker?.name);
    assert.ok(name, "Tab reaches a worker");
    await page.keyboard.press("Enter");
    await page.waitForSelector("#worker-dialog[open]");
    assert.equal(await page.textContent("#worker-dialog-title"), name);
    await inspect(page, "a worker");
    await page.keyboard.press("Escape");
    await page.waitForSelector("#worker-dialog:not([open])", { state: "attached" });
    await until("the focus where it was, or near it", () => page.evaluate(() =>
      document.activeElement.matches(".worker, #workers")));
  },

  async "a worker shows its screen and its console"({ page }) {
    await page.click('#phases [data-phase="idle"]');
    await page.locator("#worker-list li:not([hidden]) .worker").first().click();
    await until("its console", async () => /Run \/init/.test(await page.textContent("#worker-dialog .terminal")));
    await until("its screen", () => page.evaluate(() => document.querySelector("#worker-dialog img").naturalWidth === 640));
    const screen = page.locator("#worker-dialog .screen");
    const [before, picture] = [(await screen.boundingBox()).width, await page.getAttribute("#worker-dialog img", "src")];
    await screen.focus();
    await page.keyboard.press("Enter");
    assert.ok((await screen.boundingBox()).width > before * 1.4, "it is larger");
    assert.equal(await screen.getAttribute("aria-pressed"), "true");
    await until("a newer picture", async () => await page.getAttribute("#worker-dialog img", "src") !== picture);
    await shoot(page, "worker-large");
    await screen.click();
    const facts = await page.textContent("#worker-dialog .facts");
    for (const fact of [/Labels\S+, .*-latest/, /Image\S+/, /Made.* ago/, /Takes2 vCPUs, 2048 MiB/]) assert.match(facts, fact);
    await until("why it is there", async () => (await page.textContent("#worker-dialog .why p")).length > 5);
    await inspect(page, "a worker with its screen");
    await shoot(page, "worker");
    await page.keyboard.press("Escape");
    await page.click('#phases [data-phase="idle"]');
  },

  async "the job of a forge elsewhere is named, with the way to its page"({ page, one }) {
    const its = 'a[href^="https://github.com/acme/widgets/actions/runs/"]';
    await page.click('#job-states [data-view="running"]');
    const row = page.locator(`#job-list ${its}`, { hasText: "running · " }).first();
    await row.waitFor();
    assert.deepEqual([await row.getAttribute("target"), await row.getAttribute("rel")], ["_blank", "noopener noreferrer"]);
    assert.match(await row.textContent(), /running · acme\/widgets · widgets · widgets-\d+/);
    await page.selectOption("#worker-profile", "widgets");
    await page.click('#phases [data-phase="busy"]');
    const tile = page.locator("#worker-list li:not([hidden]) .worker[data-phase=busy]").first();
    await tile.click();
    const link = page.locator(`#worker-dialog .facts ${its}`);
    await link.waitFor();
    assert.match(await link.textContent(), /^acme\/widgets: .+ \(opens in a new tab\)$/);
    await inspect(page, "a worker of a forge elsewhere");
    await page.keyboard.press("Escape");
    await page.click('#phases [data-phase="busy"]');
    await page.selectOption("#worker-profile", "");
    await page.click('#job-states [data-view="queued"]');
    // While nothing is made for them, its jobs wait, whatever the hour.
    await one.send("PATCH", "/api/v2/profiles/widgets", { paused: true });
    await page.waitForSelector(`#job-list ${its}`);
    await one.send("PATCH", "/api/v2/profiles/widgets", { paused: false });
  },

  async "what is promised, what waits in which place and what overrides all of it is told"({ page, one }) {
    const held = await until("a promise", async () => {
      try {
        return await one.api("/reservations", { profile: "android", count: 2, purpose: "to look <b>closely</b>", duration: "10m" });
      } catch (error) {
        if (/503/.test(error.message)) return null;
        throw error;
      }
    });
    const ids = ["11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"];
    for (const [index, id] of ids.entries()) {
      await one.send("POST", `/profile/kernel/enqueue/${28 - index}?unique_id=${id}&qualified_repo=acme/widgets&run_id=${index + 7}`);
    }
    const row = (kind) => page.locator(`#promise-list .${kind}`);
    await row("held").waitFor();
    assert.match(await row("held").textContent(), /2 of android for \S+.*to look <b>closely<\/b> — android-\d+, android-\d+; until/);
    await until("two places", async () => await row("waits").count() === 2);
    const waits = await row("waits").allTextContents();
    assert.match(waits[0], /^1\. 28 of kernel for acme\/widgets for \d+ s/);
    assert.match(waits[1], /^2\. 27 of kernel for acme\/widgets for \d+ s/);
    await until("how long that may take, or why nobody can tell", async () =>
      (await row("waits").allTextContents()).every((text) => /about .* to go|; \w+/.test(text)));
    await page.fill("#worker-text", held.id);
    const tile = page.locator("#worker-list li:not([hidden]) .worker[data-phase=reserved]").first();
    await tile.click();
    assert.match(await page.textContent("#worker-dialog .facts"), new RegExp(`Reservation${held.id}`));
    await page.keyboard.press("Escape");
    await page.fill("#worker-text", "");
    await one.api("/override", { counts: { android: 30 }, duration: "30m", purpose: "a release" });
    await row("override").waitFor();
    assert.match(await row("override").textContent(), /^Override: android .*30/);
    await inspect(page, "promises");
    await page.locator("#promises").scrollIntoViewIfNeeded();
    await shoot(page, "promises");
    for (const path of [`/reservations/${held.id}`, ...ids.map((id) => `/reservations/${id}`), "/override"]) {
      await one.send("DELETE", `/api/v2${path}`);
    }
    await page.waitForSelector("#promises", { state: "hidden" });
  },

  async "a picture of what a profile's image shows is where Servo's monitor has it"({ page }) {
    const [status, kind, size] = await page.evaluate(async () => {
      const answer = await fetch("/profile/linux/screenshot.png");
      return [answer.status, answer.headers.get("content-type"), (await createImageBitmap(await answer.blob())).width];
    });
    assert.deepEqual([status, kind, size], [200, "image/png", 640]);
  },

  async "what a job says is shown as text, whatever it says"({ page, one }) {
    const probe = `<img src=x onerror="window.broken=1"><script>window.broken=2</script>`;
    const job = await one.api("/jobs", {
      title: probe, profile: "linux", env: { "A": "<b>" },
      script: `echo ${probe}\necho \x1b[31mred\x1b[0m \x1b]title\x07plain \x1b[1m\x1b[32mgreen\x1b[0m\nsleep 2\nexit 3\n`,
    });
    await page.fill("#event-text", "onerror");
    await page.waitForSelector("#event-list li:has-text('onerror')");
    await page.fill("#event-text", "");
    await until("the end of the job", async () => (await one.api(`/jobs/${job.id}`)).ended_at);
    await page.click('#job-states [data-view="over"]');
    const row = page.locator(".job", { hasText: job.id });
    await row.click();
    await page.waitForSelector("#job-dialog[open]");
    await until("its title", async () => await page.textContent("#job-dialog-title") === probe);
    await until("the whole log", async () => await page.textContent("#job-dialog .stream-state") === "complete");
    const log = await page.$$eval("#job-dialog .terminal div", (lines) => lines.map((line) => line.textContent));
    assert.deepEqual(log, [probe, "red plain green"]);
    assert.equal(await page.textContent("#job-dialog .terminal .ink-1"), "red");
    assert.equal(await page.textContent("#job-dialog .terminal .bold.ink-2"), "green");
    assert.match(await page.textContent("#job-dialog .facts"), /exit code 3/);
    await inspect(page, "a job");
    await page.keyboard.press("Escape");
    assert.equal(await page.evaluate(() => window.broken), undefined);
    assert.equal(await page.locator("img[src=x], script:not([src])").count(), 0);
  },

  async "a job that nobody can run says so"({ page, one }) {
    const label = `<img src=x onerror="window.broken=3">`;
    const job = await one.api("/jobs", { title: "wants too much", labels: [label], script: "true" });
    await page.click('#job-states [data-view="queued"]');
    const row = page.locator(".job", { hasText: job.id });
    await until("its reason", async () => (await row.textContent()).includes(`${label} — no profile offers these labels`));
    await row.click();
    await until("its labels", async () => (await page.textContent("#job-dialog .facts")).includes(label));
    await page.keyboard.press("Escape");
    assert.equal(await page.evaluate(() => window.broken), undefined);
    await one.api(`/jobs/${job.id}/cancel`, {});
  },

  async "a log comes while its job runs"({ page, one }) {
    await page.click('#job-states [data-view="running"]');
    const job = await one.api("/jobs", { title: "follow me", profile: "linux", priority: 9, script: "echo first\nsleep 3\necho second\nsleep 600\n" });
    await page.locator(".job", { hasText: job.id }).click();
    const terminal = page.locator("#job-dialog .terminal");
    await until("the first line", async () => (await terminal.textContent()).startsWith("first"));
    await until("the second line", async () => (await terminal.textContent()) === "firstsecond");
    await shoot(page, "job");
    // Nobody without a token may end it.
    assert.ok(await page.isDisabled("#job-dialog .actions button:has-text('Cancel')"));
    await page.keyboard.press("Escape");
    return job;
  },

  async "who has a token may act, and it stays in this tab"({ page, one }) {
    await page.click("#token");
    await page.fill("#token-text", one.token);
    await page.keyboard.press("Enter");
    await until("the token in use", async () => await page.textContent("#token") === "Token: set");
    const kept = await page.evaluate(() => [JSON.stringify(localStorage), document.cookie, location.href].join());
    assert.ok(!kept.includes(one.token));
    await page.locator(".job", { hasText: "follow me" }).click();
    const cancel = page.locator("#job-dialog .actions button").first();
    await cancel.click();
    assert.equal(await cancel.textContent(), "Really cancel it?");
    await cancel.click();
    await until("its end", async () => await page.textContent("#job-dialog .badge") === "cancelled");
    await page.keyboard.press("Escape");
    await page.click('#job-states [data-view="queued"]');
    await page.evaluate(() => [...document.querySelectorAll(".toasts p")].forEach((toast) => toast.remove()));
  },

  async "a profile is paused, and goes on"({ page, one }) {
    const pause = page.locator(".profile", { hasText: "android" }).getByRole("button");
    await pause.click();
    await page.waitForSelector(".profile.paused:has-text('android')");
    assert.equal((await one.api("/status")).profiles.android.paused, true);
    await pause.click();
    await page.waitForSelector(".profile:not(.paused):has-text('android')");
  },

  async "a worker is held, let go and retired"({ page, one }) {
    await page.click('#phases [data-phase="idle"]');
    const act = (text) => page.locator("#worker-dialog .actions button", { hasText: text });
    const brief = { timeout: 10_000 };
    // One that gets a job meanwhile is nobody's fault: another is tried.
    const held = (then) => until("a worker that is held", async () => {
      await page.locator("#worker-list li:not([hidden]) .worker").first().click();
      const name = await page.textContent("#worker-dialog-title");
      let done = false;
      try {
        await act("Hold for 1 h").click(brief);
        await act("Let go").waitFor(brief);
        assert.match(await page.textContent("#worker-dialog .facts"), /until .* from the dashboard/);
        done = await then(name);
      } catch (error) {
        const { workers } = await one.api("/workers?limit=1000");
        if (workers.some((worker) => worker.name === name && worker.phase === "idle")) throw error;
      }
      await page.keyboard.press("Escape");
      return done;
    });
    await held(async () => {
      await act("Let go").click(brief);
      await act("Let go").waitFor({ state: "hidden", ...brief });
      return true;
    });
    await held(async (name) => {
      await act("Retire").click(brief);
      const answered = page.waitForResponse(/\/retire$/, brief);
      await act("Really retire it?").click(brief);
      const status = (await answered).status();
      assert.ok(status === 409 || status < 300, `${name}: ${status}`);
      if (status === 409) return false;
      await until("its end", async () => {
        const { workers } = await one.api("/workers?limit=1000");
        return !workers.some((worker) => worker.name === name && worker.phase === "idle");
      });
      return true;
    });
    await page.click('#phases [data-phase="idle"]');
  },

  async "forges elsewhere are told of: what took over, why, and what needs doing"({ page }) {
    // The crowd's is well: this is what one that is not answers.
    const broken = { since: "2026-01-01T00:00:00Z", reason: "GitHub answered 503" };
    const forges = [{
      name: "github", place: "organization acme at github.com", usable: false, paused_seconds: 0, limits: {}, ...broken,
      sources: [{ kind: "webhook", reliable: false, ...broken }, { kind: "poll", reliable: true }],
      profiles: { linux: { source: "poll", order: ["webhook", "poll"], failed_over: true,
        program: { version: "2.320.0", warning: "GitHub will refuse runner 2.320.0 from 2026-01-03T00:00:00Z on" } } },
      notes: [{ at: "2026-01-01T00:00:01Z", text: "poll took over" }],
    }];
    const row = page.locator(".forge");
    await row.waitFor();
    assert.equal(await row.locator(".state").textContent(), "usable");
    await page.route("**/api/v2/forges", (route) => route.fulfill({ json: forges }));
    await page.waitForSelector(".forge .reason:has-text('503')");
    assert.match(await row.locator(".state").textContent(), /^not usable since/);
    assert.equal(await row.locator(".chain [aria-current]").textContent(), "poll");
    assert.match(await row.locator(".why").textContent(), /^poll has taken over: GitHub answered 503$/);
    await page.waitForSelector(".alerts .mild:has-text('runner 2.320.0')");
    await inspect(page, "forges");
    await shoot(page, "forges");
    await page.unroute("**/api/v2/forges");
    await page.waitForSelector(".forge:not(.ill)");
  },

  async "the theme follows the system, until one is chosen"({ page }) {
    const back = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const light = await back();
    await page.emulateMedia({ colorScheme: "dark" });
    const dark = await back();
    assert.notEqual(light, dark);
    await page.click("#theme");
    assert.deepEqual([await page.textContent("#theme"), await back()], ["Theme: light", light]);
    await page.click("#theme");
    assert.deepEqual([await page.textContent("#theme"), await back()], ["Theme: dark", dark]);
    await page.reload();
    await page.waitForSelector('#connection[data-state="live"]');
    assert.equal(await back(), dark);
    await page.click("#theme");
    await page.emulateMedia({ colorScheme: "light" });
  },
};

/** Every size in both themes: nothing scrolls sideways, axe has nothing to say. */
async function sizes(browser, one) {
  for (const [width, height] of [[360, 780], [1280, 900], [2560, 1440]]) {
    for (const scheme of ["light", "dark"]) {
      const page = await visit(browser, one.url, { width, height, scheme });
      await until("workers", async () => await page.locator(".worker").count() >= 150);
      await until("pictures of nearly all that are seen", () => page.evaluate(() => {
        const seen = [...document.querySelectorAll(".worker")].filter((tile) => {
          const box = tile.getBoundingClientRect();
          return box.top >= 0 && box.bottom <= innerHeight && tile.worker.running && tile.worker.phase !== "over";
        });
        return seen.filter((tile) => tile.image.hidden).length <= seen.length / 10;
      }));
      await inspect(page, `${width} ${scheme}`);
      await shoot(page, `crowd-${width}-${scheme}`);
      assert.deepEqual(page.complaints, [], `${width} ${scheme}`);
      await page.close();
    }
  }
}

/** A hypervisor that is silent is named, with its reason; and so is its return. */
async function blind(browser, one) {
  const page = await visit(browser, one.url);
  one.process.kill("SIGUSR1");
  await page.waitForSelector(".alerts p:has-text('The hypervisor cannot be seen')");
  await page.waitForSelector(".sights .blind:has-text('hypervisor')");
  await inspect(page, "blind");
  await shoot(page, "blind");
  one.process.kill("SIGUSR1");
  await page.waitForSelector(".alerts:not(:has(p))", { state: "attached" });
  assert.deepEqual(page.complaints, []);
  await page.close();
}

/** A service that goes away is said to be away since then; when it is back, the page is too. */
async function away(browser, one) {
  const page = await visit(browser, one.url, { scheme: "dark" });
  await page.waitForSelector(".worker");
  await one.stop();
  await page.waitForSelector('#connection[data-state="lost"]:has-text("disconnected since")');
  await inspect(page, "disconnected");
  await shoot(page, "disconnected");
  const again = await crowd("--workers", "3", "--quiet", "--data", one.data, "--port", new URL(one.url).port);
  await page.waitForSelector('#connection[data-state="live"]');
  await until("three workers", async () => await page.locator("#worker-list .worker").count() === 3);
  await page.close();
  await again.stop();
}

async function few(browser) {
  for (const workers of ["0", "3"]) {
    const one = await crowd("--workers", workers, "--quiet");
    const page = await visit(browser, one.url);
    const note = workers === "0" ? "There are no workers." : "";
    await until(`${workers} workers`, async () =>
      String(await page.locator(".worker[data-phase=idle]").count()) === workers && await page.textContent("#worker-note") === note);
    await until("no job", async () => await page.textContent("#job-note") === "No job waits.");
    await inspect(page, `${workers} workers`);
    await shoot(page, `workers-${workers}`);
    assert.deepEqual(page.complaints, []);
    await page.close();
    await one.stop();
  }
}

let browser;
try {
  browser = await chromium.launch({
    executablePath: chromiumProgram,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync"],
  });
  const one = await crowd("--workers", "200");
  const page = await visit(browser, one.url);
  for (const [name, step] of Object.entries(steps)) {
    await step({ page, one });
    assert.deepEqual(page.complaints, [], name);
    console.log(`ok: ${name}`);
  }
  await page.close();
  for (const [name, step] of Object.entries({ sizes, blind, away })) {
    await step(browser, one);
    console.log(`ok: ${name}`);
  }
  await few(browser);
  console.log("ok: few");
} finally {
  await browser?.close();
  for (const one of crowds) one.process.kill("SIGKILL");
  rmSync(scratch, { recursive: true, force: true });
}
