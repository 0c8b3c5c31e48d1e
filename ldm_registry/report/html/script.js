const all = () => [...document.querySelectorAll("details")];
const nav = document.querySelector("nav ul");
const item = document.createElement("li");
const button = document.createElement("button");
button.type = "button";
const name = (open) => { button.textContent = open ? "Open all" : "Close all"; };
button.addEventListener("click", () => {
  const open = button.textContent === "Open all";
  all().forEach((one) => { one.open = open; });
  name(!open);
});
name(true);
item.append(button);
nav.append(item);
let closed = [];
addEventListener("beforeprint", () => {
  closed = all().filter((one) => !one.open && !one.classList.contains("data"));
  closed.forEach((one) => { one.open = true; });
});
addEventListener("afterprint", () => closed.forEach((one) => { one.open = false; }));
