// What every page has. Without it all pages can be read; it makes them live.
"use strict";

const ladle = {
  csrf: document.querySelector('meta[name="csrf-token"]').content,

  // fetch for the API, with this page's session. Raises an Error with the API's own words.
  async ask(path, options = {}) {
    const headers = { Accept: "application/json", "X-CSRF-Token": ladle.csrf, ...options.headers };
    const answer = await fetch(path, { ...options, headers });
    if (!answer.ok) throw await ladle.problem(answer);
    return answer.status === 204 ? null : answer.json();
  },

  async problem(answer) {
    const problem = await answer.json().catch(() => ({}));
    const words = problem.detail ? `${problem.detail} [${problem.code}]` : `The service answered ${answer.status}.`;
    return Object.assign(new Error(words), { status: answer.status, problem });
  },

  // Asks for parts of this page as the service would make them now, and puts in those that have changed. Whoever has
  // logged out elsewhere is led to the login.
  async refresh(path) {
    const answer = await fetch(path, { headers: { Accept: "*/*" } });
    if (answer.status === 401) location.reload();
    if (!answer.ok) throw await ladle.problem(answer);
    const fresh = document.createElement("template");
    fresh.innerHTML = await answer.text(); // the service has escaped all that is not its own
    for (const part of fresh.content.querySelectorAll("[data-live]")) ladle.swap(part);
  },

  // Replaces the part of the same id. What was open stays open, and the focus stays where it was.
  swap(part) {
    const shown = document.getElementById(part.id);
    const before = shown.cloneNode(true);
    for (const details of before.querySelectorAll("details")) details.open = false;
    if (before.innerHTML === part.innerHTML && before.hidden === part.hidden) return;
    for (const details of shown.querySelectorAll("details[open]")) part.querySelector(`#${details.id}`)?.setAttribute("open", "");
    const focused = shown.contains(document.activeElement) ? document.activeElement.id : "";
    shown.replaceWith(part);
    if (focused) (document.getElementById(focused) ?? document.getElementById("content")).focus({ preventScroll: true });
    ladle.tick();
  },

  // A line on top of the page while the service cannot be reached.
  connection(words) {
    const line = document.getElementById("connection");
    if (line.textContent === (words ?? "")) return;
    line.hidden = !words;
    line.textContent = words ?? "";
  },

  duration(seconds) {
    const whole = Math.max(0, Math.round(seconds));
    if (whole < 60) return `${whole} s`;
    if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
    return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  },

  // `12.4 steps/s`, `1.2 MB/s`
  rate(perSecond, unit) {
    const [scale, name] = unit !== "bytes" ? [1, ` ${unit}`] : [[1e9, " GB"], [1e6, " MB"], [1, " bytes"]].find(([size]) => perSecond >= size) ?? [1, " bytes"];
    return `${(perSecond / scale).toLocaleString("en", { maximumSignificantDigits: 3 })}${name}/s`;
  },

  ago(seconds) {
    for (const [length, unit] of [[172800, 86400], [3600, 3600], [60, 60]])
      if (seconds >= length) return `${Math.floor(seconds / unit)} ${{ 86400: "days", 3600: "h", 60: "min" }[unit]} ago`;
    return `${Math.max(0, Math.floor(seconds))} s ago`;
  },

  // Ages grow by themselves. A screen reader is not told.
  tick() {
    const now = Date.now();
    for (const time of document.querySelectorAll("time[data-ago]"))
      time.textContent = ladle.ago((now - Date.parse(time.dateTime)) / 1000);
    for (const since of document.querySelectorAll("[data-since]"))
      since.textContent = ladle.duration(now / 1000 - since.dataset.since);
  },
};

setInterval(ladle.tick, 1000);
