// The nodes as they are now, without disturbing somebody who types a reason.
"use strict";

const AGAIN_MS = 5000;

async function renew() {
  const shown = document.getElementById("nodes");
  const isTyping = shown.contains(document.activeElement) || [...shown.querySelectorAll("[name=reason]")].some((box) => box.value);
  if (!document.hidden && !isTyping) {
    try {
      await ladle.refresh("/nodes");
      ladle.connection(null);
    } catch {
      ladle.connection("The service does not answer. What is shown may be old.");
    }
  }
  setTimeout(renew, AGAIN_MS);
}

setTimeout(renew, AGAIN_MS);
