// Server-sent events over fetch, which can send the token: goes on where it broke off, and gives way while
// nobody looks.
import { request } from "./api.js";

const FIRST_WAIT = 500;
const LONGEST_WAIT = 15_000;
// The service says that it is alive every 15 seconds.
const SILENCE = 40_000;
const HIDDEN_FOR = 10_000;

/**
 * Follows `path` until `stop()`. `event` gets each event; `state` is told "live", or "lost" with the reason
 * and when the next try comes; an event handler that returns true ends it.
 */
export function follow(path, { event, state = () => {}, last = "" }) {
  let stopped = false;
  let wait = FIRST_WAIT;
  let controller = null;
  let timer = 0;
  let hiding = 0;

  async function once() {
    controller = new AbortController();
    let watch = 0;
    const alive = () => {
      clearTimeout(watch);
      watch = setTimeout(() => controller.abort(new Error("it is silent")), SILENCE);
    };
    try {
      alive();
      const headers = { Accept: "text/event-stream" };
      if (last) headers["Last-Event-ID"] = last;
      const answer = await request(path, { headers, signal: controller.signal });
      state("live");
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        alive();
        wait = FIRST_WAIT;
        const lines = (rest + value).split("\n\n");
        rest = lines.pop();
        for (const text of lines) {
          const parsed = parse(text);
          if (!parsed) continue;
          if (parsed.id) last = parsed.id;
          if (event(parsed) === true) {
            stop();
            return;
          }
        }
      }
      throw new Error("the stream ended");
    } finally {
      clearTimeout(watch);
    }
  }

  async function run() {
    timer = 0;
    try {
      await once();
    } catch (error) {
      if (stopped || hiding < 0) return;
      if (error.status === 404) {
        stopped = true;
        state("gone", error);
        return;
      }
      const pause = wait * (0.75 + Math.random() / 2);
      wait = Math.min(wait * 2, LONGEST_WAIT);
      state("lost", error, pause);
      timer = setTimeout(run, pause);
    }
  }

  // A browser opens few connections to one host: tabs that nobody looks at leave them to others.
  function look() {
    if (document.hidden) {
      hiding = setTimeout(() => {
        hiding = -1;
        clearTimeout(timer);
        controller?.abort();
      }, HIDDEN_FOR);
    } else {
      const away = hiding < 0;
      clearTimeout(hiding);
      hiding = 0;
      if (away && !stopped) run();
    }
  }

  function stop() {
    stopped = true;
    clearTimeout(timer);
    clearTimeout(hiding);
    document.removeEventListener("visibilitychange", look);
    controller?.abort();
  }

  document.addEventListener("visibilitychange", look);
  run();
  return { stop, retry: () => { if (timer) { clearTimeout(timer); wait = FIRST_WAIT; run(); } } };
}

function parse(text) {
  const event = { id: "", kind: "message", data: "" };
  const data = [];
  for (const line of text.split("\n")) {
    if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
    else if (line.startsWith("id:")) event.id = line.slice(3).trim();
    else if (line.startsWith("event:")) event.kind = line.slice(6).trim();
  }
  event.data = data.join("\n");
  return data.length ? event : null;
}
