// Warns before the message closes, and prints. Every page works without it.
"use strict";
(function () {
  var box = document.getElementById("idle");
  var print = document.getElementById("print");
  if (print) {
    print.hidden = false;
    print.querySelector("button").addEventListener("click", function () { window.print(); });
  }
  if (!box) return;

  var seen = Date.now(); // the server last heard of us; timers stop while a phone sleeps, clocks do not
  function check() {
    var idle = (Date.now() - seen) / 1000;
    if (idle >= Number(box.dataset.end)) {
      location.replace(box.dataset.closed);
    } else if (idle >= Number(box.dataset.warn) && box.hidden) {
      box.hidden = false;
      box.querySelector("button").focus();
    }
  }
  box.querySelector("button").addEventListener("click", function () {
    fetch(box.dataset.stay, { method: "POST", redirect: "manual", credentials: "same-origin" }).then(function (answer) {
      if (answer.type !== "opaqueredirect") return check();
      seen = Date.now();
      box.hidden = true;
    }, check);
  });
  setInterval(check, 5000);
  document.addEventListener("visibilitychange", check);
  window.addEventListener("pageshow", function (event) { if (event.persisted) location.reload(); });
})();
