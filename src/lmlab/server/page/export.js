// What is seen as a file: a table as CSV, a part of the page as PNG.

export function save(name, content, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const cell = (value) => {
  const text = String(value ?? "");
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};

/** Rows (objects of like keys) as CSV, RFC 4180. */
export const csvOf = (rows) => {
  const names = [...new Set(rows.flatMap(Object.keys))];
  return [names, ...rows.map((row) => names.map((name) => row[name]))].map((row) => row.map(cell).join(",") + "\r\n").join("");
};

/** An element as a picture, twice as fine: a copy with its computed style, drawn by way of an SVG. */
export async function pngOf(element) {
  const { scrollWidth: width, scrollHeight: height } = element;
  const copy = element.cloneNode(true);
  const pairs = [[element, copy], ...[...element.querySelectorAll("*")].map((node, at) => [node, copy.querySelectorAll("*")[at]])];
  for (const [from, to] of pairs) {
    const style = getComputedStyle(from);
    to.style.cssText = [...style].filter((name) => !name.startsWith("-webkit-") || name === "-webkit-text-fill-color").map((name) => `${name}:${style.getPropertyValue(name)}`).join(";");
  }
  for (const [from, to] of pairs) { // a copy holds what was written in the document, not what is chosen or typed
    if (from instanceof HTMLSelectElement) to.options[from.selectedIndex]?.setAttribute("selected", "");
    else if (from instanceof HTMLTextAreaElement) to.textContent = from.value;
    else if (from instanceof HTMLInputElement) {
      to.setAttribute("value", from.value);
      to.toggleAttribute("checked", from.checked);
    }
  }
  copy.style.margin = copy.style.inset = "0";
  copy.style.width = `${width}px`;
  copy.style.height = `${height}px`;
  copy.style.overflow = "visible";
  const paper = getComputedStyle(document.body).backgroundColor;
  const inside = new XMLSerializer().serializeToString(copy);
  const text = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}"><foreignObject width="100%" height="100%">${inside}</foreignObject></svg>`;
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  await image.decode();
  const margin = 24;
  const scale = Math.min(2, 16000 / Math.max(width, height));
  const canvas = Object.assign(document.createElement("canvas"), { width: (width + 2 * margin) * scale, height: (height + 2 * margin) * scale });
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.fillStyle = paper;
  pen.fillRect(0, 0, width + 2 * margin, height + 2 * margin);
  pen.drawImage(image, margin, margin, width, height);
  return new Promise((done, failed) => canvas.toBlob((blob) => (blob ? done(blob) : failed(new Error("This browser draws no picture of so large a view."))), "image/png"));
}
