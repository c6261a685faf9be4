// What every page has. Pages work without it, except for what is live.
"use strict";

const ladle = {
  csrf: document.querySelector('meta[name="csrf-token"]').content,

  // fetch for the API with this page's session. Raises an Error with the API's own words.
  async ask(path, options = {}) {
    const headers = { Accept: "application/json", "X-CSRF-Token": ladle.csrf, ...options.headers };
    const answer = await fetch(path, { ...options, headers });
    if (answer.ok) return answer.status === 204 ? null : answer.json();
    const problem = await answer.json().catch(() => ({}));
    const error = new Error(problem.detail ? `${problem.detail} [${problem.code}]` : `The service answered ${answer.status}.`);
    throw Object.assign(error, { status: answer.status, problem });
  },
};
