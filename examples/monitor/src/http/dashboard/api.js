// Talks to the API: with the token, if there is one, and only along paths that this service has.
const API = "/api/v2";
const TOKEN = "monitor-token";
const listeners = new Set();
let paths = new Set();
let ahead = 0;

export const token = () => sessionStorage.getItem(TOKEN) ?? "";

/** Keeps the token until the tab is closed, or forgets it. */
export function useToken(text) {
  if (text) sessionStorage.setItem(TOKEN, text);
  else sessionStorage.removeItem(TOKEN);
  listeners.forEach((listener) => listener());
}

export const onToken = (listener) => listeners.add(listener);

/** What went wrong, in the service's own words. */
export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** As fetch, but an answer that is a refusal is thrown. */
export async function request(path, { method = "GET", body, headers = {}, signal } = {}) {
  if (token()) headers.Authorization = `Bearer ${token()}`;
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify(body);
  }
  const answer = await fetch(API + path, { method, body, headers, signal });
  const date = Date.parse(answer.headers.get("Date") ?? "");
  // The header has whole seconds: what is less apart than two is the same time.
  if (date) ahead = Math.abs(date - Date.now()) < 2000 ? 0 : date - Date.now();
  if (answer.ok) return answer;
  let detail = `${answer.status} ${answer.statusText}`;
  try {
    detail = (await answer.json()).detail ?? detail;
  } catch { /* A proxy's page says nothing that we could show. */ }
  throw new Problem(answer.status, detail);
}

export const ask = async (path, options) => (await request(path, options)).json();

/** What time it is at the service. */
export const now = () => Date.now() + ahead;

/** Learns which paths there are, so that none is asked for in vain. */
export async function learn() {
  const document = await ask("/openapi.json");
  paths = new Set(Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method.toUpperCase()} ${path.replace(/\{[^}]*\}/g, "{}")}`)));
}

export const has = (method, path) => paths.has(`${method} ${path}`);

export const at = (...parts) => `/${parts.map(encodeURIComponent).join("/")}`;
