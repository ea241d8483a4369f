// Runs before the first paint, so that nobody who chose dark sees a white flash. Not a module: modules wait.
"use strict";
{
  const chosen = localStorage.getItem("theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
}
