// A job as it goes on, times that stay true, and a word when the service cannot be reached. Everything works without it.
"use strict";
(() => {
  const MOST_LINES = 1000;
  const lost = document.getElementById("lost");

  // The same words as bot/serve/pages/words.py says.
  const ago = (seconds) =>
    seconds < 45 ? "just now"
      : seconds < 5400 ? `${Math.max(1, Math.round(seconds / 60))} min ago`
        : seconds < 129600 ? `${Math.round(seconds / 3600)} h ago`
          : `${Math.round(seconds / 86400)} days ago`;

  const retime = (root = document) => {
    for (const time of root.querySelectorAll("time[title]")) {
      const text = ago((Date.now() - Date.parse(time.dateTime)) / 1000);
      if (time.textContent !== text) time.textContent = text;
    }
  };

  const toEnd = (log) => { log.scrollTop = log.scrollHeight; };

  // Text goes in as text: whatever a log says, it stays a line of it.
  const append = (lines) => {
    const log = document.getElementById("log");
    if (!log) return;
    const list = log.querySelector("ol");
    const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    for (const [, at, text] of lines) {
      const item = document.createElement("li");
      const time = document.createElement("time");
      const said = document.createElement("span");
      time.dateTime = at;
      time.textContent = at.slice(11, 19);
      said.textContent = text;
      item.append(time, " ", said);
      list.append(item);
    }
    while (list.children.length > MOST_LINES) list.firstElementChild.remove();
    list.hidden = false;
    log.querySelector(".none")?.remove();
    if (follows) toEnd(log);
  };

  const follow = (box) => {
    const address = new URL(box.dataset.events, location.href);
    const place = box.querySelector(".live");
    const wire = box.querySelector(".wire");
    const said = box.querySelector(".said");
    let seen = Number(address.searchParams.get("after"));
    let wait = 1000;
    let source = null;

    const say = (text, cut) => {
      wire.hidden = false;
      wire.classList.toggle("cut", cut);
      if (wire.textContent !== text) wire.textContent = text;
    };
    const again = () => htmx.ajax("GET", location.pathname, { target: "#job", select: "#job", swap: "outerHTML" });
    const open = () => {
      if (!box.isConnected) return;
      address.searchParams.set("after", seen);
      source = new EventSource(address);
      source.onopen = () => { wait = 1000; say("Live", false); };
      source.onerror = () => {
        if (!box.isConnected) { source.close(); return; }
        say("The connection is lost. Trying again…", true);
        source.close();
        setTimeout(open, wait);
        wait = Math.min(30000, wait * 2);
      };
      source.addEventListener("trouble", (event) => say(event.data, true));
      source.addEventListener("job", (event) => {
        say("Live", false);
        htmx.swap(place, event.data, { swapStyle: "innerHTML" });
        // Told when it changes, and not with every figure.
        const doing = place.querySelector(".doing").textContent;
        if (said.textContent !== doing) said.textContent = doing;
      });
      source.addEventListener("lines", (event) => {
        const lines = JSON.parse(event.data).filter(([number]) => number > seen);
        if (lines.length) { seen = lines.at(-1)[0]; append(lines); }
      });
      source.addEventListener("end", () => { source.close(); wire.hidden = true; again(); });
    };
    open();
    addEventListener("pagehide", () => source?.close());
    addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
  };

  const begin = (root) => {
    retime(root);
    for (const box of root.querySelectorAll("[data-events]:not([data-on])")) { box.dataset.on = ""; follow(box); }
  };

  const reachable = (is, text) => {
    lost.hidden = is;
    if (!is && lost.textContent !== text) lost.textContent = text;
  };

  addEventListener("DOMContentLoaded", () => {
    begin(document);
    const log = document.getElementById("log");
    if (log) toEnd(log);
    document.getElementById("wrong")?.focus();
    setInterval(retime, 20000);
    document.body.addEventListener("htmx:afterSettle", (event) => begin(event.target.parentElement ?? document));
    document.body.addEventListener("htmx:sendError", () => reachable(false, "The service cannot be reached. This page tries again by itself."));
    document.body.addEventListener("htmx:responseError", (event) => {
      if (event.detail.xhr.status === 401 || event.detail.xhr.status === 403) location.reload();
      else reachable(false, "The service has trouble answering. This page tries again by itself.");
    });
    document.body.addEventListener("htmx:afterOnLoad", (event) => { if (event.detail.xhr.status < 400) reachable(true); });
  });
})();
