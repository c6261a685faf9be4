// The form for a job. Each button sends the whole form, and the answer is the whole page: this script replaces only the
// parts of the page that have changed. Without it the page works the same, and loads anew.
"use strict";

const DRAFT = "/submit/draft";
// What a button changes, by the first word of its value.
const PARTS = { inspect: ["inspection"], options: ["options"], typing: [] };
const INSPECTED = /^(ckpt_dir|checkpoints\.|task\.|method\.|adapters\.)/;
const PAUSE_MS = 300;

const form = () => document.getElementById("submit");
let typing = null; // the request for the texts of the moment

// Sends the form, and returns the page that is the answer. Raises an Error with the API's own words.
async function send(path, pressed, signal) {
  const fields = new URLSearchParams(new FormData(form()));
  if (pressed) fields.set("do", pressed);
  const answer = await fetch(path, { method: "POST", body: fields, signal, headers: { Accept: "application/json" } });
  if (!(answer.headers.get("content-type") || "").startsWith("text/html")) throw await ladle.problem(answer);
  return { url: answer.redirected ? answer.url : null, page: new DOMParser().parseFromString(await answer.text(), "text/html") };
}

const partsOf = (kind) => document.querySelectorAll(`[data-part="${kind}"]`);

function replaceParts(page, kinds) {
  for (const kind of [...kinds, "summary"]) {
    for (const old of partsOf(kind)) {
      const made = page.getElementById(old.id);
      if (!made) continue;
      for (const box of old.querySelectorAll("details[id]")) {
        made.querySelector(`#${box.id}`).open = box.open;
      }
      old.replaceWith(made);
    }
  }
  showCopyButtons();
}

function tell(error) {
  if (error.name === "AbortError") return;
  document.getElementById("problem").textContent =
    error instanceof TypeError ? "The service does not answer. What you have typed is still here: try again." : error.message;
}

// A button of the folder browser, or the one that inspects.
async function press(value) {
  const verb = value.split(":")[0];
  const field = form().elements["browser.field"].value;
  const kinds = PARTS[verb] || ["browser"];
  // What the answer replaces takes no clicks until then: they would be for a folder that is being left.
  const replaced = kinds.flatMap((kind) => [...partsOf(kind)]);
  const pressed = document.activeElement;
  for (const part of replaced) part.inert = true;
  document.getElementById("problem").textContent = "";
  if (verb === "inspect") document.getElementById("inspecting").textContent = "A worker looks at the checkpoints ...";
  try {
    const { page } = await send(DRAFT, value);
    replaceParts(page, kinds);
    const made = page.getElementById("submit");
    if (verb === "use" || verb === "add") {
      form().elements[field].value = made ? made.elements[field].value : "";
      form().elements[field].focus();
      if (field === "ckpt_dir" && verb === "use") await press("inspect");
    } else if (verb === "close") {
      form().elements[field].focus();
    } else if (verb !== "options") {
      const part = verb === "inspect" ? "inspection" : "browser";
      document.querySelector(`[data-part="${part}"] [data-focus]`)?.focus();
    }
  } catch (error) {
    for (const part of replaced) part.inert = false;
    pressed?.focus();
    tell(error);
  } finally {
    if (verb === "inspect") document.getElementById("inspecting").textContent = "";
  }
}

async function submitJob() {
  const button = document.getElementById("go");
  button.setAttribute("aria-busy", "true");
  document.getElementById("problem").textContent = "";
  try {
    const { url, page } = await send("/submit");
    if (url) return location.assign(url);
    const inspection = document.getElementById("inspection");
    document.querySelector("main").replaceWith(page.querySelector("main"));
    document.getElementById("inspection").replaceWith(inspection);
    showCopyButtons();
    document.querySelector("#mistakes")?.focus();
  } catch (error) {
    tell(error);
  } finally {
    document.getElementById("go")?.removeAttribute("aria-busy");
  }
}

// The command, the script and the name of the result follow what is typed.
async function follow() {
  typing?.abort();
  typing = new AbortController();
  try {
    replaceParts((await send(DRAFT, "typing", typing.signal)).page, []);
  } catch (error) {
    tell(error);
  }
}

function showCopyButtons() {
  if (!navigator.clipboard) return;
  for (const button of document.querySelectorAll("[data-copy]")) button.hidden = false;
}

document.addEventListener("submit", (event) => {
  if (event.target.id !== "submit") return;
  event.preventDefault();
  if (event.submitter?.name === "do") press(event.submitter.value);
  else submitJob();
});

let pause = 0;
document.addEventListener("input", (event) => {
  const name = event.target.name || "";
  if (event.target.form?.id !== "submit" || name.startsWith("browser.")) return;
  if (INSPECTED.test(name)) document.querySelector("[data-stale]").hidden = false;
  clearTimeout(pause);
  if (name === "method.name" || name === "task.name") press("options");
  else pause = setTimeout(follow, PAUSE_MS);
});

document.addEventListener("click", async (event) => {
  if (!event.target.matches("[data-copy]")) return;
  await navigator.clipboard.writeText(event.target.parentElement.querySelector("code").textContent);
  event.target.textContent = "Copied";
});

showCopyButtons();
