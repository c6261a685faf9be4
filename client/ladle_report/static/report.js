// "Copy as Markdown". Without scripts the button stays hidden, and nothing else is missing.
"use strict";
const button = document.getElementById("copy");
const status = document.getElementById("copied");
const { markdown } = JSON.parse(document.getElementById("report-data").textContent);

// For browsers that keep the clipboard from pages of a disk.
function copyBySelection() {
  const area = document.createElement("textarea");
  area.value = markdown;
  area.setAttribute("aria-label", "The report as Markdown");
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  if (done) area.remove();
  return done;
}

button.hidden = false;
button.addEventListener("click", async () => {
  const done = await navigator.clipboard?.writeText(markdown).then(() => true, () => false);
  status.textContent = done || copyBySelection() ? "Copied." : "Copy the selected text at the end of the page.";
});
