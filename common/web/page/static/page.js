// What the pages need beyond links and forms; without it all of them work, but do not look again by themselves.
(() => {
  "use strict";

  const news = document.getElementById("news");
  const contact = document.getElementById("contact");
  let told = "";
  let isOver = false;

  const isInUse = (live) =>
    live.contains(document.activeElement) ||
    live.querySelector("input:checked, details[open], dialog[open]") !== null ||
    (!getSelection().isCollapsed && live.contains(getSelection().anchorNode));

  // A hidden tab asks nothing, and what somebody is about to use is not taken away under their hands.
  document.addEventListener("htmx:beforeRequest", (event) => {
    const live = event.target.closest("[data-live]");
    if (live && (isOver || document.hidden || isInUse(live))) event.preventDefault();
  });
  document.addEventListener("htmx:beforeSwap", (event) => {
    const live = event.target.closest("[data-live]");
    if (live && isInUse(live)) event.detail.shouldSwap = false;
  });

  // One sentence is read out, and only when it is another one.
  const tell = () => {
    const sentence = document.querySelector("[data-news]");
    const text = sentence ? sentence.textContent.trim().replace(/\s+/g, " ") : "";
    if (told && text && text !== told) news.textContent = text;
    told = text || told;
  };
  tell();
  document.addEventListener("htmx:afterSwap", tell);

  const lost = () => {
    if (!contact.hidden) return;
    contact.textContent =
      `The node does not answer since ${new Date().toLocaleTimeString()}: what you see is from before.`;
    contact.hidden = false;
  };
  document.addEventListener("htmx:sendError", lost);
  document.addEventListener("htmx:timeout", lost);
  document.addEventListener("htmx:afterRequest", (event) => {
    const status = event.detail.xhr ? event.detail.xhr.status : 0;
    // That the session is over is said once, and not every few seconds.
    if (status === 401) isOver = true;
    if (status >= 500) lost();
    else if (event.detail.successful) contact.hidden = true;
  });

  // "All on this page" ticks every box of its form.
  for (const all of document.querySelectorAll("[data-ticks]")) {
    all.hidden = false;
    all.addEventListener("click", () => {
      const boxes = [...document.querySelectorAll(`input[name="${CSS.escape(all.dataset.ticks)}"]`)];
      const on = boxes.some((box) => !box.checked);
      for (const box of boxes) box.checked = on;
    });
  }
})();
