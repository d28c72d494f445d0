// The title, and the tabs: one picture, many, a clip, the camera. Files that are dropped or pasted
// anywhere go to the tab that they are for.

const tabs = findAll("[role=tab]");
const panelOf = (tab) => tab.getAttribute("aria-controls");

function open(name) {
  document.body.dataset.fcnTab = name;
  for (const tab of tabs) {
    const chosen = panelOf(tab) === name;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
  }
  announceTo("fcn-tab", name);
}

for (const [place, tab] of tabs.entries()) {
  const panel = document.getElementById(panelOf(tab));
  panel?.setAttribute("role", "tabpanel");
  panel?.setAttribute("aria-labelledby", tab.id);
  tab.onclick = () => open(panelOf(tab));
  tab.onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = tabs[(place + step + tabs.length) % tabs.length];
    next.focus();
    next.click();
  };
}

function receive(files) {
  const name = files.length > 1 ? "batch" : files[0].type.startsWith("video/") ? "video" : "stage";
  open(name);
  announceTo(`fcn-files-${name}`, files);
}

// Only files: dragged text or a pasted word is none of our business.
const withFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
const over = (is) => document.body.toggleAttribute("data-fcn-over", is);
document.addEventListener("dragover", (event) => {
  if (!withFiles(event)) return;
  event.preventDefault();
  over(true);
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) over(false);
});
document.addEventListener("drop", (event) => {
  over(false);
  if (!withFiles(event)) return;
  event.preventDefault();
  receive([...event.dataTransfer.files]);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData?.files.length) receive([...event.clipboardData.files]);
});

showTexts();
watch("label", showTexts);
open(tabs.some((tab) => panelOf(tab) === settings.get("tab")) ? settings.get("tab") : "stage");
