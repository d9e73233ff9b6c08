// Octokit drives the fake as it would drive GitHub. Arguments: the modules' directory, the API, a token, the run.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, baseUrl, auth, runId] = process.argv.slice(2);
const require = createRequire(join(resolve(modules), "node_modules", "/"));
const { Octokit } = await import(pathToFileURL(require.resolve("@octokit/rest")));
const octokit = new Octokit({ baseUrl, auth, log: { debug() {}, info() {}, warn() {}, error() {} } });
const { actions, orgs, rateLimit, repos } = octokit.rest;
const org = "acme";
const repo = { owner: org, repo: "widgets" };

// Registration, and a name that is in use.
const names = ["o0", "o1", "o2", "o3", "o4"];
const runners = [];
for (const name of names) {
  const made = await actions.generateRunnerJitconfigForOrg({ org, name, runner_group_id: 1, labels: ["linux"] });
  assert.equal(made.status, 201);
  const files = JSON.parse(Buffer.from(made.data.encoded_jit_config, "base64"));
  assert.deepEqual(Object.keys(files).sort(), [".credentials", ".credentials_rsaparams", ".runner"]);
  runners.push(made.data.runner);
}
await assert.rejects(
  actions.generateRunnerJitconfigForOrg({ org, name: "o0", runner_group_id: 1, labels: ["linux"] }),
  (error) => error.status === 409 && /already exists/.test(error.message),
);

// All pages, by the links.
const all = await octokit.paginate(actions.listSelfHostedRunnersForOrg, { org, per_page: 2 });
assert.deepEqual(all.map((runner) => runner.name), names);

// Labels.
const runner_id = runners[0].id;
const labelled = await actions.addCustomLabelsToSelfHostedRunnerForOrg({ org, runner_id, labels: ["Gpu"] });
assert.deepEqual(labelled.data.labels.map((label) => label.name), ["linux", "gpu"]);
await actions.removeCustomLabelFromSelfHostedRunnerForOrg({ org, runner_id, name: "gpu" });

// Groups, by routes that Octokit has no names for.
const groups = "/orgs/{org}/actions/runner-groups";
const group = await octokit.request(`POST ${groups}`, { org, name: "special", visibility: "selected" });
const runner_group_id = group.data.id;
await octokit.request(`PUT ${groups}/{runner_group_id}/repositories`, {
  org, runner_group_id, selected_repository_ids: [(await repos.get(repo)).data.id],
});
const seen = await octokit.request(`GET ${groups}/{runner_group_id}/repositories`, { org, runner_group_id });
assert.deepEqual(seen.data.repositories.map((one) => one.full_name), ["acme/widgets"]);
assert.equal((await orgs.get({ org })).data.login, org);

// A job, its artifact through the redirect, and a conditional request.
const { data: jobs } = await actions.listJobsForWorkflowRun({ ...repo, run_id: Number(runId) });
assert.equal(jobs.jobs[0].status, "queued");
const found = await actions.listWorkflowRunArtifacts({ ...repo, run_id: Number(runId), name: "proof" });
const zip = await actions.downloadArtifact({
  ...repo, artifact_id: found.data.artifacts[0].id, archive_format: "zip",
});
assert.equal(Buffer.from(zip.data).subarray(0, 2).toString(), "PK");
const tag = (await actions.listSelfHostedRunnersForOrg({ org })).headers.etag;
const before = (await rateLimit.get()).data.resources.core.used;
await assert.rejects(
  actions.listSelfHostedRunnersForOrg({ org, headers: { "if-none-match": tag } }),
  (error) => error.status === 304,
);
assert.equal((await rateLimit.get()).data.resources.core.used, before);

// A hook, and what it was sent.
const hook = await orgs.createWebhook({
  org, name: "web", events: ["workflow_job"], config: { url: "http://127.0.0.1:1/", content_type: "json", secret: "s" },
});
assert.equal(hook.data.config.secret, "********");
await orgs.deleteWebhook({ org, hook_id: hook.data.id });

for (const { id } of runners) {
  await actions.deleteSelfHostedRunnerFromOrg({ org, runner_id: id });
}
console.log("octokit: done");
