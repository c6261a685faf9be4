// `ladle up --open` puts the token behind the #: browsers do not send that part, so it is in no log.
"use strict";

if (location.hash.length > 1) {
  document.getElementById("token").value = decodeURIComponent(location.hash.slice(1));
  history.replaceState(null, "", location.pathname + location.search);
  document.getElementById("login").requestSubmit();
}
