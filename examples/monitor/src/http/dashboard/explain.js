// Why something waits, runs or ended, in the service's own words.
import { ask } from "./api.js";
import { clock, make, say } from "./page.js";

/** Fills `box` with what the service says at `path`. */
export async function explain(box, path) {
  let told;
  try {
    told = await ask(path);
  } catch {
    return;
  }
  say(box.querySelector("p"), told.summary);
  const lines = (told.lines ?? []).map((line) => {
    const item = make("li");
    if (line.at) item.append(make("time", "", clock(line.at)));
    item.append(line.text ?? "");
    return item;
  });
  box.querySelector("ol").replaceChildren(...lines);
  box.hidden = !told.summary && !lines.length;
}
