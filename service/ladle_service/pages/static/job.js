// A job's page. The job's events say when something has happened; what changes is made by the service (`/live`), but for
// the loss curve, the bar of the stage and the log.
"use strict";

(() => {
  const page = document.getElementById("job");
  const id = page.dataset.job;
  const OVER = ["succeeded", "failed", "cancelled"];
  const AGAIN_MS = 1500, RARELY_MS = 20000, SOON_MS = 250, LOG_MS = 2000, LOG_LINES = 2000;

  // ---- events

  let lastEvent = "", source = null, over = "ended" in page.dataset, due = null, pause = AGAIN_MS;

  function follow() {
    source?.close();
    source = new EventSource(`/v1/jobs/${id}/events${lastEvent ? `?after=${lastEvent}` : ""}`);
    source.onopen = () => {
      pause = AGAIN_MS;
      ladle.connection(null);
      soon();
    };
    source.onerror = () => {
      if (over) return source.close();
      ladle.connection("The service cannot be reached. Reconnecting …");
      // A browser comes back by itself with Last-Event-ID, unless the answer was an error.
      if (source.readyState !== EventSource.CLOSED) return;
      setTimeout(() => over || document.hidden || follow(), pause);
      pause = Math.min(2 * pause, RARELY_MS);
      soon(); // says what is wrong
    };
    for (const kind of ["state", "stage", "checkpoints", "memory", "candidate", "warning", "step"])
      source.addEventListener(kind, (message) => take(JSON.parse(message.data), message.lastEventId));
  }

  // A browser has six connections to a service, and each stream is one: those of hidden pages are closed.
  function seen() {
    if (over) return;
    if (!document.hidden) return follow();
    source.close();
    setTimeout(rarely, RARELY_MS);
  }

  function rarely() {
    if (over || !document.hidden) return;
    update();
    setTimeout(rarely, RARELY_MS);
  }

  function take(event, eventId) {
    lastEvent = eventId;
    if (event.body.kind === "step") {
      progress(event.body);
      point(event.body);
      return;
    }
    if (event.body.kind === "state" && OVER.includes(event.body.state)) end();
    soon();
  }

  function soon() {
    due ??= setTimeout(update, SOON_MS);
  }

  function end() {
    over = true;
    source.close();
    ladle.connection(null);
    readLog();
  }

  async function update() {
    due = null;
    try {
      await ladle.refresh(`/jobs/${id}/live`);
      const { state, title } = document.getElementById("summary").dataset;
      document.title = `${title} · Ladle`;
      if (!over && document.hidden && OVER.includes(state)) end();
    } catch (error) {
      if (error.status === 404) over = true; // the job was deleted
      ladle.connection(error.status ? error.message : "The service cannot be reached. Reconnecting …");
      if (!over) setTimeout(soon, pause);
    }
  }

  function progress(step) {
    const bar = document.getElementById("step-bar"), words = document.getElementById("step-words");
    if (!bar || !step.total) return;
    bar.max = step.total;
    bar.value = step.step;
    const parts = [`${step.step} of ${step.total}`];
    if (step.rate && step.unit) parts.push(ladle.rate(step.rate, step.unit));
    if (step.eta_s >= 1) parts.push(`${ladle.duration(step.eta_s)} left`);
    words.textContent = parts.join(", ");
  }

  // ---- loss curve

  const losses = new Map(); // method -> Map of step -> loss
  const COLOURS = ["--c1", "--c2", "--c3", "--c4", "--c5", "--c6", "--c7"];
  const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3], [12, 4], [4, 4], [1, 4]];
  let plot = null, drawn = "", drawing = null;

  function point({ stage, method, step, loss }) {
    if (stage !== "train" || loss === null || loss === undefined) return;
    const name = method ?? "";
    if (!losses.has(name)) losses.set(name, new Map());
    losses.get(name).set(step, loss);
    drawing ??= setTimeout(draw, SOON_MS);
  }

  function draw() {
    drawing = null;
    document.getElementById("curve").hidden = false;
    const names = [...losses.keys()];
    const tables = names.map((name) => {
      const steps = [...losses.get(name)].sort((one, other) => one[0] - other[0]);
      return [steps.map(([step]) => step), steps.map(([, loss]) => loss)];
    });
    const data = uPlot.join(tables);
    const kind = names.join("\n") + matchMedia("(prefers-color-scheme: dark)").matches;
    if (kind === drawn) plot.setData(data);
    else {
      plot?.destroy();
      plot = new uPlot(options(names), data, document.getElementById("plot"));
      drawn = kind;
    }
    document.getElementById("curve-words").textContent = names
      .map((name, index) => `${name}: ${tables[index][1].at(-1).toPrecision(4)} at step ${tables[index][0].at(-1)}`)
      .join("; ");
  }

  function options(names) {
    const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { stroke: colour("--grid") } };
    const series = names.map((name, index) => ({
      label: name,
      stroke: colour(COLOURS[index % COLOURS.length]),
      dash: DASHES[index % DASHES.length],
      width: 2,
      spanGaps: true,
      points: { show: losses.get(name).size < 2 },
      value: (_, value) => (value === null ? "–" : value.toPrecision(4)),
    }));
    return {
      width: document.getElementById("plot").clientWidth,
      height: 260,
      scales: { x: { time: false } },
      axes: [{ ...axis, label: "step", labelSize: 22 }, { ...axis, label: "loss", labelSize: 22, size: 60 }],
      series: [{ label: "step" }, ...series],
    };
  }

  new ResizeObserver(() => plot?.setSize({ width: document.getElementById("plot").clientWidth, height: 260 })).observe(page);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plot && draw());

  // ---- log

  const lines = document.getElementById("log-lines");
  const search = document.getElementById("log-search");
  const keepsUp = document.getElementById("log-follow");
  let log = null;
  const shownFirst = lines.textContent.split("\n").slice(0, -1);

  async function readLog() {
    try {
      const answer = await ladle.ask(`/v1/jobs/${id}/logs?tail=${LOG_LINES}`);
      const isNew = answer.lines.length > 0; // of an old job only what the page began with is left
      if (isNew && (log === null || log.length !== answer.lines.length || log.at(-1) !== answer.lines.at(-1))) {
        log = answer.lines;
        showLog();
      }
    } catch (error) {
      if (error.status === 404) return; // the job was deleted, which the page itself tells
    }
    if (!over) setTimeout(readLog, document.hidden ? RARELY_MS : LOG_MS);
  }

  function showLog(told = false) {
    const wanted = search.value.toLowerCase();
    const shown = (log ?? shownFirst).filter((line) => line.toLowerCase().includes(wanted));
    const parts = shown.flatMap((line) => [...marked(line, wanted), "\n"]);
    lines.replaceChildren(...(parts.length ? parts : [wanted ? "No line has that." : "Nothing was printed."]));
    if (told) document.getElementById("log-found").textContent = `${shown.length} of ${(log ?? shownFirst).length} lines`;
    if (keepsUp.checked) lines.scrollTop = lines.scrollHeight;
  }

  // The line with what was searched for in <mark>. Text stays text.
  function marked(line, wanted) {
    if (!wanted) return [line];
    const parts = [];
    let from = 0;
    for (let at; (at = line.toLowerCase().indexOf(wanted, from)) >= 0; from = at + wanted.length) {
      const mark = document.createElement("mark");
      mark.textContent = line.slice(at, at + wanted.length);
      parts.push(line.slice(from, at), mark);
    }
    return [...parts, line.slice(from)];
  }

  search.addEventListener("input", () => showLog(true));
  keepsUp.addEventListener("change", () => showLog());
  lines.addEventListener("wheel", () => (keepsUp.checked = lines.scrollTop + lines.clientHeight >= lines.scrollHeight - 4), { passive: true });

  // ---- cancel

  document.addEventListener("submit", async (event) => {
    if (event.target.id !== "cancel") return;
    event.preventDefault();
    if (!confirm("Cancel this job? What it has done so far is lost.")) return;
    try {
      await ladle.ask(`/v1/jobs/${id}/cancel`, { method: "POST" });
      soon();
    } catch (error) {
      ladle.connection(error.message);
    }
  });

  document.addEventListener("visibilitychange", seen);
  follow();
  readLog();
})();
