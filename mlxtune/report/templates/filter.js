// Search and filters over the elements with data-item. Reads attributes and text of the page, changes `hidden` and a count, and
// nothing else: no text of the page is ever taken as code or markup.
(() => {
  "use strict";
  const finder = document.querySelector("[data-finder]");
  if (!finder) return;
  const search = finder.querySelector("[data-search]");
  const selects = [...finder.querySelectorAll("[data-filter]")];
  const shown = finder.querySelector("[data-shown]");
  const plain = (text) => text.normalize("NFKC").toLocaleLowerCase();
  const items = [...document.querySelectorAll("[data-item]")].map((element) => ({ element, text: plain(element.textContent) }));

  function update() {
    const words = plain(search.value).split(/\s+/).filter(Boolean);
    let count = 0;
    for (const { element, text } of items) {
      const fits =
        words.every((word) => text.includes(word)) &&
        selects.every((select) => !select.value || element.getAttribute(`data-${select.name}`) === select.value);
      element.hidden = !fits;
      count += fits;
    }
    shown.textContent = count.toLocaleString("en");
  }
  finder.addEventListener("input", update);
  finder.hidden = false;
  update(); // a browser may have kept what was typed before a reload
})();
