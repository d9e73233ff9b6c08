// Pictures of screens: only of workers that can be seen on the page, a few at a time, none while hidden.
import { at, has, request } from "./api.js";

const EVERY = 6000;
const AT_ONCE = 2;
const visible = new Map();
let busy = 0;

const observer = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) visible.set(target, visible.get(target) ?? 0);
    else visible.delete(target);
    target.onscreen = isIntersecting;
    if (isIntersecting) target.appear?.();
  }
}, { rootMargin: "80px" });

export function watch(tile) {
  observer.observe(tile);
}

export function unwatch(tile) {
  observer.unobserve(tile);
  visible.delete(tile);
  forget(tile.image);
}

/** Puts the picture of a worker's screen into an image; false if there is none. */
export async function picture(name, image) {
  const answer = await request(`${at("workers", name)}/screenshot`);
  const url = URL.createObjectURL(await answer.blob());
  forget(image);
  image.src = url;
  image.hidden = false;
}

export function forget(image) {
  if (image?.src.startsWith("blob:")) URL.revokeObjectURL(image.src);
}

export const there = () => has("GET", "/workers/{}/screenshot");

/** Whether a worker has a screen: its machine runs, and is not about to go. */
export const hasScreen = (worker) => worker.running === true && worker.phase !== "over";

async function fetchNext() {
  if (document.hidden || !there() || busy >= AT_ONCE) return;
  const due = Date.now() - EVERY;
  let oldest = null;
  for (const [tile, at] of visible) {
    if (!tile.isConnected) visible.delete(tile);
    else if (!tile.hidden && at <= due && hasScreen(tile.worker) && (!oldest || at < visible.get(oldest))) oldest = tile;
  }
  if (!oldest) return;
  visible.set(oldest, Date.now());
  busy += 1;
  try {
    await picture(oldest.worker.name, oldest.image);
  } catch { /* Its machine went meanwhile: the next look at the pool shows that. */ }
  busy -= 1;
  fetchNext();
}

export function start() {
  setInterval(fetchNext, 150);
}
