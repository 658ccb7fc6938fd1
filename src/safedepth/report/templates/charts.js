// Draws every chart of the page from the specification beside it.
// Expressions are interpreted, not compiled (ast), so that the page needs no eval.
"use strict";
for (const slot of document.querySelectorAll("[data-spec]")) {
  const spec = JSON.parse(document.getElementById(slot.dataset.spec).textContent);
  const options = {
    ast: true,
    renderer: "svg",
    actions: { export: true, source: false, compiled: false, editor: false },
    downloadFileName: slot.id,
  };
  vegaEmbed(slot, spec, options).then(
    () => {
      const picture = slot.querySelector("svg.marks");
      picture.setAttribute("role", "img");
      picture.setAttribute("aria-label", slot.dataset.spoken);
      slot.dataset.state = "drawn";
    },
    (error) => {
      slot.textContent = "This chart could not be drawn: " + error.message;
      slot.dataset.state = "failed";
    },
  );
}
