// Refreshes the page in place: fetches it every two seconds and changes what differs, so that scrolling, focus,
// a selection and opened details stay. Everything is on the page without it.
(() => {
  "use strict";
  const INTERVAL_MS = 2000;
  const PATIENCE_MS = 5000;
  const connection = document.getElementById("connection");
  const pause = document.getElementById("pause");
  const version = (page) => page.querySelector("meta[name=version]").content;
  let answeredAt = new Date();
  let isPaused = false;

  function morph(old, fresh) {
    if (old.nodeName !== fresh.nodeName) {
      old.replaceWith(document.importNode(fresh, true));
    } else if (old.nodeType === Node.ELEMENT_NODE) {
      morphAttributes(old, fresh);
      const nodes = [...old.childNodes];
      [...fresh.childNodes].forEach((node, idx) => {
        if (idx < nodes.length) morph(nodes[idx], node);
        else old.append(document.importNode(node, true));
      });
      nodes.slice(fresh.childNodes.length).forEach((node) => node.remove());
    } else if (old.data !== fresh.data) {
      old.data = fresh.data;
    }
  }

  function morphAttributes(old, fresh) {
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    for (const name of old.getAttributeNames()) {
      // Whether details are open is the reader's choice.
      if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
    }
  }

  function say(text) {
    if (connection.textContent !== text) connection.textContent = text;
    document.documentElement.classList.toggle("stale", text !== "");
  }

  async function refresh() {
    try {
      const signal = AbortSignal.timeout(PATIENCE_MS);
      const response = await fetch(location.pathname, { cache: "no-store", signal });
      if (!response.ok) throw new Error(response.status);
      const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
      if (isPaused) return;
      if (version(fresh) !== version(document)) return location.reload();
      for (const old of document.querySelectorAll("[data-live]")) morph(old, fresh.getElementById(old.id));
      morphAttributes(document.getElementById("icon"), fresh.getElementById("icon"));
      document.title = fresh.title;
      answeredAt = new Date();
      say("");
    } catch {
      const since = answeredAt.toISOString().slice(11, 19);
      say(`Not answering since ${since}. What you see is from then.`);
      document.title = `\u2717 not answering since ${since} \u00b7 usage-processor`;
    }
  }

  async function rounds() {
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, INTERVAL_MS));
      if (!isPaused && !document.hidden) await refresh();
    }
  }

  pause.hidden = false;
  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    pause.setAttribute("aria-pressed", isPaused);
    if (!isPaused) refresh();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && !isPaused) refresh();
  });
  rounds();
})();
