// Sends the page's forms to the API, puts the answers where they belong, and follows the state.
"use strict";

const here = (id) => document.getElementById(id);
const forgery = document.querySelector("meta[name=csrf]").content;

function show(place, html) {
  place.innerHTML = html; // escaped by the server; no script in it would run
  place.removeAttribute("aria-busy");
}

function say(place, text) {
  const told = document.createElement("p");
  told.className = "problem";
  told.setAttribute("role", "alert");
  told.textContent = text;
  place.replaceChildren(told);
  place.removeAttribute("aria-busy");
}

// What a form asks: its address, method, type and body.
async function asked(form, button) {
  const query = new URLSearchParams();
  const content = {};
  let body, type;
  let method = form.dataset.method || form.method;
  for (const field of form.elements) {
    if (field.disabled || field.type === "submit" || (field.type === "radio" && !field.checked)) continue;
    if (field.dataset.as === "image") {
      [body] = field.files;
      type = body.type.startsWith("image/") ? body.type : "image/unknown";
    } else if (field.dataset.as === "vectors") {
      [body, type] = [`{"vectors": ${field.value}}`, "application/json"];
    } else if (field.type === "file") {
      content[field.name] = await Promise.all([...field.files].map(async (file) => JSON.parse(await file.text())));
    } else {
      const on = field.type !== "checkbox" || field.checked;
      const value = on ? field.value : field.dataset.off;
      if (value && field.name && field.name !== "by") {
        query.append(field.name, value);
        content[field.name] = value;
      }
      method = field.dataset.method || method;
    }
  }
  if ("json" in form.dataset) [body, type] = [JSON.stringify(content), "application/json"];
  const address = button?.getAttribute("formaction") || form.getAttribute("action");
  const headers = { accept: "text/html", "x-csrf-token": forgery, ...(type && { "content-type": type }) };
  const url = "json" in form.dataset || !query.size ? address : `${address}?${query}`;
  return [url, { method: method.toUpperCase(), headers, body }];
}

function agreed(question) {
  const dialog = here("ask");
  here("ask-text").textContent = question;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((answer) => {
    dialog.addEventListener("close", () => answer(dialog.returnValue === "yes"), { once: true });
  });
}

async function send(form, button) {
  const looks = button?.hasAttribute("formaction");
  if (form.dataset.ask && !looks && !(await agreed(form.dataset.ask))) return;
  const place = here((looks && button.dataset.into) || form.dataset.into) || document.createElement("div");
  place.setAttribute("aria-busy", "true");
  try {
    const response = await fetch(...(await asked(form, button)));
    if (response.status === 401 || form.dataset.then === "reload") return location.assign("/");
    show(place, await response.text());
    if (response.ok && !looks && ("changes" in form.dataset || "json" in form.dataset)) await follow();
  } catch (problem) {
    say(place, problem instanceof SyntaxError ? "An edge is no JSON." : "The server does not answer.");
  }
  place.scrollIntoView({ block: "nearest" });
}

// Brings what is live up to date, but for what a person is in.
async function follow() {
  const response = await fetch("/", { headers: { accept: "text/html" } });
  if (response.status === 401) return location.assign("/");
  here("lost").hidden = response.ok;
  if (!response.ok) return;
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const each of document.querySelectorAll("[data-live]")) {
    const now = fresh.getElementById(each.id);
    if (now && now.innerHTML !== each.dataset.seen && !each.contains(document.activeElement)) {
      each.dataset.seen = now.innerHTML;
      each.innerHTML = now.innerHTML;
    }
  }
  // numbers that were typed stay of the model that they were typed for
  const typed = here("numbers").value;
  for (const id of typed ? [] : ["contract", "of"]) {
    const [now, then] = [fresh.getElementById(id), here(id)];
    if (now) id === "of" ? (then.textContent = now.textContent) : (then.value = now.value);
  }
}

function choose() {
  const by = document.querySelector("input[name=by]:checked").value;
  for (const label of document.querySelectorAll("[data-by]")) {
    label.hidden = label.dataset.by !== by;
    for (const field of label.querySelectorAll("input, textarea")) field.disabled = label.hidden;
  }
}

document.addEventListener("submit", (event) => {
  if (event.target.method === "dialog") return;
  event.preventDefault();
  send(event.target, event.submitter);
});
document.addEventListener("change", (event) => event.target.name === "by" && choose());
choose();
for (const each of document.querySelectorAll("[data-live]")) each.dataset.seen = each.innerHTML;
setInterval(() => {
  if (!document.hidden && !here("ask").open) follow().catch(() => { here("lost").hidden = false; });
}, 2000);
