// The list of jobs: searched while one types, and asked for anew every few seconds.
"use strict";

(() => {
  const search = document.getElementById("q");
  const found = document.getElementById("found");
  const BUSY_MS = 2000, IDLE_MS = 5000, TYPING_MS = 150;
  let timer = null, typing = null, asked = 0;

  async function update() {
    const mine = ++asked;
    clearTimeout(timer);
    try {
      if (!document.hidden) {
        await ladle.refresh("/jobs/list" + location.search);
        ladle.connection(null);
      }
    } catch (error) {
      ladle.connection(error.status ? error.message : "The service cannot be reached. Reconnecting …");
    }
    const busy = document.getElementById("list").dataset.active > 0;
    if (mine === asked) timer = setTimeout(update, busy ? BUSY_MS : IDLE_MS);
  }

  async function searched() {
    const address = new URL(location);
    address.searchParams.delete("page");
    if (search.value) address.searchParams.set("q", search.value);
    else address.searchParams.delete("q");
    history.replaceState(null, "", address);
    await update();
    const count = document.getElementById("list").dataset.found;
    found.textContent = `${count} job${count === "1" ? "" : "s"} found`;
  }

  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(searched, TYPING_MS);
  });
  document.getElementById("search").addEventListener("submit", (event) => {
    event.preventDefault();
    searched();
  });
  document.addEventListener("visibilitychange", () => document.hidden || update());
  document.addEventListener("keydown", (event) => {
    const writes = event.target.closest("input, textarea, select");
    if (event.key === "/" && !writes && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      search.focus();
      search.select();
    }
    // From one job to the next, once the focus is in the list.
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const jobs = [...document.querySelectorAll("td.job a")];
    const place = jobs.indexOf(document.activeElement);
    if (step && place >= 0 && jobs[place + step]) {
      event.preventDefault();
      jobs[place + step].focus();
    }
  });
  timer = setTimeout(update, BUSY_MS);
})();
