// Why something waits, runs or ended, in the service's own words.
import { ask } from "./api.js";
import { clock, make, say, told } from "./page.js";

/** Fills `box` with what the service says at `path`. */
export async function explain(box, path) {
  let answer;
  try {
    answer = await ask(path);
  } catch {
    return;
  }
  say(box.querySelector("p"), told(answer.summary));
  const lines = (answer.lines ?? []).map((line) => {
    const item = make("li");
    if (line.at) item.append(make("time", "", clock(line.at)));
    item.append(told(line.text));
    return item;
  });
  box.querySelector("ol").replaceChildren(...lines);
  box.hidden = !answer.summary && !lines.length;
}
