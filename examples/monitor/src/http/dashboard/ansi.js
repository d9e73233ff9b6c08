// A terminal's output as lines of a page: colours as classes, everything else as text, and no more lines
// than a page can bear.
const LINES = 5000;
// Escape sequences: a control sequence, a title or other string, or two characters.
const ESCAPE = /\x1b(?:\[([0-?]*)[ -/]*([@-~])|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])/y;
// What may become one once more has come.
const PARTIAL = /\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)?$/;
const LONGEST = 4096;

export class Terminal {
  constructor(element) {
    this.element = element;
    this.clear();
  }

  clear() {
    this.element.replaceChildren();
    this.line = null;
    this.rest = "";
    this.style = {};
    this.returned = false;
  }

  /** Adds output, and stays at the end if the end is what is shown. */
  write(text) {
    const { element } = this;
    const atEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 40;
    text = this.rest + text;
    const partial = text.match(PARTIAL);
    this.rest = partial && partial[0].length < LONGEST ? partial[0] : "";
    if (this.rest) text = text.slice(0, -this.rest.length);
    const page = document.createDocumentFragment();
    let at = 0;
    while (at < text.length) {
      const next = text.slice(at).search(/[\x00-\x08\x0a-\x1f\x7f]/);
      const end = next < 0 ? text.length : at + next;
      if (end > at) this.put(page, text.slice(at, end));
      at = end;
      if (at === text.length) break;
      const character = text[at];
      if (character === "\n") {
        this.open(page);
        this.line = null;
        this.returned = false;
      } else if (character === "\r") {
        this.returned = true;
      } else if (character === "\x1b") {
        ESCAPE.lastIndex = at;
        const escape = ESCAPE.exec(text);
        if (escape) {
          if (escape[2] === "m") this.paint(escape[1]);
          at = ESCAPE.lastIndex;
          continue;
        }
      }
      at += 1;
    }
    element.append(page);
    while (element.childElementCount > LINES) element.firstChild.remove();
    if (atEnd) element.scrollTop = element.scrollHeight;
  }

  open(page) {
    if (this.line) return;
    this.line = document.createElement("div");
    page.append(this.line);
  }

  put(page, text) {
    this.open(page);
    if (this.returned) this.line.replaceChildren();
    this.returned = false;
    const classes = Object.values(this.style).filter(Boolean);
    if (!classes.length) {
      this.line.append(text);
      return;
    }
    const run = document.createElement("span");
    run.className = classes.join(" ");
    run.textContent = text;
    this.line.append(run);
  }

  paint(parameters) {
    const numbers = parameters.split(/[;:]/).map(Number);
    for (let index = 0; index < numbers.length; index += 1) {
      const number = numbers[index];
      const { style } = this;
      if (number === 0) this.style = {};
      else if (number === 1) style.weight = "bold";
      else if (number === 2) style.weight = "dim";
      else if (number === 3) style.slant = "italic";
      else if (number === 4) style.line = "underline";
      else if (number === 22) style.weight = "";
      else if (number === 23) style.slant = "";
      else if (number === 24) style.line = "";
      else if (number === 39) style.ink = "";
      else if (number >= 30 && number <= 37) style.ink = `ink-${number - 30}`;
      else if (number >= 90 && number <= 97) style.ink = `ink-${number - 90}`;
      else if (number === 38 || number === 48) {
        // 256 colours: the first 16 are those above. More are left as they are.
        const colour = numbers[index + 2];
        if (number === 38 && numbers[index + 1] === 5 && colour < 16) style.ink = `ink-${colour % 8}`;
        index += numbers[index + 1] === 5 ? 2 : 4;
      }
    }
  }
}
