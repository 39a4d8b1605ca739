// The texts that were written, as a tree: what they have in common is shared.

function shared(one, other) {
  let size = 0;
  while (size < one.length && size < other.length && one[size] === other[size]) size++;
  const code = one.charCodeAt(size - 1);
  return size && code >= 0xd800 && code < 0xdc00 ? size - 1 : size; // never half a character
}

/** A radix tree: {text, end, children}, where `end` is the whole text from the root to here. */
export function tree(texts) {
  const root = { text: "", end: "", children: [] };
  for (const text of texts) {
    let node = root;
    let left = text;
    while (left) {
      const child = node.children.find((one) => shared(one.text, left) > 0);
      if (!child) {
        node.children.push({ text: left, end: text, children: [] });
        break;
      }
      const size = shared(child.text, left);
      if (size < child.text.length) {
        const rest = { ...child, text: child.text.slice(size) };
        Object.assign(child, { text: child.text.slice(0, size), end: child.end.slice(0, child.end.length - rest.text.length), children: [rest] });
        if (size === left.length) break;
      }
      if (!child.children.length && size < left.length) {
        Object.assign(child, { text: child.text + left.slice(size), end: text }); // a leaf that grows
        break;
      }
      left = left.slice(size);
      node = child;
    }
  }
  return root;
}
