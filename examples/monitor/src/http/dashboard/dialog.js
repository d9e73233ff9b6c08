// A dialog over the page: opened from somewhere, closed to there.

/** Makes a dialog open and close; `closed` is told when it was. */
export function prepare(dialog, closed = () => {}) {
  let from = null;
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => {
    closed();
    if (from?.isConnected) from.focus();
    // What it was opened from may have gone meanwhile, or be hidden: then near it, not at the page's start.
    if (document.activeElement !== from) document.getElementById(dialog.dataset.home)?.focus();
    from = null;
  });
  return (opener) => {
    if (dialog.open) return;
    from = opener ?? document.activeElement;
    dialog.showModal();
    dialog.querySelector(".body").scrollTop = 0;
  };
}
