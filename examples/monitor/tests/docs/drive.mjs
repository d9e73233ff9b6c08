// Opens the page of the API's description as a person does, reads it, and tries a route out.
// drive.mjs NODE_MODULES CHROMIUM URL
import { createRequire } from 'node:module';

const [modules, executablePath, url] = process.argv.slice(2);
const { chromium } = createRequire(modules + '/')('playwright-core');
const wrong = [];
const browser = await chromium.launch({
  executablePath,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
});
const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
page.on('console', (message) => wrong.push(`console: ${message.type()} ${message.text()}`));
page.on('pageerror', (error) => wrong.push(`error: ${error.message}`));
page.on('requestfailed', (request) => wrong.push(`failed: ${request.url()} ${request.failure().errorText}`));
page.on('request', (request) => {
  const elsewhere = !request.url().startsWith(url) && !request.url().startsWith('data:');
  if (elsewhere) wrong.push(`elsewhere: ${request.url()}`);
});
const patience = { timeout: 120_000 };
await page.goto(`${url}/api/v2/docs`, patience);
for (const title of ['Submit a job', 'Follow events', 'Show the pool']) {
  await page.getByText(title).first().waitFor(patience);
}
const operation = page.locator('[id="get-/status"]');
const answered = page.waitForResponse((response) => response.url() === `${url}/api/v2/status`, patience);
await operation.locator('button.m-btn', { hasText: 'TRY' }).first().click(patience);
const status = (await answered).status();
if (status !== 200) wrong.push(`trying it out gave ${status}`);
await operation.getByText('draining').first().waitFor(patience);
await browser.close();
if (wrong.length > 0) {
  console.error(wrong.join('\n'));
  process.exit(1);
}
console.log('ok');
