"""PyGithub drives the fake as it would drive GitHub. Arguments: the API, a token, an App's number and key, the run."""

import sys

import github
from github import Auth, Github, GithubException, GithubIntegration

api, token, app, key, run_id = sys.argv[1:]
# It would wait a second between two changes.
options = {"base_url": api, "retry": None, "seconds_between_requests": None, "seconds_between_writes": None}
org = Github(auth=Auth.Token(token), per_page=2, **options).get_organization("acme")
repository = org.get_repo("widgets")

# Registration, and a name that is in use.
names = ["p0", "p1", "p2"]
for name in names:
    made = org.create_self_hosted_runner_jitconfig(name, 1, ["linux"])
    assert made.runner.name == name and made.encoded_jit_config, made
try:
    org.create_self_hosted_runner_jitconfig("p0", 1, ["linux"])
    raise AssertionError("the name was in use")
except GithubException as refused:
    assert refused.status == 409, refused

# All pages.
runners = org.get_self_hosted_runners()
assert runners.totalCount == 3 and [runner.name for runner in runners] == names

# A run, its jobs and its artifact.
run = repository.get_workflow_run(int(run_id))
assert run.status == "queued" and run.head_repository.full_name == "acme/widgets"
assert [job.name for job in run.jobs()] == ["build"]
assert [artifact.name for artifact in run.get_artifacts()] == ["proof"]
assert run.cancel()
assert repository.get_workflow_run(run.id).conclusion == "cancelled"

for runner in list(org.get_self_hosted_runners()):
    org.delete_self_hosted_runner(runner.id)

# Without a size of pages: it would be sent here too, where GitHub describes none.
downloads = Github(auth=Auth.Token(token), **options).get_organization("acme").get_self_hosted_runner_applications()
assert downloads[0].download_url

# The same, as an App: a signed proof, its installation, and a token that may less.
with open(key) as file:
    integration = GithubIntegration(auth=Auth.AppAuth(app, file.read()), **options)
installation = integration.get_org_installation("acme")
as_app = installation.get_github_for_installation()
made = as_app.get_organization("acme").create_self_hosted_runner_jitconfig("by-app", 1, ["linux"])
assert made.runner.status == "offline"
try:
    as_app.get_repo("acme/widgets").get_self_hosted_runners().totalCount
    raise AssertionError("it may not")
except GithubException as refused:
    assert refused.status == 403, refused
    assert refused.headers["x-accepted-github-permissions"] == "administration=read", refused.headers

print("pygithub: done with", github.__name__)
