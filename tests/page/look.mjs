// Looks at a status page in a real browser, and prints as JSON what it sees: for tests/integration/pipeline/page.rs, which
// judges it.
//
//   node look.mjs URL SCREENSHOT.png
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";
import { chromium } from "playwright-core";

const PATIENCE_MS = 30_000;
const [url, screenshot] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** All numbers that the page marks as such; read over the protocol, so without JavaScript in the page too. */
const figures = (page) =>
  page.locator("data").evaluateAll((all) => all.map(({ id, value, textContent }) => ({ id, value, text: textContent })));

/** Asks until the answer is as wished: the page's policy forbids playwright's own way of waiting. */
async function until(what, page, question, isWished) {
  for (const deadline = Date.now() + PATIENCE_MS; Date.now() < deadline; await sleep(50)) {
    const answer = await page.evaluate(question);
    if (isWished(answer)) return answer;
  }
  throw new Error(`not within ${PATIENCE_MS} ms: ${what}`);
}

const time = () => document.querySelector("#summary time").dateTime;

/** Everything that a browser complains about. */
function listen(page) {
  const complaints = [];
  page.on("console", (message) => complaints.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => complaints.push(`uncaught: ${error}`));
  page.on("requestfailed", (request) => {
    const why = request.failure()?.errorText;
    // The page gives up a refresh after some seconds, as when axe holds its thread for longer.
    if (why !== "net::ERR_ABORTED") complaints.push(`failed: ${request.url()}: ${why}`);
  });
  return complaints;
}

/** What the reader does stays as it is while the page refreshes itself. */
async function readOn(page) {
  const summary = page.locator("#settings summary");
  await summary.click();
  await summary.focus();
  await page.evaluate(() => document.querySelector("#totals").scrollIntoView());
  const state = () => ({
    isOpen: document.querySelector("#settings details").open,
    focus: document.activeElement.textContent,
    // What is read stays where it is, also when something above it grows.
    top: Math.round(document.querySelector("#totals").getBoundingClientRect().top),
  });
  const before = await page.evaluate(state);
  const first = await page.evaluate(time);
  await until("the page refreshes itself", page, time, (now) => now !== first);
  return { before, after: await page.evaluate(state) };
}

/** A process that is gone is said to be gone, and found again. */
async function lose(context, page) {
  const said = () => document.querySelector("#connection").textContent;
  await context.setOffline(true);
  const words = await until("it is said that nobody answers", page, said, (text) => text !== "");
  await context.setOffline(false);
  await until("it is said no more", page, said, (text) => text === "");
  return words;
}

/** What axe-core says against the page as it is shown now: the WCAG 2.2 rules up to AA, and its best practices. */
async function barriers(page) {
  // Over the protocol, since the page's policy forbids scripts of others.
  const session = await page.context().newCDPSession(page);
  const evaluate = async (expression) => {
    const { result, exceptionDetails } = await session.send("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  };
  await evaluate(`${axe}; 0`);
  const found = await evaluate("axe.run({ resultTypes: ['violations'], preload: false }).then((found) => found.violations)");
  await session.detach();
  return found.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map(({ html }) => html).join(" ")}`);
}

async function screenshots(page) {
  const sizes = {};
  for (const colorScheme of ["light", "dark"]) {
    for (const width of [1280, 360]) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize({ width, height: 900 });
      const path = screenshot.replace(".png", `-${width}-${colorScheme}.png`);
      const bytes = (await page.screenshot({ path, fullPage: true })).length;
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      sizes[`${width}-${colorScheme}`] = { bytes, overflow, barriers: await barriers(page) };
    }
  }
  return sizes;
}

async function withoutJavaScript(browser) {
  const context = await browser.newContext({ javaScriptEnabled: false });
  const page = await context.newPage();
  await page.goto(url);
  const seen = await figures(page);
  const reloads = await page.locator("head meta[http-equiv=refresh]").count();
  await context.close();
  return { figures: seen, reloads };
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu"],
});
try {
  const context = await browser.newContext();
  const page = await context.newPage();
  const complaints = listen(page);
  await page.goto(url);
  const seen = { title: await page.title(), first: await figures(page) };
  Object.assign(seen, await readOn(page));
  seen.refreshed = await figures(page);
  seen.text = await page.evaluate(() => document.body.innerText);
  seen.screenshots = await screenshots(page);
  seen.withoutJavaScript = await withoutJavaScript(browser);
  seen.complaints = [...complaints];
  seen.lost = await lose(context, page);
  console.log(JSON.stringify(seen));
} finally {
  await browser.close();
}
