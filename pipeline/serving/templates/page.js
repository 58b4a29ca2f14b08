"use strict";
for (const form of document.querySelectorAll("form")) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const output = form.querySelector("output");
    const body = form.querySelector("textarea").value;
    const began = performance.now();
    try {
      const answer = await fetch(`/v2/models/${encodeURIComponent(form.dataset.model)}/infer`, {
        method: "POST", headers: { "content-type": "application/json" }, body,
      });
      const text = await answer.text();
      output.textContent = `${answer.status} in ${(performance.now() - began).toFixed(1)} ms\n${text}`;
    } catch (error) {
      output.textContent = String(error);
    }
  });
}
