// How things get onto the page: as text, in place, and each by its key.
export const $ = (id) => document.getElementById(id);

/** An element of a class, with children that are elements or text. Text is never taken for markup. */
export function make(tag, className = "", ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** Sets a text only when it differs, so that an update touches what changed. */
export function say(element, text) {
  text = text ?? "";
  if (element.textContent !== text) element.textContent = text;
}

/** Makes the children of `list` those of `items`, in that order, keeping what is there already. */
export function keyed(list, items, key, create, update) {
  const old = list.nodes ?? new Map();
  const nodes = new Map();
  items.forEach((item, index) => {
    const id = key(item);
    const node = old.get(id) ?? create(item);
    old.delete(id);
    nodes.set(id, node);
    update(node, item);
    if (list.children[index] !== node) list.insertBefore(node, list.children[index] ?? null);
  });
  for (const node of old.values()) node.remove();
  list.nodes = nodes;
}

/** Text for those who hear the page. */
export const heard = (text) => make("span", "heard", text);

/** How long, in the two units that matter. */
export function span(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  const two = (big, unit, small, other) => (small ? `${big} ${unit} ${small} ${other}` : `${big} ${unit}`);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return two(Math.floor(seconds / 60), "min", seconds % 60, "s");
  if (seconds < 86_400) return two(Math.floor(seconds / 3600), "h", Math.floor((seconds % 3600) / 60), "min");
  return two(Math.floor(seconds / 86_400), "d", Math.floor((seconds % 86_400) / 3600), "h");
}

const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

/** The time of day; with the day, unless it is today. */
export function clock(text) {
  const time = new Date(text);
  const today = time.toDateString() === new Date().toDateString();
  return today ? CLOCK.format(time) : `${DAY.format(time)} ${CLOCK.format(time)}`;
}

/** A sentence of the service's, with the times in it as people say them. */
export const told = (text) => (text ?? "").replace(/\b\d{4}-\d\d-\d\dT[\d:.]+Z/g, clock);

/** A link to elsewhere, in a tab of its own; the text alone, where there is nothing to open. */
export function link(text, url) {
  if (!/^https?:/.test(url ?? "")) return text;
  const element = make("a", "", text, heard(" (opens in a new tab)"));
  element.href = url;
  element.target = "_blank";
  element.rel = "noopener noreferrer";
  return element;
}

/** Fills a list of terms with what there is to say. */
export function facts(list, pairs) {
  const there = pairs.filter(([, value]) => value !== undefined && value !== null && value !== "");
  const terms = there.map(([name, value]) => make("div", "", make("dt", "", name), make("dd", "", value)));
  const same = terms.length === list.children.length
    && terms.every((term, index) => term.textContent === list.children[index].textContent);
  if (!same) list.replaceChildren(...terms);
}

/** Tells whoever looks, and whoever listens. */
export function toast(text) {
  const item = make("p", "", text);
  $("toasts").append(item);
  setTimeout(() => item.remove(), 6000);
}

/** A button that asks once more before it does something that cannot be undone. */
export function button(text, act, { sure } = {}) {
  const element = make("button", "", text);
  element.type = "button";
  let armed = 0;
  const calm = () => {
    if (!armed) return;
    clearTimeout(armed);
    armed = 0;
    element.classList.remove("sure");
    element.textContent = text;
  };
  element.addEventListener("click", async () => {
    if (sure && !armed) {
      armed = setTimeout(calm, 4000);
      element.classList.add("sure");
      element.textContent = sure;
      return;
    }
    calm();
    element.disabled = true;
    try {
      await act();
    } catch (error) {
      toast(error.message);
    } finally {
      element.disabled = false;
    }
  });
  return element;
}
