// Requests to the server that sent the page. Paths are relative, so that a proxy may put the server under a folder.

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function answer(path, body, signal) {
  const key = sessionStorage.getItem("key");
  const headers = { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
  const given = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  const response = await fetch(path, { headers, signal, ...given }).catch((error) => {
    throw error.name === "AbortError" ? error : new ApiError("The server does not answer. Is it still running?", 0);
  });
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  throw new ApiError(told?.error?.message ?? `The server answered ${response.status}.`, response.status);
}

export const get = async (path) => (await answer(path)).json();
export const post = async (path, body, signal) => (await answer(path, body, signal)).json();

/** The events of a stream, parsed, until [DONE]. */
export async function* stream(path, body, signal) {
  const reader = (await answer(path, body, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  let left = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (left + value).replaceAll("\r\n", "\n").split("\n\n");
      left = events.pop();
      for (const event of events) {
        const data = event.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim());
        if (!data.length) continue;
        if (data.join("") === "[DONE]") return;
        const told = JSON.parse(data.join("\n"));
        if (told.error) throw new ApiError(told.error.message, 500);
        yield told;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** The tokens of a completion as they come, of which an event may hold several: text, and its bits under the model. */
export async function* complete(request, signal) {
  let at = null; // where the text told next begins, in characters as the server counts them
  for await (const event of stream("v1/completions", { ...request, stream: true, logprobs: 1 }, signal)) {
    const { text = "", logprobs } = event.choices?.[0] ?? {};
    const offsets = logprobs?.text_offset ?? [];
    const characters = [...text];
    at ??= offsets[0] ?? 0;
    const cut = (from, to) => characters.slice(Math.max(0, from - at), Math.max(0, to - at)).join("");
    const before = cut(at, offsets[0] ?? Infinity); // characters whose first bytes were the token before
    if (before) yield { text: before, bits: [] };
    for (const [which, offset] of offsets.entries()) {
      const logp = logprobs.token_logprobs[which];
      yield { text: cut(offset, offsets[which + 1] ?? Infinity), bits: logp === null ? [] : [-logp / Math.LN2] };
    }
    at += characters.length;
  }
}

/** Runs the newest of several calls: a new one aborts the old one, and what the old one still says is dropped. */
export function newest() {
  let control = null;
  const run = async (work) => {
    control?.abort();
    const mine = (control = new AbortController());
    try {
      return await work(mine.signal);
    } catch (error) {
      if (error.name !== "AbortError" && !mine.signal.aborted) throw error;
    } finally {
      if (control === mine) control = null;
    }
  };
  run.stop = () => control?.abort();
  return run;
}
