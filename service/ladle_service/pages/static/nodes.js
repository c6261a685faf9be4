// The nodes as they are now, without disturbing somebody who types a reason.
"use strict";

const AGAIN_MS = 5000;

async function renew() {
  const shown = document.getElementById("nodes");
  if (!document.hidden && !shown.contains(document.activeElement)) {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } }).catch(() => null);
    const made = answer?.ok && !answer.redirected && new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("nodes");
    if (made && !shown.contains(document.activeElement)) shown.replaceWith(made);
  }
  setTimeout(renew, AGAIN_MS);
}

setTimeout(renew, AGAIN_MS);
